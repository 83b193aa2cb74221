"""The denoising error: what every diffusion network is trained on."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor

from .denoiser import Cond, Denoiser
from .level import Level
from .prediction import Parameterization, Prediction

Space: TypeAlias = Literal["x0", "eps", "v", "score", "flow"] | Parameterization


def denoising_error(
    denoiser: Denoiser, x0: Tensor, level: Level, eps: Tensor, cond: Cond | None = None, space: Space = "eps"
) -> Tensor:
    """``mean |view(d(alpha x0 + sigma eps)) - view(x0, eps)|^2`` per sample, [B]; one network call.

    ``space`` is where errors are measured: a view of `Prediction`, or a `Parameterization`, in which
    the error is that of the raw network output (its native space). For one level all of them differ
    by a factor only. With ``space="eps"`` and one level a sample it is L_simple.
    Source: arXiv:2006.11239, Eq. 14.
    """
    prediction = denoiser(level.diffuse(x0, eps), level, cond or {})
    return prediction_error(prediction, Prediction(x0, eps, level), space)


def prediction_error(prediction: Prediction, truth: Prediction, space: Space = "eps") -> Tensor:
    """Mean squared difference of two predictions at one level, per sample, [B]. No call."""
    a, b = (_view(p, space) for p in (prediction, truth))
    return (a - b).square().flatten(1).mean(1)


def _view(prediction: Prediction, space: Space) -> Tensor:
    if isinstance(space, str):
        return getattr(prediction, space)
    return space.target(prediction.x0, prediction.eps, prediction.level)
