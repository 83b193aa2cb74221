"""Conditions left out at random while training, so that one network learns both lanes of guidance."""

from __future__ import annotations

from torch import Tensor

from noisette.conditioning.label import NO_LABEL
from noisette.core import Cond


def drop_labels(cond: Cond, dropped: Tensor) -> Cond:
    """``cond["label"]`` [B] with -1 where ``dropped`` [B] is True.

    Whoever trains draws ``dropped``, each with probability 0.1 to 0.2: without it a model has no
    unconditional half to guide with. Source: arXiv:2207.12598, Algorithm 1.
    """
    label = cond["label"]
    return {**cond, "label": label.masked_fill(dropped.to(label.device), NO_LABEL)}
