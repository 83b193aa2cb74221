"""UniPC: a multistep predictor, and a corrector that shares its network calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from noisette.core.level import Level, combine
from noisette.core.prediction import Prediction
from noisette.core.sampling import Denoise, Noise
from noisette.errors import UserError
from noisette.solvers import citations
from noisette.solvers.exponential import History, Past, adams, constant, midpoint, remember

Variant = Literal["bh1", "bh2"]


@dataclass(frozen=True)
class UniPC:
    """UniPC on data predictions: predict x_t, and correct it once the network has spoken at t.

    The predictor is an exponential Adams-Bashforth rule over ``order`` predictions (of order 2: the rule
    of DPM-Solver++ 2M), the corrector the Adams-Moulton rule that adds the prediction at t itself; it
    is applied at the beginning of the next step, so N steps cost N calls and the last is not corrected.
    ``variant`` is B(h): ``e^h - 1`` ("bh2") or h ("bh1"); it matters to the rules with one free weight
    only, since B cancels where the weights are solved for. The first steps use the orders their history
    allows; a step from alpha = 0 or to sigma = 0 is of order 1.

    Deviation: a solver does not know how many steps are left, so order 3 falls to 1 at the last step
    without a step of order 2 before it.
    Raises UserError for an order other than 1, 2, 3 or an unknown variant.
    Source: arXiv:2302.04867, Algorithms 1 and 2, for data prediction.
    """

    order: int = 2
    variant: Variant = "bh2"
    bibtex: ClassVar[str] = citations.UNIPC

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise UserError(f"UniPC has order 1, 2 or 3, got {self.order}")
        if self.variant not in get_args(Variant):
            raise UserError(f'the variant of UniPC is "bh1" or "bh2", got {self.variant!r}')

    def init(self) -> History:
        return ()

    def step(
        self, denoise: Denoise, x: Tensor, s: Level, t: Level, state: History, noise: Noise
    ) -> tuple[Tensor, Prediction, History]:
        prediction = denoise(x, s)
        terms = [(t.alpha, prediction.x0), (t.sigma, prediction.eps)]
        history = remember(state, prediction.x0, s.half_logsnr, self.order)
        if state and history:
            # x has been corrected at the same x0, so that the whole change is one of eps.
            terms += [(t.sigma / s.sigma * s.alpha * w, d) for w, d in self._correct(history[0], state)]
        if history:
            h, nodes = _offsets(history[0], history[1:], t.half_logsnr)
            weights = self._predict(h, nodes)
            pasts = zip(weights, history[1:], strict=True)
            terms += [(t.alpha * w, past.x0 - prediction.x0) for w, past in pasts]
        return combine(*terms), prediction, history

    def _predict(self, h: Tensor, nodes: list[Tensor]) -> list[Tensor]:
        if len(nodes) == 1:
            return [midpoint(h, nodes[0], self._size(h))]
        return adams(h, nodes) if nodes else []

    def _correct(self, now: Past, state: History) -> list[tuple[Tensor, Tensor]]:
        """Corrected minus predicted x over alpha, as weights and differences of data predictions."""
        origin, older = state[0], state[1:]
        h, nodes = _offsets(origin, older, now.half_logsnr)
        with_now = adams(h, [h, *nodes]) if nodes else [self._size(h) / 2]
        changes = [(with_now[0], now.x0 - origin.x0)]
        for new, old, past in zip(with_now[1:], self._predict(h, nodes), older, strict=True):
            changes.append((new - old, past.x0 - origin.x0))
        return changes

    def _size(self, h: Tensor) -> Tensor:
        return constant(h) if self.variant == "bh2" else h


def _offsets(origin: Past, older: History, end: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The step and the past nodes, as half log-SNR from ``origin`` on."""
    return end - origin.half_logsnr, [past.half_logsnr - origin.half_logsnr for past in older]
