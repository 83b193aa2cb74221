"""Where on a schedule a training step looks: uniform numbers in [0, 1) become levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from noisette.core import Level, Schedule

__all__ = ["LogNormalSigma", "LogitNormalTimes", "Rows", "Times", "UniformTimes"]


class Times(Protocol):
    """A distribution over levels by its inverse: uniform ``u`` [B] in [0, 1) to a level [B]."""

    def __call__(self, schedule: Schedule, u: Tensor) -> Level: ...


@dataclass(frozen=True)
class Rows:
    """The rows of a table of ``steps`` levels, equally likely: t in {1/T, 2/T ... 1}."""

    steps: int = 1000

    def __call__(self, schedule: Schedule, u: Tensor) -> Level:
        return schedule(((u * self.steps).floor() + 1) / self.steps)


@dataclass(frozen=True)
class UniformTimes:
    """t uniform in [low, high]."""

    low: float = 1e-5
    high: float = 1.0

    def __call__(self, schedule: Schedule, u: Tensor) -> Level:
        return schedule(self.low + (self.high - self.low) * u)


@dataclass(frozen=True)
class LogNormalSigma:
    """``log(sigma / alpha) ~ N(mean, std^2)``: where EDM trains. Source: arXiv:2206.00364, Table 1."""

    mean: float = -1.2
    std: float = 1.2

    def __call__(self, schedule: Schedule, u: Tensor) -> Level:
        return schedule.at_half_logsnr(-(self.mean + self.std * _normal_quantile(u)))


@dataclass(frozen=True)
class LogitNormalTimes:
    """``logit(t) ~ N(mean, std^2)``: more of the middle of a flow. Source: arXiv:2403.03206, Eq. 19."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, schedule: Schedule, u: Tensor) -> Level:
        return schedule(torch.sigmoid(self.mean + self.std * _normal_quantile(u)))


def _normal_quantile(u: Tensor) -> Tensor:
    # u = 0 can be drawn, once in 2^53; its quantile is not a number that a level can have.
    return torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12))
