from __future__ import annotations

import pytest
import torch

from noisette.errors import UserError
from noisette.metrics import copies


def pictures(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 48, generator=torch.Generator().manual_seed(seed))


def test_planted_copies_are_found_with_their_originals_and_nothing_else() -> None:
    training, drawn = pictures(400, 0), pictures(60, 1)
    planted = torch.tensor([3, 77, 390, 77])
    drawn[:4] = training[planted] + 0.01 * pictures(4, 2)
    found = copies(drawn, training)
    assert found.found.nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert found.index[:4].tolist() == planted.tolist()
    assert found.count == 3
    assert torch.allclose(found.distance[:4], 0.01 * pictures(4, 2).norm(dim=1).double(), rtol=1e-4)


def test_flat_pictures_are_near_to_everything_and_copy_nothing() -> None:
    training = 0.01 * pictures(200, 0)
    drawn = 0.01 * pictures(20, 1)
    assert copies(drawn, training).distance.max() < copies(pictures(20, 1), pictures(200, 0)).distance.min()
    assert not copies(drawn, training).found.any()


def test_distances_are_those_of_a_loop_and_do_not_depend_on_the_origin() -> None:
    training, drawn = pictures(80, 0), pictures(7, 1)
    found = copies(drawn, training, neighbours=5)
    for i, x in enumerate(drawn):
        exact = (training.double() - x.double()).norm(dim=1).sort()
        assert int(found.index[i]) == int(exact.indices[0])
        assert float(found.ratio[i]) == pytest.approx(
            float(exact.values[0] / (0.5 * exact.values[:5].mean()))
        )
    moved = copies(drawn + 1000, training + 1000, neighbours=5)
    assert torch.equal(moved.index, found.index)
    assert torch.allclose(moved.ratio, found.ratio, rtol=1e-3)


def test_what_cannot_be_compared_is_told() -> None:
    with pytest.raises(UserError, match="50 neighbours among 10"):
        copies(pictures(3, 0), pictures(10, 1))
    with pytest.raises(UserError, match=r"not \[3, 48\] with \[60, 40\]"):
        copies(pictures(3, 0), pictures(60, 1)[:, :40])


def test_a_picture_equal_to_all_its_neighbours_is_not_a_copy() -> None:
    same = torch.ones(60, 4)
    assert copies(same[:2], same).ratio.tolist() == [2.0, 2.0]
