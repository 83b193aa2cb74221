"""The solver of consistency models: jump, noise again, jump."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from noisette.core import Cond, Consistency, Level, Prediction, last, prior, sample
from noisette.errors import UserError
from noisette.schedules import VE, CosineVP, FlowMatching, karras, trailing
from noisette.solvers import MultistepConsistency, NoiseStreams


def exact(mean: float, std: float):
    """The end of the probability flow of N(mean, std^2), from anywhere on it."""

    def jump(x: Tensor, level: Level, cond: Cond) -> Prediction:
        spread = ((level.alpha * std).square() + level.sigma.square()).sqrt()
        x0 = (mean + std * (x - level.alpha * mean) / spread).to(x.dtype)
        return Prediction(x0, ((x - level.alpha * x0) / level.sigma).to(x.dtype), level)

    return jump


@pytest.mark.parametrize("schedule", [CosineVP(), FlowMatching()], ids=["cosine", "flow"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_exact_jump_draws_the_data_in_any_number_of_steps(schedule, n: int) -> None:
    levels = trailing(schedule, n)
    x = prior(torch.randn(40_000, 1, dtype=torch.float64), levels[0])
    drawn = last(sample(exact(0.3, 0.5), x, levels, MultistepConsistency()))
    assert drawn.mean().item() == pytest.approx(0.3, abs=0.01)
    assert drawn.std().item() == pytest.approx(0.5, abs=0.01)


def test_noise_is_added_only_beyond_what_the_network_takes_for_the_data() -> None:
    """Algorithm 1: x at tau has variance tau^2 - sigma_min^2 more than the jump, which is at sigma_min."""
    schedule = VE(0.1, 10.0)
    levels = karras(schedule, 3)
    nothing = lambda x, level, cond: Prediction(torch.zeros_like(x), x / level.sigma, level)  # noqa: E731
    x = torch.randn(50_000, 1, dtype=torch.float64)
    steps = [step.x for step in sample(nothing, x, levels, MultistepConsistency(0.1))]
    expected = (levels[1].sigma.square() - 0.01).sqrt().item()
    assert steps[0].std().item() == pytest.approx(expected, rel=0.02)
    # The last level of the grid is sigma_min itself: nothing is added there, nor at the data.
    assert steps[1].abs().max().item() < 1e-6 and steps[2].abs().max().item() == 0


def test_a_step_towards_noise_is_refused() -> None:
    levels = trailing(CosineVP(), 4)[::-1]
    with pytest.raises(UserError, match="cannot invert"):
        last(sample(exact(0, 1), torch.randn(1, 1), levels[1:], MultistepConsistency()))


def test_pictures_depend_on_their_own_seed_alone() -> None:
    levels = trailing(CosineVP(), 3)
    jump = exact(0.0, 0.5)

    def draw(seeds: list[int]) -> Tensor:
        noise = NoiseStreams(seeds)
        return last(
            sample(
                jump, prior(noise.initial((1, 4, 4)), levels[0]), levels, MultistepConsistency(), noise=noise
            )
        )

    assert torch.equal(draw([1, 2])[1], draw([2])[0])


@pytest.mark.parametrize("raw", [0.0, 1e3])
def test_a_consistency_network_leaves_the_boundary_as_it_is_bit_for_bit(raw: float) -> None:
    """f(x, sigma_min) = x, whatever the network says. arXiv:2303.01469, Eq. 5."""
    reads, x = Consistency(0.5, 0.002), torch.randn(3, 1, 4, 4)
    for sigma in (0.002, 0.001, 0.0):
        level = Level(*(torch.tensor(v, dtype=torch.float64) for v in (0.1, 1.0, sigma)))
        assert torch.equal(reads.read(torch.full_like(x, raw), x, level).x0, x)


def test_a_consistency_network_is_scaled_as_its_paper_says() -> None:
    """c_skip and c_out at some level, and the split of x kept on every schedule."""
    reads, x, raw = Consistency(0.5, 0.002), *torch.randn(2, 1, 1, 4, 4, dtype=torch.float64)
    tau = 0.7
    level = Level(*(torch.tensor(v, dtype=torch.float64) for v in (0.5, 1.0, tau)))
    skip, out = 0.25 / ((tau - 0.002) ** 2 + 0.25), 0.5 * (tau - 0.002) / (tau**2 + 0.25) ** 0.5
    torch.testing.assert_close(reads.read(raw, x, level).x0, skip * x + out * raw)
    for schedule in (CosineVP(), FlowMatching(), VE()):
        for t in (1e-4, 0.3, 1.0):
            at = schedule(t)
            found = reads.read(raw, x, at)
            torch.testing.assert_close(found.x, x, rtol=1e-9, atol=1e-9)
            truth = Prediction(x, raw, at)
            again = reads.read(reads.target(x, raw, at), truth.x, at)
            if float(at.sigma) > 0.002 * float(at.alpha):
                torch.testing.assert_close(again.x0, x, rtol=1e-7, atol=1e-7)
