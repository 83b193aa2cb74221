"""Each guidance method against a closed form on Gaussians."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from noisette.conditioning import label_cond, to_null
from noisette.core import Cond, Denoiser, Level, Prediction, V, given, guide, oracle
from noisette.guidance import Interval, classifier_guide, clip_x0, dynamic_threshold, rescaled_guide
from noisette.schedules import CosineVP

LEVEL = CosineVP()(0.6)


def gaussian(mean: float, variance: float, calls: list[int] | None = None) -> Denoiser:
    """The exact denoiser of data ~ N(mean, variance): E[x0 | x]."""

    def denoise(x: Tensor, level: Level, cond: Cond) -> Prediction:
        if calls is not None:
            calls.append(len(x))
        a, s = level.alpha, level.sigma
        total = (a * a * variance + s * s).to(x)
        eps = (s.to(x) / total) * (x - a.to(x) * mean)
        x0 = mean + (a.to(x) * variance / total) * (x - a.to(x) * mean)
        return Prediction(x0, eps, level)

    return denoise


def by_label(calls: list[int]) -> Denoiser:
    """N(1, 0.25) under a label, N(0, 1) without."""
    wide, narrow = gaussian(0.0, 1.0), gaussian(1.0, 0.25)

    def denoise(x: Tensor, level: Level, cond: Cond) -> Prediction:
        calls.append(len(x))
        a, b = wide(x, level, cond), narrow(x, level, cond)
        known = (cond["label"] >= 0).reshape(-1, 1, 1, 1)
        return Prediction(torch.where(known, b.x0, a.x0), torch.where(known, b.eps, a.eps), level)

    return denoise


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-10, atol=1e-10)


def split_holds(prediction: Prediction, x: Tensor) -> bool:
    return close(prediction.x, x)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 3, 5, 5, dtype=torch.float64) * 3


def test_classifier_guidance_gives_the_posterior(x: Tensor) -> None:
    # Prior N(0, 1); a measurement y of x0 with variance r is the classifier: p(y | x_t) is Gaussian too.
    y, r = 0.7, 0.3
    a, s = LEVEL.alpha, LEVEL.sigma
    mean_of_x0, var_of_x0 = a / (a * a + s * s), s * s / (a * a + s * s)

    def log_prob(x: Tensor, level: Level, cond: Cond) -> Tensor:
        return (-0.5 * (y - mean_of_x0 * x).square() / (r + var_of_x0)).flatten(1).sum(1)

    guided = classifier_guide(gaussian(0.0, 1.0), log_prob)(x, LEVEL, {})
    exact = gaussian(y / (1 + r), r / (1 + r))(x, LEVEL, {})
    assert close(guided.eps, exact.eps)
    assert close(guided.x0, exact.x0)
    assert split_holds(guided, x)


def test_classifier_guidance_works_inside_no_grad_and_costs_nothing_at_scale_zero(x: Tensor) -> None:
    asked: list[int] = []

    def log_prob(x: Tensor, level: Level, cond: Cond) -> Tensor:
        asked.append(1)
        return -x.square().flatten(1).sum(1)

    plain = gaussian(0.0, 1.0)
    with torch.no_grad():
        on = classifier_guide(plain, log_prob, 2.0)(x, LEVEL, {})
        off = classifier_guide(plain, log_prob, lambda level: 0.0)(x, LEVEL, {})
    assert asked == [1]
    assert close(on.eps, plain(x, LEVEL, {}).eps + 4 * LEVEL.sigma * x)
    assert close(off.eps, plain(x, LEVEL, {}).eps)
    assert not on.eps.requires_grad


def test_classifier_free_guidance_is_the_product_of_gaussians(x: Tensor) -> None:
    calls: list[int] = []
    w = 1.8
    net = by_label(calls)
    guided = guide(net, given(net, to_null), w)(x, LEVEL, label_cond([0] * 4))
    a, s = LEVEL.alpha, LEVEL.sigma
    precisions = w / (a * a * 0.25 + s * s), (1 - w) / (a * a + s * s)
    score = -(precisions[0] * (x - a) + precisions[1] * x)
    assert close(guided.score, score)
    assert split_holds(guided, x)
    assert calls == [8]


def test_an_interval_costs_one_lane_outside_and_is_guidance_inside(x: Tensor) -> None:
    calls: list[int] = []
    net, cond = by_label(calls), label_cond([0] * 4)
    noise = float(LEVEL.sigma / LEVEL.alpha)
    for low, high, lanes in ((noise, 9.0, 1), (0.0, noise / 2, 1), (noise / 2, noise, 2)):
        calls.clear()
        got = guide(net, given(net, to_null), Interval(3.0, low, high))(x, LEVEL, cond)
        assert calls == [4 * lanes]
        want = guide(net, given(net, to_null), 3.0 if lanes == 2 else 1.0)(x, LEVEL, cond)
        assert close(got.eps, want.eps)


def test_an_interval_knows_levels_per_sample_and_the_ends_of_the_schedule(x: Tensor) -> None:
    schedule = CosineVP()
    level = schedule(torch.tensor([0.1, 0.5, 0.6, 0.99])).per_sample(x)
    scale = Interval(2.0, 0.5, 2.0)(level)
    assert isinstance(scale, Tensor)
    inside = [0.5 < float(schedule(t).sigma / schedule(t).alpha) <= 2.0 for t in (0.1, 0.5, 0.6, 0.99)]
    assert scale.flatten().tolist() == [2.0 if one else 1.0 for one in inside]
    assert Interval(2.0)(schedule(0.0)) == 1.0
    assert Interval(2.0)(schedule(0.5)) == 2.0


def test_rescaling_restores_the_contrast_of_the_strong_lane(x: Tensor) -> None:
    strong, weak = gaussian(1.0, 0.25), gaussian(0.0, 1.0)

    def contrast(p: Prediction) -> Tensor:
        return p.v.flatten(1).std(1)

    plain = guide(strong, weak, 5.0)(x, LEVEL, {})
    full = rescaled_guide(strong, weak, 5.0, 1.0)(x, LEVEL, {})
    half = rescaled_guide(strong, weak, 5.0, 0.5)(x, LEVEL, {})
    assert close(contrast(full), contrast(strong(x, LEVEL, {})))
    assert close(contrast(half), (contrast(full) + contrast(plain)) / 2)
    assert close(rescaled_guide(strong, weak, 5.0, 0.0)(x, LEVEL, {}).eps, plain.eps)
    for p in (full, half):
        assert split_holds(p, x)


def test_rescaling_costs_the_lanes_of_guidance(x: Tensor) -> None:
    calls: list[int] = []
    rescaled_guide(gaussian(1.0, 0.25, calls), gaussian(0.0, 1.0, calls), 3.0, space=V())(x, LEVEL, {})
    assert sum(calls) == 2 * len(x)
    calls.clear()
    one = gaussian(1.0, 0.25, calls)
    rescaled_guide(one, given(one, lambda cond: cond), 3.0)(x, LEVEL, {})
    assert calls == [2 * len(x)]
    rescaled_guide(one, given(one, lambda cond: cond), Interval(3.0, high=0.1))(x, LEVEL, {})
    assert calls == [2 * len(x), len(x)]  # beyond the interval the weak lane is free


def test_clipping_moves_eps_with_x0(x: Tensor) -> None:
    raw = Prediction(3 * torch.randn_like(x), torch.randn_like(x), LEVEL)
    clipped = clip_x0(oracle(raw.x0, raw.eps))(x, LEVEL, {})
    assert float(clipped.x0.abs().max()) == 1.0
    assert close(clipped.x, raw.x)
    assert torch.equal(clipped.x0, raw.x0.clamp(-1, 1))
    inside = oracle(raw.x0.clamp(-0.9, 0.9), raw.eps)
    assert close(clip_x0(inside)(x, LEVEL, {}).eps, raw.eps)


def test_the_dynamic_threshold_is_each_samples_own(x: Tensor) -> None:
    x0 = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    x0[0] *= 0.1
    x0[1] *= 50
    raw = Prediction(x0, torch.randn_like(x0), LEVEL)
    got = dynamic_threshold(oracle(raw.x0, raw.eps), 0.9)(x, LEVEL, {})
    assert torch.equal(got.x0[0], x0[0])
    assert float(got.x0.abs().max()) <= 1.0
    assert abs((got.x0[1].abs() == 1).double().mean().item() - 0.1) < 0.03
    assert close(got.x, raw.x)
    alone = dynamic_threshold(oracle(raw.x0[1:2], raw.eps[1:2]), 0.9)(x[1:2], LEVEL, {})
    assert close(alone.x0, got.x0[1:2])
