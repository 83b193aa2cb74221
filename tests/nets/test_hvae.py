from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from noisette.errors import UserError
from noisette.nets.hvae import (
    BIN,
    Evidence,
    Group,
    LadderConfig,
    LadderVAE,
    active_units,
    binned_log_prob,
)
from noisette.nets.layers import zero

LADDER = LadderConfig(
    image_size=8,
    sides=(4, 2, 1),
    widths=(8, 8, 12),
    blocks=(1, 1, 0),
    groups=(1, 2, 1),
    latents=(2, 3, 4),
    num_classes=3,
    norm_groups=4,
)
FLAT = replace(LADDER, groups=(0, 0, 1))


def stirred(module: torch.nn.Module, by: float = 0.1) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module


def noise_of(net: LadderVAE, count: int) -> list[torch.Tensor]:
    return [torch.randn(count, *shape) for shape in net.noise_shapes]


def test_groups_go_from_one_pixel_to_many():
    assert LadderVAE(LADDER).noise_shapes == ((4, 1, 1), (3, 2, 2), (3, 2, 2), (2, 4, 4))
    assert LadderVAE(FLAT).noise_shapes == ((4, 1, 1),)


def test_the_divergence_of_a_group_is_that_of_two_gaussians():
    group = stirred(Group(8, 3, 2, 4), 0.3).double()
    h, seen = (torch.randn(5, 8, 2, 2, dtype=torch.float64) for _ in range(2))
    noise = torch.zeros(5, 3, 2, 2, dtype=torch.float64)
    _, kl, said = group(h, noise, seen)
    mean, log_std = group.prior(h).chunk(2, 1)
    step, log_ratio = group.posterior(torch.cat([h, seen], 1)).chunk(2, 1)
    p = Normal(mean, log_std.exp())
    q = Normal(mean + log_std.exp() * step, (log_std + log_ratio).exp())
    wanted = kl_divergence(q, p).flatten(2).sum(2)
    assert wanted.max() > 0.1
    torch.testing.assert_close(kl, wanted, rtol=1e-4, atol=1e-5, check_dtype=False)
    torch.testing.assert_close(said, (q.mean - p.mean) / p.stddev, rtol=1e-5, atol=1e-5, check_dtype=False)


def test_what_is_drawn_has_the_moments_of_prior_and_posterior():
    group = stirred(Group(4, 2, 1, 4), 0.4)
    group.project = torch.nn.Conv2d(2, 4, 1, bias=False)
    with torch.no_grad():
        group.project.weight.zero_()
        group.project.weight[0, 0], group.project.weight[1, 1] = 1.0, 1.0
    h, seen = torch.randn(1, 4, 1, 1).expand(40_000, -1, -1, -1), torch.randn(1, 4, 1, 1)
    drawn = [
        (group(h, torch.randn(40_000, 2, 1, 1), told)[0] - h)[:, :2] for told in (None, seen.expand_as(h))
    ]
    mean, log_std = group.prior(h[:1]).chunk(2, 1)
    step, ratio = group.posterior(torch.cat([h[:1], seen], 1)).chunk(2, 1)
    wanted = ((mean, log_std.exp()), (mean + log_std.exp() * step, (log_std + ratio).exp()))
    for z, (centre, std) in zip(drawn, wanted, strict=True):
        assert (z.mean(0) - centre[0]).abs().max() < 0.02 * (1 + std.max().item())
        assert (z.std(0) / std[0] - 1).abs().max() < 0.02


def test_a_ladder_whose_posteriors_say_nothing_costs_nothing():
    net, x = LadderVAE(LADDER), torch.rand(3, 1, 8, 8) * 2 - 1
    for group in net.modules():
        if isinstance(group, Group):
            assert all(float(p.abs().max()) == 0 for p in group.prior[-1].parameters())  # N(0, 1), new
            zero(group.posterior[-1])
    evidence = net(x, torch.tensor([0, 1, 2]), noise_of(net, 3))
    assert [tuple(kl.shape) for kl in evidence.kl] == [(3, 4), (3, 3), (3, 3), (3, 2)]
    assert all(bool((kl == 0).all()) for kl in evidence.kl)
    torch.testing.assert_close(evidence.elbo(), evidence.log_likelihood)


def test_images_change_posteriors_and_labels_change_pictures():
    net, x = stirred(LadderVAE(LADDER)), torch.rand(2, 1, 8, 8) * 2 - 1
    noise, label = noise_of(net, 2), torch.tensor([0, 1])
    evidence = net(x, label, noise)
    assert float(torch.cat(evidence.kl, 1).min()) > 0
    assert all((a[0] - a[1]).abs().max() > 1e-5 for a in evidence.steps)
    drawn = net.draw(noise, label)
    assert drawn.shape == (2, 1, 8, 8) and drawn.abs().max() <= 1
    assert (drawn - net.draw(noise, label.flip(0))).abs().max() > 1e-4
    for k in range(len(noise)):  # every group reaches the picture
        other = [2 * part if i == k else part for i, part in enumerate(noise)]
        assert (drawn - net.draw(other, label)).abs().max() > 1e-5


