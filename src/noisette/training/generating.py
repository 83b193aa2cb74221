"""Training a model that draws in one call, as a task of the runner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from noisette.data import Images
from noisette.errors import UserError
from noisette.models.generator import Generator
from noisette.nets.adversarial import ResDiscriminator, ResGenerator
from noisette.nets.flow import Glow, dequantised, flow_bits
from noisette.training.draws import Draws, mix
from noisette.training.generators import Adversarial, Duel, ExactLikelihood, GeneratorRecipe, duel_loss
from noisette.training.samples import MOST_LABELS, PER_LABEL, tile

__all__ = ["Generating"]

FITTED = 512
"""Images by which a flow is normalised before its first step."""


class Generating:
    """The task of a `GeneratorRecipe`: its pictures are samples, a column for each label."""

    def __init__(self, recipe: GeneratorRecipe, device: torch.device) -> None:
        self.recipe, self.name, self.device = recipe, recipe.spec.name, device
        self.labels = recipe.spec.labels
        size = recipe.spec.image_size
        self.pictures_shape = (recipe.spec.channels, size, size)

    def prepare(self, data: Images) -> Images:
        """Pictures are learned as they come. Raises UserError for other classes."""
        if data.labels != self.labels:
            raise UserError(
                f"{data.origin}: the classes are {data.labels}, but {self.name} learns {self.labels}"
            )
        self.data = data
        return data

    def build(self) -> nn.Module:
        """The network with random weights, and its adversary; a flow is normalised by some of the data."""
        objective = self.recipe.objective
        self.drawer = self.recipe.spec.build()
        self.net: nn.Module = self.drawer
        if isinstance(self.drawer, Glow):
            self._fit(self.drawer)
        if isinstance(objective, Adversarial) and isinstance(self.drawer, ResGenerator):
            self.net = Duel(self.drawer, ResDiscriminator(objective.adversary))
        return self.net

    def loss(self, net: nn.Module, batch: Mapping[str, Any], draws: Draws, step: int) -> Tensor:
        """The mean of the recipe's objective over a batch."""
        objective, x = self.recipe.objective, batch["image"]
        label = torch.as_tensor(batch["label"], dtype=torch.long, device=x.device)
        if isinstance(objective, ExactLikelihood):
            uniform = torch.special.ndtr(draws.normal(x))
            return flow_bits(*net(dequantised(x, uniform), label)).mean()
        noise = [
            draws.normal(torch.empty(len(x), *shape, device=x.device)) for shape in self.drawer.noise_shapes
        ]
        if isinstance(objective, Adversarial):
            return duel_loss(objective, net, x, label, noise[0], step)
        return net(x, label, noise).loss(objective.free, objective.weight(step)) / x[0].numel()

    def pictures(self) -> Tensor:
        """A grid of samples [C, H, W] in [-1, 1], always from the same noise, a column for each label."""
        shown = [k for _ in range(PER_LABEL) for k in range(min(len(self.labels), MOST_LABELS))]
        drawn = self.finished({}).generate(shown, seed=0, output_type="torch")
        return tile(drawn.images, len(shown) // PER_LABEL)

    def finished(self, notes: Mapping[str, str | int | float]) -> Generator:
        """The generator as it now is."""
        return Generator(self.recipe.spec, self.drawer, notes)

    def state_dict(self) -> Mapping[str, Tensor]:
        """{}: everything is in the net."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to load."""

    def _fit(self, flow: Glow) -> None:
        """Before the first step and not in it, so that all processes, and the average, begin with it."""
        generator = torch.Generator().manual_seed(mix(self.recipe.seed, "actnorm"))
        chosen = torch.randperm(len(self.data), generator=generator)[:FITTED].tolist()
        batch = self.data.fetch(chosen)
        uniform = torch.rand(batch["image"].shape, generator=generator)
        flow.fit(dequantised(batch["image"], uniform), torch.as_tensor(batch["label"]))
