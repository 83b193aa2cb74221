"""Consistency models: levels, distances, and the error of two jumps that should agree."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from noisette.core import Level, NetDenoiser, Prediction, ScaledTime, V, oracle
from noisette.distill import Boundaries, consistency_error, doubling, growing, pseudo_huber
from noisette.errors import UserError
from noisette.metrics.gaussian import gaussian_denoiser
from noisette.schedules import VE, ContinuousCosineVP, CosineVP, karras, trailing
from noisette.solvers import DDIM, Heun


def test_the_number_of_levels_grows_as_published() -> None:
    """The values of arXiv:2303.01469 for 800,000 updates, and of arXiv:2310.14189."""
    at = (0, 1, 1_000, 10_000, 100_000, 400_000, 799_999)
    assert [growing(k / 800_000) for k in at] == [2, 3, 6, 17, 54, 107, 151]
    assert [doubling((i + 0.5) / 8) for i in range(8)] == [10 * 2**i + 1 for i in range(8)]


def test_pseudo_huber_is_a_square_near_zero_and_a_length_far_away() -> None:
    small, large = torch.full((1, 12), 1e-4), torch.full((1, 12), 1e4)
    c = 0.1
    assert pseudo_huber(small, c).item() == pytest.approx(12e-8 / (2 * c), rel=1e-2)
    assert pseudo_huber(large, c).item() == pytest.approx(math.sqrt(12) * 1e4 - c, rel=1e-6)
    assert pseudo_huber(torch.zeros(2, 3, 4, 4)).tolist() == [0, 0]


def test_pairs_are_as_likely_as_the_normal_distribution_between_them() -> None:
    levels = karras(VE(0.002, 80.0), 18)
    pairs = Boundaries(levels, mean=-1.1, std=2.0)
    logs = [(level.sigma / level.alpha).log().item() for level in levels]
    below = [0.5 * (1 + math.erf((log + 1.1) / (2 * math.sqrt(2)))) for log in logs[:-1]] + [0.0]
    mass = torch.tensor([a - b for a, b in pairwise(below)], dtype=torch.float64)
    torch.testing.assert_close(pairs.odds(), mass / mass.sum(), rtol=1e-6, atol=1e-9)
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    s, t = pairs.pair(u, torch.empty(20_000, 1))
    assert bool((s.sigma > t.sigma).all())
    share = (s.sigma.flatten() == levels[3].sigma).double().mean().item()
    assert share == pytest.approx(pairs.odds()[3].item(), abs=2e-4)
    with pytest.raises(UserError, match="two levels"):
        Boundaries(levels[:1])


def jump(x: Tensor, level: Level, cond: object) -> Prediction:
    """The end of the probability flow of N(0.3, 0.5^2)."""
    spread = ((level.alpha * 0.5).square() + level.sigma.square()).sqrt().to(x)
    x0 = 0.3 + 0.5 * (x - level.alpha.to(x) * 0.3) / spread
    return Prediction(x0, torch.zeros_like(x), level)


@pytest.mark.parametrize(("solver", "order"), [(DDIM(), 2), (Heun(), 3)])
def test_the_exact_jump_disagrees_with_itself_only_by_the_error_of_the_solver(solver, order: int) -> None:
    """A step of an n-th order solver errs by its length to the power n + 1."""
    schedule, x = ContinuousCosineVP(), torch.randn(256, 1, dtype=torch.float64)
    teacher = gaussian_denoiser(0.3, 0.5)

    def error(length: float) -> float:
        s, t = (schedule(torch.full((256,), at)).per_sample(x) for at in (0.5, 0.5 - length))
        found = consistency_error(
            jump, jump, lambda x, level: teacher(x, level, {}), solver, x, s, t, {}, lambda d: d.abs().sum(1)
        )
        return found.mean().item()

    assert math.log2(error(0.02) / error(0.01)) == pytest.approx(order, abs=0.2)


def test_at_the_data_the_target_is_the_sample_itself() -> None:
    x, eps = torch.randn(2, 5, 1, 4, 4)
    s, t = (CosineVP()(torch.full((5,), at)).per_sample(x) for at in (0.001, 0.0))
    wrong = lambda x, level, cond: Prediction(x + 100, x, level)  # noqa: E731
    right = lambda x, level, cond: Prediction(x0, x, level)  # noqa: E731
    x0, truth = x, oracle(x, eps)
    error = consistency_error(
        right, wrong, lambda x, level: truth(x, level, {}), DDIM(), s.diffuse(x0, eps), s, t, {}, pseudo_huber
    )
    assert error.abs().max().item() < 1e-5


class Line(nn.Module):
    """F(x, t) = a(t) x + b(t) by a small network, with dropout to be told from without."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))
        self.drop = nn.Dropout(dropout)
        self.calls = 0

    def forward(self, x: Tensor, time: Tensor, cond: object) -> Tensor:
        self.calls += 1
        a, b = self.body(time[:, None]).unbind(1)
        return self.drop(a[:, None] * x + b[:, None])


def test_gradient_flows_through_the_student_alone_and_both_drop_the_same_units() -> None:
    net, slow = Line(0.5), Line(0.5)
    slow.load_state_dict(net.state_dict())
    student, target = (NetDenoiser(n, V(), ScaledTime(1.0)) for n in (net, slow))
    x = torch.randn(64, 1)
    s, t = (CosineVP()(torch.full((64,), at)).per_sample(x) for at in (0.501, 0.5))
    zeros = oracle(torch.zeros_like(x), x)
    teach = lambda x, level: zeros(x, level, {})  # noqa: E731
    consistency_error(student, target, teach, DDIM(), x, s, t, {}, pseudo_huber).mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert all(p.grad is None for p in slow.parameters())
    assert (net.calls, slow.calls) == (1, 1)
    # With other masks half the values would differ by as much as they are large.
    stay = lambda x, level: Prediction(torch.zeros_like(x), (x / level.sigma).float(), level)  # noqa: E731
    same = consistency_error(student, student, stay, DDIM(), x, s, s, {}, lambda d: d.abs().sum(1))
    assert same.max().item() < 1e-5


def test_a_distilled_line_jumps_where_the_flow_ends() -> None:
    """On N(0.3, 0.5^2) with the exact teacher: within 0.05 of the flow's own end, from the noisiest level."""
    torch.manual_seed(0)
    schedule, teacher = ContinuousCosineVP(), gaussian_denoiser(0.3, 0.5)
    pairs = Boundaries(trailing(schedule, 12))
    net = Line()
    student = NetDenoiser(net, V(), ScaledTime(1.0))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(700):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 700)
        x0, eps = 0.3 + 0.5 * torch.randn(256, 1), torch.randn(256, 1)
        s, t = pairs.pair(torch.rand(256, dtype=torch.float64), x0)
        error = consistency_error(
            student,
            student,
            lambda x, level: teacher(x, level, {}),
            Heun(),
            s.diffuse(x0, eps),
            s,
            t,
            {},
            pseudo_huber,
        )
        optimizer.zero_grad()
        error.mean().backward()
        optimizer.step()
    x, level = torch.randn(500, 1), schedule(1.0)
    with torch.no_grad():
        found = student(x, level, {}).x0
    assert (found - jump(x, level, {}).x0).abs().median().item() < 0.05
