"""Every solver on every kind of schedule converges at its order to the closed form for Gaussian data."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from noisette.core import Level, Schedule, last, sample
from noisette.metrics.gaussian import gaussian_denoiser, gaussian_moments
from noisette.schedules import VE, CosineVP, FlowMatching, LinearVP
from noisette.solvers import DDIM, DDPM, PLMS, DPMSolverPP, DPMSolverPPSingle, Euler, Heun, UniPC

MEAN, STD = 0.3, 0.5
STEPS = (20, 40, 80, 160)
SCHEDULES: dict[str, Schedule] = {
    "linear": LinearVP(),
    "cosine": CosineVP(),
    "ve": VE(),
    "flow": FlowMatching(),
}
Make = Callable[[Schedule], Any]

DETERMINISTIC: dict[str, tuple[Make, float]] = {
    "ddim": (lambda schedule: DDIM(), 1.0),
    "euler": (lambda schedule: Euler(), 1.0),
    "heun": (lambda schedule: Heun(), 2.0),
    "2m": (lambda schedule: DPMSolverPP(2), 2.0),
    "2s": (lambda schedule: DPMSolverPPSingle(schedule), 2.0),
    # Its first two steps are of lower order, at levels where they weigh next to nothing.
    "3m": (lambda schedule: DPMSolverPP(3), 3.0),
    "plms": (lambda schedule: PLMS(), 2.0),
    "unipc-1": (lambda schedule: UniPC(1), 2.0),
    # The corrector is one order above its predictor.
    "unipc-2": (lambda schedule: UniPC(2), 3.0),
    "unipc-2-bh1": (lambda schedule: UniPC(2, "bh1"), 3.0),
    "unipc-3": (lambda schedule: UniPC(3), 3.0),
}
STOCHASTIC: dict[str, tuple[Make, float]] = {
    "ddpm": (lambda schedule: DDPM(), 1.0),
    "ddpm-large": (lambda schedule: DDPM("large"), 1.0),
    "ddim-half": (lambda schedule: DDIM(0.5), 1.0),
    "2m-sde": (lambda schedule: DPMSolverPP(2, sde=True), 2.0),
    "3m-sde": (lambda schedule: DPMSolverPP(3, sde=True), 2.0),
    "dpmpp-sde": (lambda schedule: DPMSolverPPSingle(schedule, sde=True), 2.0),
}


@cache
def levels(schedule: str, steps: int) -> tuple[Level, ...]:
    """Even in log-SNR, away from both ends."""
    half_logsnrs = torch.linspace(-3, 3, steps + 1, dtype=torch.float64)
    return tuple(SCHEDULES[schedule].at_half_logsnr(half_logsnr) for half_logsnr in half_logsnrs)


def marginal_std(level: Level) -> Tensor:
    return ((STD * level.alpha).square() + level.sigma.square()).sqrt()


def exact_flow(x: Tensor, s: Level, t: Level) -> Tensor:
    """The probability flow keeps (x - alpha m) over the marginal deviation."""
    return t.alpha * MEAN + (x - s.alpha * MEAN) / marginal_std(s) * marginal_std(t)


def flow_error(solver: Any, path: tuple[Level, ...]) -> float:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64) * path[0].sigma
    end = last(sample(gaussian_denoiser(MEAN, STD), x, path, solver))
    return float((end - exact_flow(x, path[0], path[-1])).abs().max())


def std_error(solver: Any, path: tuple[Level, ...]) -> float:
    _, std = gaussian_moments(solver, path, MEAN, STD, float(marginal_std(path[0])))
    return abs(std - float(marginal_std(path[-1])))


def slope(errors: list[float]) -> float:
    """Least-squares order of convergence over `STEPS`."""
    x = torch.tensor([-math.log(n) for n in STEPS], dtype=torch.float64)
    y = torch.tensor(errors, dtype=torch.float64).log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / x.square().sum())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_deterministic_solvers(name: str, schedule: str) -> None:
    make, order = DETERMINISTIC[name]
    solver = make(SCHEDULES[schedule])
    measured = slope([flow_error(solver, levels(schedule, n)) for n in STEPS])
    assert measured > order - (0.1 if order < 3 else 0.3)


@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if name != "3m"])
def test_order_of_inversion(name: str) -> None:
    """The same solver on the flipped grid carries data to noise at the same order.

    Third-order rules start at the data with a step of first order here, which holds 3M to second.
    """
    make, order = DETERMINISTIC[name]
    solver = make(SCHEDULES["linear"])
    measured = slope([flow_error(solver, levels("linear", n)[::-1]) for n in STEPS])
    assert measured > order - (0.1 if order < 3 else 0.3)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", STOCHASTIC)
def test_order_of_stochastic_solvers(name: str, schedule: str) -> None:
    """The exact deviation of the output, noise by noise, against that of the marginal."""
    make, order = STOCHASTIC[name]
    solver = make(SCHEDULES[schedule])
    measured = slope([std_error(solver, levels(schedule, n)) for n in STEPS])
    assert measured > order - 0.1


def test_first_order_dpm_solver_is_ddim() -> None:
    path = levels("linear", 20)
    for sde, eta in ((False, 0.0), (True, 1.0)):
        a = gaussian_moments(DPMSolverPP(1, sde=sde), path, MEAN, STD)
        assert a == pytest.approx(gaussian_moments(DDIM(eta), path, MEAN, STD), rel=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_singlestep_sde_keeps_one_noise_path(schedule: str) -> None:
    """With a constant x0 the two half steps compose to one DDIM step of eta = 1 exactly."""
    path = levels(schedule, 3)
    solver = DPMSolverPPSingle(SCHEDULES[schedule], sde=True)
    # Data of no spread: the denoiser says the same x0 everywhere.
    a = gaussian_moments(solver, path, MEAN, 1e-9)
    assert a == pytest.approx(gaussian_moments(DDIM(1.0), path, MEAN, 1e-9), rel=1e-6)
