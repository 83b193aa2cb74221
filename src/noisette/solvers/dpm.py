"""DPM-Solver++, multistep and singlestep, on the ODE and on the SDE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from noisette.core.level import Level, Schedule, combine
from noisette.core.prediction import Prediction
from noisette.core.sampling import Denoise, Noise
from noisette.errors import UserError
from noisette.solvers import citations
from noisette.solvers.ddim import transfer
from noisette.solvers.exponential import History, adams, constant, midpoint, remember


@dataclass(frozen=True)
class DPMSolverPP:
    """DPM-Solver++ multistep: 2M, 3M and their SDE forms; order 1 is DDIM with eta 0 (ODE) or 1 (SDE).

    ``x_t = DDIM(x_s) + alpha_t sum_k w_k (D_k - D_s)`` over the latest data predictions D. Order 2 takes
    the line through two of them at the middle of the step, order 3 integrates the parabola exactly.
    The first steps use the orders their history allows; a step from alpha = 0 or to sigma = 0 is of
    order 1. Cost: one network call a step. Raises UserError for an order other than 1, 2, 3.

    Deviation: the authors' third-order code gives the second difference half of its Taylor weight, which
    leaves it of second order; here it has the whole and the rule is of third order (its start is of lower
    order, which costs next to nothing where sampling starts from noise, and shows when inverting data).
    Source: arXiv:2211.01095, Algorithm 2 (2M) and SDE-DPM-Solver++(2M).
    """

    order: int = 2
    sde: bool = False
    bibtex: ClassVar[str] = citations.DPM_SOLVER_PP

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise UserError(f"DPM-Solver++ has order 1, 2 or 3, got {self.order}")

    def init(self) -> History:
        return ()

    def step(
        self, denoise: Denoise, x: Tensor, s: Level, t: Level, state: History, noise: Noise
    ) -> tuple[Tensor, Prediction, History]:
        prediction = denoise(x, s)
        history = remember(state, prediction.x0, s.half_logsnr, self.order)
        speed = 2.0 if self.sde else 1.0
        h = speed * (t.half_logsnr - s.half_logsnr)
        nodes = [speed * (past.half_logsnr - s.half_logsnr) for past in history[1:]]
        if len(nodes) == 1:
            weights = [midpoint(h, nodes[0], constant(h))]
        else:
            weights = adams(h, nodes) if nodes else []
        pasts = zip(weights, history[1:], strict=True)
        terms = [(t.alpha * w, past.x0 - prediction.x0) for w, past in pasts]
        x_t = combine((1.0, transfer(prediction, s, t, noise, float(self.sde))), *terms)
        return x_t, prediction, history


@dataclass(frozen=True)
class DPMSolverPPSingle:
    """DPM-Solver++ singlestep of order 2: 2S on the ODE, "DPM++ SDE" with ``sde=True``.

    A DDIM step to the level halfway in log-SNR, which ``schedule`` finds, and the whole step with the
    data prediction made there: ``x_t = DDIM(x_s) + alpha_t (1 - e^-h) (D_m - D_s)``, h doubled on the
    SDE. Both halves of the SDE step share one noise path, so that the second half carries on from the
    noise that D_m saw. Two network calls a step; one, and order 1, from alpha = 0 and to sigma = 0.
    Source: arXiv:2211.01095, Algorithm 1 with r = 1/2.
    """

    schedule: Schedule
    sde: bool = False
    bibtex: ClassVar[str] = citations.DPM_SOLVER_PP

    def init(self) -> None:
        return None

    def step(
        self, denoise: Denoise, x: Tensor, s: Level, t: Level, state: None, noise: Noise
    ) -> tuple[Tensor, Prediction, None]:
        eta = float(self.sde)
        first = denoise(x, s)
        h = t.half_logsnr - s.half_logsnr
        if not bool(h.isfinite().all()):
            return transfer(first, s, t, noise, eta), first, None
        m = self.schedule.at_half_logsnr((s.half_logsnr + t.half_logsnr) / 2)
        second = denoise(transfer(first, s, m, noise, eta), m)
        x_t = transfer(second.with_x0(first.x0), m, t, noise, eta)
        gain = t.alpha * constant((1 + eta) * h)
        return combine((1.0, x_t), (gain, second.x0 - first.x0)), first, None
