"""The figure: a small person of capsules, posed by the angles of its limbs.

Its own frame: z up, it faces +x, its own left is +y. Lengths are in units of its radius r; standing it is
2.7 r tall and reaches from z = -1.35 to z = +1.35.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from noisette.scenes.scene import POSES, check_word

__all__ = [
    "KEYPOINTS",
    "RUN_STRIDE",
    "WALK_STRIDE",
    "Bone",
    "Point",
    "bones",
    "ground",
    "joints",
    "keypoints",
]

Point = tuple[float, float, float]

KEYPOINTS = (
    "nose", "neck",
    "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
    "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle",
    "right eye", "left eye", "right ear", "left ear",
)  # fmt: skip
"""The 18 points of the OpenPose body, in its order."""

WALK_STRIDE = 1.2
"""Distance walked in one cycle, in r: at this speed the foot on the ground does not slip."""

RUN_STRIDE = 3.2
"""Distance run in one cycle, in r: about as fast as its feet go back while they push off."""

UPPER_ARM, FOREARM, THIGH, SHIN, FOOT = 0.40, 0.42, 0.50, 0.50, 0.20
HEAD, TRUNK, COLLAR, ARM, LEG, SHOE = 0.35, 0.26, 0.14, 0.115, 0.15, 0.13
"""Radii."""

# Of the trunk upright, from the pelvis between the hips.
SHOULDER_WIDTH, HIP_WIDTH, SHOULDER_HEIGHT, CHEST_HEIGHT, HEAD_HEIGHT = 0.30, 0.17, 0.68, 0.63, 1.22


class Bone(NamedTuple):
    """A capsule: the points within radius of the segment from a to b (a ball where they are equal)."""

    a: Point
    b: Point
    radius: float
    skin: bool


class Limb(NamedTuple):
    """Where the two halves of a limb point, each as (swing, spread) in degrees, and the foot as a swing.

    Swing turns from down (0) forwards (90) to up (180); spread turns outwards from there.
    """

    upper: tuple[float, float]
    lower: tuple[float, float]
    foot: float = 90.0


class Posture(NamedTuple):
    """The limbs, how far the trunk leans forwards (degrees), and the pelvis' place along x."""

    right_arm: Limb
    left_arm: Limb
    right_leg: Limb
    left_leg: Limb
    lean: float = 0.0
    x: float = 0.0


HANGING = Limb((0, 16), (8, 6))
RAISED = Limb((162, 32), (154, 14))
UPRIGHT = Limb((0, 0), (0, 0))
PROPPED = Limb((-10, 16), (4, 4))
STRETCHED = Limb((102, 6), (72, 4), 160)


def waving(phase: float) -> Posture:
    """One arm hangs, the right forearm waves."""
    wave = Limb((140, 49), (154, 20 * math.cos(math.tau * phase) - 23))
    return Posture(wave, HANGING, UPRIGHT, UPRIGHT)


def running(phase: float) -> Posture:
    """The run: at phase 0 the right knee is up in front and the left leg pushes off."""

    def leg(phase: float) -> Limb:
        sin, cos = math.sin(math.tau * phase), math.cos(math.tau * phase)
        thigh, knee = 26 + 54 * cos, 62 + 46 * cos - 40 * sin
        return Limb((thigh, 2), (thigh - knee, 2), 90 + 0.6 * min(thigh - knee, 0))

    def arm(phase: float) -> Limb:
        swing = -4 + 46 * math.cos(math.tau * phase)
        return Limb((swing, 24), (swing + 88, -9))

    return Posture(arm(phase + 0.5), arm(phase), leg(phase), leg(phase + 0.5), lean=12, x=-0.04)


def walking_legs(phase: float) -> tuple[Limb, Limb]:
    """Right and left leg of the walk: each foot goes straight back on the ground, then up and forwards."""

    def leg(phase: float) -> Limb:
        u = phase % 1.0
        reach = WALK_STRIDE / 4
        if u < 0.5:
            x, z = reach * (1 - 4 * u), 0.0
        else:
            x, z = reach * math.cos(math.tau * u), 0.22 * math.sin(math.tau * (u - 0.5))
        return bent_leg(x, 0.95 - z)

    return leg(phase), leg(phase + 0.5)


def bent_leg(x: float, down: float) -> Limb:
    """The leg whose ankle is x before and `down` below its hip, by the law of cosines."""
    squared = x * x + down * down
    length = math.sqrt(squared)
    at_hip = math.acos((THIGH**2 + squared - SHIN**2) / (2 * THIGH * length))
    at_ankle = math.acos((SHIN**2 + squared - THIGH**2) / (2 * SHIN * length))
    towards = math.atan2(x, down)
    return Limb((math.degrees(towards + at_hip), 0), (math.degrees(towards - at_ankle), 0))


def walking(phase: float, pose: str) -> Posture:
    """The walk: the legs walk, and the arms swing against them unless the pose has other use for them."""
    right_leg, left_leg = walking_legs(phase)
    if pose != "standing":
        return posture(pose, phase)._replace(right_leg=right_leg, left_leg=left_leg)
    swing = 30 * math.cos(math.tau * phase)
    right, left = (Limb((s, 14), (s + 20, 6)) for s in (-swing, swing))
    return Posture(right, left, right_leg, left_leg)


