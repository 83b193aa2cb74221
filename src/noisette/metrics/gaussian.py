"""Closed forms for Gaussian data: the exact denoiser, and exactly what a solver makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from noisette.core.denoiser import Cond, Denoiser
from noisette.core.level import Level, combine
from noisette.core.prediction import Prediction
from noisette.core.sampling import Solver, last, sample


def gaussian_denoiser(mean: float | Tensor, std: float) -> Denoiser:
    """The exact denoiser of data N(mean, std^2), element by element. No network call.

    ``x0 = m + alpha s^2 / (alpha^2 s^2 + sigma^2) (x - alpha m)``. ``mean`` broadcasts against x.
    """

    def denoise(x: Tensor, level: Level, cond: Cond) -> Prediction:
        centre = torch.as_tensor(mean, dtype=x.dtype, device=x.device)
        gap = combine((1.0, x), (-level.alpha, centre))
        variance = (level.alpha * std).square() + level.sigma.square()
        x0 = combine((1.0, centre), (level.alpha * std**2 / variance, gap))
        return Prediction(x0, combine((level.sigma / variance, gap)), level)

    return denoise


def gaussian_moments(
    solver: Solver[Any], levels: Sequence[Level], mean: float, std: float, start_std: float = 1.0
) -> tuple[float, float]:
    """Exact mean and standard deviation of what ``solver`` makes of N(0, start_std^2), in float64.

    For data N(mean, std^2) every solver is affine in its start and its noises, so x is carried as
    the vector of its coefficients over them: a constant, the start, and each draw a unit vector.
    ``levels`` are shared by the batch, []; no network call, milliseconds.
    """
    draws = 2 * len(levels) + 2
    basis = iter(torch.eye(draws, dtype=torch.float64))
    constant = next(basis)
    denoiser = gaussian_denoiser(mean * constant, std)
    x = last(sample(denoiser, start_std * next(basis), levels, solver, noise=lambda like: next(basis)))
    return float(x[0]), float(x[1:].norm())


def gaussian_std_ratio(
    solver: Solver[Any], levels: Sequence[Level], std: float, start_std: float = 1.0
) -> float:
    """Output deviation over true deviation for data N(0, std^2): 1 is perfect, see `gaussian_moments`."""
    return gaussian_moments(solver, levels, 0.0, std, start_std)[1] / std
