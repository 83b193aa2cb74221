"""Solvers, and the one loop that every sampler, inversion and edit runs in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from .denoiser import Cond, Denoiser
from .level import Level, combine
from .prediction import Prediction

State = TypeVar("State")

Denoise: TypeAlias = Callable[[Tensor, Level], Prediction]
"""A denoiser with its condition filled in: what a solver sees."""

Noise: TypeAlias = Callable[[Tensor], Tensor]
"""Standard normal noise shaped like its argument; a stream, each call gives the next draw."""


def white(like: Tensor) -> Tensor:
    """Standard normal noise from torch's global generator."""
    return torch.randn_like(like)


class Solver(Protocol[State]):
    """One step of a method over an interval from level ``s`` to level ``t``.

    A frozen value: what a multistep method remembers travels as ``state``, so that one solver may
    serve many trajectories at once. ``step`` returns the state at t, the prediction made at s, and
    the next memory. It calls ``noise`` only where the method is stochastic.
    """

    def init(self) -> State: ...

    def step(
        self, denoise: Denoise, x: Tensor, s: Level, t: Level, state: State, noise: Noise
    ) -> tuple[Tensor, Prediction, State]: ...


@dataclass
class Step:
    """One step of a trajectory: ``x`` is now at level ``t``; assign ``x`` to steer what follows.

    ``prediction`` was made at level ``s``; its x0 is the preview of the result.
    """

    index: int
    total: int
    s: Level
    t: Level
    x: Tensor
    prediction: Prediction


def sample(
    denoiser: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    solver: Solver[State],
    *,
    cond: Cond | None = None,
    noise: Noise = white,
) -> Iterator[Step]:
    """Carry ``x`` [B, C, H, W] through ``levels`` and yield a `Step` after each interval.

    ``levels`` has N + 1 entries for N steps; from noise to data it generates, flipped it inverts,
    from the middle it edits. Gradients are off inside a step (call ``solver.step`` itself for
    differentiable sampling). Cost: N times the calls of the solver. Raises ValueError for fewer
    than two levels.
    """
    if len(levels) < 2:
        raise ValueError(f"sampling needs at least two levels (one step), got {len(levels)}")

    def denoise(x: Tensor, level: Level) -> Prediction:
        return denoiser(x, level, cond or {})

    state = solver.init()
    for index, (s, t) in enumerate(pairwise(levels)):
        with torch.no_grad():
            x, prediction, state = solver.step(denoise, x, s, t, state, noise)
        step = Step(index, len(levels) - 1, s, t, x, prediction)
        yield step
        x = step.x


def prior(noise: Tensor, level: Level) -> Tensor:
    """The start of a trajectory at ``level``: ``sqrt(alpha^2 + sigma^2) * noise``.

    The marginal of unit-variance data: 1 for VP, sqrt(1 + sigma_max^2) for VE, and at the end of
    flow matching 1.
    """
    return combine(((level.alpha.square() + level.sigma.square()).sqrt(), noise))


def last(steps: Iterator[Step]) -> Tensor:
    """Run a trajectory to its end and return the final x."""
    *_, step = deque(steps, maxlen=1)
    return step.x
