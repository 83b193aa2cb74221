"""What a student learns of its teacher: ``lesson(pair, schedule, x0, draws)`` gives losses [B].

Lessons are frozen values, as objectives are; their random numbers come from ``draws``: levels, then noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import torch
from torch import Tensor

from noisette.core import Cond, Denoiser, Level, NetDenoiser, Schedule, oracle, prediction_error
from noisette.distill import (
    Boundaries,
    consistency_error,
    doubling,
    growing,
    picked,
    pseudo_huber,
    truncated_snr,
    two_steps,
)
from noisette.errors import UserError
from noisette.hub.spec import GRIDS, GridName
from noisette.solvers import DDIM, Heun
from noisette.training.draws import Draws

__all__ = ["ConsistencyDistillation", "ConsistencyTraining", "Lesson", "Match", "Pair", "Progressive"]


@dataclass(frozen=True)
class Pair:
    """A student, its teacher, and what each is told: the student perhaps a scale of guidance besides.

    ``target`` is whom a consistency model agrees with: the student itself, or a slow average of it.
    """

    student: NetDenoiser
    teacher: Denoiser
    target: Denoiser
    cond: Cond
    told: Cond


class Lesson(Protocol):
    """Losses [B] of a batch ``x0`` [B, C, H, W]; their mean is minimised."""

    def __call__(self, pair: Pair, schedule: Schedule, x0: Tensor, draws: Draws) -> Tensor: ...


@dataclass(frozen=True)
class Match:
    """What the teacher predicts, in one call for its two: the first half of distilling guidance.

    At the levels that ``steps`` steps visit. Source: arXiv:2210.03142, Section 3.1.
    """

    steps: int
    grid: GridName = "trailing"

    def __call__(self, pair: Pair, schedule: Schedule, x0: Tensor, draws: Draws) -> Tensor:
        levels = _levels(self.grid, schedule, self.steps)[:-1]
        s = picked(levels, _index(draws, x0, len(levels)), x0)
        x = s.diffuse(x0, draws.normal(x0))
        with torch.no_grad():
            truth = pair.teacher(x, s, pair.cond)
        return prediction_error(pair.student(x, s, pair.told), truth, pair.student.parameterization)


@dataclass(frozen=True)
class Progressive:
    """One DDIM step of the student for two of the teacher, on a grid of ``steps`` steps.

    Errors count in the space the network predicts in (for `V`, SNR + 1 times those of x0), or as
    ``max(SNR, 1)`` times those of x0. The grid must hold every other level of the one that is twice as fine:
    trailing and shifted do. Source: arXiv:2202.00512, Algorithm 2. Raises UserError.
    """

    steps: int
    grid: GridName = "trailing"
    weighting: Literal["native", "truncated"] = "native"

    def __call__(self, pair: Pair, schedule: Schedule, x0: Tensor, draws: Draws) -> Tensor:
        levels = nested(schedule, self.grid, self.steps)
        index = 2 * _index(draws, x0, self.steps)
        s, m, t = (picked(levels, index + i, x0) for i in range(3))
        x = s.diffuse(x0, draws.normal(x0))
        truth = two_steps(pair.teacher, x, s, m, t, pair.cond)
        predicted = pair.student(x, s, pair.told)
        if self.weighting == "native":
            return prediction_error(predicted, truth, pair.student.parameterization)
        return truncated_snr(s).flatten().to(x) * prediction_error(predicted, truth, "x0")


def nested(schedule: Schedule, grid: GridName, steps: int) -> list[Level]:
    """A grid of twice ``steps`` steps that holds the levels of one of ``steps``. Raises UserError."""
    fine, coarse = _levels(grid, schedule, 2 * steps), _levels(grid, schedule, steps)
    if [float(level.t) for level in fine[::2]] != [float(level.t) for level in coarse]:
        raise UserError(
            f"a {grid} grid of {2 * steps} steps does not hold that of {steps}: take trailing or shifted"
        )
    return fine


@dataclass(frozen=True)
class ConsistencyDistillation:
    """The jump to the data from one level agrees with that from the next, one teacher step further.

    ``intervals`` of a grid, all as likely. ``target`` is the decay of the slow average that is agreed with,
    0 for the student itself. Source: arXiv:2303.01469, Algorithm 2; guided in latents, arXiv:2310.04378.
    """

    intervals: int = 50
    grid: GridName = "trailing"
    solver: Literal["ddim", "heun"] = "ddim"
    target: float = 0.0
    huber: float | None = None

    def __call__(self, pair: Pair, schedule: Schedule, x0: Tensor, draws: Draws) -> Tensor:
        neighbours = Boundaries(_levels(self.grid, schedule, self.intervals))
        s, t = neighbours.pair(draws.uniform(len(x0)), x0)
        x = s.diffuse(x0, draws.normal(x0))
        solver = DDIM() if self.solver == "ddim" else Heun()
        return consistency_error(
            pair.student,
            pair.target,
            lambda x, level: pair.teacher(x, level, pair.cond),
            solver,
            x,
            s,
            t,
            pair.told,
            lambda difference: pseudo_huber(difference, self.huber),
        )


@dataclass(frozen=True)
class ConsistencyTraining:
    """The same from data alone, the truth for a teacher: an objective of an ordinary `Recipe`.

    ``kind`` "growing": 2 to 150 levels; "doubling": 10 to 1280 in stages, neighbours as likely as a normal
    distribution of log sigma says, and errors divided by the distance of the two: the improved way, both
    with pseudo-Huber errors and the student for its own target. ``updates`` is how long the run is.
    Source: arXiv:2303.01469, Algorithm 3; arXiv:2310.14189.
    """

    updates: int
    kind: Literal["growing", "doubling"] = "doubling"
    first: int = 10
    last: int = 1280
    mean: float = -1.1
    std: float = 2.0

    def __call__(
        self, denoiser: Denoiser, schedule: Schedule, x0: Tensor, cond: Cond, draws: Draws
    ) -> Tensor:
        progress = min(draws.step / self.updates, 1 - 1e-9)
        count = (growing if self.kind == "growing" else doubling)(progress, self.first, self.last)
        levels = _levels("karras", schedule, count)
        neighbours = Boundaries(levels, self.mean if self.kind == "doubling" else None, self.std)
        s, t = neighbours.pair(draws.uniform(len(x0)), x0)
        eps = draws.normal(x0)
        truth, x = oracle(x0, eps), s.diffuse(x0, eps)
        error = consistency_error(
            denoiser, denoiser, lambda x, level: truth(x, level, cond), DDIM(), x, s, t, cond, pseudo_huber
        )
        if self.kind == "growing":
            return error
        return error / (s.sigma / s.alpha - t.sigma / t.alpha).flatten().to(error)


@lru_cache(maxsize=8)
def _levels(grid: GridName, schedule: Schedule, steps: int) -> list[Level]:
    """A grid, laid out once for all updates that look at it."""
    return GRIDS[grid](schedule, steps)


def _index(draws: Draws, x0: Tensor, count: int) -> Tensor:
    """A number below ``count`` for every sample, spread evenly over the batch."""
    return (draws.stratified(len(x0)) * count).long().clamp(max=count - 1)
