"""Class labels as a condition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from noisette.core import Cond

NO_LABEL = -1


def label_cond(labels: Sequence[int] | Tensor, device: torch.device | str | None = None) -> Cond:
    """The condition ``{"label": LongTensor [B]}`` for class indices; -1 stands for no label."""
    return {"label": torch.as_tensor(labels, dtype=torch.long, device=device)}


def to_null(cond: Cond) -> Cond:
    """The same condition without its label: every entry of ``cond["label"]`` becomes -1.

    The unconditional lane of classifier-free guidance is ``given(denoiser, to_null)``. A condition that
    has no label is returned as it is. Source: arXiv:2207.12598, Algorithm 2.
    """
    if "label" not in cond:
        return cond
    return {**cond, "label": torch.full_like(cond["label"], NO_LABEL)}
