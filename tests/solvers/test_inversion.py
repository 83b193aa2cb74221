"""From data to noise and back, and a mixture of Gaussians whose denoiser is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from noisette.core import Cond, Level, Prediction, last, sample
from noisette.metrics.gaussian import gaussian_denoiser
from noisette.schedules import VE, FlowMatching, LinearVP, karras, leading, trailing
from noisette.solvers import DDIM, DPMSolverPP, Heun, UniPC, solver_named

DETERMINISTIC = (
    "ddim",
    "euler",
    "heun",
    "dpmpp-2m",
    "dpmpp-2s",
    "dpmpp-3m",
    "plms",
    "unipc",
    "unipc-3",
)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize(
    "schedule", [LinearVP(), FlowMatching(), VE(sigma_max=20.0)], ids=["vp", "flow", "ve"]
)
def test_inversion_from_the_data_and_back(name: str, schedule: Any) -> None:
    """From sigma = 0 up to noise and down again; the way back shrinks with the step."""
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)
    errors = []
    for n in (10, 40):
        levels = (karras if isinstance(schedule, VE) else trailing)(schedule, n)[1:]
        solver = solver_named(name, schedule)
        code = last(sample(gaussian_denoiser(0.2, 0.5), x, levels[::-1], solver))
        back = last(sample(gaussian_denoiser(0.2, 0.5), code, levels, solver))
        errors.append(float((back - x).abs().max()))
    assert math.isfinite(errors[0])
    assert errors[1] < 0.5 * errors[0] or errors[1] < 1e-3


def ring(x: Tensor, level: Level, cond: Cond) -> Prediction:
    """The exact denoiser of 8 Gaussians of std 0.1 on a circle of radius 0.9; x is [B, 2]."""
    gap = x[:, None] - level.alpha * CENTRES
    variance = (0.1 * level.alpha).square() + level.sigma.square()
    weight = (-gap.square().sum(-1) / (2 * variance)).softmax(-1)[..., None]
    pull = (weight * gap).sum(1)
    x0 = (weight * CENTRES).sum(1) + level.alpha * 0.1**2 / variance * pull
    return Prediction(x0, level.sigma / variance * pull, level)


ANGLES = torch.arange(8, dtype=torch.float64) * math.pi / 4
CENTRES = 0.9 * torch.stack([ANGLES.cos(), ANGLES.sin()], dim=-1)


def test_ddim_inversion_on_a_ring_of_gaussians() -> None:
    """Round-trip error falls with the square of the steps in MSE, and few steps shrink the code."""
    x = CENTRES[torch.randint(8, (1000,))] + 0.1 * torch.randn(1000, 2, dtype=torch.float64)
    known = {10: (1.0e-2, 0.647), 20: (3.4e-3, 0.757), 50: (9.4e-4, 0.875)}
    for n, (mse, std) in known.items():
        levels = leading(LinearVP(), n)
        code = last(sample(ring, x, levels[::-1], DDIM()))
        back = last(sample(ring, code, levels, DDIM()))
        assert float((back - x).square().mean()) == pytest.approx(mse, rel=0.25)
        assert float(code.std()) == pytest.approx(std, rel=0.05)


def test_unipc_beats_dpmpp_2m_on_a_ring_of_gaussians() -> None:
    """At equal calls, against a fine solution."""
    schedule, x = VE(), 80 * torch.randn(200, 2, dtype=torch.float64)

    def end(solver: Any, n: int) -> Tensor:
        return last(sample(ring, x, karras(schedule, n, sigma_min=0.02)[:-1], solver))

    truth = end(Heun(), 201)
    for n in (15, 20):
        errors = [float((end(solver, n) - truth).square().mean()) for solver in (UniPC(), DPMSolverPP())]
        assert errors[0] < errors[1]
