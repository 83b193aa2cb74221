from __future__ import annotations

import pytest
import torch
from torch import nn

from noisette.errors import UserError
from noisette.metrics import kernel_distance
from noisette.metrics.kernel import squared_mmd


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_matches_the_double_sum_of_the_definition():
    a, b = normal(6, 3, 0), normal(6, 3, 1)

    def k(x: torch.Tensor, y: torch.Tensor) -> float:
        return (x.dot(y).item() / 3 + 1) ** 3

    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    within = sum(k(a[i], a[j]) + k(b[i], b[j]) for i, j in pairs) / 30
    across = sum(k(x, y) for x in a for y in b) / 36
    assert squared_mmd(a, b).item() == pytest.approx(within - 2 * across, rel=1e-12)


def test_is_unbiased():
    values = torch.stack([squared_mmd(normal(20, 4, 2 * i), normal(20, 4, 2 * i + 1)) for i in range(400)])
    assert values.mean().abs() < 3 * values.std() / 20
    assert (values < 0).any()


def test_shift_of_a_gaussian_in_expectation():
    # One dimension, k = (xy + 1)^3; for x, x' ~ N(0, 1) and y, y' ~ N(1, 1) the moments give
    # E k(x,x') = 1 + 3 = 4, E k(y,y') = 1 + 3 + 3*4 + 16 = 32, E k(x,y) = 1 + 3*2 = 7, so MMD^2 = 22.
    values = torch.stack(
        [squared_mmd(normal(500, 1, 2 * i), normal(500, 1, 2 * i + 1) + 1) for i in range(100)]
    )
    assert abs(values.mean().item() - 22) < 3 * values.std().item() / 10
    assert values.std().item() / 10 < 1.5


def test_agrees_with_torchmetrics_when_a_subset_is_everything():
    from torchmetrics.image.kid import KernelInceptionDistance

    real, fake = normal(60, 8, 0), normal(60, 8, 1) * 1.2
    peer = KernelInceptionDistance(feature=nn.Identity(), subsets=2, subset_size=60)
    peer.update(real, real=True)
    peer.update(fake, real=False)
    mean, std = kernel_distance(real, fake, subsets=2)
    assert mean == pytest.approx(peer.compute()[0].item(), rel=1e-10)
    assert std == pytest.approx(0, abs=1e-12)


def test_subsets_are_seeded_and_spread_around_the_whole():
    real, fake = normal(400, 4, 0), normal(400, 4, 1) + 0.3
    first = kernel_distance(real, fake, subset_size=100)
    assert first == kernel_distance(real, fake, subset_size=100)
    assert first != kernel_distance(real, fake, subset_size=100, seed=1)
    assert first.std > 0
    assert abs(first.mean - squared_mmd(real, fake).item()) < 3 * first.std / 10


def test_wrong_inputs_are_told():
    with pytest.raises(UserError, match="at least 2"):
        kernel_distance(torch.rand(1, 3), torch.rand(5, 3))
    with pytest.raises(UserError, match="size 3 and 4"):
        kernel_distance(torch.rand(5, 3), torch.rand(5, 4))