def test_the_bound_is_below_the_likelihood_and_tight_where_q_is_the_posterior():
    # One unit, x = a z + N(0, s^2): log p(x) is known, and q its posterior or a little off.
    a, s, x = 0.7, 0.4, torch.tensor(0.9, dtype=torch.float64)
    exact = Normal(0, math.hypot(a, s)).log_prob(x)
    variance = s**2 / (a**2 + s**2)
    mean = a * x / (a**2 + s**2)
    for off, gap in ((0.0, 0.0), (0.2, 0.2**2 / variance / 2)):
        m = mean + off
        expected = Normal(a * m, s).log_prob(x) - a**2 * variance / s**2 / 2
        kl = 0.5 * (m**2 + variance - 1 - math.log(variance))
        bound = Evidence(expected[None], (kl.view(1, 1),), ()).elbo()
        assert float(bound) == pytest.approx(float(exact) - gap, abs=1e-6)


@pytest.mark.parametrize("std", [1e-3, 0.02, 0.3, 2.0])
def test_a_bin_has_the_probability_of_its_interval(std):
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    mean = torch.tensor(0.1234, dtype=torch.float64)
    found = binned_log_prob(values, mean, torch.tensor(math.log(std)))
    normal = Normal(mean, std)
    wanted = normal.cdf(values + BIN / 2) - normal.cdf(values - BIN / 2)
    torch.testing.assert_close(found.exp().double(), wanted, rtol=2e-3, atol=1e-9)
    assert float(found.exp().sum()) <= 1 + 1e-4
    assert float(found.max()) < 1e-6  # a probability: never below 0 bits


def test_far_out_a_bin_is_small_and_still_pulls():
    mean = torch.tensor([-1.0], requires_grad=True)
    log_std = torch.tensor(math.log(0.01), requires_grad=True)
    (value,) = binned_log_prob(torch.tensor([1.0]), mean, log_std)
    z = (2 - BIN / 2) / 0.01
    assert float(value) == pytest.approx(-(z**2) / 2 - math.log(z * math.sqrt(2 * math.pi)), rel=1e-3)
    value.backward()
    assert float(mean.grad) == pytest.approx(z / 0.01, rel=1e-2) and float(log_std.grad) > 0


def test_the_best_sigma_is_the_root_of_the_mean_squared_error():
    x, mean = torch.rand(64, 64) * 2 - 1, torch.zeros(64, 64)
    stds = torch.linspace(0.3, 0.9, 61)
    scores = torch.stack([binned_log_prob(x, mean, std.log()).mean() for std in stds])
    assert float(stds[scores.argmax()]) == pytest.approx(float(x.square().mean().sqrt()), abs=0.011)


def test_free_bits_hold_up_what_is_cheap_and_leave_what_is_dear():
    kl = torch.tensor([[0.0, 0.4], [0.1, 0.8]], requires_grad=True)
    evidence = Evidence(torch.tensor([-3.0, -5.0]), (kl[:, :1], kl[:, 1:]), ())
    assert float(evidence.loss()) == pytest.approx(4 + 0.05 + 0.6)
    loss = evidence.loss(free=0.2)
    assert float(loss) == pytest.approx(4 + 0.2 + 0.6)
    assert float(evidence.loss(free=0.2, weight=0.5)) == pytest.approx(4 + 0.5 * 0.8)
    loss.backward()
    assert kl.grad.tolist() == [[0.0, 0.5], [0.0, 0.5]]


def test_units_count_as_active_by_the_variance_of_their_means():
    steps = torch.randn(500, 3, 2, 1) * torch.tensor([1.0, 0.2, 0.05]).view(3, 1, 1)
    assert active_units(steps) == 4
    assert active_units(steps, 0.5) == 2


def test_bits_are_those_of_the_bound():
    net, x = stirred(LadderVAE(LADDER)), torch.randint(0, 256, (2, 1, 8, 8)) / 127.5 - 1
    label = torch.tensor([0, 2])
    generator = torch.Generator().manual_seed(3)
    noise = [torch.randn(2, *shape, generator=generator) for shape in net.noise_shapes]
    wanted = -net(x, label, noise).elbo() / 64 / math.log(2)
    found = net.bits_per_dim(x, label, torch.Generator().manual_seed(3))
    torch.testing.assert_close(found, wanted)


def test_a_fixed_sigma_is_no_weight():
    fixed, learned = (LadderVAE(replace(FLAT, sigma=sigma)) for sigma in (2.0, None))
    assert float(fixed.log_deviation) == pytest.approx(math.log(2))
    assert learned.state_dict().keys() - fixed.state_dict().keys() == {"log_sigma"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": (0, 0, 0)}, "at least one group"),
        ({"groups": (0, 1)}, "one number for each level"),
        ({"sides": (4, 3, 1)}, "side of 4 does not fold into one of 3"),
        ({"sides": (3, 1, 1)}, "side of 8 does not fold into one of 3"),
        ({"widths": (8, 8, 10)}, "norm_groups 4 does not divide 10"),
        ({"sigma": 0.0}, "positive deviation"),
        ({"blocks": (1, -1, 0)}, "1 or more"),
    ],
)
def test_numbers_that_do_not_fit_are_told(change, message):
    with pytest.raises(UserError, match=message) as told:
        replace(LADDER, **change)
    assert "\n" not in str(told.value)


def test_images_of_another_size_are_refused():
    with pytest.raises(UserError, match=r"takes \[B, 1, 8, 8\], not \[1, 1, 16, 16\]"):
        LadderVAE(LADDER)(torch.zeros(1, 1, 16, 16), torch.tensor([0]), [])
