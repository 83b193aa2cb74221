"""Pseudo linear multistep: Adams-Bashforth on eps, with DDIM as the step; and its Runge-Kutta start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from torch import Tensor

from noisette.core.level import Level, Schedule, combine
from noisette.core.prediction import Prediction
from noisette.core.sampling import Denoise, Noise
from noisette.solvers import citations
from noisette.solvers.heun import along, has_two_ends

Epsilons: TypeAlias = tuple[Tensor, ...]
"""The latest eps, newest first."""

_ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@dataclass(frozen=True)
class PLMS:
    """PLMS, the pseudo linear multistep method of PNDM: DDIM along an extrapolated eps.

    ``e = (55 eps_s - 59 eps_1 + 37 eps_2 - 9 eps_3) / 24`` over evenly spaced timesteps, of lower degree
    while history is short. The first step is a pseudo improved Euler step with a second call, so that N
    steps cost N + 1 calls. Second order: eps is extrapolated in the index of the grid, the step is taken
    in sigma / alpha. Source: arXiv:2202.09778, Eq. 9 (the step) and 12; the start is Stable Diffusion's.
    """

    bibtex: ClassVar[str] = citations.PNDM

    def init(self) -> Epsilons:
        return ()

    def step(
        self, denoise: Denoise, x: Tensor, s: Level, t: Level, state: Epsilons, noise: Noise
    ) -> tuple[Tensor, Prediction, Epsilons]:
        prediction = denoise(x, s)
        history = (prediction.eps, *state)
        eps = combine(*zip(_ADAMS_BASHFORTH[len(state)], history, strict=True))
        if not state and has_two_ends(s, t):
            ahead = denoise(along(prediction, s, t, eps), t)
            eps = combine((0.5, eps), (0.5, ahead.eps))
        return along(prediction, s, t, eps), prediction, history[:3]


@dataclass(frozen=True)
class PNDM:
    """PNDM as published: three pseudo Runge-Kutta steps, then `PLMS` over what they leave behind.

    From x at s to t with m halfway between their rows, ``e1 = eps(x, s)``, ``e2 = eps(phi(x, e1, m), m)``,
    ``e3 = eps(phi(x, e2, m), m)``, ``e4 = eps(phi(x, e3, t), t)``, and the step goes along
    ``(e1 + 2 e2 + 2 e3 + e4) / 6``; phi is the step of DDIM. N steps cost N + 9 calls.
    Source: arXiv:2202.09778, Eq. 9 and 13.
    """

    schedule: Schedule
    bibtex: ClassVar[str] = citations.PNDM

    def init(self) -> Epsilons:
        return ()

    def step(
        self, denoise: Denoise, x: Tensor, s: Level, t: Level, state: Epsilons, noise: Noise
    ) -> tuple[Tensor, Prediction, Epsilons]:
        if len(state) == 3:
            return PLMS().step(denoise, x, s, t, state, noise)
        first = denoise(x, s)
        middle = self._halfway(s, t)
        second = denoise(along(first, s, middle, first.eps), middle)
        third = denoise(along(first, s, middle, second.eps), middle)
        last = denoise(along(first, s, t, third.eps), t)
        eps = combine((1 / 6, first.eps), (1 / 3, second.eps), (1 / 3, third.eps), (1 / 6, last.eps))
        return along(first, s, t, eps), first, (first.eps, *state)

    def _halfway(self, s: Level, t: Level) -> Level:
        """The middle in time; on a table the row at or before it."""
        half, rows = (s.t - t.t) / 2, getattr(self.schedule, "steps", None)
        return self.schedule(t.t + (half if rows is None else (half * rows + 1e-6).floor() / rows))
