"""Grids: which levels a sampler visits. Each returns the n + 1 levels of n steps, from noise down to data.

The next level of a step is the next entry of its grid; nothing computes it a second time.
Table grids name rows of a discrete schedule; the others work on any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from noisette.core import Level, Schedule
from noisette.errors import UserError

from .flow import FlowMatching
from .ve import VE
from .vp import TableVP

Grid: TypeAlias = Callable[[Schedule, int], list[Level]]

CONTINUOUS_END = 1e-3
"""Where grids over a continuous schedule stop before the data: the first row of a table of 1000."""


def leading(schedule: Schedule, n: int, offset: int = 0) -> list[Level]:
    """Rows ``0, T//n, 2 T//n, ...`` (+ offset), downwards: the grid of DDIM. Never reaches the last row.

    Stable Diffusion's tables use offset 1. Source: arXiv:2010.02502, Appendix D.3 (linear).
    """
    table = _table(schedule, n, "leading")
    return _rows(table, torch.arange(n).flip(0) * (table.steps // n) + offset)


def trailing(schedule: Schedule, n: int) -> list[Level]:
    """``t = 1, (n-1)/n, ..., 1/n, 0``: reaches the noisiest level. Source: arXiv:2305.08891, Table 2.

    On a table each t is rounded to a row.
    """
    _positive(n)
    if not isinstance(schedule, TableVP):
        return levels_at(schedule, torch.linspace(1, 0, n + 1, dtype=torch.float64))
    _table(schedule, n, "trailing")
    steps = torch.arange(n, dtype=torch.float64) * (schedule.steps / n)
    return _rows(schedule, (schedule.steps - steps).round().long() - 1)


def linspace(schedule: Schedule, n: int) -> list[Level]:
    """n levels evenly spaced from the last row to the first, both included, then the data."""
    _positive(n)
    if not isinstance(schedule, TableVP):
        return levels_at(schedule, _then_data(torch.linspace(1, CONTINUOUS_END, n, dtype=torch.float64)))
    _table(schedule, n, "linspace")
    return _rows(schedule, torch.linspace(schedule.steps - 1, 0, n, dtype=torch.float64).round().long())


def quadratic(schedule: Schedule, n: int, end: float = 0.8) -> list[Level]:
    """Rows ``(i / (n-1))^2 * end * T``: dense near the data. Source: arXiv:2010.02502, Appendix D.3.

    Above about 28 steps the first rows repeat; a step from a level to itself does nothing, so they
    are merged and the grid is shorter than n.
    """
    table = _table(schedule, n, "quadratic")
    roots = torch.linspace(0, (end * table.steps) ** 0.5, n, dtype=torch.float64)
    return _rows(table, (roots.square() + 1e-9).long().unique().flip(0))


def shifted(schedule: Schedule, n: int, shift: float = 3.0) -> list[Level]:
    """``t = shift s / (1 + (shift - 1) s)`` at ``s = 1, (n-1)/n, ..., 0``: more of the steps at high noise.

    What a picture shows, and where, is decided there. ``shift`` 1 is the trailing grid of a continuous
    schedule. Source: arXiv:2403.03206, Eq. 23.
    """
    _positive(n)
    return levels_at(schedule, FlowMatching(shift)(torch.linspace(1, 0, n + 1, dtype=torch.float64)).sigma)


def karras(
    schedule: Schedule,
    n: int,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> list[Level]:
    """``sigma/alpha`` evenly spaced after the rho-th root, then the data. Source: arXiv:2206.00364, Eq. 5.

    The ends default to the schedule's own.
    """
    low, high = _ends(schedule)
    low = low if sigma_min is None else torch.tensor(sigma_min, dtype=torch.float64)
    high = high if sigma_max is None else torch.tensor(sigma_max, dtype=torch.float64)
    ramp = _ramp(n)
    sigmas = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return _at_sigmas(schedule, sigmas)


def uniform_logsnr(schedule: Schedule, n: int) -> list[Level]:
    """log-SNR evenly spaced between the ends of the schedule, then the data. Source: arXiv:2206.00927."""
    low, high = (end.log() for end in _ends(schedule))
    return _at_sigmas(schedule, (high + _ramp(n) * (low - high)).exp())


def levels_at(schedule: Schedule, t: Tensor | Sequence[float]) -> list[Level]:
    """The levels at the given times, in their order."""
    return [schedule(time) for time in torch.as_tensor(t, dtype=torch.float64)]


def _table(schedule: Schedule, n: int, name: str) -> TableVP:
    _positive(n)
    if not isinstance(schedule, TableVP):
        raise UserError(f"a {name} grid needs a table of levels: take trailing, karras or uniform_logsnr")
    if n > schedule.steps:
        raise UserError(f"{n} steps asked of a schedule with {schedule.steps} levels: take at most that many")
    return schedule


def _positive(n: int) -> None:
    if n < 1:
        raise UserError(f"the number of steps must be at least 1, got {n}")


def _rows(table: TableVP, rows: Tensor) -> list[Level]:
    return levels_at(table, _then_data((rows.double() + 1) / table.steps))


def _then_data(t: Tensor) -> Tensor:
    return torch.cat([t, t.new_zeros(1)])


def _ramp(n: int) -> Tensor:
    _positive(n)
    return torch.linspace(0, 1, n, dtype=torch.float64) if n > 1 else torch.zeros(1, dtype=torch.float64)


def _ends(schedule: Schedule) -> tuple[Tensor, Tensor]:
    """``sigma / alpha`` of the last level before the data, and of the noisiest."""
    if isinstance(schedule, VE):
        return tuple(torch.tensor(s, dtype=torch.float64) for s in (schedule.sigma_min, schedule.sigma_max))  # pyright: ignore[reportReturnType]
    first = 1 / schedule.steps if isinstance(schedule, TableVP) else CONTINUOUS_END
    low, high = ((-schedule(t).half_logsnr).exp() for t in (first, 1.0))
    if high.isinf():
        raise UserError("this schedule ends without any signal: take the trailing grid, or give sigma_max")
    return low, high


def _at_sigmas(schedule: Schedule, sigmas: Tensor) -> list[Level]:
    return [schedule.at_half_logsnr(-sigma.log()) for sigma in sigmas] + [schedule(0.0)]
