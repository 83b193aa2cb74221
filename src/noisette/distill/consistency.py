"""Consistency models: the end of the trajectory, learned by agreeing with the next point of it.

Distillation steps along the teacher's trajectory; training from data is the same with the truth,
`noisette.core.oracle`, for a teacher. Source: arXiv:2303.01469; the improved schedules arXiv:2310.14189.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from noisette.core import Cond, Denoise, Denoiser, Level, Solver, combine, white
from noisette.distill.trajectory import picked
from noisette.errors import UserError

__all__ = ["Boundaries", "Distance", "consistency_error", "doubling", "growing", "pseudo_huber"]

Distance: TypeAlias = Callable[[Tensor], Tensor]
"""From differences [B, ...] to errors [B]."""


def consistency_error(
    student: Denoiser,
    target: Denoiser,
    teacher: Denoise,
    solver: Solver[Any],
    x: Tensor,
    s: Level,
    t: Level,
    cond: Cond,
    distance: Distance,
) -> Tensor:
    """``d(f(x_s, s), f_target(x_t, t))`` [B], where one ``solver`` step of the teacher leads from s to t.

    x: a sample at s [B, C, H, W]; t is less noisy, and at the data x_t itself is the target. The gradient
    flows through the student's own call alone, and both calls drop the same units. ``cond`` is what student
    and target are told; the teacher has its own filled in. Cost: a call of each, of the teacher the solver's.
    Source: arXiv:2303.01469, Algorithms 2 and 3.
    """
    with torch.random.fork_rng(_devices(x)):
        jump = student(x, s, cond).x0
    with torch.no_grad():
        x_t, _, _ = solver.step(teacher, x, s, t, solver.init(), white)
        ahead = target(x_t, t, cond).x0
        clean = (t.sigma == 0).to(x.device)
        ahead = torch.where(clean, combine((1 / t.alpha, x_t)), ahead)
    return distance(jump - ahead)


def pseudo_huber(difference: Tensor, c: float | None = None) -> Tensor:
    """``sqrt(|d|^2 + c^2) - c`` [B], over all values of a sample; by default ``c = 0.00054 sqrt(D)``.

    Between |d| and |d|^2 / 2c, so that one wild sample does not rule a batch.
    Source: arXiv:2310.14189, Eq. 6.
    """
    flat = difference.flatten(1)
    c = 0.00054 * math.sqrt(flat.shape[1]) if c is None else c
    return (flat.square().sum(1) + c * c).sqrt() - c


def growing(progress: float, first: int = 2, last: int = 150) -> int:
    """``N(k) = ceil(sqrt(k/K ((s1+1)^2 - s0^2) + s0^2) - 1) + 1`` levels at a share ``progress`` = k/K.

    Source: arXiv:2303.01469, Appendix C. >>> [growing(p) for p in (0.0, 0.5)] gives [2, 107].
    """
    return math.ceil(math.sqrt(progress * ((last + 1) ** 2 - first**2) + first**2) - 1) + 1


def doubling(progress: float, first: int = 10, last: int = 1280) -> int:
    """``N(k) = min(s0 2^floor(k/K'), s1) + 1`` levels, K' such that each number lasts as long.

    Source: arXiv:2310.14189, Eq. 7.
    """
    stages = math.floor(math.log2(last / first)) + 1
    return min(first * 2 ** math.floor(progress * stages), last) + 1


@dataclass(frozen=True)
class Boundaries:
    """Neighbouring levels of a grid from noise to data, and how likely each pair is.

    ``levels`` has N + 1 entries; ``mean`` and ``std`` make pairs as likely as a normal distribution of
    log(sigma / alpha) says, None all the same. Source: arXiv:2310.14189, Eq. 9 and 10. Raises UserError.
    """

    levels: Sequence[Level]
    mean: float | None = None
    std: float = 2.0

    def __post_init__(self) -> None:
        if len(self.levels) < 2:
            raise UserError("a trajectory has two levels or more")

    def odds(self) -> Tensor:
        """The probability of each pair, float64 [N]."""
        if self.mean is None:
            return torch.full((len(self.levels) - 1,), 1 / (len(self.levels) - 1), dtype=torch.float64)
        logs = torch.stack([-level.half_logsnr for level in self.levels])
        below = torch.erf((logs - self.mean) / (self.std * math.sqrt(2)))
        mass = (below[:-1] - below[1:]).clamp(min=1e-12)
        return mass / mass.sum()

    def pair(self, u: Tensor, like: Tensor) -> tuple[Level, Level]:
        """The noisier and the less noisy level of a pair for each sample of ``like``, u [B] in [0, 1)."""
        index = torch.searchsorted(self.odds().cumsum(0).to(u.device), u).clamp(max=len(self.levels) - 2)
        return picked(self.levels, index, like), picked(self.levels, index + 1, like)


def _devices(x: Tensor) -> list[int]:
    return [x.device.index or 0] if x.device.type == "cuda" else []
