"""Classifier guidance: the gradient of a classifier on noisy data added to the score."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from noisette.core import Cond, Denoiser, Level, Prediction, combine

LogProb: TypeAlias = Callable[[Tensor, Level, Cond], Tensor]
"""``log p(c | x_t)``, [B], of noisy samples [B, C, H, W], differentiable in x."""


def classifier_guide(
    denoiser: Denoiser, log_prob: LogProb, scale: float | Callable[[Level], float] = 1.0
) -> Denoiser:
    """``eps - scale * sigma * grad_x log p(c | x_t)``: the score of ``p(x) p(c | x)^scale``; x0 follows.

    One call of the denoiser, one of the classifier with its backward. A scale of exactly 0 costs none of
    the latter. Source: arXiv:2105.05233, Algorithm 2.
    """

    def guided(x: Tensor, level: Level, cond: Cond) -> Prediction:
        prediction = denoiser(x, level, cond)
        strength = scale(level) if callable(scale) else scale
        if strength == 0:
            return prediction
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(log_prob(point, level, cond).sum(), point)
        return prediction.with_eps(combine((1.0, prediction.eps), (-strength * level.sigma, gradient)))

    return guided
