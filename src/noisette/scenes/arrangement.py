"""Where things may stand: apart from each other, in the picture, clearly seen, and related as is asked.

Places are told as the camera sees the floor: s units to the right of the middle, w units farther away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from noisette.errors import UserError
from noisette.scenes.camera import PAN, TARGET
from noisette.scenes.constraints import CLEARLY
from noisette.scenes.layout import GLIDE, HOP
from noisette.scenes.scene import FLAT_TOPPED, Camera, Object
from noisette.scenes.shapes import footprint, half_height
from noisette.scenes.visibility import Place, all_seen, eye, outline

__all__ = ["DISC", "FOV", "SECONDS", "Distances", "arrange", "distances", "far_enough"]

FOV = 40.0
"""Angle of view in degrees for which places are chosen; a moving camera may see more, at no time less."""

DISC = 0.315
"""Radius of the disc that holds every footprint, per unit of the camera's distance: the widest for which
all that stands in it is inside the picture (with a margin of 3 %) from any azimuth, at 15 to 40 degrees."""

FRAME = 0.97 * math.tan(math.radians(FOV / 2))
"""Half the picture, less that margin, at depth 1."""

ROOM = 0.4
"""World units around the middle that what is tall has at least; the camera steps back for it."""

GAP = 0.08
"""World units between footprints."""

SECONDS = 2.0
"""How long what moves stays in the picture and meets nothing."""

PLACES = 12
"""Places tried for an object before all are tried anew."""

Distances = list[list[float]]
"""[i][j]: world units by which j must come after i at least, 0 where nothing is asked."""


def distances(count: int, before: Sequence[tuple[int, int]]) -> Distances:
    """What it takes that in every pair (i, j) of `before` i comes clearly before j: chains add up.

    Raises UserError where the pairs go in a circle.
    """
    table = [[0.0] * count for _ in range(count)]
    for i, j in before:
        table[i][j] = CLEARLY + 2e-3  # more than rounding can take
    for k in range(count) if before else ():
        for i in range(count):
            for j in range(count):
                if table[i][k] and table[k][j]:
                    table[i][j] = max(table[i][j], table[i][k] + table[k][j])
    if any(table[i][i] for i in range(count)):
        raise UserError("the relations contradict each other: an object would be left of, or behind, itself")
    return table


@dataclass(frozen=True)
class _Stack:
    """An object on the floor (index `base`) and what stands on it, as one: (index, foot) of each; how wide
    and tall it gets; how wide its top is, and at what height the middle of what is on top; and how it glides,
    in world units per second."""

    base: int
    members: tuple[tuple[int, float], ...]
    radius: float
    height: float
    crown: float
    middle: float
    glide: tuple[float, float]

    def reach(self, camera: Camera) -> float:
        """How far from the middle it may stand to be in the picture from every azimuth."""
        e, k, m = math.radians(camera.elevation), self.height - TARGET[2], self.middle - TARGET[2]
        cos, sin = math.cos(e), math.sin(e)
        # A point k above the target, p from its axis, is seen at most (k cos +- p sin) / (distance - k sin
        # +- p cos) up the picture, and p / sqrt((distance - k sin)^2 - (p cos)^2) to a side.
        top = (FRAME * (camera.distance - k * sin) - k * cos) / max(abs(sin - FRAME * cos), 1e-6)
        side = FRAME / math.hypot(1, FRAME * cos)
        return min(
            DISC * camera.distance - self.radius,
            side * (camera.distance - m * sin) - self.radius,
            side * (camera.distance - k * sin) - self.crown,
            top - self.crown,
        )

    def distance(self, elevation: float) -> float:
        """How far the camera must be for it to have ROOM."""
        e, k = math.radians(elevation), self.height - TARGET[2]
        cos, sin = math.cos(e), math.sin(e)
        return (k * cos + (ROOM + self.crown) * abs(sin - FRAME * cos)) / FRAME + k * sin


def _stacks(things: Sequence[Object], azimuth: float) -> list[_Stack]:
    """What stands on the floor, with what stands on it, the widest first: those are the hardest to place."""
    above = {thing.on: i for i, thing in enumerate(things) if thing.on is not None}
    stacks: list[_Stack] = []
    for base, thing in enumerate(things):
        if thing.on is not None:
            continue
        members, height, radius, index = [], 0.0, 0.0, base
        while True:
            members.append((index, height))
            top = things[index]
            height += 2 * half_height(top)
            radius = max(radius, footprint(top))
            if index not in above:
                break
            index = above[index]
        crown = footprint(top) if top.shape in (*FLAT_TOPPED, "torus") else 0.0
        hop = HOP * (top.motion == "bounces")
        middle, glide = height - half_height(top) + hop, _glide(thing, azimuth)
        stacks.append(_Stack(base, tuple(members), radius, height + hop, crown, middle, glide))
    return sorted(stacks, key=lambda stack: -stack.radius)


def _glide(thing: Object, azimuth: float) -> tuple[float, float]:
    if thing.motion == "walks":
        ahead = math.radians(thing.yaw - azimuth)
        return GLIDE * math.sin(ahead), -GLIDE * math.cos(ahead)
    return GLIDE * {"rolls left": -1, "rolls right": 1}.get(thing.motion, 0), 0.0


def far_enough(things: Sequence[Object], elevation: float, distance: float) -> float:
    """That distance of the camera, or more where something is too tall for it."""
    return max(distance, *(stack.distance(elevation) for stack in _stacks(things, 0.0)))


def arrange(
    rng: Random, things: Sequence[Object], camera: Camera, sideways: Distances, away: Distances
) -> list[tuple[float, float]] | None:
    """x and y in the world for each object, (0, 0) where it stands on another; None when that failed.

    sideways and away are what is asked along the picture (left first) and away from the camera (near first).
    """
    stacks = _stacks(things, camera.azimuth)
    free = [0.0] * len(things)
    for stack in stacks:
        free[stack.base] = stack.reach(camera)
    seen_by, outlines = eye(camera), []
    placed: dict[int, tuple[float, float]] = {}
    done: list[_Stack] = []
    for stack in stacks:
        s_range = _range(stack.base, free, sideways, {i: p[0] for i, p in placed.items()})
        w_range = _range(stack.base, free, away, {i: p[1] for i, p in placed.items()})
        if s_range[0] > s_range[1] or w_range[0] > w_range[1]:
            return None
        for _ in range(PLACES):
            s, w = rng.uniform(*s_range), rng.uniform(*w_range)
            if not _fits(stack, s, w, free[stack.base], camera, done, placed):
                continue
            new = [
                (w, z, outline(things[i], Place(s, w, z), seen_by, camera.azimuth)) for i, z in stack.members
            ]
            if all_seen(outlines + new):
                outlines += new
                placed[stack.base] = s, w
                done.append(stack)
                break
        else:
            return None
    return [_in_world(*placed[i], camera.azimuth) if i in placed else (0.0, 0.0) for i in range(len(things))]


def _range(i: int, free: Sequence[float], apart: Distances, placed: dict[int, float]) -> tuple[float, float]:
    """From where to where along one axis object i may stand, for what is there and what is yet to come."""
    low, high = -free[i], free[i]
    for j, far in enumerate(free):
        if apart[j][i]:
            low = max(low, placed.get(j, -far) + apart[j][i])
        if apart[i][j]:
            high = min(high, placed.get(j, far) - apart[i][j])
    return low, high


def _fits(
    stack: _Stack,
    s: float,
    w: float,
    reach: float,
    camera: Camera,
    others: Sequence[_Stack],
    placed: dict[int, tuple[float, float]],
) -> bool:
    """Whether it is in the disc and meets no other, now and for SECONDS."""
    if math.hypot(s, w) > reach:
        return False
    end = s + SECONDS * stack.glide[0], w + SECONDS * stack.glide[1]
    if stack.glide != (0.0, 0.0) and math.hypot(*end) > reach:
        return False
    if camera.motion.startswith("pans") and not _kept(stack, *end, camera):
        return False
    for other in others:
        ds, dw = s - placed[other.base][0], w - placed[other.base][1]
        vs, vw = stack.glide[0] - other.glide[0], stack.glide[1] - other.glide[1]
        if vs or vw:
            nearest = min(max(-(ds * vs + dw * vw) / (vs * vs + vw * vw), 0.0), SECONDS)
            ds, dw = ds + nearest * vs, dw + nearest * vw
        if math.hypot(ds, dw) < stack.radius + other.radius + GAP:
            return False
    return True


def _kept(stack: _Stack, s: float, w: float, camera: Camera) -> bool:
    """Whether it is still in the picture sideways after the camera has panned for SECONDS."""
    e = math.radians(camera.elevation)
    pan = math.radians(PAN) * SECONDS * (1 if camera.motion == "pans left" else -1)
    h = w + camera.distance * math.cos(e)
    s, h = s * math.cos(pan) + h * math.sin(pan), h * math.cos(pan) - s * math.sin(pan)
    drop = TARGET[2] + camera.distance * math.sin(e) - stack.height
    depth, slope = h * math.cos(e) + drop * math.sin(e), math.tan(math.radians(camera.fov) / 2)
    # The outermost ray touches a round thing a little before its middle.
    return abs(s) + stack.radius * math.hypot(1, slope) <= 0.97 * slope * depth


def _in_world(s: float, w: float, azimuth: float) -> tuple[float, float]:
    """The inverse of `constraints.sideways_and_away`, to the millimetre."""
    cos, sin = math.cos(math.radians(azimuth)), math.sin(math.radians(azimuth))
    return round(-w * cos - s * sin, 3), round(s * cos - w * sin, 3)
