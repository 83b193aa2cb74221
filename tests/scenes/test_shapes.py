"""The signed distances are right at known points, of unit slope, and convex where they are said to be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from noisette.scenes.scene import MOTIONS, POSES, SHAPES, Object, Scene, motions_of
from noisette.scenes.shapes import CONVEX, FAMILIES, PARTS, RADIUS, footprint, gradient, half_height
from noisette.scenes.surface import signed_distance

FAMILY_SIZES = [PARTS[s][:2] for s in ("capsule", "cube", "cylinder", "cone", "torus")]
by_family = pytest.mark.parametrize("family, size", FAMILY_SIZES)


def points(count: int, seed: int = 0) -> Tensor:
    return torch.rand((3, count), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 4 - 2


def sizes(size: tuple[float, float, float], count: int) -> Tensor:
    return torch.tensor(size, dtype=torch.float64)[:, None].expand(3, count)


@pytest.mark.parametrize(
    "shape, point, expected",
    [
        ("sphere", (0, 0, 3), 2.0),
        ("sphere", (0, 0, 0), -1.0),
        ("cube", (0, 0, 2), 1.2),
        ("cube", (0, 0, 0), -0.8),
        ("cube", (1.8, 0, 1.8), 2**0.5 * (1.8 - 0.72) - 0.08),
        ("cylinder", (2, 0, 0), 1.25),
        ("cylinder", (0, 0, -2), 1.15),
        ("cone", (0, 0, 2), 1.0),
        ("cone", (0, 0, -2), 1.0),
        ("torus", (0, 0, 0), 0.72 - 0.28),
        ("torus", (0, 0.72, 1), 1 - 0.28),
        ("capsule", (0, 0, 2), 2 - 1.1),
        ("capsule", (1, 0, 0.3), 0.5),
    ],
)
def test_known_distances(shape: str, point: tuple[float, float, float], expected: float) -> None:
    family, size, _ = PARTS[shape]
    p = torch.tensor(point, dtype=torch.float64)[:, None]
    assert FAMILIES[family](p, sizes(size, 1)).item() == pytest.approx(expected, abs=1e-12)


@by_family
def test_the_slope_is_one_and_a_step_along_it_lands_on_the_surface(family: int, size: tuple) -> None:
    p = points(4000).requires_grad_()
    distance = FAMILIES[family](p, sizes(size, 4000))
    (slope,) = torch.autograd.grad(distance.sum(), p)
    outside = distance.detach() > 1e-3
    assert torch.allclose(slope.norm(dim=0)[outside], torch.ones(()).double(), atol=1e-9)
    landed = (p - distance * slope).detach()
    assert FAMILIES[family](landed, sizes(size, 4000))[outside].abs().max() < 1e-9


@by_family
def test_gradient_is_the_normal(family: int, size: tuple) -> None:
    p = points(2000).requires_grad_()
    distance = FAMILIES[family](p, sizes(size, 2000))
    (slope,) = torch.autograd.grad(distance.sum(), p)
    smooth = (distance > 0.05).detach()
    found = gradient(family, p.detach(), sizes(size, 2000), step=1e-4)
    assert ((found - slope).norm(dim=0)[smooth] < 1e-2).double().mean() > 0.995
    assert ((found - slope).norm(dim=0)[smooth]).median() < 1e-4


@by_family
def test_convexity_is_as_said(family: int, size: tuple) -> None:
    a, b = points(5000, 1), points(5000, 2)
    s = sizes(size, 5000)
    middle = FAMILIES[family]((a + b) / 2, s)
    chord = (FAMILIES[family](a, s) + FAMILIES[family](b, s)) / 2
    assert bool((middle <= chord + 1e-9).all()) is CONVEX[family]


@pytest.mark.parametrize("shape", [s for s in SHAPES if s != "figure"])
def test_the_bounding_sphere_holds_the_shape(shape: str) -> None:
    family, size, bound = PARTS[shape]
    p = torch.nn.functional.normalize(points(20_000), dim=0) * bound
    gaps = FAMILIES[family](p, sizes(size, 20_000))
    assert gaps.min() > -1e-12
    assert gaps.min() < 0.1  # and not much more than the shape


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", RADIUS)
def test_objects_touch_the_floor_and_stay_within_their_footprint(shape: str, size: str) -> None:
    poses = POSES if shape == "figure" else ("standing",)
    for pose in poses:
        for motion in {"still", *motions_of(shape)} & {"still", "rolls left"}:
            thing = Object(shape, size=size, pose=pose, motion=motion, x=0.3, y=-0.2, yaw=33)
            scene = Scene((thing,))
            r = RADIUS[size]
            p = points(40_000).T * torch.tensor([1.0, 1.0, 0.8]) * r + torch.tensor([0.3, -0.2, 1.5 * r])
            inside = p[signed_distance(scene, p, floor=False) < 0]
            assert inside[:, 2].min() > -1e-6
            on_floor = torch.cat((p[:, :2], torch.full((len(p), 1), 0.02 * r)), 1)
            assert signed_distance(scene, on_floor, floor=False).min() < 0.03 * r
            reach = (inside[:, :2] - torch.tensor([0.3, -0.2])).norm(dim=1)
            assert reach.max() <= footprint(thing) + 1e-6
            if shape != "figure":
                assert inside[:, 2].max() <= 2 * half_height(thing) + 1e-6
    assert set(motions_of(shape)) <= set(MOTIONS)
