"""Variance-preserving schedules, ``alpha^2 + sigma^2 = 1``: the tables of DDPM and its relatives.

A table of T rows lives on t in [0, 1]: row i (0 .. T-1) is at t = (i + 1) / T, and t = 0 is the data.
Between rows log(alpha) is linear in t, as DPM-Solver reads discrete models. This is the only room
that knows betas and cumulative products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import softplus

from noisette.core import Level
from noisette.errors import UserError


def as_time(t: Tensor | float) -> Tensor:
    """t as float64: schedules are computed in double precision whatever the state is."""
    return torch.as_tensor(t, dtype=torch.float64)


def _vp_level(t: Tensor, log_alpha: Tensor) -> Level:
    return Level(t, log_alpha.exp(), torch.expm1(2 * log_alpha).abs().sqrt())


def _log_alpha_at(lam: Tensor) -> Tensor:
    return -0.5 * softplus(-2 * lam, threshold=1e9)


class TableVP:
    """A discrete VP schedule: subclasses are frozen dataclasses with ``steps`` and ``betas()``."""

    steps: int

    def betas(self) -> Tensor:
        """Variances of the single forward steps, float64 [steps]."""
        raise TypeError(f"{type(self).__name__} defines no betas")

    @property
    def alphas_cumprod(self) -> Tensor:
        """``alpha^2`` of every row, float64 [steps]: the table other libraries store."""
        return (2 * self.log_alphas[1:]).exp()

    @cached_property
    def log_alphas(self) -> Tensor:
        """``log alpha`` at t = 0, 1/T, ..., 1: float64 [steps + 1], 0 at the data."""
        half = 0.5 * torch.log1p(-self.betas())
        return torch.cat([half.new_zeros(1), half.cumsum(0)])

    def __call__(self, t: Tensor | float) -> Level:
        """The level at t in [0, 1], any shape."""
        t = as_time(t)
        table = self.log_alphas.to(t.device)
        row = (t * self.steps).floor().long().clamp(0, self.steps - 1)
        left, right, w = table[row], table[row + 1], t * self.steps - row
        between = torch.where(w == 0, left, left + w * (right - left))
        # Towards zero signal log(alpha) has no straight line: there alpha itself is linear.
        return _vp_level(t, torch.where(right.isinf(), left + torch.log1p(-w), between))

    def at_half_logsnr(self, lam: Tensor) -> Level:
        """The level with ``log(alpha / sigma) = lam``; its t is held within [0, 1]."""
        wanted = _log_alpha_at(as_time(lam))
        table = self.log_alphas.to(wanted.device)
        row = (torch.searchsorted(-table, -wanted) - 1).clamp(0, self.steps - 1)
        left, right = table[row], table[row + 1]
        w = torch.where(right.isinf(), -torch.expm1(wanted - left), (wanted - left) / (right - left))
        return _vp_level(((row + w) / self.steps).clamp(0, 1), wanted)


@dataclass(frozen=True)
class LinearVP(TableVP):
    """Betas on a straight line. Source: arXiv:2006.11239, Section 4 (1e-4 .. 0.02 over 1000 rows)."""

    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def betas(self) -> Tensor:
        return torch.linspace(self.beta_start, self.beta_end, self.steps, dtype=torch.float64)


@dataclass(frozen=True)
class ScaledLinearVP(TableVP):
    """Square roots of the betas on a straight line: Stable Diffusion's schedule. Ends at SNR 0.0047."""

    steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012

    def betas(self) -> Tensor:
        ends = math.sqrt(self.beta_start), math.sqrt(self.beta_end)
        return torch.linspace(*ends, self.steps, dtype=torch.float64).square()


@dataclass(frozen=True)
class CosineVP(TableVP):
    """``alpha^2 = cos^2((t + s) / (1 + s) * pi / 2)`` normalised, betas at most ``max_beta``.

    Source: arXiv:2102.09672, Eq. 17.
    """

    steps: int = 1000
    s: float = 0.008
    max_beta: float = 0.999

    def betas(self) -> Tensor:
        t = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
        bar = ((t + self.s) / (1 + self.s) * math.pi / 2).cos().square()
        return (1 - bar[1:] / bar[:-1]).clamp(max=self.max_beta)


@dataclass(frozen=True)
class BetasVP(TableVP):
    """A table given row by row, as some checkpoints store it."""

    values: tuple[float, ...]

    @property
    def steps(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.values)

    def betas(self) -> Tensor:
        return torch.tensor(self.values, dtype=torch.float64)


@dataclass(frozen=True)
class ZeroTerminalSNR(TableVP):
    """Another table, shifted and scaled in alpha so that its last row holds no signal at all.

    ``alpha' = (alpha - alpha_T) * alpha_1 / (alpha_1 - alpha_T)``. Such a model needs trailing grids
    and a parameterization other than eps. ``least`` is what alpha^2 of the last row is raised to, for who
    must divide by it. Source: arXiv:2305.08891, Algorithm 1.
    """

    base: LinearVP | ScaledLinearVP | CosineVP | BetasVP
    least: float = 0.0

    @property
    def steps(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.steps

    @cached_property
    def log_alphas(self) -> Tensor:
        rows = self.base.log_alphas[1:].exp()
        first, last = rows[0], rows[-1]
        rescaled = (rows - last) * first / (first - last)
        rescaled[-1] = self.least**0.5
        return torch.cat([rows.new_zeros(1), rescaled.log()])


@dataclass(frozen=True)
class ContinuousLinearVP:
    """The VP SDE, ``log alpha = -t^2 (b_max - b_min) / 4 - t b_min / 2``.

    Source: arXiv:2011.13456, Eq. 33.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __call__(self, t: Tensor | float) -> Level:
        t = as_time(t)
        return _vp_level(t, -0.25 * t.square() * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min)

    def at_half_logsnr(self, lam: Tensor) -> Level:
        log_alpha = _log_alpha_at(as_time(lam))
        slope = self.beta_max - self.beta_min
        root = (self.beta_min**2 - 4 * slope * log_alpha).sqrt()
        return _vp_level(((root - self.beta_min) / slope).clamp(0, 1), log_alpha)


@dataclass(frozen=True)
class ContinuousCosineVP:
    """``alpha = cos(pi t / 2)``, ``sigma = sin(pi t / 2)``. Source: arXiv:2202.00512, Section 2."""

    def __call__(self, t: Tensor | float) -> Level:
        t = as_time(t)
        # cos(pi/2) is 6e-17 in floating point; at t = 1 there is exactly no signal.
        alpha = torch.where(t == 1, 0.0, (t * math.pi / 2).cos())
        return Level(t, alpha, (t * math.pi / 2).sin())

    def at_half_logsnr(self, lam: Tensor) -> Level:
        return self(torch.atan(torch.exp(-as_time(lam))) * 2 / math.pi)


def betas_vp(values: Sequence[float]) -> BetasVP:
    """A table from its betas. Raises UserError unless every beta lies in (0, 1)."""
    bad = [b for b in values if not 0 < b < 1]
    if bad or not values:
        raise UserError(f"betas must lie strictly between 0 and 1, got {bad[0] if bad else 'none'}")
    return BetasVP(tuple(values))
