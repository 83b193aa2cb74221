"""A model: a described network with its schedule, made into something that draws pictures."""

from __future__ import annotations

import math
import operator
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from noisette import __version__
from noisette.conditioning import NO_LABEL, label_cond, to_null
from noisette.core import (
    Cond,
    Denoiser,
    Level,
    NetDenoiser,
    Noise,
    Solver,
    Step,
    Weight,
    given,
    guide,
    last,
    prior,
    sample,
)
from noisette.errors import UserError
from noisette.guidance import clip_x0
from noisette.hub.card import model_card
from noisette.hub.embedded import find_model
from noisette.hub.folder import Notes, read_spec, read_weights, write_folder
from noisette.hub.png import OutputType, pictures
from noisette.hub.spec import GRIDS, AnySchedule, Defaults, GridName, ModelSpec
from noisette.solvers import NoiseStreams, solver_named

__all__ = ["Defaults", "GridName", "Labels", "Model", "ModelSpec", "Output", "load"]

Labels: TypeAlias = int | str | Sequence[int | str]

PIXELS_AT_ONCE = 2**18
"""How much is drawn at a time when nobody says."""

MOST_PICTURES, MOST_VALUES = 10**6, 2**31
"""What one call may return at most."""


@dataclass(frozen=True)
class Output:
    """Pictures, the seed that made each of them, and settings (JSON values) that would make them again.

    ``images``: as `noisette.hub.png.pictures` describes for the output type that was asked.
    """

    images: Any
    seeds: tuple[int, ...]
    labels: tuple[int, ...] | None
    settings: dict[str, Any] = field(repr=False)

    def settings_of(self, index: int) -> dict[str, Any]:
        """The settings of one picture, with its own seed and label."""
        own = {"seed": self.seeds[index], "label": None if self.labels is None else self.labels[index]}
        return {**self.settings, **own}


