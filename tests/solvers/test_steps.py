"""What every solver keeps: exactness on constants, the ends of schedules, its number of calls, inversion."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from noisette.core import (
    Cond,
    Denoiser,
    Eps,
    IndexTime,
    Level,
    Prediction,
    Step,
    last,
    oracle,
    prior,
    sample,
)
from noisette.errors import UserError
from noisette.metrics.gaussian import gaussian_denoiser, gaussian_moments
from noisette.schedules import (
    VE,
    CosineVP,
    FlowMatching,
    LinearVP,
    ZeroTerminalSNR,
    karras,
    leading,
    linspace,
    quadratic,
    trailing,
)
from noisette.solvers import (
    DDIM,
    DDPM,
    PLMS,
    SOLVER_NAMES,
    Churn,
    DPMSolverPP,
    Euler,
    EulerAncestral,
    NoiseStreams,
    UniPC,
    solver_named,
)

SCHEDULE = LinearVP()
SHAPE = (3, 8, 8)
ANCESTRAL = ("ddpm", "ddpm-large", "euler-ancestral", "dpmpp-2m-sde", "dpmpp-sde", "consistency", "lcm")
DETERMINISTIC = tuple(name for name in SOLVER_NAMES if name not in ANCESTRAL)
# Calls for N steps that end at the data.
CALLS = {"heun": "2N-1", "dpmpp-2s": "2N-1", "dpmpp-sde": "2N-1", "plms": "N+1"}


def curved(x: Tensor, level: Level, cond: Cond) -> Prediction:
    """A denoiser that is neither linear nor constant in time."""
    row = IndexTime()(level).to(x.dtype)
    return Eps().read(torch.tanh(0.6 * x + torch.sin(row / 300)), x, level)


class Counted:
    """A denoiser, and noise, that count their calls."""

    def __init__(self, denoiser: Denoiser = curved) -> None:
        self.denoiser = denoiser
        self.calls = 0
        self.draws = 0

    def __call__(self, x: Tensor, level: Level, cond: Cond) -> Prediction:
        self.calls += 1
        return self.denoiser(x, level, cond)

    def noise(self, like: Tensor) -> Tensor:
        self.draws += 1
        return torch.randn_like(like)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("grid", [trailing, linspace, quadratic, karras])
def test_trap_2_the_next_level_is_the_next_entry_of_the_grid(name: str, grid: Any) -> None:
    """With x0 and eps known, every deterministic solver stands exactly on the grid's next level."""
    x0, eps = torch.randn(2, 1, *SHAPE, dtype=torch.float64)
    levels = grid(SCHEDULE, 7)
    steps = sample(oracle(x0, eps), levels[0].diffuse(x0, eps), levels, solver_named(name, SCHEDULE))
    for i, step in enumerate(steps):
        assert step.t is levels[i + 1]
        torch.testing.assert_close(step.x, levels[i + 1].diffuse(x0, eps), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 50])
@pytest.mark.parametrize("name", SOLVER_NAMES)
def test_number_of_network_calls(name: str, n: int) -> None:
    counted = Counted()
    x = torch.randn(1, *SHAPE)
    steps = sample(counted, x, leading(SCHEDULE, n), solver_named(name, SCHEDULE), noise=counted.noise)
    assert last(steps).isfinite().all()
    expected = {"N": n, "2N-1": 2 * n - 1, "N+1": n + 1 if n > 1 else 1}[CALLS.get(name, "N")]
    assert counted.calls == expected


def test_trap_6_plms_makes_51_calls_in_50_steps() -> None:
    counted = Counted()
    last(sample(counted, torch.randn(1, *SHAPE), leading(SCHEDULE, 50), PLMS()))
    assert counted.calls == 51


