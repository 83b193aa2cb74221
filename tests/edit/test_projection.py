"""What is known of a picture stays in it, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from noisette.core import Cond, Level, Prediction, last, prior, sample
from noisette.edit import colourised, enlarged, inpainted, projected
from noisette.errors import UserError
from noisette.metrics.gaussian import gaussian_denoiser
from noisette.schedules import CosineVP, trailing
from noisette.solvers import DDIM, MultistepConsistency

MASK = torch.zeros(1, 1, 8, 8)
MASK[..., 2:6, 3:] = 1
W = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(1, 3, 1, 1)
KNOWN = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1

CASES = {
    "inpainted": (inpainted(KNOWN, MASK), lambda x: x * (1 - MASK)),
    "colourised": (colourised((W * KNOWN).sum(1, keepdim=True)), lambda x: (W * x).sum(1, keepdim=True)),
    "enlarged": (enlarged(F.avg_pool2d(KNOWN, 4), 4), lambda x: F.avg_pool2d(x, 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_projection_is_the_nearest_picture_that_agrees(name: str) -> None:
    """It agrees, twice is once, and what it adds is orthogonal to all that could be added otherwise."""
    project, measure = CASES[name]
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found = project(x)
    torch.testing.assert_close(measure(found), measure(KNOWN))
    torch.testing.assert_close(project(found), found)
    other = project(torch.randn_like(x))
    assert ((found - x) * (other - found)).sum().abs().item() < 1e-9


@pytest.mark.parametrize("solver", [MultistepConsistency(), DDIM()], ids=["consistency", "ddim"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_drawn_agrees_with_what_is_known(name: str, solver) -> None:
    project, measure = CASES[name]
    levels = trailing(CosineVP(), 5)
    x = prior(torch.randn(2, 3, 8, 8, dtype=torch.float64), levels[0])
    drawn = last(sample(projected(gaussian_denoiser(0.0, 0.5), project), x, levels, solver))
    torch.testing.assert_close(measure(drawn), measure(KNOWN))
    assert not torch.allclose(drawn, KNOWN, atol=0.1)


def test_what_hangs_together_follows_what_is_known() -> None:
    """Two pixels that are always equal: the known one tells the other, though nothing puts it there."""

    def equal(x: Tensor, level: Level, cond: Cond) -> Prediction:
        a, g = level.alpha.to(x), level.sigma.to(x)
        mean = x.mean(3, keepdim=True).expand_as(x)
        x0 = a * mean / (a * a + g * g / 2)  # both pixels are one N(0, 1)
        return Prediction(x0, (x - a * x0) / g, level)

    known, mask = torch.full((1, 1, 1, 2), 1.5, dtype=torch.float64), torch.tensor([[[[0.0, 1.0]]]])
    levels = trailing(CosineVP(), 60)
    x = prior(torch.randn(500, 1, 1, 2, dtype=torch.float64), levels[0])
    drawn = last(sample(projected(equal, inpainted(known, mask)), x, levels, MultistepConsistency()))
    assert drawn[..., 1].mean().item() == pytest.approx(1.5, abs=0.1)
    assert drawn[..., 1].std().item() < 0.2


def test_pictures_that_do_not_fit_are_told() -> None:
    with pytest.raises(UserError, match="three channels"):
        colourised(torch.zeros(1, 1, 8, 8))(torch.zeros(1, 1, 8, 8))
    with pytest.raises(UserError, match="squares of 3"):
        enlarged(torch.zeros(1, 3, 2, 2), 3)(torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match="1 or more"):
        enlarged(torch.zeros(1, 3, 2, 2), 0)
