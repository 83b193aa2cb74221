"""What a network is trained on: ``objective(denoiser, schedule, x0, cond, draws)`` gives losses [B].

Objectives are frozen values; which levels they look at is a `Times`, how errors count is a weighting.
All random numbers come from ``draws`` (a `noisette.training.Draws`): first the levels, then the noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

from noisette.core import (
    Cond,
    Denoiser,
    Level,
    Prediction,
    Schedule,
    Space,
    Variance,
    posterior_variance,
    prediction_error,
    vlb_term,
)
from noisette.errors import UserError
from noisette.training.draws import Draws
from noisette.training.history import LossHistory
from noisette.training.times import Rows, Times

__all__ = ["P2", "Hybrid", "MinSNR", "Objective", "Simple", "Vlb", "Weighting"]


class Objective(Protocol):
    """Losses [B] of a batch ``x0`` [B, C, H, W] under ``cond``; their mean is minimised."""

    def __call__(
        self, denoiser: Denoiser, schedule: Schedule, x0: Tensor, cond: Cond, draws: Draws
    ) -> Tensor: ...


class Weighting(Protocol):
    """How much the eps-space error counts at a level: a number for each sample."""

    def __call__(self, level: Level) -> Tensor: ...


@dataclass(frozen=True)
class MinSNR:
    """``min(1, gamma / SNR)`` on the error of eps: low noise levels do not drown the others.

    The same gradient as ``min(SNR, gamma)`` on the error of x0, or ``min(SNR, gamma) / (SNR + 1)`` on
    that of v (for alpha^2 + sigma^2 = 1), since ``|d eps|^2 = SNR |d x0|^2 = SNR / (SNR + 1) |d v|^2``.
    Source: arXiv:2303.09556.
    """

    gamma: float = 5.0

    def __call__(self, level: Level) -> Tensor:
        return (self.gamma / level.snr).clamp(max=1.0)


@dataclass(frozen=True)
class P2:
    """``1 / (k + SNR)^gamma`` on the error of eps: less weight on imperceptible detail.

    On the error of x0 it is ``SNR / (k + SNR)^gamma``, on that of v ``SNR / (1 + SNR) / (k + SNR)^gamma``
    (for alpha^2 + sigma^2 = 1). Source: arXiv:2204.00227.
    """

    gamma: float = 1.0
    k: float = 1.0

    def __call__(self, level: Level) -> Tensor:
        return (self.k + level.snr).pow(-self.gamma)


@dataclass(frozen=True)
class Simple:
    """``w(level) |d(x) - truth|^2`` at one random level a sample; one network call.

    ``space="native"`` measures the raw output of the network: L_simple of DDPM for `Eps`, the v loss
    for `V`, conditional flow matching for `Flow`, and for `EDM` the loss with weight 1 / c_out^2. A
    ``weighting`` belongs to the error of eps (``space="eps"``), whatever the network predicts.
    ``stratified`` spreads the levels evenly over the batch: the same expectation, less variance.
    Source: arXiv:2006.11239, Eq. 14. Raises UserError for a weighting in another space.
    """

    times: Times = Rows()  # noqa: RUF009  a frozen value
    space: Space | Literal["native"] = "native"
    weighting: Weighting | None = None
    stratified: bool = True

    def __post_init__(self) -> None:
        if self.weighting is not None and self.space != "eps":
            raise UserError(f'a weighting counts errors of eps: use space="eps", not {self.space!r}')

    def __call__(
        self, denoiser: Denoiser, schedule: Schedule, x0: Tensor, cond: Cond, draws: Draws
    ) -> Tensor:
        level, eps = self.noise(schedule, x0, draws)
        return self.error(denoiser, denoiser(level.diffuse(x0, eps), level, cond), Prediction(x0, eps, level))

    def noise(self, schedule: Schedule, x0: Tensor, draws: Draws) -> tuple[Level, Tensor]:
        """The level [B, 1, 1, 1] and the noise of every sample."""
        u = draws.stratified(len(x0)) if self.stratified else draws.uniform(len(x0))
        return self.times(schedule, u).per_sample(x0), draws.normal(x0)

    def error(self, denoiser: Denoiser, prediction: Prediction, truth: Prediction) -> Tensor:
        """The weighted error of a prediction that ``denoiser`` made, [B]."""
        space = self.space if self.space != "native" else _native(denoiser)
        error = prediction_error(prediction, truth, space)
        return error if self.weighting is None else self.weighting(truth.level).flatten().to(error) * error


@dataclass(frozen=True)
class Vlb:
    """The variational bound, in nats per dimension: ``T`` times one random term; one network call.

    The expectation over the step is the sum of all T terms, which with `noisette.core.likelihood`'s
    ``prior_kl`` is `bits_per_dim` times ln 2. Terms differ by orders of magnitude; with a ``history``
    steps are drawn in proportion to the root mean square of their last losses and the losses divided
    by those odds, so that the expectation stays. Source: arXiv:2102.09672, Section 3.3.
    """

    steps: int = 1000
    variance: Variance = "learned"
    stratified: bool = True
    history: LossHistory | None = None

    def __call__(
        self, denoiser: Denoiser, schedule: Schedule, x0: Tensor, cond: Cond, draws: Draws
    ) -> Tensor:
        u = draws.stratified(len(x0)) if self.stratified else draws.uniform(len(x0))
        rows, odds = _uniform_rows(u, self.steps) if self.history is None else self.history.rows(u)
        term = chain_term(denoiser, schedule, self.steps, x0, rows, draws.normal(x0), cond, self.variance)
        if self.history is not None:
            self.history.record(rows, term)
        return term / odds.to(term)


@dataclass(frozen=True)
class Hybrid:
    """``L_simple + weight * L_vlb`` from one network call; L_vlb trains the learned variance alone.

    L_vlb is the sum over the chain, in nats per dimension, and its gradient with respect to the
    predicted mean is stopped. Source: arXiv:2102.09672, Eq. 16. Raises UserError unless ``simple``
    looks at the rows of a table.
    """

    simple: Simple = Simple()
    weight: float = 1e-3

    def __post_init__(self) -> None:
        if not isinstance(self.simple.times, Rows):
            raise UserError(
                "the hybrid objective is about the steps of a chain: give Simple(times=Rows(steps))"
            )

    def __call__(
        self, denoiser: Denoiser, schedule: Schedule, x0: Tensor, cond: Cond, draws: Draws
    ) -> Tensor:
        level, eps = self.simple.noise(schedule, x0, draws)
        prediction = denoiser(level.diffuse(x0, eps), level, cond)
        steps = cast(Rows, self.simple.times).steps
        rows = (level.t.flatten() * steps).round().long()
        term = chain_term(
            lambda x, level, cond: prediction,
            schedule,
            steps,
            x0,
            rows,
            eps,
            cond,
            "learned",
            freeze_mean=True,
        )
        error = self.simple.error(denoiser, prediction, Prediction(x0, eps, level))
        return error + self.weight * steps * term


def chain_term(
    denoiser: Denoiser,
    schedule: Schedule,
    steps: int,
    x0: Tensor,
    rows: Tensor,
    eps: Tensor,
    cond: Cond,
    variance: Variance = "learned",
    freeze_mean: bool = False,
) -> Tensor:
    """`vlb_term` from row i to i - 1 of a chain of ``steps``, i = ``rows`` [B] in 1 .. steps; [B]."""
    s, t = (schedule(r / steps).per_sample(x0) for r in (rows.double(), rows.double() - 1))
    floor = posterior_variance(schedule(2 / steps), schedule(1 / steps)).to(x0.device)
    return vlb_term(denoiser, x0, s, t, eps, cond, variance=variance, floor=floor, freeze_mean=freeze_mean)


def _uniform_rows(u: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    return (u * steps).floor().long() + 1, torch.full_like(u, 1 / steps)


def _native(denoiser: Denoiser) -> Space:
    space = getattr(denoiser, "parameterization", None)
    if space is None:
        raise UserError('this denoiser has no native space: give Simple a space, such as space="eps"')
    return space
