"""Guidance in the middle of the trajectory only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from noisette.core import Level


@dataclass(frozen=True)
class Interval:
    """A guidance scale that is ``scale`` where ``low < sigma / alpha <= high`` and 1 (off) elsewhere.

    A weight for `noisette.core.guide`: outside the interval the weak lane is not called at all, so guidance
    there is free. With one level per sample the weight is a tensor and both lanes run.
    Source: arXiv:2404.07724, Eq. 6; its sigma is that of data with alpha = 1.
    """

    scale: float
    low: float = 0.0
    high: float = float("inf")

    def __call__(self, level: Level) -> float | Tensor:
        noise = level.sigma / level.alpha
        inside = (self.low < noise) & (noise <= self.high)
        if inside.ndim:
            return torch.where(inside, self.scale, 1.0)
        return self.scale if bool(inside) else 1.0
