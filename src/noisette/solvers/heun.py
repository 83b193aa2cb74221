"""Euler and Heun on the probability-flow ODE, with the churn of EDM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from noisette.core.level import Level, Schedule, combine, forward_variance
from noisette.core.prediction import Prediction
from noisette.core.sampling import Denoise, Noise
from noisette.errors import UserError
from noisette.solvers import citations
from noisette.solvers.ddim import DDIM

_MOST = math.sqrt(2) - 1  # a churned step at most doubles the variance

# Slopes in sigma / alpha mean nothing where hardly any signal is left: a step from there magnifies every
# difference of two eps by that ratio (20,000 at the end of the cosine table, 157 of the linear, 80 of EDM).
_LEAST_SIGNAL = 1e-3


@dataclass(frozen=True)
class Churn:
    """Fresh noise before a step: ``sigma / alpha``, where within [min, max], grows by ``1 + amount``.

    ``x' = (alpha' / alpha) x + noise * sqrt(forward variance) z`` at the level with the raised ratio,
    which ``schedule`` finds, past its noisy end if need be. ``amount`` is the gamma of one step: the
    paper's is ``min(S_churn / N, sqrt(2) - 1)``, which `Churn.over` computes, since a solver does not know
    the number of steps N. min, max and noise are the paper's S_tmin, S_tmax and S_noise. No network call.
    Raises UserError for a negative amount or noise.
    Source: arXiv:2206.00364, Algorithm 2.
    """

    schedule: Schedule
    amount: float
    min: float = 0.0
    max: float = math.inf
    noise: float = 1.0

    def __post_init__(self) -> None:
        if self.amount < 0 or self.noise < 0:
            raise UserError(f"churn's amount and noise are >= 0, got {self.amount:g} and {self.noise:g}")

    @classmethod
    def over(
        cls,
        schedule: Schedule,
        steps: int,
        total: float,
        min: float = 0.0,
        max: float = math.inf,
        noise: float = 1.0,
    ) -> Churn:
        """The paper's S_churn = ``total`` spread over ``steps`` steps."""
        amount = total / steps
        return cls(schedule, amount if amount < _MOST else _MOST, min, max, noise)

    def __call__(self, x: Tensor, s: Level, noise: Noise) -> tuple[Tensor, Level]:
        ratio = s.sigma / s.alpha
        inside = (ratio >= self.min) & (ratio <= self.max) & ratio.isfinite() & (ratio > 0)
        if self.amount == 0 or not bool(inside.any()):
            return x, s
        raised = self.schedule.at_half_logsnr(
            torch.where(inside, s.half_logsnr - math.log1p(self.amount), 0.0)
        )
        alpha = torch.where(inside, raised.alpha, s.alpha)
        sigma = torch.where(inside, raised.sigma, s.sigma)
        higher = Level(torch.where(inside, raised.t, s.t), alpha, sigma)
        std = torch.where(inside, forward_variance(higher, s).clamp(min=0).sqrt(), 0.0)
        scale = torch.where(inside, alpha / s.alpha, 1.0)
        return combine((scale, x), (self.noise * std, noise(x))), higher


@dataclass(frozen=True)
class Euler:
    """Euler's method on ``d(x / alpha) = eps d(sigma / alpha)``, with EDM's churn where given.

    Without churn it is `DDIM` with eta = 0, term by term. First order; one network call a step.
    Source: arXiv:2206.00364, Algorithm 2 without its correction.
    """

    churn: Churn | None = None
    bibtex: ClassVar[str] = citations.EDM

    def init(self) -> None:
        return None

    def step(
        self, denoise: Denoise, x: Tensor, s: Level, t: Level, state: None, noise: Noise
    ) -> tuple[Tensor, Prediction, None]:
        if self.churn is not None:
            x, s = self.churn(x, s, noise)
        prediction = denoise(x, s)
        return t.diffuse(prediction.x0, prediction.eps), prediction, None


def EulerAncestral(eta: float = 1.0) -> DDIM:
    """Euler with ancestral noise, which is exactly `DDIM` at the same eta.

    In (x / alpha, sigma / alpha) the two agree for every eta: sigma_up is eta times DDPM's posterior
    deviation, and the step down to sigma_down is DDIM's. One network call a step.
    """
    return DDIM(eta=eta)


@dataclass(frozen=True)
class Heun:
    """Heun's method: the Euler step, then again along the mean of the eps at both of its ends.

    Second order. Two network calls a step, one at the last (sigma = 0) and where hardly any signal is left
    (alpha_s < sigma_s / 1000), both of which are Euler steps: ``2N - 1`` calls or one less in all.
    Source: arXiv:2206.00364, Algorithms 1 and 2.
    """

    churn: Churn | None = None
    bibtex: ClassVar[str] = citations.EDM

    def init(self) -> None:
        return None

    def step(
        self, denoise: Denoise, x: Tensor, s: Level, t: Level, state: None, noise: Noise
    ) -> tuple[Tensor, Prediction, None]:
        if self.churn is not None:
            x, s = self.churn(x, s, noise)
        first = denoise(x, s)
        x_t = t.diffuse(first.x0, first.eps)
        if has_two_ends(s, t):
            second = denoise(x_t, t)
            x_t = along(first, s, t, combine((0.5, first.eps), (0.5, second.eps)))
        return x_t, first, None


def has_two_ends(s: Level, t: Level) -> bool:
    """Whether anywhere in the batch the slope means something at both ends of the step."""
    return bool(_two_ends(s, t).any())


def _two_ends(s: Level, t: Level) -> Tensor:
    return (s.alpha > _LEAST_SIGNAL * s.sigma) & (t.sigma > 0)


def along(prediction: Prediction, s: Level, t: Level, eps: Tensor) -> Tensor:
    """The straight step ``x_t / alpha_t = x_s / alpha_s + (sigma_t / alpha_t - sigma_s / alpha_s) eps``.

    Written as a change to the Euler step of ``prediction``; that step itself where either end has no slope.
    """
    gain = torch.where(_two_ends(s, t), t.sigma - t.alpha * s.sigma / s.alpha, 0.0)
    return combine((t.alpha, prediction.x0), (t.sigma, prediction.eps), (gain, eps - prediction.eps))
