"""The bound against closed forms."""

import math

import pytest
import torch

from noisette.core import (
    Level,
    Prediction,
    bits_per_dim,
    forward_variance,
    log_variance,
    oracle,
    posterior_variance,
    vlb_term,
)
from noisette.core.likelihood import discretized_log_likelihood, posterior_mean, prior_kl
from noisette.schedules import CosineVP, LinearVP


def test_variances_equal_the_tables_of_ddpm():
    schedule = LinearVP()
    betas, bar = schedule.betas(), schedule.alphas_cumprod
    for row in (1, 2, 500, 999):
        s, t = schedule((row + 1) / 1000), schedule(row / 1000)
        beta_tilde = betas[row] * (1 - bar[row - 1]) / (1 - bar[row])
        assert forward_variance(s, t).item() == pytest.approx(betas[row].item(), rel=1e-10)
        assert posterior_variance(s, t).item() == pytest.approx(beta_tilde.item(), rel=1e-10)
    assert posterior_variance(schedule(0.001), schedule(0.0)) == 0


def test_posterior_mean_equals_the_formula_of_ddpm():
    schedule = LinearVP()
    x0, eps = torch.randn(2, 1, 3, 3, dtype=torch.float64), torch.randn(2, 1, 3, 3, dtype=torch.float64)
    row = 400
    s, t = schedule((row + 1) / 1000), schedule(row / 1000)
    beta, bar = schedule.betas()[row], schedule.alphas_cumprod
    x = s.diffuse(x0, eps)
    expected = bar[row - 1].sqrt() * beta / (1 - bar[row]) * x0
    expected += (1 - beta).sqrt() * (1 - bar[row - 1]) / (1 - bar[row]) * x
    torch.testing.assert_close(posterior_mean(Prediction(x0, eps, s), s, t), expected)


def test_learned_variance_interpolates_logs():
    """Trap 9: raw -1 is beta-tilde, +1 is beta, 0 their geometric mean."""
    schedule = CosineVP()
    s, t = schedule(0.5), schedule(0.499)
    x = torch.zeros(1, 1, 1, 3, dtype=torch.float64)
    raw = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).view(1, 1, 1, 3)
    logs = log_variance("learned", s, t, prediction=Prediction(x, x, s, {"variance": raw})).flatten()
    small, large = posterior_variance(s, t).log(), forward_variance(s, t).log()
    torch.testing.assert_close(logs, torch.stack([small, (small + large) / 2, large]))


def test_learned_variance_needs_the_head():
    s, t = CosineVP()(0.5), CosineVP()(0.4)
    with pytest.raises(ValueError, match="learned"):
        log_variance("learned", s, t)


def test_the_oracle_pays_nothing_between_levels_with_the_small_variance():
    s, t = LinearVP()(0.5), LinearVP()(0.499)
    x0, eps = torch.randn(2, 1, 4, 4, dtype=torch.float64), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    assert vlb_term(oracle(x0, eps), x0, s, t, eps).abs().max() < 1e-12


def test_the_weight_of_the_noise_error_is_the_corrected_one():
    """``beta^2 / (2 var alpha_step (1 - alpha^2))`` with the variance to the first power."""
    schedule = LinearVP()
    row = 300
    s, t = schedule((row + 1) / 1000), schedule(row / 1000)
    beta, bar = schedule.betas()[row], schedule.alphas_cumprod
    x0 = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    eps, wrong = torch.randn_like(x0), torch.randn_like(x0)
    x = s.diffuse(x0, eps)
    d = lambda x_, level, cond: Prediction((x - level.sigma * wrong) / level.alpha, wrong, level)  # noqa: E731
    variance = posterior_variance(s, t)
    weight = beta**2 / (2 * variance * (1 - beta) * (1 - bar[row]))
    expected = weight * (eps - wrong).square().mean()
    assert vlb_term(d, x0, s, t, eps).item() == pytest.approx(expected.item(), rel=1e-8)


def test_freezing_the_mean_leaves_the_variance_its_gradient():
    s, t = LinearVP()(0.5), LinearVP()(0.499)
    x0, eps = torch.randn(2, 1, 2, 2, dtype=torch.float64), torch.randn(2, 1, 2, 2, dtype=torch.float64)
    mean = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    raw = torch.zeros(2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    d = lambda x, level, cond: Prediction(x0 + mean, eps + mean, level, {"variance": raw})  # noqa: E731
    loss = vlb_term(d, x0, s, t, eps, variance="learned", freeze_mean=True).sum()
    (grad,) = torch.autograd.grad(loss, raw, retain_graph=True)
    assert grad.abs().min() > 0
    assert torch.autograd.grad(loss, mean, allow_unused=True)[0] is None


def test_the_decoder_is_a_distribution_over_256_values():
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, std in ((0.0, 0.1), (-1.1, 0.02), (0.98, 0.5)):
        means, log_stds = torch.full_like(values, mean), torch.full_like(values, math.log(std))
        log_p = discretized_log_likelihood(values, means, log_stds)
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_prior_kl_closed_form_and_the_known_size_for_the_linear_schedule():
    uniform = torch.rand(1, 1, 200, 200, dtype=torch.float64) * 2 - 1
    assert prior_kl(uniform, LinearVP()(1.0)).item() == pytest.approx(6.7e-6, rel=0.02)
    at = Level(*(torch.tensor(v, dtype=torch.float64) for v in (1.0, 0.6, 0.8)))
    x0 = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    expected = 0.5 * (0.64 + 0.09 - 1 - math.log(0.64))
    assert prior_kl(x0, at).item() == pytest.approx(expected)


def gap_on_a_gaussian(variance: str, std: float) -> float:
    """KL in bits between the true reverse steps of N(0, std^2) and those with DDPM's variances."""
    schedule, total = LinearVP(), 0.0
    for row in range(1, 1000):
        s, t = schedule((row + 1) / 1000), schedule(row / 1000)
        beta = forward_variance(s, t)
        marginal = t.alpha**2 * std**2 + t.sigma**2
        true = marginal * beta / ((s.alpha / t.alpha) ** 2 * marginal + beta)
        ratio = true / log_variance(variance, s, t).exp()
        total += 0.5 * (ratio - 1 - ratio.log()).item()
    return total / math.log(2)


@pytest.mark.parametrize("variance, std, gap", [("small", 0.5, 0.658), ("large", 0.5, 0.0016)])
def test_the_gap_of_the_bound_on_a_gaussian(variance, std, gap):
    assert gap_on_a_gaussian(variance, std) == pytest.approx(gap, rel=0.05)


def test_bits_per_dim_of_an_exact_gaussian_model():
    """Above the entropy, and the fixed small variance pays its closed-form gap more than the large."""
    schedule, std = LinearVP(), 0.2
    x0 = ((std * torch.randn(64, 1, 8, 8, dtype=torch.float64)).clamp(-1, 1) * 127.5).round() / 127.5

    def exact(x, level, cond):
        a, s = level.alpha, level.sigma
        mean = a * std**2 / (a**2 * std**2 + s**2) * x
        return Prediction(mean, (x - a * mean) / s, level)

    def bits(variance):
        noise = torch.Generator().manual_seed(0)
        return bits_per_dim(exact, x0, schedule, 1000, variance=variance, generator=noise).mean().item()

    entropy = (0.5 * math.log(2 * math.pi * math.e * std**2) + math.log(127.5)) / math.log(2)
    assert entropy < bits("large") < entropy + 0.2
    expected = gap_on_a_gaussian("small", std) - gap_on_a_gaussian("large", std)
    assert bits("small") - bits("large") == pytest.approx(expected, rel=0.05)
