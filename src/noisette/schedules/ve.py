"""The variance-exploding schedule of EDM: ``alpha = 1``, ``sigma = t * sigma_max``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from noisette.core import Level

from .vp import as_time


@dataclass(frozen=True)
class VE:
    """``x = x0 + sigma * eps`` with sigma up to ``sigma_max``, linear in t.

    EDM's own clock is sigma itself, so t is only a name for it; grids (`karras`) and the lognormal
    training distribution choose which sigmas matter. ``sigma_min`` is where grids end before the
    data. Source: arXiv:2206.00364, Table 1.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __call__(self, t: Tensor | float) -> Level:
        t = as_time(t)
        return Level(t, torch.ones_like(t), t * self.sigma_max)

    def at_half_logsnr(self, lam: Tensor) -> Level:
        sigma = torch.exp(-as_time(lam))
        return Level(sigma / self.sigma_max, torch.ones_like(sigma), sigma)
