from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from noisette.core import (
    EDM,
    Cond,
    Denoiser,
    Eps,
    IndexTime,
    Level,
    NetDenoiser,
    Prediction,
    V,
    bits_per_dim,
    denoising_error,
    oracle,
)
from noisette.core.likelihood import prior_kl
from noisette.errors import UserError
from noisette.nets import UNet, UNetConfig
from noisette.schedules import VE, CosineVP, FlowMatching, LinearVP
from noisette.training import (
    P2,
    Draws,
    Hybrid,
    LogitNormalTimes,
    LogNormalSigma,
    LossHistory,
    MinSNR,
    Rows,
    Simple,
    UniformTimes,
    Vlb,
)
from noisette.training.objectives import chain_term


def shrink(x: Tensor, level: Level, cond: Cond) -> Prediction:
    """A denoiser that is wrong in a known way, at every level, and consistent."""
    x0 = 0.3 * x
    return Prediction(x0, (x - level.alpha * x0) / level.sigma, level)


@dataclass
class Head:
    """A denoiser with a trainable raw mean and a trainable variance."""

    mean: Tensor
    variance: Tensor

    def __call__(self, x: Tensor, level: Level, cond: Cond) -> Prediction:
        said = Eps().read(self.mean.expand_as(x), x, level)
        return Prediction(said.x0, said.eps, level, {"variance": self.variance.expand_as(x)})


class Cheat:
    """The truth about one x0, at any level."""

    parameterization = V()

    def __init__(self, x0: Tensor) -> None:
        self.x0 = x0

    def __call__(self, x: Tensor, level: Level, cond: Cond) -> Prediction:
        eps = (x - level.alpha.to(x) * self.x0) / level.sigma.to(x)
        return oracle(self.x0, eps)(x, level, cond)


@pytest.mark.parametrize("space", ["eps", "x0", "v", "flow", "native"])
def test_the_truth_has_no_loss(space: str) -> None:
    x0 = torch.rand(8, 1, 4, 4, dtype=torch.float64)
    losses = Simple(space=space)(Cheat(x0), CosineVP(), x0, {}, Draws(0, 0))
    assert losses.shape == (8,)
    assert float(losses.max()) < 1e-12


