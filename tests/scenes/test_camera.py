"""Cameras: OpenCV's axes, projections that agree with the matrices, and motions that go the way they say."""

from __future__ import annotations

import math

import pytest
import torch

from noisette.scenes.camera import ORBIT, TARGET, ZOOM, at_time, views
from noisette.scenes.scene import Camera


def test_axes_are_orthonormal_right_handed_and_level() -> None:
    view = views([Camera(a, e) for a in (0, 77, 200) for e in (0, 25, 80)], [0.0] * 9)
    assert torch.allclose(view.axes @ view.axes.mT, torch.eye(3).expand(9, 3, 3), atol=1e-6)
    right, down, forward = view.axes.unbind(1)
    assert torch.allclose(torch.linalg.cross(right, down), forward, atol=1e-6)
    assert right[:, 2].abs().max() < 1e-6 and (down[:, 2] < 0).all()


def test_the_target_is_in_the_middle_at_the_distance() -> None:
    view = views([Camera(123, 40, 6.2)], [0.0])
    pixel, depth = view.project(torch.tensor(TARGET)[None, :, None], 64)
    assert pixel.flatten().tolist() == pytest.approx([32, 32], abs=1e-4)
    assert depth.item() == pytest.approx(6.2, abs=1e-5)


def test_up_is_up_and_the_field_of_view_is_the_whole_width() -> None:
    camera = Camera(0, 0, 5, fov=60)
    view = views([camera], [0.0])
    half = 5 * math.tan(math.radians(30))
    x, y, z = TARGET
    points = torch.tensor([[x, y, z + 1.0], [x, y + half, z], [x, y - half, z]]).T[None]
    (up, right, left), _ = view.project(points, 100)[0][0].T, None
    assert up[1] < 50 and up[0] == pytest.approx(50, abs=1e-3)
    assert (right[0].item(), left[0].item()) == (pytest.approx(100, abs=1e-3), pytest.approx(0, abs=1e-3))


def test_project_agrees_with_the_matrices_and_with_the_rays() -> None:
    cameras = [Camera(20, 30, 6), Camera(250, 15, 7, 35)]
    view, size = views(cameras, [0.0, 0.0]), 32
    depth = torch.rand((2, 1, size, size), generator=torch.Generator().manual_seed(0)) * 9 + 1
    points = view.eye[:, :, None, None] + depth * view.directions(size)
    pixel, found = view.project(points, size)
    line = torch.arange(size) + 0.5
    centres = torch.stack(torch.meshgrid(line, line, indexing="xy")).expand(2, -1, -1, -1)
    assert torch.allclose(pixel, centres, atol=2e-3) and torch.allclose(found, depth[:, 0], atol=1e-4)
    homogeneous = torch.cat((points, torch.ones(2, 1, size, size)), 1).flatten(2)
    seen = view.intrinsics(size) @ (view.extrinsics() @ homogeneous)[:, :3]
    assert torch.allclose(seen[:, :2] / seen[:, 2:], pixel.flatten(2), atol=2e-3)


def test_cameras_move_as_their_words_say() -> None:
    assert at_time(Camera(10, motion="orbits"), 2.0) == Camera(10 + 2 * ORBIT)
    assert at_time(Camera(motion="zooms in"), 1.0).fov < 40 < at_time(Camera(motion="zooms out"), 1.0).fov
    slope = views([Camera(motion="zooms in")], [1.0]).slope
    assert slope.item() == pytest.approx(math.tan(math.radians(20)) * math.exp(-ZOOM), rel=1e-5)
    target = torch.tensor(TARGET)[None, :, None]
    left, _ = views([Camera(motion="pans left")], [1.0]).project(target, 64)
    right, _ = views([Camera(motion="pans right")], [1.0]).project(target, 64)
    assert left[0, 0] > 33 and right[0, 0] < 31  # the picture slides against the pan
    assert (left - 32)[0, 0].item() == pytest.approx((32 - right)[0, 0].item(), abs=1e-3)
