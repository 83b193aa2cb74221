"""What the experiments of the page share: the digits, how long is trained, and the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from noisette.atlas.cells import digest

Measured: TypeAlias = Sequence[Mapping[str, Any]]

STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Quantiles of Student's t at 97.5 %, by the number of values."""


@dataclass(frozen=True)
class Plan:
    """How much is measured: steps of training, random starts, and digits by which units are counted."""

    linear_steps: int = 1500
    steps: int = 800
    seeds: int = 3
    count: int = 2000
    quick: bool = False


QUICK = Plan(linear_steps=400, steps=60, seeds=2, count=300, quick=True)


@dataclass(frozen=True)
class Digits:
    """Digits [N, 1, 32, 32] in [-1, 1] with their labels [N], to learn from and held out."""

    images: Tensor
    labels: Tensor
    held_out: Tensor
    held_labels: Tensor

    @property
    def fingerprint(self) -> str:
        """Twelve letters that change with any of it."""
        return digest([self.images, self.labels, self.held_out, self.held_labels])


@dataclass(frozen=True)
class Bench:
    """What everything is measured with; ``digits`` None leaves their section out."""

    digits: Digits | None
    seed: int
    plan: Plan

    @property
    def seeds(self) -> range:
        """One for each training."""
        return range(self.seed, self.seed + self.plan.seeds)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of the 95 % interval by Student's t, which for three values is 2.5 deviations wide."""
    mean = sum(values) / len(values)
    if len(values) not in STUDENT:
        return mean, math.nan
    deviation = float(torch.tensor(values, dtype=torch.float64).std())
    return mean, STUDENT[len(values)] * deviation / math.sqrt(len(values))