@pytest.mark.parametrize("name", SOLVER_NAMES)
def test_trap_10_no_noise_at_the_last_step(name: str) -> None:
    """Whatever happened before, the last step returns the predicted x0 and draws nothing."""
    x0, eps = torch.randn(2, 2, *SHAPE)
    counted = Counted(oracle(x0, eps))
    levels = trailing(SCHEDULE, 5)
    steps = sample(counted, eps, levels, solver_named(name, SCHEDULE), noise=counted.noise)
    draws = [counted.draws for _ in steps]
    assert draws[-1] == draws[-2]
    assert (draws[0] > 0) == (name in ANCESTRAL)
    end = last(sample(counted, eps, levels, solver_named(name, SCHEDULE), noise=counted.noise))
    torch.testing.assert_close(end, x0, rtol=1e-5, atol=1e-5)


def test_trap_10_a_learned_variance_is_not_used_at_the_last_step() -> None:
    def learned(x: Tensor, level: Level, cond: Cond) -> Prediction:
        return Prediction(x, torch.zeros_like(x), level, {"variance": torch.full_like(x, 1.5)})

    s = SCHEDULE(torch.tensor([0.001, 0.5]).reshape(2, 1, 1, 1))
    t = SCHEDULE(torch.tensor([0.0, 0.4]).reshape(2, 1, 1, 1))
    x = torch.randn(2, *SHAPE)
    y, _, _ = DDPM("learned").step(lambda x, level: learned(x, level, {}), x, s, t, None, torch.randn_like)
    torch.testing.assert_close(y[0], x[0])
    assert (y[1] - t.alpha[1].float() * x[1]).std() > 0.1


@pytest.mark.parametrize(("raw", "variance"), [(-1.0, "small"), (1.0, "large")])
def test_learned_variance_reaches_from_small_to_large(raw: float, variance: Any) -> None:
    def learned(x: Tensor, level: Level, cond: Cond) -> Prediction:
        prediction = curved(x, level, cond)
        return Prediction(prediction.x0, prediction.eps, level, {"variance": torch.full_like(x, raw)})

    x, levels = torch.randn(2, *SHAPE, dtype=torch.float64), leading(SCHEDULE, 10)
    a = last(sample(learned, x, levels, DDPM("learned"), noise=NoiseStreams([1, 2])))
    b = last(sample(learned, x, levels, DDPM(variance), noise=NoiseStreams([1, 2])))
    torch.testing.assert_close(a, b)


def test_euler_is_ddim_and_euler_ancestral_is_ddim_with_eta() -> None:
    """The update of k-diffusion, written out in x / alpha and sigma / alpha."""
    s, t = SCHEDULE(0.7), SCHEDULE(0.4)
    x, z = torch.randn(2, 1, *SHAPE, dtype=torch.float64)
    p = curved(x, s, {})
    high, low = s.sigma / s.alpha, t.sigma / t.alpha
    for solver, eta in ((Euler(), 0.0), (EulerAncestral(0.6), 0.6), (EulerAncestral(), 1.0)):
        up = eta * (low**2 * (high**2 - low**2) / high**2).sqrt()
        down = (low**2 - up**2).sqrt()
        expected = t.alpha * (x / s.alpha + (down - high) * p.eps + up * z)
        denoise = lambda x, level: curved(x, level, {})  # noqa: E731
        y, _, _ = solver.step(denoise, x, s, t, None, lambda like: z)
        torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("n", [1, 2, 3, 12])
@pytest.mark.parametrize("name", SOLVER_NAMES)
@pytest.mark.parametrize("schedule", [ZeroTerminalSNR(LinearVP()), FlowMatching()], ids=["ztsnr", "flow"])
def test_start_without_any_signal(name: str, schedule: Any, n: int) -> None:
    """alpha = 0 at the first level: finite, and of the right mean from the first step on."""
    levels = trailing(schedule, n)
    assert float(levels[0].alpha) == 0
    mean, std = gaussian_moments(solver_named(name, schedule), levels, 0.3, 0.5)
    assert mean == pytest.approx(0.3, abs=1e-3 if n < 12 else 0.05)
    assert math.isfinite(std)


