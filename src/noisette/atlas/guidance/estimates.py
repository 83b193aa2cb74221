"""Measured numbers with their resamples, so that whatever is computed from them has an interval too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from noisette.atlas.page import number

LOW, HIGH = 0.025, 0.975


@dataclass(frozen=True)
class Estimate:
    """A number, and the same number of each bootstrap resample of the pictures behind it.

    All estimates of one page are resampled alike: differences and ratios are paired, picture by picture.
    """

    value: float
    again: tuple[float, ...]

    @classmethod
    def of(cls, result: dict[str, Any]) -> Estimate:
        """From what `record` made."""
        return cls(result["value"], tuple(result["again"]))

    @classmethod
    def mean(cls, values: Tensor, rows: Tensor) -> Estimate:
        """The mean of values [N]; ``rows`` LongTensor [R, N] are the resamples."""
        values = values.double()
        return cls(float(values.mean()), tuple(values[rows].mean(1).tolist()))

    def record(self) -> dict[str, Any]:
        """JSON values, to nine digits."""
        return {"value": _short(self.value), "again": [_short(x) for x in self.again]}

    def __sub__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.value - other.value, tuple(a - b for a, b in zip(self.again, other.again, strict=True))
        )

    def __truediv__(self, other: Estimate) -> Estimate:
        again = (_ratio(a, b) for a, b in zip(self.again, other.again, strict=True))
        return Estimate(_ratio(self.value, other.value), tuple(again))

    @property
    def interval(self) -> tuple[float, float]:
        """The middle 95 % of the resamples."""
        again = torch.tensor(self.again, dtype=torch.float64)
        low, high = torch.quantile(again, torch.tensor([LOW, HIGH], dtype=torch.float64)).tolist()
        return low, high

    @property
    def deviation(self) -> float:
        """The bootstrap's standard deviation."""
        return float(torch.tensor(self.again, dtype=torch.float64).std())

    def above(self, limit: float) -> bool:
        """Whether all of the interval lies above a number."""
        return self.interval[0] > limit

    def below(self, limit: float) -> bool:
        """Whether all of the interval lies below a number."""
        return self.interval[1] < limit

    def words(self, digits: int = 3) -> str:
        """``value (low to high)``."""
        low, high = self.interval
        return f"{number(self.value, digits)} ({number(low, digits)} to {number(high, digits)})"


def resamples(count: int, times: int, seed: int) -> Tensor:
    """Rows [times, count] drawn with replacement: the bootstrap, the same for the same numbers."""
    return torch.randint(count, (times, count), generator=torch.Generator().manual_seed(seed))


def points(change: Estimate) -> str:
    """A difference of two shares in points of percent, with its interval."""
    low, high = (_signed(100 * end) for end in change.interval)
    return f"{_signed(100 * change.value)} points ({low} to {high})"


def lowest(curve: Sequence[Estimate]) -> tuple[int, tuple[int, ...]]:
    """Where along a curve the least value stands: as measured, and in every resample."""
    values = range(len(curve))
    again = zip(*(one.again for one in curve), strict=True)
    return min(values, key=lambda k: curve[k].value), tuple(row.index(min(row)) for row in again)


def highest(curve: Sequence[Estimate]) -> tuple[int, tuple[int, ...]]:
    """Where the greatest stands."""
    return lowest([Estimate(-one.value, tuple(-x for x in one.again)) for one in curve])


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _ratio(a: float, b: float) -> float:
    return a / b if b else float("nan")


def _short(value: float) -> float:
    return float(f"{value:.9g}")
