"""One noise level, and the arithmetic of coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

Coefficient: TypeAlias = float | Tensor


def combine(*terms: tuple[Coefficient, Tensor]) -> Tensor:
    """Linear combination ``sum_i c_i * x_i`` that keeps the dtype and device of the state.

    Coefficients are float64 tensors of shape [] or [B, 1, ...] (or numbers); each is cast to its
    tensor only here, after every cancellation has happened in float64.

    >>> combine((torch.tensor(0.5, dtype=torch.float64), torch.ones(2)), (2.0, torch.ones(2)))
    tensor([2.5000, 2.5000])
    """
    total: Tensor | None = None
    for c, x in terms:
        if isinstance(c, Tensor):
            # A zero-dimensional CPU tensor multiplies any tensor on any device without promoting it.
            c = c.to(x.dtype) if c.ndim == 0 else c.to(x.device, x.dtype)
        total = c * x if total is None else total + c * x
    if total is None:
        raise ValueError("combine needs at least one term")
    return total


@dataclass(frozen=True)
class Level:
    """One noise level of the forward process ``x = alpha * x0 + sigma * eps``.

    ``t`` in [0, 1] with 0 = data; ``alpha`` and ``sigma`` are float64 and broadcast against x:
    shape [] for one level for the whole batch, [B, 1, 1, 1] for one level per sample.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor

    @property
    def half_logsnr(self) -> Tensor:
        """``log(alpha / sigma)``: +inf at the data, -inf where no signal is left.

        This is the lambda of DPM-Solver, half of the log-SNR of the guidance papers.
        """
        return self.alpha.log() - self.sigma.log()

    @property
    def snr(self) -> Tensor:
        """``alpha^2 / sigma^2``, inf at the data."""
        return (self.alpha / self.sigma).square()

    def diffuse(self, x0: Tensor, eps: Tensor) -> Tensor:
        """``alpha * x0 + sigma * eps``: a sample of q(x | x0). Source: arXiv:2006.11239, Eq. 4."""
        return combine((self.alpha, x0), (self.sigma, eps))

    def per_sample(self, x: Tensor) -> Level:
        """The level with shape [B] laid out as [B, 1, ...], so that it broadcasts against ``x``."""
        shape = (-1,) + (1,) * (x.ndim - 1)
        return Level(self.t.reshape(shape), self.alpha.reshape(shape), self.sigma.reshape(shape))

    @staticmethod
    def concatenate(levels: Sequence[Level]) -> Level:
        """Levels [B_i, 1, ...] one after the other along the batch; equal shared levels [] stay shared."""
        if all(level.t.ndim == 0 for level in levels):
            return levels[0]
        return Level(*(torch.cat([getattr(level, k) for level in levels]) for k in ("t", "alpha", "sigma")))


class Schedule(Protocol):
    """A noise schedule: ``t`` in [0, 1] to a `Level`, and back from half the log-SNR."""

    def __call__(self, t: Tensor | float) -> Level: ...

    def at_half_logsnr(self, lam: Tensor) -> Level: ...


def forward_variance(s: Level, t: Level) -> Tensor:
    """Variance of q(x_s | x_t) for s noisier than t: ``sigma_s^2 - (alpha_s / alpha_t)^2 sigma_t^2``.

    The beta of the strided chain ("fixed large" in DDPM), written with expm1 so that neighbouring
    levels do not cancel. Source: arXiv:2107.00630, Appendix A.1.
    """
    return -s.sigma.square() * torch.expm1(2 * (s.half_logsnr - t.half_logsnr))


def posterior_variance(s: Level, t: Level) -> Tensor:
    """Variance of q(x_t | x_s, x0), the beta-tilde of DDPM ("fixed small"); 0 where t is the data.

    ``sigma_t^2 / sigma_s^2 * forward_variance(s, t)``. Source: arXiv:2006.11239, Eq. 7.
    """
    return -t.sigma.square() * torch.expm1(2 * (s.half_logsnr - t.half_logsnr))