def test_a_new_network_has_loss_one_in_eps() -> None:
    net = UNet(UNetConfig(1, 1, 8, (1,), 1, (), norm_groups=4))
    denoiser = NetDenoiser(net, Eps(), IndexTime())
    x0 = torch.rand(256, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        loss = Simple()(denoiser, LinearVP(), x0, {}, Draws(0, 0)).mean()
    assert float(loss) == pytest.approx(1.0, abs=0.03)  # 16384 squares of standard normals: +- 0.011


def test_a_new_edm_network_has_loss_one_for_data_of_its_std() -> None:
    net = UNet(UNetConfig(1, 1, 8, (1,), 1, (), norm_groups=4))
    denoiser = NetDenoiser(net, EDM(0.5), IndexTime())
    x0 = 0.5 * torch.randn(256, 1, 8, 8)
    with torch.no_grad():
        loss = Simple(times=LogNormalSigma())(denoiser, VE(), x0, {}, Draws(0, 0)).mean()
    assert float(loss) == pytest.approx(1.0, abs=0.03)


def test_the_native_edm_loss_is_the_error_of_x0_over_c_out_squared() -> None:
    class Native:
        parameterization = EDM(0.5)
        __call__ = staticmethod(shrink)

    x0 = torch.randn(6, 1, 4, 4, dtype=torch.float64)
    simple = Simple(times=LogNormalSigma())
    losses = simple(Native(), VE(), x0, {}, Draws(1, 2))
    level, eps = simple.noise(VE(), x0, Draws(1, 2))
    sigma = level.sigma.flatten()
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    torch.testing.assert_close(losses, weight * denoising_error(shrink, x0, level, eps, space="x0"))


@pytest.mark.parametrize("weighting", [MinSNR(5.0), P2(1.0, 1.0), P2(0.5, 2.0)])
def test_weights_are_the_closed_forms_in_every_space(weighting: MinSNR | P2) -> None:
    x0 = torch.randn(16, 1, 4, 4, dtype=torch.float64)
    simple = Simple(space="eps", weighting=weighting)
    losses = simple(shrink, CosineVP(), x0, {}, Draws(0, 3))
    level, eps = simple.noise(CosineVP(), x0, Draws(0, 3))
    snr = level.snr.flatten()
    if isinstance(weighting, MinSNR):
        on_eps = torch.minimum(snr, torch.tensor(5.0)) / snr
    else:
        on_eps = 1 / (weighting.k + snr) ** weighting.gamma
    for space, factor in (("eps", 1), ("x0", snr), ("v", snr / (snr + 1))):
        native = denoising_error(shrink, x0, level, eps, space=space)
        torch.testing.assert_close(losses, on_eps * factor * native, rtol=1e-6, atol=0)


def test_min_snr_is_finite_at_both_ends() -> None:
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    assert MinSNR()(Level(one, zero, one)).item() == 1.0  # no signal
    assert MinSNR()(Level(zero, one, zero)).item() == 0.0  # no noise


def test_a_weighting_in_another_space_is_refused() -> None:
    with pytest.raises(UserError, match='space="eps"'):
        Simple(space="v", weighting=MinSNR())


def test_native_needs_a_network() -> None:
    with pytest.raises(UserError, match="no native space"):
        Simple()(shrink, CosineVP(), torch.zeros(2, 1, 4, 4), {}, Draws(0, 0))


def test_times_have_their_distributions() -> None:
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    rows = Rows(100)(CosineVP(100), u).t * 100
    assert torch.equal(rows.round().long().unique(), torch.arange(1, 101))
    torch.testing.assert_close(rows, rows.round())
    log_sigma = -LogNormalSigma()(VE(), u).half_logsnr
    assert log_sigma.mean().item() == pytest.approx(-1.2, abs=1e-3)
    assert log_sigma.std().item() == pytest.approx(1.2, abs=2e-3)
    t = LogitNormalTimes()(FlowMatching(), u).t
    assert t.median().item() == pytest.approx(0.5, abs=1e-3)
    assert (t.logit().std()).item() == pytest.approx(1.0, abs=2e-3)
    t = UniformTimes(0.1, 0.9)(FlowMatching(), u).t
    assert t.min().item() == pytest.approx(0.1, abs=1e-3) and t.max().item() == pytest.approx(0.9, abs=1e-3)


def test_vlb_is_the_bound_of_the_core() -> None:
    steps, schedule = 6, CosineVP(6)
    x0 = (torch.randint(0, 256, (1, 1, 4, 4)) / 127.5 - 1).double()
    generator = torch.Generator().manual_seed(3)
    total = prior_kl(x0, schedule(1.0))
    for row in range(steps, 0, -1):
        eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
        total = total + chain_term(shrink, schedule, steps, x0, torch.tensor([row]), eps, {}, "small")
    bits = bits_per_dim(shrink, x0, schedule, steps, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(total / math.log(2), bits)


def test_stratified_vlb_over_a_batch_of_t_images_is_the_sum_of_all_terms() -> None:
    steps, schedule = 6, CosineVP(6)
    x0 = (torch.randint(0, 256, (1, 1, 4, 4)) / 127.5 - 1).double().expand(steps, 1, 4, 4)
    losses = Vlb(steps, "small")(shrink, schedule, x0, {}, Draws(0, 5))
    draws = Draws(0, 5)
    rows = (draws.stratified(steps) * steps).floor().long() + 1
    assert sorted(rows.tolist()) == [1, 2, 3, 4, 5, 6]
    terms = chain_term(shrink, schedule, steps, x0, rows, draws.normal(x0), {}, "small")
    torch.testing.assert_close(losses.mean(), terms.sum())


def test_importance_sampling_keeps_the_expectation_and_lowers_the_variance() -> None:
    steps, schedule = 10, CosineVP(10)
    x0 = (torch.randint(0, 256, (1, 1, 8, 8)) / 127.5 - 1).double().expand(20, 1, 8, 8)
    history = LossHistory(steps, keep=10)
    weighted, plain = (
        Vlb(steps, "small", stratified=False, history=history),
        Vlb(steps, "small", stratified=False),
    )
    for step in range(20):
        weighted(shrink, schedule, x0, {}, Draws(0, step))
    assert bool((history.seen >= 10).all())
    a, b = (
        torch.cat([objective(shrink, schedule, x0, {}, Draws(1, step)) for step in range(300)])
        for objective in (weighted, plain)
    )
    assert a.std() < 0.5 * b.std()
    error = ((a.var() + b.var()) / len(a)).sqrt()
    assert abs(a.mean() - b.mean()) < 4 * error


def test_history_odds_are_the_root_mean_squares() -> None:
    history = LossHistory(steps=3, keep=2, floor=0.0)
    assert torch.equal(history.odds(), torch.full((3,), 1 / 3, dtype=torch.float64))
    rows = torch.tensor([1, 2, 3, 1, 2, 3, 1])
    history.record(rows, torch.tensor([9.0, 2.0, 0.0, 3.0, 4.0, 1.0, 4.0]))  # the first 9 is forgotten
    scale = torch.tensor([(16 + 9) / 2, (4 + 16) / 2, 1 / 2], dtype=torch.float64).sqrt()
    torch.testing.assert_close(history.odds(), scale / scale.sum())
    rows, odds = history.rows(torch.linspace(0, 0.999, 1001, dtype=torch.float64))
    torch.testing.assert_close(torch.bincount(rows)[1:] / 1001, history.odds().float(), atol=2e-3, rtol=0)
    torch.testing.assert_close(odds, history.odds()[rows - 1])
    again = LossHistory(steps=3, keep=2, floor=0.0)
    again.load_state_dict(history.state_dict())
    torch.testing.assert_close(again.odds(), history.odds())


def gradients(objective: Simple | Hybrid, x0: Tensor) -> tuple[Tensor, Tensor | None]:
    head = Head(torch.full((1,), 0.2, requires_grad=True), torch.zeros(1, requires_grad=True))
    objective(head, LinearVP(50, 1e-3, 0.2), x0, {}, Draws(0, 0)).mean().backward()
    assert head.mean.grad is not None
    return head.mean.grad, head.variance.grad


def test_hybrid_gives_the_mean_the_gradient_of_simple_alone() -> None:
    x0 = (torch.randint(0, 256, (50, 1, 4, 4)) / 127.5) - 1
    simple = Simple(times=Rows(50), space="eps")
    mean, none = gradients(simple, x0)
    hybrid_mean, variance = gradients(Hybrid(simple), x0)
    torch.testing.assert_close(hybrid_mean, mean, rtol=1e-6, atol=0)
    assert none is None and variance is not None and float(variance.abs()) > 0


def test_hybrid_weighs_the_sum_of_the_chain_by_one_thousandth() -> None:
    x0 = (torch.randint(0, 256, (50, 1, 4, 4)) / 127.5) - 1
    schedule, simple = LinearVP(50, 1e-3, 0.2), Simple(times=Rows(50), space="eps")
    head = Head(torch.full((1,), 0.2), torch.zeros(1))
    losses = Hybrid(simple)(head, schedule, x0, {}, Draws(0, 0))
    bound = Vlb(50)(head, schedule, x0, {}, Draws(0, 0))
    torch.testing.assert_close(losses, simple(head, schedule, x0, {}, Draws(0, 0)) + 1e-3 * bound)


def test_hybrid_needs_rows() -> None:
    with pytest.raises(UserError, match="steps of a chain"):
        Hybrid(Simple(times=UniformTimes()))


def gaussian(std: float, variance: dict[int, Tensor], steps: int) -> Denoiser:
    """The exact denoiser of N(0, std^2) data with one trainable raw variance for each row."""

    def denoise(x: Tensor, level: Level, cond: Cond) -> Prediction:
        gain = std**2 * level.alpha / ((std * level.alpha).square() + level.sigma.square())
        x0 = gain * x
        eps = (x - level.alpha * x0) / level.sigma
        rows = (level.t.flatten() * steps).round().long().tolist()
        raw = torch.stack([variance[row] for row in rows]).reshape(-1, 1, 1, 1)
        return Prediction(x0, eps, level, {"variance": raw.expand_as(x)})

    return denoise


@pytest.mark.parametrize(
    ("std", "known"), [(0.5, (1.000, 0.998, 0.984, 0.265)), (0.1, (0.985, 0.944, 0.646, 0.011))]
)
def test_a_trained_variance_finds_the_closed_form_on_a_gaussian(
    std: float, known: tuple[float, float, float, float]
) -> None:
    """f* = ln(v* / beta~) / ln(beta / beta~), v* the variance of x_(t-1) given x_t."""
    steps, schedule, rows = 1000, LinearVP(), (2, 5, 20, 502)
    raw = {row: torch.zeros((), dtype=torch.float64, requires_grad=True) for row in rows}
    denoiser = gaussian(std, raw, steps)
    index = torch.tensor(rows).repeat(64)
    x0, eps = (torch.randn(len(index), 1, 8, 8, dtype=torch.float64) for _ in range(2))
    optimizer = torch.optim.Adam(raw.values(), lr=0.2)
    for step in range(80):
        for group in optimizer.param_groups:
            group["lr"] = 0.2 * 0.93**step
        optimizer.zero_grad()
        chain_term(denoiser, schedule, steps, std * x0, index, eps, {}, freeze_mean=True).sum().backward()
        optimizer.step()
    bar = schedule.alphas_cumprod
    for row, value in zip(rows, known, strict=True):
        beta = 1 - bar[row - 1] / bar[row - 2]
        small = beta * (1 - bar[row - 2]) / (1 - bar[row - 1])
        before = bar[row - 2] * std**2 + 1 - bar[row - 2]
        best = before * beta / ((1 - beta) * before + beta)
        exact = float((best / small).log() / (beta / small).log())
        assert exact == pytest.approx(value, abs=6e-4)
        assert float((raw[row].detach() + 1) / 2) == pytest.approx(exact, abs=0.03), row
