"""Images in [-1, 1] and the 256 levels of a file: one exact way there and back."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["from_uint8", "to_uint8"]


def from_uint8(pixels: Tensor) -> Tensor:
    """uint8 [...] to float32 [...] in [-1, 1]: `x = u / 127.5 - 1`; `to_uint8` is its exact inverse."""
    return pixels.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(x: Tensor) -> Tensor:
    """Float [...] in [-1, 1] to uint8 [...]: `round((x + 1) * 127.5)`, clipped to [0, 255].

    Truncation instead of rounding would darken every image by half a level and shift a Frechet distance.

    Raises:
        ValueError: `x` holds NaN.
    """
    level = (x.detach().to(torch.float32) + 1.0) * 127.5
    if level.isnan().any():
        raise ValueError("an image to be stored holds NaN")
    return level.round_().clamp_(0, 255).to(torch.uint8)
