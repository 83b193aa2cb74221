"""Pseudo linear multistep: Adams-Bashforth on eps, with DDIM as the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from torch import Tensor

from noisette.core.level import Level, combine
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
