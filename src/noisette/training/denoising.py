"""Training a diffusion model, as a task of the runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from noisette.conditioning import drop_labels, label_cond
from noisette.conditioning.text import drop_texts, trimmed
from noisette.core import Cond, NetDenoiser
from noisette.data import Images
from noisette.errors import UserError
from noisette.models import Model, ModelSpec, load_codec
from noisette.models.texts import Texts, fitted
from noisette.nets.vae import Codec
from noisette.scenes.crew import cores
from noisette.scenes.dataset import SceneDataset
from noisette.training.draws import Draws
from noisette.training.kept import KeptImages, kept
from noisette.training.recipe import Recipe
from noisette.training.report import working
from noisette.training.samples import SHOWN, sample_grid

__all__ = ["Denoising"]

MOST_CAPTIONS = 20_000
"""Captions that a new tokenizer learns its words from."""


class Denoising:
    """The task of a `Recipe`: noise is added, the network says what it was; its pictures are samples."""

    net: nn.Module

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.name, self.device = recipe, recipe.spec.name, device
        self.spec, self.labels = recipe.spec, recipe.spec.labels
        self.pictures_shape = (self.spec.channels, self.spec.image_size, self.spec.image_size)
        self.start = None if recipe.start is None else Model.load(recipe.start)
        self.texts: Texts | None = None
        self.codec: Codec | None = None
        self.prompts: Sequence[str] = ()

    def prepare(self, data: Images) -> Images:
        """The images, or their latents, kept on disk; a new tokenizer learns the words of their captions."""
        if self.labels is not None and data.labels != self.labels:
            raise UserError(
                f"{data.origin}: the classes are {data.labels}, but {self.name} learns {self.labels}"
            )
        if self.spec.codec is not None:
            codec = load_codec(self.recipe.codec or "") if self.start is None else self.start.codec
            if codec is None:
                raise UserError(f"{self.recipe.start} draws pixels, but {self.name} latents: start elsewhere")
            self.codec = codec.to(self.device)
            self.spec = replace(self.spec, codec=self.codec.config)
            with working("encoding images") as progress:
                data = kept(data, codec=self.codec, workers=cores(), progress=progress)
        if self.spec.text is not None:
            captions = captions_of(data)
            self.prompts = captions[:SHOWN]
            if self.start is None:
                text, self.texts = fitted(self.spec.text, captions)
                self.spec = replace(self.spec, text=text)
            elif self.start.texts is not None:
                self.texts = self.start.texts.knowing(captions)
        return data

    def build(self) -> nn.Module:
        """A network with random weights, or with those of the model that training starts from."""
        if self.start is None:
            self.net = self.spec.build()
            return self.net
        self.spec = replace(self.spec, text=self.start.spec.text)
        if (self.start.spec.net, self.start.spec.text) != (self.spec.net, self.spec.text):
            raise UserError(
                f"{self.recipe.start} has another network than {self.name}: training cannot start from it"
            )
        if self.start.checkpoint is not None:
            self._check_checkpoint(self.start.spec)
        self.net = self.start.denoiser.net.train().requires_grad_(True)
        return self.net

    def loss(self, net: nn.Module, batch: Mapping[str, Any], draws: Draws, step: int) -> Tensor:
        """The mean of the recipe's objective over a batch."""
        denoiser = NetDenoiser(net, self.spec.parameterization, self.spec.time)
        cond = self._cond(batch, draws)
        return self.recipe.objective(denoiser, self.spec.schedule, batch["image"], cond, draws).mean()

    def pictures(self) -> Tensor:
        """A grid of samples, always from the same noise and, where there are captions, for the same ones."""
        return sample_grid(self.finished({}), prompts=self.prompts)

    def finished(self, notes: Mapping[str, str | int | float]) -> Model:
        """The model as it now is."""
        checkpoint = None if self.start is None else self.start.checkpoint
        return Model.new(
            self.spec, self.net, notes, codec=self.codec, texts=self.texts, checkpoint=checkpoint
        )

    def _check_checkpoint(self, spec: ModelSpec) -> None:
        """A checkpoint of others' stays what it says it is. Raises UserError where it would not."""
        free = {name: getattr(spec, name) for name in ("name", "image_size", "defaults")}
        if replace(self.spec, **free) != spec:
            raise UserError(
                f"{self.recipe.start} says itself what it predicts and how it is noised: give the recipe the "
                f"spec of the model, noisette.load({self.recipe.start!r}).spec"
            )
        if getattr(spec.net, "size_count", 0):
            raise UserError(f"{self.recipe.start} is told sizes of pictures, which training does not give it")

    def state_dict(self) -> Mapping[str, Tensor]:
        """What the objective remembers, if it does."""
        history = getattr(self.recipe.objective, "history", None)
        return {} if history is None else history.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on with what the objective remembered."""
        history = getattr(self.recipe.objective, "history", None)
        if history is not None:
            history.load_state_dict(dict(state))

    def _cond(self, batch: Mapping[str, Any], draws: Draws) -> Cond:
        """What the network is told of a batch, some of it left out."""
        if self.labels is None and self.texts is None:
            return {}
        dropped = draws.uniform(len(batch["image"])) < self.recipe.cond_dropout
        if self.texts is None:
            return drop_labels(label_cond(batch["label"], draws.generator.device), dropped)
        return trimmed(self.texts.cond(drop_texts(batch["text"], dropped), draws.generator.device))


def captions_of(data: Images) -> list[str]:
    """Captions of the data, from the first image on. Raises UserError where there are none."""
    found: list[str] = []
    count = min(len(data), MOST_CAPTIONS)
    if isinstance(data, KeptImages) and "text" in data.told:
        return list(data.told["text"])
    if isinstance(data, SceneDataset):
        return [data.text(i) for i in range(count)]  # without drawing a picture
    for first in range(0, count, 256):
        batch = data.fetch(range(first, min(first + 256, count)))
        if "text" not in batch:
            raise UserError(f"{data.origin}: a text-to-image model learns from captions, and these have none")
        found += batch["text"]
    return found
