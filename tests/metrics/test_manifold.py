from __future__ import annotations

import pytest
import torch

from noisette.errors import UserError
from noisette.metrics import density_coverage, precision_recall


def cloud(n: int, centre: float, seed: int, d: int = 4) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + centre


def test_equal_sets_are_perfect():
    points = cloud(1500, 0, 0)
    assert precision_recall(points, points) == (1, 1)
    density, coverage = density_coverage(points, points)
    assert coverage == 1
    assert density == pytest.approx(6 / 5)  # a ball of k = 5 holds its centre and 5 neighbours


def test_equal_sets_of_copies_are_perfect_far_from_the_origin():
    points = cloud(4, 1e4, 0).repeat(5, 1)  # every radius is 0: only exact zeros count as inside
    assert precision_recall(points, points) == (1, 1)


def test_far_sets_share_nothing():
    real, fake = cloud(100, 0, 0), cloud(100, 1000, 1)
    assert precision_recall(real, fake) == (0, 0)
    assert density_coverage(real, fake) == (0, 0)


def test_a_dropped_mode_costs_recall_by_its_share():
    kept, dropped = cloud(300, 0, 0), cloud(100, 1000, 1)
    precision, recall = precision_recall(torch.cat([kept, dropped]), kept)
    assert (precision, recall) == (1, 0.75)
    assert density_coverage(torch.cat([kept, dropped]), kept)[1] == 0.75


def test_an_invented_mode_costs_precision_by_its_share():
    kept, invented = cloud(300, 0, 0), cloud(100, 1000, 1)
    assert precision_recall(kept, torch.cat([kept, invented])) == (0.75, 1)


def test_by_hand_on_a_line():
    real = torch.tensor([[0.0], [1.0], [3.0], [10.0]])  # k = 1: radii 1, 1, 2, 7
    fake = torch.tensor([[-1.5], [-0.5], [6.0], [18.0]])  # k = 1: radii 1, 1, 6.5, 12
    precision, recall = precision_recall(real, fake, k=1)
    assert precision == 0.5  # -0.5 lies in the ball of 0, 6.0 in that of 10; -1.5 and 18 lie in none
    assert recall == 1.0  # 0 in the ball of -0.5; 1 and 3 in that of 6 (from -0.5 to 12.5); 10 too
    density, coverage = density_coverage(real, fake, k=1)
    assert density == 0.5  # the balls of 0 and 10 hold one fake each: 2 / (1 * 4)
    assert coverage == 0.5


def test_wrong_inputs_are_told():
    with pytest.raises(UserError, match="more than 3 images"):
        precision_recall(torch.rand(3, 2), torch.rand(9, 2))
    with pytest.raises(UserError, match="size 2 and 5"):
        precision_recall(torch.rand(9, 2), torch.rand(9, 5))
