"""Schedules against their papers' numbers, and there and back."""

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from noisette.errors import UserError
from noisette.schedules import (
    VE,
    ContinuousCosineVP,
    ContinuousLinearVP,
    CosineVP,
    FlowMatching,
    LinearVP,
    ScaledLinearVP,
    ZeroTerminalSNR,
    betas_vp,
)

ALL = [
    LinearVP(),
    ScaledLinearVP(),
    CosineVP(),
    LinearVP(100, 1e-3, 0.2),
    ZeroTerminalSNR(ScaledLinearVP()),
    ContinuousLinearVP(),
    ContinuousCosineVP(),
    VE(),
    FlowMatching(),
    FlowMatching(3.0),
    betas_vp([0.1, 0.2, 0.3]),
]
VP = [s for s in ALL if not isinstance(s, VE | FlowMatching)]


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_there_and_back_through_half_logsnr(schedule):
    t = torch.linspace(0.0005, 0.9995, 777, dtype=torch.float64)
    level = schedule(t)
    back = schedule.at_half_logsnr(level.half_logsnr)
    for name in ("t", "alpha", "sigma"):
        torch.testing.assert_close(getattr(back, name), getattr(level, name), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_the_data_is_clean_and_noise_only_grows(schedule):
    assert schedule(0.0).alpha == 1 and schedule(0.0).sigma == 0
    lam = schedule(torch.linspace(0.001, 1, 400, dtype=torch.float64)).half_logsnr
    assert (lam.diff() < 0).all()


@pytest.mark.parametrize("schedule", VP, ids=repr)
@given(t=st.floats(0, 1))
def test_variance_is_preserved(schedule, t):
    level = schedule(t)
    assert (level.alpha**2 + level.sigma**2).item() == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (LinearVP(), {"beta_schedule": "linear"}),
        (ScaledLinearVP(), {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        (CosineVP(), {"beta_schedule": "squaredcos_cap_v2"}),
    ],
)
def test_tables_equal_those_of_diffusers(ours, theirs):
    peer = DDPMScheduler(**theirs).alphas_cumprod.double()
    torch.testing.assert_close(ours.alphas_cumprod, peer, rtol=2e-5, atol=1e-9)  # theirs is float32


def test_zero_terminal_snr_equals_diffusers_and_has_no_signal():
    peer = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=True
    ).alphas_cumprod.double()
    ours = ZeroTerminalSNR(ScaledLinearVP())
    torch.testing.assert_close(ours.alphas_cumprod[:-1], peer[:-1], rtol=2e-4, atol=1e-8)
    assert ours(1.0).alpha == 0 and ours(1.0).sigma == 1
    assert ours(0.9999).alpha > 0


def test_reference_end_points():
    linear, cosine = LinearVP().alphas_cumprod, CosineVP().alphas_cumprod
    assert linear[-1].item() == pytest.approx(4.036e-5, rel=1e-3)
    assert linear[499].item() == pytest.approx(0.0786, abs=1e-4)
    assert cosine[499].item() == pytest.approx(0.4938, abs=1e-4)
    torch.testing.assert_close(
        CosineVP().betas()[-3:], torch.tensor([0.5556, 0.75, 0.999], dtype=torch.float64), atol=1e-4, rtol=0
    )
    assert ScaledLinearVP().alphas_cumprod[-1].item() == pytest.approx(0.004660, abs=1e-6)


def test_trap_1_stable_diffusion_ends_with_signal_left():
    last = ScaledLinearVP()(1.0)
    assert last.snr.item() == pytest.approx(0.0047, abs=1e-4)
    assert (last.sigma / last.alpha).item() == pytest.approx(14.61, abs=0.01)


def test_trap_4_sigma_survives_where_bf16_would_lose_it():
    first = LinearVP()(0.001)
    assert (1 - LinearVP().alphas_cumprod[0].to(torch.bfloat16)) == 0
    assert first.sigma.dtype == torch.float64
    assert first.sigma.item() == pytest.approx(0.01, rel=1e-9)


def test_rows_are_at_their_index():
    schedule = LinearVP()
    rows = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    torch.testing.assert_close(schedule(rows).alpha ** 2, schedule.alphas_cumprod, rtol=1e-12, atol=0)


def test_flow_shift():
    level = FlowMatching(3.0)(0.5)
    assert level.sigma.item() == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))
    assert (level.alpha + level.sigma).item() == pytest.approx(1)


@given(st.lists(st.floats(-1, 2), max_size=5))
def test_betas_outside_the_unit_interval_are_refused(values):
    if values and all(0 < v < 1 for v in values):
        assert betas_vp(values).steps == len(values)
    else:
        with pytest.raises(UserError):
            betas_vp(values)