@pytest.mark.parametrize("name", SOLVER_NAMES)
def test_levels_of_its_own_for_each_sample(name: str) -> None:
    """A batch whose samples walk different grids equals the samples walking alone."""
    grids = [leading(SCHEDULE, 6), karras(SCHEDULE, 6)]
    rows = [
        [Level(*(v[None] for v in (level.t, level.alpha, level.sigma))) for level in grid] for grid in grids
    ]
    both = [Level.concatenate(pair).per_sample(torch.empty(2, *SHAPE)) for pair in zip(*rows, strict=True)]
    x, solver = torch.randn(2, *SHAPE, dtype=torch.float64), solver_named(name, SCHEDULE)
    together = last(sample(curved, x, both, solver, noise=NoiseStreams([5, 6])))
    for i, grid in enumerate(grids):
        alone = last(sample(curved, x[i : i + 1], grid, solver, noise=NoiseStreams([5 + i])))
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("name", SOLVER_NAMES)
def test_state_stays_float32_and_a_repeated_level_changes_nothing(name: str) -> None:
    levels = leading(SCHEDULE, 6)
    repeated = [*levels[:3], *levels[2:]]
    x, solver = torch.randn(1, *SHAPE), solver_named(name, SCHEDULE)
    a = last(sample(curved, x, levels, solver, noise=NoiseStreams([5])))
    b = last(sample(curved, x, repeated, solver, noise=NoiseStreams([5])))
    assert a.dtype == b.dtype == torch.float32
    assert b.isfinite().all()
    # PLMS counts steps, UniPC corrects once more, dpmpp-sde draws noise for its empty half steps, and
    # consistency for every step.
    if name not in ("plms", "unipc", "unipc-3", "dpmpp-sde", "consistency", "lcm"):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver", [DPMSolverPP(3), UniPC(3), PLMS()])
def test_what_the_caller_assigns_is_where_the_next_step_starts(solver: Any) -> None:
    """Multistep memory holds predictions, never x: a steered trajectory stays steered."""
    x0, other, eps = torch.randn(3, 1, *SHAPE, dtype=torch.float64)
    levels = leading(SCHEDULE, 8)
    shift = other - x0
    step: Step
    for step in sample(
        lambda x, level, cond: Prediction((x - level.sigma * eps) / level.alpha, eps, level),
        levels[0].diffuse(x0, eps),
        levels,
        solver,
    ):
        if step.index == 6:
            step.x = step.x + step.t.alpha * shift
    torch.testing.assert_close(step.x, other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DDIM(1.5),
        lambda: DDIM(-0.1),
        lambda: DDIM(1.0, "medium"),
        lambda: DPMSolverPP(4),
        lambda: UniPC(0),
        lambda: UniPC(2, "bh3"),
        lambda: Churn(VE(), -1.0),
    ],
)
def test_impossible_settings_are_refused_in_one_line(make: Any) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", SOLVER_NAMES)
def test_trap_30_an_image_does_not_depend_on_its_batch(name: str) -> None:
    solver, levels = solver_named(name, SCHEDULE), leading(SCHEDULE, 8)

    def draw(seeds: list[int]) -> Tensor:
        noise = NoiseStreams(seeds)
        return last(sample(curved, prior(noise.initial(SHAPE), levels[0]), levels, solver, noise=noise))

    together = draw([3, 4, 5])
    for i, seed in enumerate((3, 4, 5)):
        assert torch.equal(together[i], draw([seed])[0])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_where_hardly_any_signal_is_left_a_small_error_stays_small(name: str) -> None:
    """The cosine table ends at sigma / alpha = 20,000; what a network gets wrong must not grow by that."""
    levels = trailing(CosineVP(), 12)

    def imperfect(x: Tensor, level: Level, cond: Cond) -> Prediction:
        exact = gaussian_denoiser(0.0, 0.5)(x, level, cond)
        return exact.with_x0(exact.x0 + 0.01 * torch.sin(300 * level.t) * torch.cos(5 * x))

    x = torch.randn(500, 1, dtype=torch.float64)
    drawn = last(sample(imperfect, x, levels, solver_named(name, CosineVP())))
    assert 0.35 < drawn.std().item() < 0.6
    assert drawn.abs().max().item() < 3