def posture(pose: str, phase: float) -> Posture:
    """The posture of a named pose, at a phase in cycles where the pose moves."""
    if pose == "waving":
        return waving(phase)
    if pose == "running":
        return running(phase)
    if pose == "arms up":
        return Posture(RAISED, RAISED, UPRIGHT, UPRIGHT)
    if pose == "sitting":
        return Posture(PROPPED, PROPPED, STRETCHED, STRETCHED, lean=-2, x=-0.40)
    return Posture(HANGING, HANGING, UPRIGHT, UPRIGHT)


def ground(pose: str) -> float:
    """Where the ground is in the figure's own frame: z = -1.35, and -0.95 for the one who sits."""
    return -0.95 if pose == "sitting" else -1.35


def along(start: Point, length: float, swing: float, spread: float, side: float) -> Point:
    """The end of a bone of that length from `start`; side is +1 on the left."""
    swing, spread = math.radians(swing), math.radians(spread)
    flat = length * math.cos(spread)
    x, y, z = start
    out = side * length * math.sin(spread)
    return x + flat * math.sin(swing), y + out, z - flat * math.cos(swing)


@lru_cache(maxsize=4096)
def _body(pose: str, phase: float, walks: bool) -> tuple[dict[str, Point], list[Bone]]:
    check_word("pose", pose, POSES)
    moves = walks and pose not in ("sitting", "running")
    form = walking(phase, pose) if moves else posture(pose, phase)
    at = _skeleton(form)
    lift = ground(pose) - min(min(bone.a[2], bone.b[2]) - bone.radius for bone in _flesh(at))
    at = {name: (x, y, z + lift) for name, (x, y, z) in at.items()}
    return at, _flesh(at)


def _skeleton(form: Posture) -> dict[str, Point]:
    sin, cos = math.sin(math.radians(form.lean)), math.cos(math.radians(form.lean))

    def on_trunk(height: float, y: float = 0.0) -> Point:
        return form.x + height * sin, y, height * cos

    at = {
        "pelvis": on_trunk(0.0),
        "chest": on_trunk(CHEST_HEIGHT),
        "neck": on_trunk(SHOULDER_HEIGHT),
        "head": on_trunk(HEAD_HEIGHT),
    }
    sides = ((-1.0, "right", form.right_arm, form.right_leg), (1.0, "left", form.left_arm, form.left_leg))
    for side, name, arm, leg in sides:
        shoulder = on_trunk(SHOULDER_HEIGHT, side * SHOULDER_WIDTH)
        elbow = along(shoulder, UPPER_ARM, *arm.upper, side)
        hip = on_trunk(0.0, side * HIP_WIDTH)
        knee = along(hip, THIGH, *leg.upper, side)
        ankle = along(knee, SHIN, *leg.lower, side)
        limbs = {
            "shoulder": shoulder,
            "elbow": elbow,
            "wrist": along(elbow, FOREARM, *arm.lower, side),
            "hip": hip,
            "knee": knee,
            "ankle": ankle,
            "toe": along(ankle, FOOT, leg.foot, 0.0, side),
            "eye": _on_head(at["head"], side * 24, 14),
            "ear": _on_head(at["head"], side * 90, 4),
        }
        at |= {f"{name} {part}": point for part, point in limbs.items()}
    at["nose"] = _on_head(at["head"], 0, -6)
    return at


def _on_head(head: Point, azimuth: float, elevation: float) -> Point:
    a, e = math.radians(azimuth), math.radians(elevation)
    x, y, z = head
    flat = HEAD * math.cos(e)
    return x + flat * math.cos(a), y + flat * math.sin(a), z + HEAD * math.sin(e)


def _flesh(at: dict[str, Point]) -> list[Bone]:
    flesh = [
        Bone(at["head"], at["head"], HEAD, True),
        Bone(at["pelvis"], at["chest"], TRUNK, False),
        Bone(at["right shoulder"], at["left shoulder"], COLLAR, False),
    ]
    for side in ("right", "left"):
        shoulder, elbow, wrist = (at[f"{side} {part}"] for part in ("shoulder", "elbow", "wrist"))
        hip, knee, ankle, toe = (at[f"{side} {part}"] for part in ("hip", "knee", "ankle", "toe"))
        flesh += [
            Bone(shoulder, elbow, ARM, False),
            Bone(elbow, wrist, ARM, True),
            Bone(hip, knee, LEG, False),
            Bone(knee, ankle, SHOE, False),
            Bone(ankle, toe, SHOE, False),
        ]
    return flesh


def joints(pose: str, phase: float = 0.0, walking: bool = False) -> dict[str, Point]:
    """Every joint by name: those of `KEYPOINTS`, and the pelvis, chest, head and toes.

    phase is in cycles. The forearm of "waving" and the limbs of "running" move with it; walking sets the
    legs of the standing poses walking. Whoever sits stays seated. Raises UserError for an unknown pose.
    """
    return _body(pose, phase, walking)[0]


def bones(pose: str, phase: float = 0.0, walking: bool = False) -> list[Bone]:
    """The 13 capsules of the body, always in the same order; the lowest touches z = `ground(pose)`."""
    return _body(pose, phase, walking)[1]


def keypoints(pose: str, phase: float = 0.0, walking: bool = False) -> list[Point]:
    """The 18 points of `KEYPOINTS`: nose, eyes and ears on the skin, the others where the joints turn."""
    at = joints(pose, phase, walking)
    return [at[name] for name in KEYPOINTS]
