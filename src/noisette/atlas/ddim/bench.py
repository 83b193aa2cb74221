"""What the experiments of the page share: the model, the judge, how much is drawn, and the drawing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from noisette.atlas.cells import Tick, digest
from noisette.conditioning import label_cond
from noisette.core import prior, sample
from noisette.core.likelihood import Variance
from noisette.metrics import Judge, Statistics, collect, frechet_distance
from noisette.models import Model
from noisette.schedules import TableVP
from noisette.solvers import DDIM, NoiseStreams

# Images at a time; and how many of them a strip on the page shows.
BATCH, SHOWN = 128, 10

Measured: TypeAlias = Sequence[Mapping[str, Any]]
Kind: TypeAlias = tuple[float, Variance]

STILL: Kind = (0.0, "small")
SMALL: Kind = (1.0, "small")
LARGE: Kind = (1.0, "large")
NAMES: Mapping[Kind, str] = {
    STILL: "DDIM, η = 0",
    (0.2, "small"): "η = 0.2",
    (0.5, "small"): "η = 0.5",
    SMALL: "DDPM fixed-small, η = 1",
    LARGE: "DDPM fixed-large",
}
SHORT: Mapping[Kind, str] = {STILL: "DDIM", SMALL: "fixed-small", LARGE: "fixed-large"}


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    ``steps``: the step counts, ``grid_steps`` and ``trip_steps`` those on the other grid and of round trips;
    ``count``: images behind each Frechet distance; ``same``: noises drawn at every step count; ``pairs`` of
    noises with ``frames`` pictures from one to the other; ``trips``: pictures sent there and back.
    """

    steps: tuple[int, ...] = (5, 10, 20, 50, 100, 200, 500, 1000)
    grid_steps: tuple[int, ...] = (5, 10, 20, 50, 100)
    trip_steps: tuple[int, ...] = (10, 20, 50, 100, 200, 500, 1000)
    count: int = 120
    same: int = 80
    pairs: int = 24
    frames: int = 11
    path_steps: int = 50
    trips: int = 12
    resamples: int = 40
    quick: bool = False


QUICK = Plan(
    steps=(5, 10, 20, 50),
    grid_steps=(5, 20),
    trip_steps=(10, 20, 50),
    count=40,
    same=20,
    pairs=4,
    path_steps=10,
    trips=10,
    resamples=20,
    quick=True,
)


@dataclass(frozen=True)
class Way:
    """One way from noise to data: a member of DDIM's family, over a grid of so many steps."""

    steps: int
    grid: str
    eta: float = 0.0
    variance: Variance = "small"


@dataclass(frozen=True)
class Bench:
    """What everything is measured with. ``real``: digits [N, 1, 32, 32] that the judge never saw, if any."""

    model: Model
    judge: Judge
    reference: Statistics
    real: Tensor | None
    seed: int
    plan: Plan

    @property
    def grid(self) -> str:
        """The grid of the model itself."""
        return self.model.spec.defaults.grid

    @property
    def other_grid(self) -> str | None:
        """The grid of the DDIM paper, or where the model itself uses that, trailing; None without a table."""
        if not isinstance(self.model.schedule, TableVP):
            return None
        return "trailing" if self.grid == "leading" else "leading"

    @property
    def fingerprint(self) -> str:
        """What model, judge and reference these are, in twelve letters."""
        spec = torch.tensor(list(repr(self.model.spec).encode()), dtype=torch.uint8)
        reference = (self.reference.count, self.reference.mean, self.reference.scatter)
        states = (self.model.denoiser.net.state_dict(), self.judge.state_dict())
        return digest([spec, *reference, *(tensor for state in states for tensor in state.values())])

    @property
    def settings(self) -> dict[str, Any]:
        """What decides every number that is measured with this bench."""
        return {"model": self.fingerprint, "seed": self.seed}

    def draw(
        self,
        seeds: Sequence[int],
        labels: Sequence[int],
        way: Way,
        tick: Tick,
        *,
        latents: Tensor | None = None,
        clip: bool = True,
    ) -> Tensor:
        """Images [N, 1, 32, 32], each from its own seed; ``latents`` replace the noise it begins with.

        ``labels``: `NO_LABEL` for none. ``clip``: x0 into [-1, 1].
        """
        drawn = []
        for start in range(0, len(seeds), BATCH):
            part = slice(start, start + BATCH)
            noise, cond = NoiseStreams(seeds[part]), label_cond(labels[part], self.model.device)
            begin = noise(self._like(len(seeds[part]))) if latents is None else latents[part]
            drawn.append(self._walk(begin, way, noise, cond, clip, tick))
        return torch.cat(drawn)

    def _like(self, count: int) -> Tensor:
        spec = self.model.spec
        return torch.empty(count, spec.channels, spec.image_size, spec.image_size)

    def _walk(
        self, begin: Tensor, way: Way, noise: NoiseStreams, cond: Any, clip: bool, tick: Tick
    ) -> Tensor:
        levels = self.model.levels(way.steps, way.grid)
        x = prior(begin.to(self.model.device), levels[0])
        solver, denoiser = DDIM(way.eta, way.variance), self.model.guided(1.0, clip=clip)
        for step in sample(denoiser, x, levels, solver, cond=cond, noise=noise):
            tick(len(x))
            x = step.x
        return x.cpu()

    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The judge's features [N, D] and probabilities [N, 10]."""
        features = collect(self.judge.features, images)
        with torch.no_grad():
            return features, self.judge.head(features).softmax(1)

    def frechet(self, features: Tensor) -> float:
        """The Frechet distance of features [N, D] to the reference."""
        return frechet_distance(self.reference, Statistics.of(features))
