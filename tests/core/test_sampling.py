"""The loop: levels, edits of x on the way, noise, and nothing left switched on between steps."""

from itertools import pairwise

import pytest
import torch

from noisette.core import Level, Prediction, last, prior, sample


def level(t: float, alpha: float, sigma: float) -> Level:
    return Level(*(torch.tensor(v, dtype=torch.float64) for v in (t, alpha, sigma)))


LEVELS = [level(1.0, 0.0, 1.0), level(0.5, 0.6, 0.8), level(0.2, 0.8, 0.6), level(0.0, 1.0, 0.0)]


class Recording:
    """A solver that moves x by one each step and counts its steps in its state."""

    def init(self):
        return 0

    def step(self, denoise, x, s, t, state, noise):
        return x + 1 + 0 * noise(x), denoise(x, s), state + 1


def zero(x, level, cond):
    return Prediction(torch.zeros_like(x), x, level)


def test_steps_walk_the_grid_without_computing_a_level_twice():
    steps = list(sample(zero, torch.zeros(1, 1), LEVELS, Recording()))
    assert [(s.s, s.t) for s in steps] == list(pairwise(LEVELS))
    assert [s.index for s in steps] == [0, 1, 2] and steps[0].total == 3
    assert steps[-1].x.item() == 3


def test_assigning_x_steers_the_trajectory():
    out = []
    for step in sample(zero, torch.zeros(1, 1), LEVELS, Recording()):
        step.x = step.x * 10
        out.append(step.x.item())
    assert out == [10, 110, 1110]


def test_gradients_are_off_inside_and_untouched_outside():
    weight = torch.ones(1, requires_grad=True)
    d = lambda x, level, cond: Prediction(x * weight, x, level)  # noqa: E731
    for step in sample(d, torch.zeros(1, 1), LEVELS, Recording()):
        assert torch.is_grad_enabled()
        assert not step.prediction.x0.requires_grad


def test_one_level_is_no_trajectory():
    with pytest.raises(ValueError, match="two levels"):
        next(sample(zero, torch.zeros(1, 1), LEVELS[:1], Recording()))


def test_last_runs_to_the_end():
    assert last(sample(zero, torch.zeros(1, 1), LEVELS, Recording())).item() == 3


def test_trap_5_the_prior_has_the_spread_of_its_level():
    noise = torch.ones(1, dtype=torch.float64)
    assert prior(noise, level(1, 0.6, 0.8)).item() == pytest.approx(1)
    assert prior(noise, level(1, 1.0, 80.0)).item() == pytest.approx(6401**0.5)
