"""The closed-form table of DDIM and DDPM on Gaussian data, and the exact denoiser behind it."""

from __future__ import annotations

import pytest
import torch

from noisette.core import last, sample
from noisette.metrics.gaussian import gaussian_denoiser, gaussian_moments, gaussian_std_ratio
from noisette.schedules import LinearVP, leading, quadratic
from noisette.solvers import DDIM, DDPM

# Output std over true std on the linear schedule, by std of the data and number of steps:
# eta = 0, eta = 1 (small variance), large variance, and eta = 0 on the quadratic grid.
TABLE = {
    (0.5, 10): (0.7483, 0.6665, 1.1781, 0.8490),
    (0.5, 20): (0.8675, 0.7829, 1.0881, 0.9256),
    (0.5, 50): (0.9449, 0.8882, 1.0345, 0.9705),
    (0.5, 100): (0.9720, 0.9365, 1.0170, 0.9854),
    (0.5, 1000): (0.9970, 0.9922, 1.0015, 0.9975),
    (0.1, 10): (0.3678, 0.2909, 3.2381, 0.7655),
    (0.1, 20): (0.5558, 0.4710, 1.8826, 0.8777),
    (0.1, 50): (0.7835, 0.6846, 1.2788, 0.9462),
    (0.1, 100): (0.8832, 0.7936, 1.1289, 0.9694),
    (0.1, 1000): (0.9832, 0.9631, 1.0077, 0.9839),
}


@pytest.mark.parametrize(("std", "steps"), TABLE)
def test_closed_form_table(std: float, steps: int) -> None:
    schedule = LinearVP()
    uniform, squares = leading(schedule, steps), quadratic(schedule, steps)
    cells = [gaussian_std_ratio(solver, uniform, std) for solver in (DDIM(), DDPM(), DDPM("large"))]
    cells.append(gaussian_std_ratio(DDIM(), squares, std))
    assert cells == pytest.approx(TABLE[std, steps], abs=1e-4)


def test_denoiser_is_the_posterior_mean() -> None:
    """E[x0 | x] of many draws, in a thin slab of x."""
    level = LinearVP()(0.3)
    x0 = 0.4 + 0.5 * torch.randn(200_000, dtype=torch.float64)
    x = level.diffuse(x0, torch.randn_like(x0))
    near = (x - 0.8).abs() < 0.02
    prediction = gaussian_denoiser(0.4, 0.5)(torch.tensor(0.8, dtype=torch.float64), level, {})
    assert float(prediction.x0) == pytest.approx(float(x0[near].mean()), abs=0.03)
    assert float(prediction.x) == pytest.approx(0.8)


def test_moments_agree_with_random_draws() -> None:
    levels = leading(LinearVP(), 10)
    mean, std = gaussian_moments(DDPM("large"), levels, 0.3, 0.5)
    x = last(sample(gaussian_denoiser(0.3, 0.5), torch.randn(50_000), levels, DDPM("large")))
    assert float(x.mean()) == pytest.approx(mean, abs=0.02)
    assert float(x.std()) == pytest.approx(std, abs=0.02)
