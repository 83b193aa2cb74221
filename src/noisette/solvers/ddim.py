"""DDIM, and DDPM as one member of the family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from noisette.core.level import Level, combine, posterior_variance
from noisette.core.likelihood import Variance, log_variance
from noisette.core.prediction import Prediction
from noisette.core.sampling import Denoise, Noise
from noisette.errors import UserError
from noisette.solvers import citations


@dataclass(frozen=True)
class DDIM:
    """The family of samplers that share DDPM's marginals, from deterministic to ancestral.

    ``x_t = alpha_t x0 + sqrt(sigma_t^2 - eta^2 b) eps + eta std z``, where b is the posterior variance
    and ``std^2`` is b ("small"), the variance of the strided forward chain ("large"), or what the
    network learned ("learned"). eta in [0, 1]; the last step adds no noise; towards noise (inversion)
    every eta is the deterministic step. Cost: one network call a step.

    eta = 0 is also Euler's method in (x / alpha, sigma / alpha), and the first order of DPM-Solver.

    Raises UserError for an eta outside [0, 1] or an unknown variance.
    Source: arXiv:2010.02502, Eq. 12 and 16 (their alpha is alpha^2 here).
    """

    eta: float = 0.0
    variance: Variance = "small"

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta is between 0 (deterministic) and 1 (ancestral), got {self.eta:g}")
        if self.variance not in get_args(Variance):
            raise UserError(f'variance is "small", "large" or "learned", got {self.variance!r}')

    @property
    def bibtex(self) -> str:
        return citations.DDPM if self.eta == 1 else citations.DDIM

    def init(self) -> None:
        return None

    def step(
        self, denoise: Denoise, x: Tensor, s: Level, t: Level, state: None, noise: Noise
    ) -> tuple[Tensor, Prediction, None]:
        prediction = denoise(x, s)
        return transfer(prediction, s, t, noise, self.eta, self.variance), prediction, None


def DDPM(variance: Variance = "small") -> DDIM:
    """Ancestral sampling: `DDIM` with eta = 1 and the given variance.

    The mean is that of q(x_t | x_s, x0) at the predicted x0 for all three variances.
    Source: arXiv:2006.11239, Algorithm 2, over any strided grid; "learned" arXiv:2102.09672, Eq. 15.
    """
    return DDIM(eta=1.0, variance=variance)


def transfer(
    prediction: Prediction, s: Level, t: Level, noise: Noise, eta: float = 0.0, variance: Variance = "small"
) -> Tensor:
    """The DDIM update from s to t along one prediction, ``[B, C, H, W]``. No call.

    Exact for a constant x0, at sigma_t = 0 and at alpha_s = 0 too.
    """
    if eta == 0:
        return t.diffuse(prediction.x0, prediction.eps)
    spread = eta**2 * posterior_variance(s, t).clamp(min=0)
    direction = (t.sigma.square() - spread).clamp(min=0).sqrt()
    x = combine((t.alpha, prediction.x0), (direction, prediction.eps))
    noisy = (spread > 0).double()
    if not bool(noisy.any()):
        return x
    # A floor of 1 under rows that get no noise keeps their logarithm finite.
    std = (log_variance(variance, s, t, 1 - noisy, prediction) / 2).exp()
    return x + combine((combine((eta * noisy, std)), noise(x)))
