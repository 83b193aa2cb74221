"""Weights of exponential multistep rules: the exact part of DPM-Solver and UniPC.

In half log-SNR the data prediction D drives ``x_t = (sigma_t / sigma_s) x_s + alpha_t * integral``,
with ``integral = int_0^h e^(u - h) D(u) du`` and h the step. A constant D gives the DDIM update; the
rules here weigh differences ``D(u_k) - D(0)`` to add what a polynomial D gives beyond it. The SDE
is the same with h and all u doubled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor


class Past(NamedTuple):
    """A data prediction [B, C, H, W] and the half log-SNR at which it was made."""

    x0: Tensor
    half_logsnr: Tensor


History: TypeAlias = tuple[Past, ...]
"""The latest predictions of a multistep method, newest first."""


def remember(history: History, x0: Tensor, half_logsnr: Tensor, keep: int) -> History:
    """The history with one more entry, at most ``keep`` long.

    A level at either end of the schedule (infinite) is no node of a polynomial and is left out; a
    repeated level replaces the one it repeats.
    """
    if not bool(half_logsnr.isfinite().all()):
        return ()
    if history and bool((history[0].half_logsnr == half_logsnr).any()):
        history = history[1:]
    return (Past(x0, half_logsnr), *history)[:keep]


def constant(h: Tensor) -> Tensor:
    """``int_0^h e^(u - h) du = 1 - e^-h``."""
    return -torch.expm1(-h)


def midpoint(h: Tensor, node: Tensor, size: Tensor) -> Tensor:
    """Second-order weight: the straight line through 0 and ``node``, taken at h / 2, times ``size``.

    ``size`` is `constant` (h) for DPM-Solver++ and UniPC's B2, h for its B1. Zero where h is infinite.
    """
    return torch.where(h.isfinite(), size * h / (2 * node), 0.0)


def adams(h: Tensor, nodes: Sequence[Tensor]) -> list[Tensor]:
    """Exact weights for the polynomial through 0 and all ``nodes``; zero where h is infinite or 0.

    Solves ``sum_k w_k (u_k / h)^j = int_0^h e^(u - h) (u / h)^j du`` for j = 1..n.
    """
    usable = h.isfinite() & (h != 0)
    h = torch.where(usable, h, 1.0)
    powers = range(1, len(nodes) + 1)
    moments = [constant(h)]
    for j in powers:
        moments.append(1 - j / h * moments[-1])
    # Any distinct numbers keep the system solvable where its solution is not used.
    ratios = torch.stack([torch.where(usable, u / h, 1.0 + i) for i, u in enumerate(nodes)], dim=-1)
    matrix = torch.stack([ratios**j for j in powers], dim=-2)
    weights = torch.linalg.solve(matrix, torch.stack(moments[1:], dim=-1))
    return [torch.where(usable, weight, 0.0) for weight in weights.unbind(-1)]
