"""The straight path of flow matching: ``x = (1 - u) x0 + u eps``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from noisette.core import Level

from .vp import as_time


@dataclass(frozen=True)
class FlowMatching:
    """``alpha = 1 - u``, ``sigma = u`` with ``u = shift * t / (1 + (shift - 1) * t)``.

    ``shift`` 1 is rectified flow (arXiv:2209.03003); larger values spend more time at high noise,
    as high-resolution models want (arXiv:2403.03206, Eq. 23).
    """

    shift: float = 1.0

    def __call__(self, t: Tensor | float) -> Level:
        t = as_time(t)
        u = self.shift * t / (1 + (self.shift - 1) * t)
        return Level(t, 1 - u, u)

    def at_half_logsnr(self, lam: Tensor) -> Level:
        lam = as_time(lam)
        u = torch.sigmoid(-lam)
        return Level(u / (self.shift - (self.shift - 1) * u), torch.sigmoid(lam), u)
