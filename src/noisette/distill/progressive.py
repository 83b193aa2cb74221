"""Progressive distillation: one step of the student is two steps of the teacher. Source: arXiv:2202.00512."""

from __future__ import annotations

import torch
from torch import Tensor

from noisette.core import Cond, Denoiser, Level, Prediction, combine
from noisette.solvers.ddim import transfer

__all__ = ["truncated_snr", "two_steps"]


@torch.no_grad()
def two_steps(teacher: Denoiser, x: Tensor, s: Level, m: Level, t: Level, cond: Cond) -> Prediction:
    """The prediction at s whose one DDIM step to t ends where the teacher's two steps end, by way of m.

    ``x_t = alpha_t x0 + sigma_t eps`` and ``x_s = alpha_s x0 + sigma_s eps`` are solved for x0 and eps, so
    that either end of the schedule may have no signal or no noise. Two calls of the teacher.
    Source: arXiv:2202.00512, Algorithm 2 and Appendix G.
    """
    first = teacher(x, s, cond)
    x_m = transfer(first, s, m, torch.randn_like)
    x_t = transfer(teacher(x_m, m, cond), m, t, torch.randn_like)
    area = s.sigma * t.alpha - t.sigma * s.alpha
    x0 = combine((s.sigma / area, x_t), (-t.sigma / area, x))
    return Prediction(x0, combine((t.alpha / area, x), (-s.alpha / area, x_t)), s)


def truncated_snr(level: Level) -> Tensor:
    """``max(SNR, 1)``: how much an error of x0 counts. Source: arXiv:2202.00512, Section 4."""
    return level.snr.clamp(min=1.0)
