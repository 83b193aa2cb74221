"""What a denoiser says about a noisy sample, and how raw network outputs are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from .level import Level, combine


@dataclass(frozen=True)
class Prediction:
    """A split of ``x`` into data and noise: ``x = level.alpha * x0 + level.sigma * eps``, always.

    Both parts are stored, each by its stable formula, so that neither end of the schedule divides
    by zero. ``aux`` carries what else the network said, e.g. ``"variance"``: the raw fraction of a
    learned variance, [B, C, H, W] in about [-1, 1].
    """

    x0: Tensor
    eps: Tensor
    level: Level
    aux: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def x(self) -> Tensor:
        """The noisy sample that was split."""
        return combine((self.level.alpha, self.x0), (self.level.sigma, self.eps))

    @property
    def v(self) -> Tensor:
        """Velocity ``alpha * eps - sigma * x0``. Source: arXiv:2202.00512, Appendix D."""
        return combine((self.level.alpha, self.eps), (-self.level.sigma, self.x0))

    @property
    def score(self) -> Tensor:
        """``grad_x log p(x) = -eps / sigma``; infinite at the data."""
        return combine((-1 / self.level.sigma, self.eps))

    @property
    def flow(self) -> Tensor:
        """``eps - x0``: dx/dt of the straight path. Source: arXiv:2210.02747, Eq. 23 (t reversed)."""
        return self.eps - self.x0

    def with_x0(self, x0: Tensor) -> Prediction:
        """The split of the same x with another x0; eps follows. At sigma = 0 only x0 changes."""
        ratio = torch.where(self.level.sigma > 0, self.level.alpha / self.level.sigma, 0.0)
        return replace(self, x0=x0, eps=combine((1.0, self.eps), (ratio, self.x0 - x0)))

    def with_eps(self, eps: Tensor) -> Prediction:
        """The split of the same x with another eps; x0 follows. At alpha = 0 only eps changes."""
        ratio = torch.where(self.level.alpha > 0, self.level.sigma / self.level.alpha, 0.0)
        return replace(self, eps=eps, x0=combine((1.0, self.x0), (ratio, self.eps - eps)))

    def with_score(self, score: Tensor) -> Prediction:
        """The split of the same x with another score, ``eps = -sigma * score``."""
        return self.with_eps(combine((-self.level.sigma, score)))


class Parameterization(Protocol):
    """How a raw network output is read. ``read`` inverts ``target`` at every level."""

    def scale_input(self, x: Tensor, level: Level) -> Tensor:
        """What the network sees of x."""
        ...

    def read(self, raw: Tensor, x: Tensor, level: Level) -> Prediction:
        """The split of ``x`` that the output ``raw`` stands for."""
        ...

    def target(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        """The output that would be exactly right."""
        ...


class _Unscaled:
    def scale_input(self, x: Tensor, level: Level) -> Tensor:
        return x


@dataclass(frozen=True)
class Eps(_Unscaled):
    """The network predicts the noise. Undefined where alpha = 0. Source: arXiv:2006.11239, Eq. 11."""

    def read(self, raw: Tensor, x: Tensor, level: Level) -> Prediction:
        if level.alpha.device.type == "cpu" and bool((level.alpha == 0).any()):
            raise ValueError(
                "noise prediction says nothing at alpha = 0 (zero terminal SNR): use V, X0 or Flow, "
                "or start the grid below t = 1"
            )
        return Prediction(combine((1 / level.alpha, x), (-level.sigma / level.alpha, raw)), raw, level)

    def target(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        return eps


@dataclass(frozen=True)
class X0(_Unscaled):
    """The network predicts the data. At sigma = 0 the sample itself is the data and eps is 0."""

    def read(self, raw: Tensor, x: Tensor, level: Level) -> Prediction:
        clean = level.sigma == 0
        x0 = combine((torch.where(clean, 0.0, 1.0), raw), (torch.where(clean, 1 / level.alpha, 0.0), x))
        inverse = torch.where(clean, 0.0, 1 / level.sigma)
        return Prediction(x0, combine((inverse, x), (-level.alpha * inverse, x0)), level)

    def target(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        return x0


@dataclass(frozen=True)
class V(_Unscaled):
    """The network predicts ``v = alpha * eps - sigma * x0``; defined at both ends of a schedule.

    Source: arXiv:2202.00512, Appendix D; here for any alpha^2 + sigma^2.
    """

    def read(self, raw: Tensor, x: Tensor, level: Level) -> Prediction:
        norm = level.alpha.square() + level.sigma.square()
        a, s = level.alpha / norm, level.sigma / norm
        return Prediction(combine((a, x), (-s, raw)), combine((s, x), (a, raw)), level)

    def target(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        return combine((level.alpha, eps), (-level.sigma, x0))


@dataclass(frozen=True)
class Flow(_Unscaled):
    """The network predicts ``eps - x0``, the velocity of flow matching. Source: arXiv:2209.03003, Eq. 1."""

    def read(self, raw: Tensor, x: Tensor, level: Level) -> Prediction:
        norm = level.alpha + level.sigma
        x0 = combine((1 / norm, x), (-level.sigma / norm, raw))
        return Prediction(x0, combine((1 / norm, x), (level.alpha / norm, raw)), level)

    def target(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        return eps - x0


@dataclass(frozen=True)
class EDM:
    """Preconditioning that gives the network unit-variance input and target at every level.

    With ``n^2 = sigma^2 + sigma_data^2 alpha^2``: input ``x / n``,
    ``x0 = sigma_data^2 alpha x / n^2 + sigma sigma_data F / n`` and
    ``eps = sigma x / n^2 - alpha sigma_data F / n``, which is c_skip, c_out, c_in of the paper for
    alpha = 1 and holds for every schedule. Source: arXiv:2206.00364, Table 1.
    """

    sigma_data: float = 0.5

    def _norm(self, level: Level) -> Tensor:
        return (level.sigma.square() + (self.sigma_data * level.alpha).square()).sqrt()

    def scale_input(self, x: Tensor, level: Level) -> Tensor:
        return combine((1 / self._norm(level), x))

    def read(self, raw: Tensor, x: Tensor, level: Level) -> Prediction:
        n, d = self._norm(level), self.sigma_data
        x0 = combine((d * d * level.alpha / n.square(), x), (level.sigma * d / n, raw))
        eps = combine((level.sigma / n.square(), x), (-level.alpha * d / n, raw))
        return Prediction(x0, eps, level)

    def target(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        n, d = self._norm(level), self.sigma_data
        return combine((level.sigma / d / n, x0), (-level.alpha * d / n, eps))


@dataclass(frozen=True)
class Consistency:
    """EDM's preconditioning moved so that x0 is the sample itself at ``sigma / alpha = sigma_min`` and below.

    With ``tau = sigma / alpha``: ``x0 = c_skip x / alpha + c_out F``,
    ``c_skip = sigma_data^2 / ((tau - sigma_min)^2 + sigma_data^2)`` and
    ``c_out = sigma_data (tau - sigma_min) / sqrt(tau^2 + sigma_data^2)``; the network sees what it sees in
    `EDM`. The boundary condition of consistency models, whatever the network says. `V`, `Flow`, `EDM` and
    `Eps` have theirs at the data, sigma = 0. Source: arXiv:2303.01469, Appendix C.
    """

    sigma_data: float = 0.5
    sigma_min: float = 0.002

    def scale_input(self, x: Tensor, level: Level) -> Tensor:
        return EDM(self.sigma_data).scale_input(x, level)

    def _coefficients(self, level: Level) -> tuple[Tensor, Tensor, Tensor]:
        """``c_skip / alpha``, ``c_out``, and ``(1 - c_skip) / sigma``, none of which divides by zero."""
        excess = (level.sigma - self.sigma_min * level.alpha).clamp(min=0)  # alpha (tau - sigma_min)
        data = self.sigma_data * level.alpha
        norm = (level.sigma.square() + data.square()).sqrt()
        ratio = torch.where(level.sigma > 0, excess / level.sigma, 0.0)
        moved = excess.square() + data.square()
        return self.sigma_data * data / moved, self.sigma_data * excess / norm, ratio * excess / moved

    def read(self, raw: Tensor, x: Tensor, level: Level) -> Prediction:
        skip, out, rest = self._coefficients(level)
        inverse = torch.where(level.sigma > 0, 1 / level.sigma, 0.0)
        x0 = combine((skip, x), (out, raw))
        return Prediction(x0, combine((rest, x), (-level.alpha * out * inverse, raw)), level)

    def target(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        skip, out, _ = self._coefficients(level)
        inverse = torch.where(out > 0, 1 / out, 0.0)  # at the boundary nothing is asked of the network
        return combine((inverse * (1 - skip * level.alpha), x0), (-inverse * skip * level.sigma, eps))
