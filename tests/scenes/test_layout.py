"""Where things are at a time: they stand on what they stand on, and move as their words say."""

from __future__ import annotations

import math

import pytest
import torch

from noisette.scenes.figure import WALK_STRIDE
from noisette.scenes.layout import BOUNCE, GLIDE, HOP, SPIN, World, place
from noisette.scenes.scene import POSES, SHAPES, Camera, Object, Scene, motions_of
from noisette.scenes.shapes import RADIUS, half_height


def test_towers_stand_on_each_other() -> None:
    scene = Scene(
        (Object("cube", x=1.0), Object("cylinder", size="small", on=0), Object("cone", size="small", on=1))
    )
    heights = [place(scene, i).center[2] for i in range(3)]
    half = [half_height(thing) for thing in scene.objects]
    assert heights[0] == half[0]
    assert heights[1] == pytest.approx(2 * half[0] + half[1])
    assert heights[2] == pytest.approx(2 * half[0] + 2 * half[1] + half[2])
    assert place(scene, 2).center[0] == 1.0


@pytest.mark.parametrize("shape", SHAPES)
def test_rotations_are_rotations_at_all_times(shape: str) -> None:
    for motion in motions_of(shape):
        scene = Scene((Object(shape, yaw=33, motion=motion),), camera=Camera(70))
        for time in (0.0, 0.37, 1.9):
            rotation = torch.tensor(place(scene, 0, time).rotation, dtype=torch.float64)
            assert torch.allclose(rotation @ rotation.T, torch.eye(3).double(), atol=1e-12)
            assert torch.linalg.det(rotation).item() == pytest.approx(1)


def test_what_rolls_does_not_slip() -> None:
    # The point that touches the floor is at rest: it goes as far forwards as the turning takes it back.
    for shape in ("sphere", "cylinder", "torus", "capsule"):
        scene = Scene((Object(shape, motion="rolls right"),), camera=Camera(25))
        a, b = (place(scene, 0, t) for t in (1.0, 1.0 + 1e-5))
        velocity = [(q - p) / 1e-5 for p, q in zip(a.center, b.center, strict=True)]
        touching = torch.tensor([0.0, 0.0, -half_height(scene.objects[0])], dtype=torch.float64)
        own = torch.tensor(a.rotation, dtype=torch.float64).T @ touching
        turned = (torch.tensor(b.rotation, dtype=torch.float64) @ own - touching) / 1e-5
        assert (torch.tensor(velocity, dtype=torch.float64) + turned).norm() < 1e-4
        azimuth = math.radians(25)
        right = velocity[0] * -math.sin(azimuth) + velocity[1] * math.cos(azimuth)
        assert right == pytest.approx(GLIDE, abs=1e-6)


def test_bounces_spins_and_walks_follow_their_laws() -> None:
    bouncing = Scene((Object("cube", motion="bounces"),))
    assert place(bouncing, 0, BOUNCE / 2).center[2] == pytest.approx(place(bouncing, 0).center[2] + HOP)
    assert place(bouncing, 0, BOUNCE).center[2] == pytest.approx(place(bouncing, 0).center[2])
    spinning = Scene((Object("cube", yaw=10, motion="spins"),))
    assert place(spinning, 0, 1.0).rotation[0][0] == pytest.approx(math.cos(math.radians(10 + SPIN)))
    walking = Scene((Object("figure", size="small", yaw=90, motion="walks"),))
    end = place(walking, 0, 2.0)
    assert end.center[:2] == pytest.approx((0, 2 * GLIDE))
    assert end.phase == pytest.approx(2 * GLIDE / (WALK_STRIDE * RADIUS["small"]))


@pytest.mark.parametrize("pose", POSES)
def test_objects_lie_within_their_bounding_spheres(pose: str) -> None:
    world = World.of([Scene((Object("figure", pose=pose, yaw=20), Object("cone", y=2)))], [0.4])
    for part in world.primitives:
        for k in range(len(part.scene)):
            center, bound = world.center[0, part.slot[k]], world.bound[0, part.slot[k]]
            ends = part.center[k] + part.rotation[k, :, 2] * part.size[0, k] * torch.tensor([[-1.0], [1.0]])
            reach = (ends - center).norm(dim=1).max() + part.size[1, k] if part.family == 0 else part.bound[k]
            assert reach <= bound + 1e-5
