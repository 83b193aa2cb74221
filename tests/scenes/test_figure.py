from __future__ import annotations

import itertools
import math

import pytest
import torch

from noisette.errors import UserError
from noisette.scenes import figure
from noisette.scenes.figure import (
    KEYPOINTS,
    WALK_STRIDE,
    Bone,
    bones,
    ground,
    joints,
    keypoints,
)
from noisette.scenes.scene import POSES

PHASES = [i / 24 for i in range(24)]
EVERY = list(itertools.product(POSES, (False, True), PHASES))


def ends(flesh: list[Bone]) -> list[tuple[float, float, float, float]]:
    return [(*point, bone.radius) for bone in flesh for point in (bone.a, bone.b)]


def test_stands_on_its_ground_and_keeps_within_its_circle():
    for pose, walking, phase in EVERY:
        flesh = ends(bones(pose, phase, walking))
        assert min(z - r for _, _, z, r in flesh) == pytest.approx(ground(pose), abs=1e-12)
        reach = max(math.hypot(x, y) + r for x, y, _, r in flesh)
        assert reach <= (0.9 if pose == "running" else 0.82), (pose, walking, phase)
        assert max(z + r for _, _, z, r in flesh) <= 1.35 + 1e-9


def test_standing_is_2_7_tall_and_sitting_lower():
    assert max(z + r for *_, z, r in ends(bones("standing"))) == pytest.approx(1.35)
    assert max(z + r for *_, z, r in ends(bones("sitting"))) < 0.95


def test_bones_keep_their_lengths_and_order():
    def lengths(pose: str, phase: float, walking: bool) -> list[float]:
        return [math.dist(bone.a, bone.b) for bone in bones(pose, phase, walking)]

    rest = lengths("standing", 0.0, False)
    assert len(rest) == 13
    for case in EVERY:
        assert lengths(case[0], case[2], case[1]) == pytest.approx(rest)


def test_left_is_left_and_it_faces_forwards():
    at = joints("standing")
    for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "eye", "ear"):
        (xl, yl, zl), (xr, yr, zr) = at[f"left {part}"], at[f"right {part}"]
        assert yl > 0 and (xr, yr, zr) == pytest.approx((xl, -yl, zl))
    assert at["nose"][0] > 0.3 and at["left toe"][0] > at["left ankle"][0]


def test_face_is_on_the_skin_of_the_head():
    for pose, walking, phase in EVERY:
        at, head = joints(pose, phase, walking), bones(pose, phase, walking)[0]
        assert head.a == head.b and head.skin
        for part in ("nose", "left eye", "right eye", "left ear", "right ear"):
            assert math.dist(at[part], head.a) == pytest.approx(head.radius)


def test_keypoints_are_the_joints_in_order():
    points = keypoints("running", 0.3)
    assert len(points) == len(KEYPOINTS) == 18
    assert points[4] == joints("running", 0.3)["right wrist"]
    assert points[13] == joints("running", 0.3)["left ankle"]
    assert points[1][1] == 0 and points[14][1] < 0 < points[15][1]


def test_poses_are_what_they_are_called():
    head = joints("standing")["head"][2]
    up = joints("arms up")
    assert min(up["left wrist"][2], up["right wrist"][2]) > head > joints("standing")["left wrist"][2]
    wave = joints("waving")
    assert wave["right wrist"][2] > wave["right elbow"][2] > 0 > wave["left wrist"][2]
    sit = joints("sitting")
    assert (
        sit["left ankle"][0] - sit["left hip"][0] > 0.8 and sit["left knee"][2] - sit["left ankle"][2] < 0.25
    )
    run = joints("running")
    assert run["right knee"][0] > 0.3 and run["left ankle"][0] < -0.5 and run["head"][0] > run["pelvis"][0]


def test_feet_on_the_ground_do_not_slip():
    step = 1 / 64
    stride = WALK_STRIDE * step
    for k in range(64):
        now, then = joints("standing", k * step, True), joints("standing", (k + 1) * step, True)
        lower = "right" if k * step < 0.5 else "left"
        before, after = now[f"{lower} ankle"], then[f"{lower} ankle"]
        assert before[2] == pytest.approx(ground("standing") + figure.SHOE)
        assert before[0] - after[0] == pytest.approx(stride)
        other = "left" if lower == "right" else "right"
        assert now[f"{other} ankle"][2] >= before[2] - 1e-12


@pytest.mark.parametrize(("pose", "walking"), [("running", False), ("standing", True)])
def test_a_cycle_closes_and_half_of_it_is_the_mirror(pose: str, walking: bool):
    start, half, end = (joints(pose, phase, walking) for phase in (0.1, 0.6, 1.1))
    for name, (x, y, z) in start.items():
        swapped = name.replace("right", "L").replace("left", "right").replace("L", "left")
        assert end[name] == pytest.approx((x, y, z))
        assert half[swapped] == pytest.approx((x, -y, z))


def test_motion_moves_what_it_should():
    wave, later = joints("waving", 0.0), joints("waving", 0.5)
    assert math.dist(wave["right wrist"], later["right wrist"]) > 0.2
    assert all(wave[n] == later[n] for n in wave if n != "right wrist")
    assert joints("arms up", 0.2, True)["left wrist"][2] > 0.8
    assert joints("sitting", 0.3, True) == joints("sitting", 0.0)
    assert joints("standing", 0.3) == joints("standing", 0.0)


def test_poses_are_told_apart_at_a_glance():
    """Silhouettes 24 pixels tall, seen from before and a little above, differ in a tenth of their pixels."""
    shapes = {pose: silhouette(bones(pose), 24) for pose in POSES}
    for a, b in itertools.combinations(POSES, 2):
        different = (shapes[a] ^ shapes[b]).sum() / (shapes[a] | shapes[b]).sum()
        assert different > 0.1, (a, b)


def silhouette(flesh: list[Bone], height: int) -> torch.Tensor:
    scale = height / 2.7
    line = torch.arange(height)
    v, u = torch.meshgrid(1.35 - (line + 0.5) / scale, (line + 0.5) / scale - 1.35, indexing="ij")
    tilt = math.radians(20)
    seen = torch.zeros_like(u, dtype=torch.bool)
    for bone in flesh:
        a, b = (torch.tensor((p[1], p[2] * math.cos(tilt) - p[0] * math.sin(tilt))) for p in (bone.a, bone.b))
        along = b - a
        p = torch.stack((u, v), -1) - a
        t = ((p @ along) / (along @ along).clamp(min=1e-9)).clamp(0, 1)
        seen |= (p - t[..., None] * along).norm(dim=-1) < bone.radius
    return seen


def test_unknown_pose_is_named():
    with pytest.raises(UserError, match="dancing"):
        joints("dancing")
