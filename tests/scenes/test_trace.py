"""What rays meet, against closed forms: discs, the floor, shadows, and the reach of the occlusion."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from noisette.scenes.camera import TARGET, View, views
from noisette.scenes.layout import World
from noisette.scenes.scene import SHAPES, Camera, Object, Scene
from noisette.scenes.shapes import RADIUS
from noisette.scenes.trace import FLOOR, SKY, Surface, occlusion, sunlight, trace


def look(*objects: Object, n: int = 64, **camera: Any) -> tuple[World, View, Surface]:
    scene = Scene(objects, camera=Camera(**camera))
    world, view = World.of([scene], [0.0]), views([scene.camera], [0.0])
    return world, view, trace(world, view, n)


def test_a_sphere_is_the_disc_it_should_be() -> None:
    # On the axis a sphere of radius r at distance d fills a disc of radius f r / sqrt(d^2 - r^2) pixels.
    n, r = 256, RADIUS["small"]
    scene = Scene((Object("sphere", size="small"),), camera=Camera(0, 0, 5))
    world, view = World.of([scene], [0.0]), views([scene.camera], [0.0])
    world.primitives[0].center[0] = torch.tensor(TARGET)
    world.center[0, 0] = torch.tensor(TARGET)
    seen = trace(world, view, n)
    focal = n / 2 / math.tan(math.radians(20))
    radius = focal * r / math.sqrt(25 - r * r)
    assert (seen.instance == 0).sum().item() == pytest.approx(math.pi * radius**2, rel=0.005)
    middle = seen.depth[0, n // 2 - 1 : n // 2 + 1, n // 2 - 1 : n // 2 + 1]
    assert middle.mean().item() == pytest.approx(5 - r, abs=1e-3)
    normal = seen.normal[:, :, seen.instance[0] == 0][0]
    outward = (seen.point[:, :, seen.instance[0] == 0][0] - torch.tensor(TARGET)[:, None]) / r
    assert torch.allclose(normal, outward, atol=5e-3)


def test_the_floor_is_a_plane_that_ends_at_the_horizon() -> None:
    _, view, seen = look(Object("sphere", x=50.0), azimuth=30, elevation=10)
    floor = seen.instance == FLOOR
    assert seen.point[:, 2][floor].abs().max() < 1e-3
    assert (seen.normal[:, 2][floor] == 1).all()
    # Every ray that points down meets it, no other does.
    assert torch.equal(floor, view.directions(64)[:, 2] < 0)
    assert seen.depth[seen.instance == SKY].isinf().all() and (seen.primitive[~floor] == -1).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_nearest_surface_wins_and_own_coordinates_are_its_own(shape: str) -> None:
    world, view, seen = look(
        Object("cube", x=-1.2), Object(shape, x=1.2, y=0.3, yaw=40), azimuth=0, elevation=20
    )
    assert {0, 1} <= set(seen.instance.unique().tolist())
    for slot in (0, 1):
        here = seen.instance[0] == slot
        own = seen.own[0][:, here]
        back = world.rotation[0, slot] @ own * world.radius[0, slot] + world.center[0, slot][:, None]
        assert torch.allclose(back, seen.point[0][:, here], atol=1e-4)
    alone = trace(World.of([Scene((world.scenes[0].objects[1],))], [0.0]), view, 64)
    mine = alone.instance[0] == 0
    behind = mine & (seen.instance[0] == 0)
    assert not behind.any()  # the one in front hides the cube wherever it is seen alone


def sun_at(elevation: float, azimuth: float = 90.0) -> Tensor:
    e, a = math.radians(elevation), math.radians(azimuth)
    return torch.tensor([[math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)]])


def test_the_shadow_of_a_sphere_is_the_ellipse_it_should_be() -> None:
    world, _, seen = look(Object("sphere"), elevation=60, n=256)
    sun, r = sun_at(50), RADIUS["large"]
    lit = sunlight(world, seen, sun, angle=0.02)[0]
    # Floor points in shadow are nearer than r to the line through the centre towards the sun.
    offset = seen.point[0] - world.center[0, 0][:, None, None]
    along = (offset * sun[0][:, None, None]).sum(0)
    aside = ((offset**2).sum(0) - along**2).clamp(min=0).sqrt()
    floor = seen.instance[0] == FLOOR
    assert lit[floor & (aside < r - 0.05)].max() < 0.01
    assert lit[floor & (aside > r + 0.05)].min() > 0.99
    # Half of the sun is seen from where its middle is just at the edge.
    edge = floor & ((aside - r).abs() < 0.004)
    assert edge.sum() > 20 and lit[edge].mean().item() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("shape", SHAPES)
def test_hard_shadows_are_where_the_way_to_the_sun_is_blocked(shape: str) -> None:
    from noisette.scenes.surface import signed_distance

    world, _, seen = look(Object(shape, yaw=25), elevation=55)
    sun = sun_at(40)
    lit = sunlight(world, seen, sun, angle=0.01).flatten()
    floor = (seen.instance == FLOOR).flatten()
    start = seen.point[0].flatten(1).T[floor]
    way = torch.linspace(0.02, 5, 400)
    blocked = torch.zeros(len(start), dtype=torch.bool)
    close = torch.full((len(start),), 9.0)
    for t in way:
        gap = signed_distance(world.scenes[0], start + t * sun, floor=False)
        blocked |= gap < 0
        close = torch.minimum(close, gap.abs())
    clear = close > 0.02  # leave the penumbra and what the marching here cannot tell
    deep = blocked & clear
    assert (lit[floor][~blocked & clear] > 0.95).all()
    dark = blocked & (lit[floor] > 0.5)
    assert dark.sum() <= 0.05 * blocked.sum() + 2
    assert deep.sum() >= 0 and blocked.sum() > 20


def test_a_softer_sun_has_a_wider_edge_and_the_same_core() -> None:
    world, _, seen = look(Object("sphere"), elevation=60, n=128)
    hard, soft = (sunlight(world, seen, sun_at(50), angle) for angle in (0.02, 0.15))
    partly = [((s > 0.05) & (s < 0.95)).sum().item() for s in (hard, soft)]
    assert partly[1] > 3 * partly[0]


def test_occlusion_follows_its_formula_beside_a_ball() -> None:
    from noisette.scenes.trace import TAPS, WEIGHTS

    world, _, seen = look(Object("sphere"), elevation=60, n=128)
    found = occlusion(world, seen)[0]
    floor = seen.instance[0] == FLOOR
    across = seen.point[0, :2].norm(dim=0)
    r = RADIUS["large"]
    expected = torch.zeros_like(across)
    for h, weight in zip(TAPS, WEIGHTS, strict=True):
        gap = (across**2 + (r - h) ** 2).sqrt() - r
        expected += weight * (1 - (gap / h).clamp(0, 1))
    assert torch.allclose(found[floor], expected[floor], atol=2e-3)
    assert found[floor & (across > 3)].max() == 0 and found[floor].max() > 0.3
