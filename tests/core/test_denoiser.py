"""The algebra: affine, given, guide, oracle, and what each costs."""

import pytest
import torch
from torch import nn

from noisette.core import (
    EDM,
    IndexTime,
    Level,
    LogSigmaTime,
    NetDenoiser,
    Prediction,
    ScaledTime,
    V,
    affine,
    attend,
    given,
    guide,
    oracle,
    together,
    with_attention,
)

AT = Level(*(torch.tensor(v, dtype=torch.float64) for v in (0.5, 0.6, 0.8)))


class Counting:
    """A denoiser whose x0 is a known function of x and the label; counts calls and rows."""

    def __init__(self, gain: float = 1.0):
        self.gain, self.calls = gain, []

    def __call__(self, x, level, cond):
        self.calls.append(len(x))
        x0 = self.gain * x + cond["label"].to(x).view(-1, 1, 1, 1)
        alpha, sigma = (v.to(x) for v in (level.alpha, level.sigma))
        return Prediction(x0, (x - alpha * x0) / sigma, level)


def to_null(cond):
    return {**cond, "label": torch.full_like(cond["label"], -1)}


@pytest.fixture
def x():
    return torch.randn(2, 3, 4, 4, dtype=torch.float64)


COND = {"label": torch.tensor([2, 5])}


def test_together_each_is_what_it_is_by_itself_in_one_call(x):
    d = Counting(0.3)
    apart = (d, given(d, to_null), guide(d, given(d, to_null), 3.0))
    expected = [one(x, AT, COND) for one in apart]
    d.calls.clear()
    for found, alone in zip(together(apart, x, AT, COND), expected, strict=True):
        torch.testing.assert_close(found.x0, alone.x0)
        torch.testing.assert_close(found.eps, alone.eps)
    assert d.calls == [2 * len(x)]  # the two lanes, each once


def test_guidance_is_the_same_in_every_space(x):
    d = Counting(0.3)
    strong, weak = d(x, AT, COND), d(x, AT, to_null(COND))
    guided = guide(d, given(d, to_null), 3.0)(x, AT, COND)
    for space in ("x0", "eps", "v", "score", "flow"):
        expected = getattr(weak, space) + 3.0 * (getattr(strong, space) - getattr(weak, space))
        torch.testing.assert_close(getattr(guided, space), expected)
    torch.testing.assert_close(guided.x, x)


def test_classifier_free_guidance_is_one_batched_call(x):
    d = Counting()
    guide(d, given(d, to_null), 3.0)(x, AT, COND)
    assert d.calls == [4]


def test_three_lanes_are_one_batched_call(x):
    d = Counting()
    one, two = (lambda c: {"label": c["label"] + 1}), (lambda c: {"label": c["label"] + 2})
    out = affine((7.5, d), (-6.0, given(d, one)), (-0.5, given(d, two)))(x, AT, COND)
    assert d.calls == [6]
    expected = 7.5 * d(x, AT, COND).x0 - 6 * d(x, AT, one(COND)).x0 - 0.5 * d(x, AT, two(COND)).x0
    torch.testing.assert_close(out.x0, expected)


def test_trap_12_scale_one_is_off_and_scale_zero_is_the_weak_model(x):
    d = Counting()
    off = guide(d, given(d, to_null), 1)(x, AT, COND)
    none = guide(d, given(d, to_null), 0)(x, AT, COND)
    assert d.calls == [2, 2]
    torch.testing.assert_close(off.x0, d(x, AT, COND).x0)
    torch.testing.assert_close(none.x0, d(x, AT, to_null(COND)).x0)


def test_a_scale_may_depend_on_the_level_and_costs_nothing_where_it_is_one(x):
    d = Counting()
    guided = guide(d, given(d, to_null), lambda level: 4.0 if level.sigma > 0.5 else 1.0)
    guided(x, AT, COND)
    low = Level(AT.t, AT.sigma, torch.tensor(0.1, dtype=torch.float64))
    guided(x, low, COND)
    assert d.calls == [4, 2]


def test_a_scale_for_each_sample(x):
    d = Counting()
    scale = torch.tensor([1.0, 4.0], dtype=torch.float64).view(2, 1, 1, 1)
    guided = guide(d, given(d, to_null), scale)(x, AT, COND)
    alone = guide(d, given(d, to_null), 4.0)(x[1:], AT, {"label": COND["label"][1:]})
    torch.testing.assert_close(guided.x0[1:], alone.x0)
    torch.testing.assert_close(guided.x0[:1], d(x, AT, COND).x0[:1])


def test_nested_combinations_multiply_out(x):
    d, small = Counting(1.0), Counting(0.2)
    inner = guide(d, given(d, to_null), 2.0)
    outer = guide(inner, small, lambda level: 1.5)
    out = outer(x, AT, COND)
    expected = 1.5 * (2 * d(x, AT, COND).x0 - d(x, AT, to_null(COND)).x0) - 0.5 * small(x, AT, COND).x0
    torch.testing.assert_close(out.x0, expected)


def test_given_composes_from_the_outside_in(x):
    d = Counting()
    double, plus = (lambda c: {"label": 2 * c["label"]}), (lambda c: {"label": c["label"] + 1})
    out = given(given(d, double), plus)(x, AT, COND)
    torch.testing.assert_close(out.x0, d(x, AT, double(plus(COND))).x0)


def test_unlike_conditions_are_separate_calls(x):
    d = Counting()
    extra = lambda c: {**c, "tokens": torch.zeros(2, 5, 8)}  # noqa: E731
    guide(given(d, extra), d, 2.0)(x, AT, COND)
    assert d.calls == [2, 2]


