"""Keeping the predicted data inside the range of pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from noisette.core import Cond, Denoiser, Level, Prediction


def clip_x0(denoiser: Denoiser, low: float = -1.0, high: float = 1.0) -> Denoiser:
    """The denoiser with ``x0`` clipped to [low, high]; eps follows, so that x is still split exactly.

    For pixels; it ruins latents. The same network calls. Source: arXiv:2006.11239, Section 3.2 (released
    code). The probability-flow formulation of DDIM leaves x0 as it is; here every solver sees it clipped.
    """

    def clipped(x: Tensor, level: Level, cond: Cond) -> Prediction:
        prediction = denoiser(x, level, cond)
        return prediction.with_x0(prediction.x0.clamp(low, high))

    return clipped


def dynamic_threshold(denoiser: Denoiser, percentile: float = 0.995) -> Denoiser:
    """The denoiser with each ``x0`` clipped to its own quantile of absolute value and divided by it.

    ``s = max(1, quantile(|x0|, percentile))`` over one sample, then ``clip(x0, -s, s) / s``. For pixels in
    [-1, 1] under large guidance scales. The same network calls. Source: arXiv:2205.11487, Section 2.3.
    """

    def thresholded(x: Tensor, level: Level, cond: Cond) -> Prediction:
        prediction = denoiser(x, level, cond)
        size = torch.quantile(prediction.x0.float().abs().flatten(1), percentile, dim=1).clamp(min=1)
        size = size.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        return prediction.with_x0(prediction.x0.clamp(-size, size) / size)

    return thresholded
