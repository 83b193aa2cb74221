"""Pictures that agree with what is known of them: known pixels, a known brightness, a known small picture.

Each is ``y = A x0`` with a simple A, and the nearest x0 that agrees is ``x0 + A^+ (y - A x0)``. A denoiser
whose every prediction is brought there draws pictures that agree, and needs no training for it: with a
consistency model in a few calls, with any other over its usual steps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from noisette.core import Cond, Denoiser, Level, Prediction
from noisette.errors import UserError

__all__ = ["Projection", "colourised", "enlarged", "inpainted", "projected"]

Projection = Callable[[Tensor], Tensor]
"""From pictures [B, C, H, W] to the nearest ones that agree with what is known; twice is once."""

BRIGHTNESS = (0.299, 0.587, 0.114)
"""How much red, green and blue count (ITU-R BT.601)."""


def projected(denoiser: Denoiser, projection: Projection) -> Denoiser:
    """The denoiser with its x0 brought to what is known; the noise it saw follows. No further call.

    Over the steps of `noisette.solvers.MultistepConsistency` it is zero-shot editing with a consistency model
    (arXiv:2303.01469, Algorithm 4), over those of DDIM the null-space model of arXiv:2212.00490.
    """

    def agreeing(x: Tensor, level: Level, cond: Cond) -> Prediction:
        prediction = denoiser(x, level, cond)
        return prediction.with_x0(projection(prediction.x0))

    return agreeing


def inpainted(known: Tensor, mask: Tensor) -> Projection:
    """Pixels of ``known`` [B or 1, C, H, W] where ``mask`` [B or 1, 1, H, W] is 0, new ones where it is 1."""
    return lambda x0: torch.where(mask.to(x0.device) > 0.5, x0, known.to(x0))


def colourised(grey: Tensor) -> Projection:
    """The brightness ``grey`` [B or 1, 1, H, W], ``w . (r, g, b)``, in pictures of three channels."""
    w = torch.tensor(BRIGHTNESS, dtype=torch.float64)

    def project(x0: Tensor) -> Tensor:
        if x0.shape[1] != 3:
            raise UserError(f"colours are added to pictures of three channels, and these have {x0.shape[1]}")
        weights = w.to(x0).view(1, 3, 1, 1)
        missing = grey.to(x0) - (weights * x0).sum(1, keepdim=True)
        return x0 + weights * missing / weights.square().sum()

    return project


def enlarged(small: Tensor, factor: int) -> Projection:
    """Means over squares of ``factor`` pixels that are those of ``small`` [B or 1, C, H/f, W/f]."""
    if factor < 1:
        raise UserError(f"pictures are enlarged by a factor of 1 or more, not {factor}")

    def project(x0: Tensor) -> Tensor:
        if x0.shape[2] % factor or x0.shape[3] % factor:
            raise UserError(f"{x0.shape[3]}x{x0.shape[2]} pixels do not fall into squares of {factor}")
        missing = small.to(x0) - F.avg_pool2d(x0, factor)
        return x0 + missing.repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    return project
