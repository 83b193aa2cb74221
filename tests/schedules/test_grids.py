"""Grids against the published ones, entry by entry."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from noisette.errors import UserError
from noisette.schedules import (
    VE,
    ContinuousLinearVP,
    FlowMatching,
    LinearVP,
    ScaledLinearVP,
    ZeroTerminalSNR,
    karras,
    leading,
    levels_at,
    linspace,
    quadratic,
    shifted,
    trailing,
    uniform_logsnr,
)


def rows(levels):
    return [round(level.t.item() * 1000 - 1) for level in levels[:-1]]


@pytest.mark.parametrize("n", [1, 7, 10, 50, 333, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_table_grids_equal_those_of_diffusers(n, spacing):
    grid = {"leading": leading, "trailing": trailing, "linspace": linspace}[spacing]
    peer = DDIMScheduler(timestep_spacing=spacing, steps_offset=0)
    peer.set_timesteps(n)
    ours = rows(grid(LinearVP(), n))
    if spacing == "linspace" and n == 1:
        assert ours == [999]  # theirs is row 0: one step from noise has to start at noise
    else:
        assert ours == peer.timesteps.tolist()


def test_trap_3_leading_never_reaches_the_last_row():
    assert rows(leading(ScaledLinearVP(), 50, offset=1))[:2] == [981, 961]
    assert rows(trailing(ScaledLinearVP(), 50))[0] == 999


def test_trap_2_the_next_level_is_the_next_entry_not_t_minus_a_stride():
    levels = rows(trailing(LinearVP(), 7))
    assert {a - b for a, b in pairwise(levels)} == {142, 143}


def test_quadratic_of_ten():
    assert rows(quadratic(LinearVP(), 10)) == [800, 632, 483, 355, 246, 158, 88, 39, 9, 0]


def test_karras_eighteen():
    expected = [80, 57.59, 40.79, 28.37, 19.35, 12.91, 8.401, 5.315, 3.257, 1.923, 1.088, 0.5853]
    expected += [0.2964, 0.1395, 0.0599, 0.0229, 0.0075, 0.002, 0]
    ours = [level.sigma.item() for level in karras(VE(), 18)]
    assert ours == pytest.approx(expected, rel=1e-2, abs=1e-4)


def test_karras_on_a_table_equals_diffusers():
    peer = EulerDiscreteScheduler(beta_start=1e-4, beta_end=0.02, use_karras_sigmas=True)
    peer.set_timesteps(12)
    ours = [(level.sigma / level.alpha).item() for level in karras(LinearVP(), 12)]
    np.testing.assert_allclose(ours, peer.sigmas.numpy(), rtol=1e-4)


@pytest.mark.parametrize("shift", [1.0, 2.0, 3.0])
def test_shifted_equals_the_grid_of_sd3(shift):
    peer = FlowMatchEulerDiscreteScheduler(shift=shift)
    peer.set_timesteps(sigmas=np.linspace(1, 1 / 9, 9))
    ours = [level.sigma.item() for level in shifted(FlowMatching(), 9, shift)]
    np.testing.assert_allclose(ours, peer.sigmas.numpy(), rtol=1e-6)


def test_shifted_spends_most_steps_at_high_noise():
    levels = shifted(FlowMatching(), 20)
    assert sum(level.sigma >= 0.9 for level in levels) == 6
    assert sum(level.sigma >= 0.9 for level in trailing(FlowMatching(), 20)) == 3


def test_trap_5_karras_levels_are_distinct_even_where_rows_would_repeat():
    t = [level.t.item() for level in karras(ScaledLinearVP(), 100)]
    assert len(set(t)) == 101
    assert len({round(1000 * v) for v in t}) < 101


@pytest.mark.parametrize("schedule", [LinearVP(), VE(), FlowMatching(), ContinuousLinearVP()], ids=repr)
def test_uniform_logsnr_is_uniform(schedule):
    if isinstance(schedule, FlowMatching):
        with pytest.raises(UserError, match="trailing"):
            uniform_logsnr(schedule, 9)
        return
    lam = torch.stack([level.half_logsnr for level in uniform_logsnr(schedule, 9)[:-1]])
    torch.testing.assert_close(lam.diff(), lam.diff().mean().expand(8), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("grid", [leading, trailing, linspace, quadratic, shifted, karras, uniform_logsnr])
@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_every_grid_descends_from_noise_to_the_data_in_n_steps(grid, n):
    levels = grid(LinearVP(), n)
    assert len(levels) == n + 1 or (grid is quadratic and n > 28)
    assert levels[-1].sigma == 0 and levels[-1].t == 0
    assert (torch.stack([level.t for level in levels]).diff() < 0).all()


@pytest.mark.parametrize("grid", [trailing, linspace, shifted, karras])
def test_continuous_schedules(grid):
    levels = grid(ContinuousLinearVP(), 6)
    assert levels[0].t == pytest.approx(1, abs=1e-9) and levels[-1].sigma == 0


def test_zero_terminal_snr_starts_at_no_signal_with_trailing():
    assert trailing(ZeroTerminalSNR(ScaledLinearVP()), 20)[0].alpha == 0
    with pytest.raises(UserError, match="trailing"):
        karras(ZeroTerminalSNR(ScaledLinearVP()), 20)


@pytest.mark.parametrize("grid", [leading, trailing, linspace, quadratic, shifted, karras, uniform_logsnr])
def test_no_steps_is_one_clear_line(grid):
    with pytest.raises(UserError, match="at least 1"):
        grid(LinearVP(), 0)


@pytest.mark.parametrize("grid", [leading, trailing, linspace, quadratic])
def test_more_steps_than_rows_is_one_clear_line(grid):
    with pytest.raises(UserError, match="1000 levels"):
        grid(LinearVP(), 1001)


@pytest.mark.parametrize("grid", [leading, quadratic])
def test_table_grids_need_a_table(grid):
    with pytest.raises(UserError, match="table"):
        grid(VE(), 10)


def test_levels_at_keeps_the_order():
    assert [level.t.item() for level in levels_at(LinearVP(), [0.5, 0.1, 0.9])] == [0.5, 0.1, 0.9]
