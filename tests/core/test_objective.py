"""Losses against the oracle and in every space; the training loop."""

import pytest
import torch
from torch import nn

from noisette.core import (
    EDM,
    X0,
    Eps,
    Flow,
    IndexTime,
    Level,
    NetDenoiser,
    Prediction,
    V,
    denoising_error,
    oracle,
    train,
)


def levels() -> Level:
    angle = torch.tensor([0.2, 0.8, 1.4], dtype=torch.float64)
    return Level(angle, angle.cos(), angle.sin()).per_sample(torch.empty(3, 1, 4, 4))


@pytest.fixture
def data():
    return torch.randn(3, 1, 4, 4, dtype=torch.float64), torch.randn(3, 1, 4, 4, dtype=torch.float64)


def test_the_oracle_has_no_error(data):
    x0, eps = data
    for space in ("x0", "eps", "v", "score", "flow", EDM()):
        assert denoising_error(oracle(x0, eps), x0, levels(), eps, space=space).abs().max() == 0


class Zero(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x, time, cond):
        return self.p * x


@pytest.mark.parametrize("p", [Eps(), X0(), V(), Flow(), EDM(0.5)], ids=repr)
def test_native_space_is_the_error_of_the_raw_output(p, data):
    x0, eps = data
    d = NetDenoiser(Zero(), p, IndexTime())
    expected = p.target(x0, eps, levels()).square().flatten(1).mean(1)
    torch.testing.assert_close(denoising_error(d, x0, levels(), eps, space=p), expected)


def test_spaces_differ_by_the_known_factors(data):
    x0, eps = data
    d = NetDenoiser(Zero(), V(), IndexTime())
    at = levels()
    error = {s: denoising_error(d, x0, at, eps, space=s) for s in ("x0", "eps", "v", "flow")}
    a, s = at.alpha.flatten(), at.sigma.flatten()
    torch.testing.assert_close(error["eps"], error["x0"] * (a / s) ** 2)
    torch.testing.assert_close(error["v"], error["x0"] / s**2)
    torch.testing.assert_close(error["flow"], error["x0"] * ((a + s) / s) ** 2)


def test_simple_loss_of_a_zero_network_is_one():
    x0, eps = torch.randn(64, 3, 32, 32), torch.randn(64, 3, 32, 32)
    at = Level(*(torch.tensor(v, dtype=torch.float64) for v in (0.5, 0.6, 0.8)))
    d = lambda x, level, cond: Prediction(x / 0.6, torch.zeros_like(x), level)  # noqa: E731
    assert denoising_error(d, x0, at, eps).mean().item() == pytest.approx(1, abs=0.01)


def test_train_minimises_and_yields_every_step():
    w = nn.Parameter(torch.tensor(5.0))
    optimizer = torch.optim.SGD([w], lr=0.25)
    steps = list(train(lambda target: (w - target).square(), [1.0] * 20, optimizer, max_grad_norm=1e9))
    assert [s.index for s in steps] == list(range(20))
    assert steps[0].loss.item() == 16 and steps[0].grad_norm.item() == 8
    assert w.item() == pytest.approx(1, abs=1e-4)


def test_train_clips_the_global_norm():
    w = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([w], lr=1.0)
    next(train(lambda _: 0.5 * w.square().sum(), [0], optimizer, max_grad_norm=1.0))
    torch.testing.assert_close(w.detach(), torch.tensor([2.4, 3.2]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_update_is_not_applied_but_reported(bad):
    w = nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.Adam([w], lr=0.1)
    steps = train(lambda scale: w * scale, [bad, 1.0], optimizer)
    assert not torch.isfinite(next(steps).loss)
    assert w.item() == 1.0
    next(steps)
    assert w.item() == pytest.approx(0.9)
