"""Classifier-free guidance that keeps the contrast of the conditional prediction."""

from __future__ import annotations

from torch import Tensor

from noisette.core import (
    Cond,
    Denoiser,
    Level,
    Parameterization,
    Prediction,
    V,
    Weight,
    guide,
    together,
)


def rescaled_guide(
    strong: Denoiser, weak: Denoiser, scale: Weight, phi: float = 0.7, space: Parameterization | None = None
) -> Denoiser:
    """`guide` whose result gets back a part ``phi`` in [0, 1] of the strong lane's standard deviation.

    ``F = weak + scale (strong - weak)``; ``F * (phi std(F_strong) / std(F) + 1 - phi)``, where F is what
    ``space`` (default `V`, the paper's) predicts and std runs over one sample. phi = 0 is `guide`.
    Cost: the one batched call of `guide`. Source: arXiv:2305.08891, Eq. 14-16.
    """
    space = space or V()

    def rescaled(x: Tensor, level: Level, cond: Cond) -> Prediction:
        both = together((strong, guide(strong, weak, scale)), x, level, cond)
        kept, raw = (space.target(p.x0, p.eps, level) for p in both)
        return space.read(raw * (phi * _std(kept) / _std(raw) + 1 - phi), x, level)

    return rescaled


def _std(values: Tensor) -> Tensor:
    return values.flatten(1).std(1).reshape(-1, *[1] * (values.ndim - 1))
