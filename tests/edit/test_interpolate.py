from __future__ import annotations

import math

import pytest
import torch

from noisette.edit import lerp, slerp


def orthonormal(batch: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    size = math.prod(shape)
    pairs = [torch.linalg.qr(torch.randn(size, 2, dtype=torch.float64)).Q.T for _ in range(batch)]
    a, b = torch.stack(pairs).unbind(1)
    return a.reshape(batch, *shape), b.reshape(batch, *shape)


@pytest.mark.parametrize("position", [0.0, 0.1, 0.5, 0.73, 1.0])
def test_an_orthonormal_pair_keeps_its_length_and_turns_by_the_angle(position: float) -> None:
    a, b = orthonormal(3, (1, 4, 4))
    between = slerp(a, b, position)
    torch.testing.assert_close(between.flatten(1).norm(dim=1), torch.ones(3, dtype=torch.float64))
    angle = position * math.pi / 2
    torch.testing.assert_close(between, math.cos(angle) * a + math.sin(angle) * b)


def test_the_ends_are_the_ends() -> None:
    a, b = torch.randn(2, 4, 1, 8, 8)
    for path in (slerp, lerp):
        torch.testing.assert_close(path(a, b, 0.0), a, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(path(a, b, 1.0), b, rtol=1e-6, atol=1e-6)


def test_angles_belong_to_images_not_to_the_batch() -> None:
    a, b = torch.randn(2, 5, 1, 4, 4)
    b[1] = 0.9 * a[1] + 0.1 * b[1]
    alone = torch.cat([slerp(a[k : k + 1], b[k : k + 1], 0.3) for k in range(5)])
    assert torch.equal(slerp(a, b, 0.3), alone)


def test_each_image_may_have_its_own_position() -> None:
    a, b = torch.randn(2, 3, 1, 4, 4)
    positions = torch.tensor([0.0, 0.25, 1.0])
    together = slerp(a, b, positions)
    for k, position in enumerate(positions.tolist()):
        torch.testing.assert_close(together[k : k + 1], slerp(a[k : k + 1], b[k : k + 1], position))


@pytest.mark.parametrize("scale", [1.0, 2.0, -1.0, 0.0])
def test_parallel_images_take_the_straight_path(scale: float) -> None:
    a = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(slerp(a, scale * a, 0.25), lerp(a, scale * a, 0.25), rtol=1e-3, atol=1e-3)


def test_noise_keeps_its_deviation_on_the_sphere_and_loses_it_on_the_line() -> None:
    a, b = torch.randn(2, 64, 1, 32, 32)
    assert slerp(a, b, 0.5).std() == pytest.approx(1.0, abs=0.01)
    assert lerp(a, b, 0.5).std() == pytest.approx(math.sqrt(0.5), abs=0.01)
