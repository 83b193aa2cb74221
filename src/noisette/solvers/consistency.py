"""Sampling with a network that jumps to the end of the trajectory from anywhere on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from noisette.core.level import Level, combine
from noisette.core.prediction import Prediction
from noisette.core.sampling import Denoise, Noise
from noisette.errors import UserError
from noisette.solvers import citations


@dataclass(frozen=True)
class MultistepConsistency:
    """Jump to the data and noise it anew: ``x_t = alpha_t x0 + sqrt(sigma_t^2 - alpha_t^2 sigma_min^2) z``.

    For consistency models; the last step adds no noise. ``sigma_min`` is where the network takes x for the
    data (`noisette.core.Consistency`). Between steps anything may be done to the jump: put back known pixels,
    known colours, a known small picture. Cost: one network call a step. Raises UserError for a step towards
    noise, which has no inverse. Source: arXiv:2303.01469, Algorithm 1.
    """

    sigma_min: float = 0.0
    bibtex: ClassVar[str] = citations.CONSISTENCY

    def init(self) -> None:
        return None

    def step(
        self, denoise: Denoise, x: Tensor, s: Level, t: Level, state: None, noise: Noise
    ) -> tuple[Tensor, Prediction, None]:
        if bool((t.sigma * s.alpha > s.sigma * t.alpha).any()):
            raise UserError("the consistency solver jumps to the data and cannot invert: take ddim")
        prediction = denoise(x, s)
        spread = (t.sigma.square() - (t.alpha * self.sigma_min).square()).clamp(min=0).sqrt()
        if not bool((spread > 0).any()):
            return combine((t.alpha, prediction.x0)), prediction, None
        return combine((t.alpha, prediction.x0), (spread, noise(x))), prediction, None
