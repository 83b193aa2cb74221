"""Progressive distillation: one step that is two."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from noisette.core import Cond, Level, Prediction, last, prior, sample
from noisette.distill import picked, truncated_snr, two_steps
from noisette.metrics.gaussian import gaussian_denoiser
from noisette.schedules import CosineVP, FlowMatching, LinearVP, ZeroTerminalSNR, shifted, trailing
from noisette.solvers import DDIM

SCHEDULES = [CosineVP(), LinearVP(), ZeroTerminalSNR(LinearVP()), FlowMatching()]
NAMES = ["cosine", "linear", "ztsnr", "flow"]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=NAMES)
def test_halved_again_and_again_the_student_ends_where_its_teacher_does(schedule) -> None:
    """A student that learned exactly is its teacher over half the steps: from 16 to 1, at both ends too."""
    x = prior(torch.randn(64, 1, 2, 2, dtype=torch.float64), schedule(1.0))
    denoiser = gaussian_denoiser(0.3, 0.5)
    expected = last(sample(denoiser, x, trailing(schedule, 16), DDIM()))
    for steps in (8, 4, 2, 1):
        denoiser = exact_student(denoiser, trailing(schedule, 2 * steps))
        found = last(sample(denoiser, x, trailing(schedule, steps), DDIM()))
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def exact_student(teacher, fine: list[Level]):
    """Whom distillation would make of the teacher, if it erred nowhere."""

    def student(x: Tensor, level: Level, cond: Cond) -> Prediction:
        i = next(i for i, s in enumerate(fine) if float(s.t) == float(level.t))
        return two_steps(teacher, x, *fine[i : i + 3], cond)

    return student


@pytest.mark.parametrize("schedule", SCHEDULES, ids=NAMES)
def test_the_target_splits_the_sample_it_was_made_from(schedule) -> None:
    fine = trailing(schedule, 8)
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    for i in (0, 2, 6):
        truth = two_steps(gaussian_denoiser(0.3, 0.5), x, *fine[i : i + 3], {})
        torch.testing.assert_close(truth.x, x, rtol=1e-9, atol=1e-9)


def test_at_the_data_the_target_is_the_teachers_last_picture() -> None:
    """t'' = 0: nothing is divided by a difference that is gone. arXiv:2202.00512, Algorithm 2."""
    teacher, (s, m, t) = gaussian_denoiser(0.3, 0.5), trailing(CosineVP(), 2)
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    first = teacher(x, s, {})
    x_m = m.diffuse(first.x0, first.eps)
    torch.testing.assert_close(two_steps(teacher, x, s, m, t, {}).x0, teacher(x_m, m, {}).x0)


def test_each_sample_of_a_batch_may_stand_at_a_level_of_its_own() -> None:
    fine, teacher = shifted(FlowMatching(), 8), gaussian_denoiser(0.3, 0.5)
    x, index = torch.randn(3, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 6, 2])
    together = two_steps(teacher, x, *(picked(fine, index + i, x) for i in range(3)), {})
    for row, i in enumerate(index.tolist()):
        alone = two_steps(teacher, x[row : row + 1], *fine[i : i + 3], {})
        torch.testing.assert_close(together.x0[row : row + 1], alone.x0)


def test_errors_of_noisy_levels_count_once_and_of_clean_ones_by_snr() -> None:
    assert truncated_snr(CosineVP()(1.0)) == 1.0
    level = CosineVP()(0.05)
    assert truncated_snr(level) == (level.alpha / level.sigma) ** 2 > 1
