"""Training a student on its teacher, as a task of the runner."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noisette.adapters.lora import LowRank, attach, detach, fresh, fuse, updates_of
from noisette.conditioning import NO_TEXT, alike, label_cond, to_null
from noisette.core import Cond, Denoiser, NetDenoiser
from noisette.errors import UserError
from noisette.hub.lora_files import write_lora
from noisette.models import Defaults, Model
from noisette.models.checkpoints import named_parts
from noisette.nets import UNetConfig
from noisette.nets.text import Prompted
from noisette.training.denoising import Denoising
from noisette.training.draws import Draws
from noisette.training.lessons import ConsistencyDistillation, Match, Pair, Progressive
from noisette.training.recipe import Recipe
from noisette.training.samples import sample_grid

__all__ = ["DistillRecipe", "Distilling"]

GUIDANCE_WAVES = 256
ADAPTER = "fast"


@dataclass(frozen=True, kw_only=True)
class DistillRecipe(Recipe):
    """How a student learns to do in fewer steps what the model named by ``start`` does.

    ``lesson`` says what it learns, ``guidance`` the lowest and the highest scale at which the teacher is
    guided: where they differ the student is told the scale, else it has that one built in.
    ``inference_steps`` is how many steps its pictures are drawn in when nobody says. With a rank ``lora``
    only updates of that rank are learned, and kept beside the model in a file of their own; such a student is
    never told the scale. Raises UserError.
    """

    lesson: Progressive | ConsistencyDistillation | Match
    guidance: tuple[float, float] = (1.0, 1.0)
    guidance_rescale: float = 0.0
    inference_steps: int = 4
    lora: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.guidance
        if not self.start:
            raise UserError("a student has a teacher: name a model as start")
        if not 0 <= low <= high < float("inf"):
            raise UserError(f"guidance is a lowest and a highest scale, not {low:g} and {high:g}")
        if self.inference_steps < 1 or self.lora < 0:
            raise UserError("inference_steps is 1 or more, and lora a rank, or 0 for none")

    @property
    def solver(self) -> str:
        """What draws with the student."""
        return "consistency" if isinstance(self.lesson, ConsistencyDistillation) else "ddim"


class Distilling(Denoising):
    """The task of a `DistillRecipe`: a student that begins as its teacher, and hears texts as that does."""

    recipe: DistillRecipe

    def build(self) -> nn.Module:
        """The student, with its teacher's weights, and where it is told a scale a place to hear it."""
        assert self.start is not None  # the recipe has seen to it
        self.teacher = teachable(self.start)
        super().build()
        self.teacher.to(self.device)
        self.teacher.denoiser.eval().requires_grad_(False)
        self.net = self._student(self.net)
        if isinstance(self.net, Prompted):
            self.net.text.requires_grad_(False)
        if self.recipe.lora:
            self.net.requires_grad_(False)
            attach(self.net, fresh(self.net, self.recipe.lora, where=_adapts), name=ADAPTER, trainable=True)
        lesson: Any = self.recipe.lesson
        slow = getattr(lesson, "target", 0.0) > 0
        self.slow = copy.deepcopy(self.net).eval().requires_grad_(False).to(self.device) if slow else None
        return self.net

    def loss(self, net: nn.Module, batch: Mapping[str, Any], draws: Draws, step: int) -> Tensor:
        """The mean of the lesson's losses over a batch."""
        x0, recipe = batch["image"], self.recipe
        student = NetDenoiser(net, self.spec.parameterization, self.spec.time)
        cond, null = self._conds(batch)
        low, high = recipe.guidance
        scale = (low + (high - low) * draws.uniform(len(x0))).to(x0)
        teacher = self._teacher(scale, null)
        told = {**cond, "guidance_scale": scale} if self.told else cond
        if self.slow is not None and step:
            self._follow(self.slow)
        target = student
        if self.slow is not None:
            target = NetDenoiser(self.slow, self.spec.parameterization, self.spec.time)
        return recipe.lesson(Pair(student, teacher, target, cond, told), self.spec.schedule, x0, draws).mean()

    def pictures(self) -> Tensor:
        """A grid of samples in the student's own number of steps, at its own scale."""
        scale, steps = self._defaults().guidance_scale, self.recipe.inference_steps
        return sample_grid(self._model({}), prompts=self.prompts, steps=steps, guidance_scale=scale)

    def finished(self, notes: Mapping[str, str | int | float]) -> Any:
        """The student, an ordinary model; learned as a LoRA it is fused, and the updates are kept besides."""
        model = self._model({**notes, "lesson": repr(self.recipe.lesson)})
        if not self.recipe.lora:
            return model
        fused = replace(model, denoiser=copy.deepcopy(model.denoiser))
        fuse(fused.denoiser.net)
        detach(fused.denoiser.net)
        return WithLora(fused, updates_of(_inner(self.net), ADAPTER))

    def state_dict(self) -> Mapping[str, Tensor]:
        """The slow average, where there is one."""
        return {} if self.slow is None else self.slow.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the slow average as it was."""
        if self.slow is not None:
            self.slow.load_state_dict(dict(state))

    @property
    def told(self) -> bool:
        """Whether the student is told at which scale its teacher is guided."""
        return bool(getattr(self.spec.net, "guidance_dim", None))

    def _student(self, net: nn.Module) -> nn.Module:
        low, high = self.recipe.guidance
        if low == high or self.told or self.recipe.lora:
            return copy.deepcopy(net).train().requires_grad_(True)
        if not isinstance(self.spec.net, UNetConfig):
            raise UserError(
                f"{self.name} has no place to be told a scale of guidance: distil it at one scale"
            )
        self.spec = replace(self.spec, net=replace(self.spec.net, guidance_dim=GUIDANCE_WAVES))
        made = self.spec.build()
        made.load_state_dict(net.state_dict(), strict=False)  # all but the place for the scale, which is zero
        return made.to(self.device)

    def _conds(self, batch: Mapping[str, Any]) -> tuple[Cond, Cond]:
        """What teacher and student hear of a batch, and what guidance leads away from."""
        if self.texts is not None:
            texts = batch["text"]
            pair = self.texts.pair(texts, (NO_TEXT,) * len(texts), self.device)
            return alike(*(self.teacher.read(cond) for cond in pair))
        cond = {} if self.labels is None else label_cond(batch["label"], self.device)
        return cond, to_null(cond)

    def _teacher(self, scale: Tensor, null: Cond) -> Denoiser:
        if not any(bound != 1 for bound in self.recipe.guidance):
            return self.teacher.guided(1.0)
        if getattr(self.teacher.spec.net, "guidance_dim", None):
            return self.teacher.guided(scale)
        wide, rescale = scale.view(-1, 1, 1, 1), self.recipe.guidance_rescale
        return self.teacher.guided(wide, weak=lambda _: null, guidance_rescale=rescale)

    @torch.no_grad()
    def _follow(self, slow: nn.Module) -> None:
        decay: float = getattr(self.recipe.lesson, "target", 0.0)
        for old, new in zip(slow.parameters(), self.net.parameters(), strict=True):
            old.lerp_(new.to(old), 1 - decay)

    def _defaults(self) -> Defaults:
        recipe, low, high = self.recipe, *self.recipe.guidance
        usual = self.spec.defaults.guidance_scale
        scale = min(max(usual, low), high) if self.told else 1.0
        return Defaults(recipe.solver, recipe.lesson.grid, recipe.inference_steps, scale)

    def _model(self, notes: Mapping[str, str | int | float]) -> Model:
        spec = replace(self.spec, defaults=self._defaults())
        return Model.new(spec, self.net, notes, codec=self.codec, texts=self.texts)


def teachable(model: Model) -> Model:
    """The model, if it can have a student. Raises UserError for a checkpoint of others'."""
    if model.checkpoint is not None:
        raise UserError(
            f"{model.spec.name} is a checkpoint of others', whose scheduler a student would not keep: "
            "only models that were trained here are distilled"
        )
    return model


@dataclass(frozen=True, eq=False)
class WithLora:
    """A student, and the updates that made it of its teacher: saved as a model with lora.safetensors."""

    model: Model
    updates: Mapping[str, LowRank]

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model folder with the LoRA in it."""
        path = self.model.save(folder)
        parts = named_parts(self.model.spec, self.model.denoiser.net)
        part = next(iter(parts))
        write_lora(
            path / "lora.safetensors", {part: self.updates}, {p: rows for p, (_, rows) in parts.items()}
        )
        return path


def _inner(net: nn.Module) -> nn.Module:
    return net.net if isinstance(net, Prompted) else net


def _adapts(path: str) -> bool:
    """Every layer of the U-Net or transformer; the encoder of texts is left as it was."""
    return not path.startswith("text.")