def test_per_sample_levels_follow_their_lanes(x):
    rows = [[0.2, 0.9], [0.8, 0.3], [0.6, 0.9]]
    levels = Level(*(torch.tensor(row, dtype=torch.float64) for row in rows))
    d = Counting(0.4)
    both = guide(d, given(d, to_null), 3.0)(x, levels.per_sample(x), COND)
    for i in range(2):
        at = Level(levels.t[i], levels.alpha[i], levels.sigma[i])
        alone = guide(d, given(d, to_null), 3.0)(x[i : i + 1], at, {"label": COND["label"][i : i + 1]})
        torch.testing.assert_close(both.eps[i : i + 1], alone.eps)


def test_weights_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ValueError, match="sum to one"):
        affine((1.0, Counting()), (1.0, Counting()))


def test_oracle_is_the_truth(x):
    eps = torch.randn_like(x)
    p = oracle(x, eps)(AT.diffuse(x, eps), AT, {})
    assert p.x0 is x and p.eps is eps


class TwoSites(nn.Module):
    """A network with two attention sites; the token count is the number of pixels."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x, time, cond):
        h = x.flatten(2).transpose(1, 2)[:, None] + cond["label"].view(-1, 1, 1, 1)
        h = attend(h, h, h, "down.0.self") + attend(h, 2 * h, h, "mid.self")
        return self.weight * h[:, 0].transpose(1, 2).reshape(x.shape)


def test_attention_rules_see_named_sites_and_may_pass(x):
    seen = []

    def watch(call, proceed):
        seen.append((call.site, tuple(call.probabilities().shape)))
        return proceed(call)

    d = NetDenoiser(TwoSites(), V(), IndexTime())
    watched = with_attention(d, watch, "mid.*")(x, AT, COND)
    assert seen == [("mid.self", (2, 1, 16, 16))]
    torch.testing.assert_close(watched.x0, d(x, AT, COND).x0)


def test_the_materialised_map_gives_the_fused_result(x):
    d = NetDenoiser(TwoSites(), V(), IndexTime())
    slow = with_attention(d, lambda call, proceed: call.output(call.probabilities()))(x, AT, COND)
    torch.testing.assert_close(slow.x0, d(x, AT, COND).x0, rtol=1e-5, atol=1e-5)


def test_a_rule_touches_its_own_lane_only_in_one_call(x):
    d = NetDenoiser(TwoSites(), V(), IndexTime())
    calls = []
    d.net.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    off = with_attention(d, lambda call, proceed: torch.zeros_like(call.q))
    out = guide(off, given(d, to_null), 3.0)(x, AT, COND)
    assert calls == [4]
    torch.testing.assert_close(out.x0, 3 * off(x, AT, COND).x0 - 2 * given(d, to_null)(x, AT, COND).x0)


def test_rules_nest_outermost_first(x):
    order = []

    def named(name):
        def rule(call, proceed):
            order.append(name)
            return proceed(call)

        return rule

    d = NetDenoiser(TwoSites(), V(), IndexTime())
    inner = with_attention(d, named("inner"), "mid.self")
    opaque = lambda x, level, cond: inner(x, level, cond)  # noqa: E731
    with_attention(inner, named("outer"), "mid.self")(x, AT, COND)
    with_attention(opaque, named("outer"), "mid.self")(x, AT, COND)
    assert order == ["outer", "inner"] * 2


def test_rules_do_not_outlive_their_call(x):
    d = NetDenoiser(TwoSites(), V(), IndexTime())

    def broken(call, proceed):
        raise RuntimeError("in the rule")

    before = d(x, AT, COND).x0
    with pytest.raises(RuntimeError, match="in the rule"):
        with_attention(d, broken)(x, AT, COND)
    torch.testing.assert_close(d(x, AT, COND).x0, before)


class Echo(nn.Module):
    """Returns its time input as an image, in the dtype of its weight."""

    def __init__(self, channels=1, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=dtype))
        self.channels = channels

    def forward(self, x, time, cond):
        assert x.dtype == self.weight.dtype and time.dtype == torch.float32
        self.time = time
        return x.repeat(1, self.channels, 1, 1)


def test_time_inputs():
    t = torch.tensor([0.001, 0.5, 1.0], dtype=torch.float64)
    levels = Level(t, torch.ones_like(t), torch.tensor([0.1, 1.0, 80.0], dtype=torch.float64))
    torch.testing.assert_close(IndexTime(1000)(levels), torch.tensor([0.0, 499, 999], dtype=torch.float64))
    torch.testing.assert_close(LogSigmaTime()(levels), levels.sigma.log() / 4)
    torch.testing.assert_close(ScaledTime(1000)(levels), 1000 * t)
    clean = Level(*(torch.tensor(v, dtype=torch.float64) for v in (0.0, 1.0, 0.0)))
    assert IndexTime()(clean) == 0 and LogSigmaTime()(clean) == -5


def test_the_network_runs_in_its_own_precision_and_the_state_does_not():
    net = Echo(dtype=torch.bfloat16)
    x = torch.randn(3, 1, 4, 4)
    p = NetDenoiser(net, EDM(), LogSigmaTime())(x, AT, {})
    assert p.x0.dtype == torch.float32 and net.time.shape == (3,)


def test_doubled_channels_carry_the_variance():
    x = torch.randn(3, 1, 4, 4)
    p = NetDenoiser(Echo(channels=2), V(), IndexTime())(x, AT, {})
    torch.testing.assert_close(p.aux["variance"], x)
    assert p.x0.shape == x.shape


def test_without_rules_a_network_compiles_to_one_graph(x):
    d = NetDenoiser(TwoSites(), V(), IndexTime())
    d.net = torch.compile(d.net, backend="eager", fullgraph=True)
    plain = NetDenoiser(TwoSites(), V(), IndexTime())
    torch.testing.assert_close(d(x, AT, COND).x0, plain(x, AT, COND).x0)