@dataclass(frozen=True, eq=False)
class Model:
    """A denoising network with its description: build it, draw with it, save it, load it.

    ``notes`` are facts about its making that travel with it: what it was trained on, for how long.
    """

    spec: ModelSpec
    denoiser: NetDenoiser
    notes: Notes = field(default_factory=dict[str, str | int | float])

    @classmethod
    def new(cls, spec: ModelSpec, net: nn.Module | None = None, notes: Notes | None = None) -> Model:
        """A model around ``net``, or around a freshly initialised network as the spec describes it."""
        net = spec.build() if net is None else net
        return cls(spec, NetDenoiser(net, spec.parameterization, spec.time), notes or {})

    @classmethod
    def load(cls, name: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32) -> Model:
        """The model of that name: one that ships, a model folder, or the folder of a training run.

        On the CPU, in evaluation mode, in ``dtype`` whatever the file holds. Raises UserError.
        """
        folder = find_model(name)
        spec, notes = read_spec(folder)
        net = read_weights(folder, spec).to(dtype).eval()
        return cls.new(spec, net, notes)

    def save(
        self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None, overwrite: bool = False
    ) -> Path:
        """Write the model folder: model.json, model.safetensors, README.md.

        ``dtype`` (float16, bfloat16, float32) is what the weights are kept in; None leaves them as they
        are. Raises UserError when the folder holds something already and ``overwrite`` is not set.
        """
        state = {
            key: value.to(dtype) if dtype is not None and value.is_floating_point() else value
            for key, value in self.denoiser.net.state_dict().items()
        }
        card = model_card(self.spec, sum(p.numel() for p in self.denoiser.net.parameters()), self.notes)
        return write_folder(folder, self.spec, state, self.notes, card, overwrite=overwrite)

    @property
    def schedule(self) -> AnySchedule:
        """The noise schedule the network was trained for."""
        return self.spec.schedule

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.denoiser.net.parameters()).device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Model:
        """Move the network, in place, and return the model; the state of sampling stays float32."""
        self.denoiser.to(device=device, dtype=dtype)
        return self

    def guided(self, guidance_scale: Weight = 1.0, *, clip: bool = True) -> Denoiser:
        """The denoiser as `generate` samples it: classifier-free guidance, then x0 clipped to [-1, 1].

        ``guidance_scale`` is Stable Diffusion's, 1 is off; a function of the level may be given, such as
        `noisette.guidance.Interval`. Cost: one call a step, of two lanes where the scale is not 1.
        """
        off = isinstance(guidance_scale, int | float) and guidance_scale == 1
        if self.spec.labels is None and not off:
            raise UserError(
                f"{self.spec.name} has no labels, so there is nothing to guide: leave guidance_scale at 1"
            )
        if isinstance(guidance_scale, int | float) and not math.isfinite(guidance_scale):
            raise UserError(f"guidance_scale must be a finite number, got {guidance_scale}")
        denoiser: Denoiser = self.denoiser
        if not off:
            denoiser = guide(denoiser, given(denoiser, to_null), guidance_scale)
        return clip_x0(denoiser) if clip else denoiser

    def levels(self, num_inference_steps: int | None = None, grid: str | None = None) -> list[Level]:
        """The grid of a trajectory from noise to data; None takes the model's own defaults."""
        steps = self.spec.defaults.steps if num_inference_steps is None else num_inference_steps
        name = self.spec.defaults.grid if grid is None else grid
        if name not in GRIDS:
            raise UserError(f"there is no grid {name!r}: take one of {', '.join(GRIDS)}")
        return GRIDS[name](self.schedule, _whole(steps, "num_inference_steps", 1, 100_000))

    def label_index(self, label: int | str) -> int:
        """The index of a class by its name, or by its number. Raises UserError for neither."""
        names = self.spec.labels
        if names is None:
            raise UserError(f"{self.spec.name} draws without labels: leave label out")
        if isinstance(label, str) and label in names:
            return names.index(label)
        # Where the names are numbers themselves, a number in words means a name and nothing else.
        if isinstance(label, str):
            plain = label.isdecimal() and len(label) < 10 and not any(name.isdecimal() for name in names)
            number = int(label) if plain else -1
        else:
            number = label if _is_whole(label) else -1
        if not 0 <= number < len(names):
            known = ", ".join(names) if len(names) <= 20 else f"0 to {len(names) - 1}"
            raise UserError(f"{self.spec.name} knows no label {label!r:.60}: its labels are {known}")
        return int(number)

    def generate(
        self,
        label: Labels | None = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: Weight | None = None,
        seed: int | Sequence[int] | None = None,
        num_images_per_prompt: int = 1,
        solver: str | Solver[Any] | None = None,
        eta: float | None = None,
        grid: str | None = None,
        height: int | None = None,
        width: int | None = None,
        latents: Tensor | None = None,
        output_type: OutputType = "pil",
        callback: Callable[[Step], None] | None = None,
        batch_size: int | None = None,
    ) -> Output:
        """Draw pictures from noise.

        ``label``: an index or a name, or a list of them with ``num_images_per_prompt`` pictures of each;
        None draws every label in turn, or without labels. Picture k of the call is made from ``seed`` + k
        (or the k-th of a list; None takes a fresh seed) and depends on nothing else: not on the other
        pictures nor on ``batch_size``, how many are drawn at a time. What is left None is the model's own
        default. ``guidance_scale``: see `guided`. ``eta``: the noise of DDIM. ``latents`` [N, C, H, W]
        replace the initial noise. ``callback`` sees each `Step`, and may assign its x.

        Cost: per batch, steps times the calls of the solver. Raises UserError for what cannot be drawn.
        """
        labels = self._labels(label, _whole(num_images_per_prompt, "num_images_per_prompt", 1, MOST_PICTURES))
        seeds = _seeds(seed, num_images_per_prompt if labels is None else len(labels))
        drawing = self._drawing(guidance_scale, num_inference_steps, grid, solver, eta)
        shape = self._shape(len(seeds), height, width, latents)
        size = max(1, PIXELS_AT_ONCE // (shape[2] * shape[3])) if batch_size is None else batch_size
        size = _whole(size, "batch_size", 1, MOST_PICTURES)
        drawn: list[Tensor] = []
        for part in (slice(start, start + size) for start in range(0, len(seeds), size)):
            noise = NoiseStreams(seeds[part])
            x = noise(torch.empty(len(seeds[part]), *shape[1:], device=self.device))
            if latents is not None:
                x = latents[part].to(x)
            cond = {} if labels is None else label_cond(labels[part], self.device)
            drawn.append(drawing.run(x, cond, noise, callback).cpu())
        settings = {
            "model": self.spec.name,
            **drawing.settings,
            "size": f"{shape[3]}x{shape[2]}",
            "latents": None if latents is None else "given",
            "noisette": __version__,
        }
        images = pictures(torch.cat(drawn), output_type)
        return Output(images, tuple(seeds), None if labels is None else tuple(labels), settings)

    def invert(
        self,
        images: Tensor,
        label: Labels | None = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: Weight = 1.0,
        solver: str | Solver[Any] = "ddim",
        grid: str | None = None,
    ) -> Tensor:
        """The initial noise from which `generate` draws ``images`` again: the solver on the flipped grid.

        images: [N, C, H, W] in [-1, 1]; label: one for all, or one each, None for no label. Returns
        ``latents`` [N, C, H, W] for `generate` with the same solver, grid and label; the error falls with
        the number of steps. Nothing is clipped here. Source: arXiv:2010.02502, Section 4.3.
        """
        self._shape(len(images), images.shape[-2], images.shape[-1], images)
        chosen = (None if label is None else self._labels(label, 1)) or [NO_LABEL]
        labels = chosen * len(images) if len(chosen) == 1 else chosen
        if len(labels) != len(images):
            raise UserError(f"{len(images)} pictures need one label, or one each, not {len(labels)}")
        cond = label_cond(labels, self.device)
        levels = self.levels(num_inference_steps, grid)
        steps = sample(
            self.guided(guidance_scale, clip=False),
            images.to(self.device, torch.float32),
            levels[::-1],
            _solver(solver, None, self.schedule),
            cond=cond,
        )
        end = prior(torch.ones(()), levels[0])
        return last(steps) / end.to(self.device)

    def _labels(self, label: Labels | None, each: int) -> list[int] | None:
        """The class of each picture, None without classes."""
        if label is None:
            if self.spec.labels is None:
                return None
            _whole(len(self.spec.labels) * each, "the number of pictures", 1, MOST_PICTURES)
            return list(range(len(self.spec.labels))) * each
        chosen = [self.label_index(one) for one in ([label] if isinstance(label, int | str) else label)]
        if not chosen:
            raise UserError("the list of labels is empty: name at least one")
        _whole(len(chosen) * each, "the number of pictures", 1, MOST_PICTURES)
        return [one for one in chosen for _ in range(each)]

    def _shape(
        self, count: int, height: int | None, width: int | None, given: Tensor | None
    ) -> tuple[int, ...]:
        sides = [self.spec.image_size if side is None else side for side in (height, width)]
        self.spec.check_size(*sides)
        shape = (count, self.spec.channels, *sides)
        if math.prod(shape) > MOST_VALUES:
            raise UserError(
                f"{count} pictures of {sides[1]}x{sides[0]} are too many for one call: ask for fewer"
            )
        if given is not None and given.shape != shape:
            raise UserError(f"the tensor given has shape {list(given.shape)}, but {list(shape)} is needed")
        return shape

    def _drawing(
        self,
        scale: Weight | None,
        steps: int | None,
        grid: str | None,
        solver: str | Solver[Any] | None,
        eta: float | None,
    ) -> _Drawing:
        defaults = self.spec.defaults
        if scale is None:
            scale = 1.0 if self.spec.labels is None else defaults.guidance_scale
        solver = defaults.solver if solver is None else solver
        levels = self.levels(steps, grid)
        settings = {
            "num_inference_steps": len(levels) - 1,
            "solver": solver if isinstance(solver, str) else repr(solver),
            "grid": grid or defaults.grid,
            "guidance_scale": scale if isinstance(scale, int | float) else repr(scale),
            "eta": eta,
        }
        return _Drawing(self.guided(scale), levels, _solver(solver, eta, self.schedule), settings)


@dataclass(frozen=True)
class _Drawing:
    """A trajectory with all its choices made, and how to name them."""

    denoiser: Denoiser
    levels: list[Level]
    solver: Solver[Any]
    settings: dict[str, Any]

    def run(self, x: Tensor, cond: Cond, noise: Noise, callback: Callable[[Step], None] | None) -> Tensor:
        """From standard normal ``x`` to images."""
        x = prior(x, self.levels[0])
        for step in sample(self.denoiser, x, self.levels, self.solver, cond=cond, noise=noise):
            if callback is not None:
                callback(step)
            x = step.x
        return x


def load(name: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32) -> Model:
    """The model of that name, or in that folder: see `Model.load`."""
    return Model.load(name, dtype=dtype)


def _solver(solver: str | Solver[Any], eta: float | None, schedule: AnySchedule) -> Solver[Any]:
    found: Any = solver_named(solver, schedule) if isinstance(solver, str) else solver
    if eta is None:
        return found
    if not is_dataclass(found) or isinstance(found, type) or "eta" not in {f.name for f in fields(found)}:
        raise UserError(f"the solver {solver!r} has no eta: take ddim, or leave eta out")
    changed: Any = replace(found, eta=eta)
    return changed


def _seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
    if seed is None:
        # Not from torch's generator: unless seeded it starts alike in every process.
        seed = secrets.randbelow(2**32)
    if not isinstance(seed, Sequence):
        return [_whole(seed, "seed", 0, 2**62) + k for k in range(count)]
    if len(seed) != count:
        raise UserError(f"{len(seed)} seeds were given for {count} pictures: give one number, or one each")
    return [_whole(one, "seed", 0, 2**63 - 1) for one in seed]


def _is_whole(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _whole(value: int, name: str, low: int, high: int) -> int:
    if not _is_whole(value) or not low <= value <= high:
        raise UserError(f"{name} must be a whole number from {low} to {high}, got {value!r:.40}")
    return operator.index(value)
