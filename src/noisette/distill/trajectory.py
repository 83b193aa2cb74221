"""The levels of a grid, picked for each sample of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from noisette.core import Level

__all__ = ["picked"]


def picked(levels: Sequence[Level], index: Tensor, like: Tensor) -> Level:
    """The level of each sample: index [B] into ``levels``, laid out to broadcast against ``like``."""
    names, place = ("t", "alpha", "sigma"), index.device
    columns = (torch.stack([getattr(level, name) for level in levels]).to(place)[index] for name in names)
    return Level(*columns).per_sample(like)
