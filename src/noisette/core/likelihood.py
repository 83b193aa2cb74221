"""The variational bound of a discrete chain, in nats and bits per dimension."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from .denoiser import Cond, Denoiser
from .level import Level, Schedule, combine, forward_variance, posterior_variance
from .prediction import Prediction

Variance: TypeAlias = Literal["small", "large", "learned"]


def log_variance(
    variance: Variance, s: Level, t: Level, floor: Tensor | float = 0.0, prediction: Prediction | None = None
) -> Tensor:
    """Log-variance of the reverse step from s to t, three ways.

    "small" is log beta-tilde, "large" log beta of the strided chain, and "learned"
    ``f log beta + (1 - f) log beta-tilde`` with ``f = (raw + 1) / 2`` from the prediction's
    ``aux["variance"]``. ``floor`` bounds the variance from below: beta-tilde is 0 at the last step.
    Source: arXiv:2102.09672, Eq. 15.
    """
    small = posterior_variance(s, t).clamp(min=floor).log()
    if variance == "small":
        return small
    large = torch.where(t.sigma == 0, small, forward_variance(s, t).clamp(min=floor).log())
    if variance == "large":
        return large
    if prediction is None or "variance" not in prediction.aux:
        raise ValueError('variance="learned" needs a network with learned variance; use "small" or "large"')
    large = forward_variance(s, t).clamp(min=floor).log()
    fraction = (prediction.aux["variance"] + 1) / 2
    return combine((large, fraction), (small, 1 - fraction))


def posterior_mean(prediction: Prediction, s: Level, t: Level) -> Tensor:
    """Mean of q(x_t | x_s, x0) at the predicted x0: ``alpha_t x0 + sqrt(sigma_t^2 - beta-tilde) eps``."""
    direction = (t.sigma.square() - posterior_variance(s, t)).clamp(min=0).sqrt()
    return combine((t.alpha, prediction.x0), (direction, prediction.eps))


def vlb_term(
    denoiser: Denoiser,
    x0: Tensor,
    s: Level,
    t: Level,
    eps: Tensor,
    cond: Cond | None = None,
    *,
    variance: Variance = "small",
    floor: Tensor | float = 0.0,
    freeze_mean: bool = False,
) -> Tensor:
    """One term of the bound, in nats per dimension [B]; one network call.

    ``KL(q(x_t | x_s, x0) || p(x_t | x_s))`` between Gaussians, and where t is the data
    ``-log p(x0 | x_s)`` of 8-bit images in [-1, 1]. ``freeze_mean`` stops the gradient of the mean,
    as L_hybrid wants it. s and t may be [] or [B, 1, 1, 1]. Source: arXiv:2006.11239, Eq. 5 and 13.
    """
    prediction = denoiser(s.diffuse(x0, eps), s, cond or {})
    logvar = log_variance(variance, s, t, floor, prediction).to(x0)
    mean = posterior_mean(prediction, s, t)
    if freeze_mean:
        mean = mean.detach()
    true_logvar = log_variance("small", s, t, floor).to(x0)
    gap = posterior_mean(Prediction(x0, eps, s), s, t) - mean
    kl = 0.5 * (logvar - true_logvar - 1 + (true_logvar - logvar).exp() + gap.square() * (-logvar).exp())
    nll = -discretized_log_likelihood(x0, mean, 0.5 * logvar)
    return torch.where((t.sigma == 0).to(x0.device), nll, kl).flatten(1).mean(1)


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-probability of 8-bit values x in [-1, 1] under a Gaussian, bins of width 2/255, ends open.

    Source: arXiv:2006.11239, Eq. 13.
    """
    inverse = (-log_std).exp()
    above = _normal_cdf(inverse * (x - mean + 1 / 255))
    below = _normal_cdf(inverse * (x - mean - 1 / 255))
    inside = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return inside.clamp(min=1e-12).log()


def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))


def prior_kl(x0: Tensor, level: Level) -> Tensor:
    """``KL(q(x_T | x0) || N(0, 1))`` in nats per dimension, [B]: what the first level gives away."""
    variance = level.sigma.square()
    constant = (variance - 1 - variance.log()).to(x0)
    return 0.5 * (combine((level.alpha.square(), x0.square())) + constant).flatten(1).mean(1)


def bits_per_dim(
    denoiser: Denoiser,
    x0: Tensor,
    schedule: Schedule,
    steps: int,
    *,
    cond: Cond | None = None,
    variance: Variance = "small",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Upper bound on ``-log2 p(x0)`` per dimension, [B], over the chain t = 1, (steps-1)/steps ... 0.

    The sum of all `vlb_term` and `prior_kl`; ``steps`` network calls. x0 holds 8-bit values in
    [-1, 1]. Source: arXiv:2006.11239, Section 4.3.
    """
    floor = posterior_variance(schedule(2 / steps), schedule(1 / steps))
    total = prior_kl(x0, schedule(1.0))
    for i in range(steps, 0, -1):
        s, t = schedule(i / steps), schedule((i - 1) / steps)
        eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype).to(x0.device)
        total = total + vlb_term(denoiser, x0, s, t, eps, cond, variance=variance, floor=floor)
    return total / math.log(2)
