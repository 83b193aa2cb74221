"""Churn: fresh noise that keeps the marginal, within its range, at the paper's amount."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from noisette.core import last, sample
from noisette.metrics.gaussian import gaussian_denoiser, gaussian_std_ratio
from noisette.schedules import VE, LinearVP, karras
from noisette.solvers import Churn, Euler, Heun

SCHEDULE = VE()


def test_churn_keeps_the_marginal_and_its_range() -> None:
    vp = LinearVP()
    churn = Churn(vp, amount=0.2, min=0.5, max=5.0)
    basis = torch.eye(2, dtype=torch.float64)
    for t, touched in ((0.05, False), (0.4, True), (0.9, False)):
        s = vp(t)
        spread = ((0.5 * s.alpha).square() + s.sigma.square()).sqrt()
        x, higher = churn(spread * basis[0], s, lambda like: basis[1])
        assert (higher is not s) == touched
        wanted = (0.5 * higher.alpha).square() + higher.sigma.square()
        assert float(x.square().sum()) == pytest.approx(float(wanted))
        ratio = (higher.sigma / higher.alpha) / (s.sigma / s.alpha)
        assert float(ratio) == pytest.approx(1.2 if touched else 1.0)


@pytest.mark.parametrize(("make", "gain"), [(Euler, 1.5), (Heun, 3.0)])
def test_churned_solvers_converge_at_their_order(make: Any, gain: float) -> None:
    """Exact output deviation for data of std 0.1; halving the step divides its error by ``gain`` or more."""
    errors = []
    for n in (40, 80):
        solver = make(Churn.over(SCHEDULE, n, total=20.0))
        errors.append(abs(gaussian_std_ratio(solver, karras(SCHEDULE, n), 0.1, start_std=80.0) - 1))
    assert errors[0] > gain * errors[1]
    assert errors[1] < 0.1


def test_no_churn_changes_nothing_and_draws_nothing() -> None:
    def never(like: torch.Tensor) -> torch.Tensor:
        raise AssertionError("noise was drawn")

    x, levels = torch.randn(3), karras(SCHEDULE, 5)
    for churn in (Churn(SCHEDULE, amount=0.0), Churn(SCHEDULE, amount=0.2, min=100.0)):
        a = last(sample(gaussian_denoiser(0.0, 0.5), x, levels, Heun(churn), noise=never))
        assert torch.equal(a, last(sample(gaussian_denoiser(0.0, 0.5), x, levels, Heun())))


def test_churn_of_the_paper_is_per_step() -> None:
    assert Churn.over(SCHEDULE, 256, 40).amount == 0.15625
    assert Churn.over(SCHEDULE, 10, 40).amount == pytest.approx(math.sqrt(2) - 1)
