"""How much of each object the camera sees, from outlines: exact enough to place objects, and quick.

An outline is one whole number of GRID * GRID bits, the rows of a small picture one after the other: what
hides what is then a few operations on numbers. Everything here is told as the camera sees the floor: s units
to the right of the world's middle, w units farther away than it (`constraints.sideways_and_away`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from noisette.scenes.camera import TARGET
from noisette.scenes.scene import Camera, Object
from noisette.scenes.shapes import RADIUS, lies

__all__ = ["GRID", "PIXELS", "SEEN", "Eye", "Place", "all_seen", "eye", "outline"]

GRID = 64
"""Pixels along a side, those of the smallest picture in which everything is to be recognised."""

SEEN, PIXELS = 0.6, 40
"""What an object must show: this share of its outline, and so many pixels of it. Outlines are smooth hulls,
10 to 40 % larger than a torus or a figure; as the renderer counts, 30 % and 20 pixels remain of each."""


class Eye(NamedTuple):
    """A camera seen from the side: `back` behind the world's middle, `height` above the floor, looking
    down by the angle of that cos and sin, half a picture being `slope` wide at depth 1."""

    back: float
    height: float
    cos: float
    sin: float
    slope: float


class Place(NamedTuple):
    """Where something is: s to the right, w away, its foot z above the floor."""

    s: float
    w: float
    z: float


class Ring(NamedTuple):
    """A horizontal disc of that radius at that height above the foot, in units of r; thick by `thick`."""

    height: float
    radius: float
    thick: float = 0.0


_RINGS = {
    "sphere": (Ring(1.0, 1.0, 1.0),),
    "cube": (Ring(0.0, 0.8), Ring(1.6, 0.8)),
    "cylinder": (Ring(0.0, 0.75), Ring(1.7, 0.75)),
    "cone": (Ring(0.0, 0.95), Ring(1.9, 0.08)),
    "torus": (Ring(0.28, 1.0, 0.28),),
    "capsule": (Ring(0.5, 0.5, 0.5), Ring(1.7, 0.5, 0.5)),
}
_LYING = {
    "cylinder": (Ring(0.75, 0.85, 0.75),),
    "torus": (Ring(1.0, 1.0, 1.0),),
    "capsule": (Ring(0.5, 0.5, 0.5),),
}
_UPRIGHT = (Ring(0.15, 0.28, 0.1), Ring(1.0, 0.5), Ring(1.8, 0.45), Ring(2.35, 0.35, 0.35))
_SITTING = (Ring(0.3, 0.55, 0.2), Ring(1.2, 0.45), Ring(1.55, 0.35, 0.35))


@cache
def _rings(shape: str, sitting: bool, lying: bool) -> tuple[Ring, ...]:
    if shape == "figure":
        return _SITTING if sitting else _UPRIGHT
    return (_LYING if lying else _RINGS)[shape]


def eye(camera: Camera) -> Eye:
    """The camera at time 0."""
    e, slope = math.radians(camera.elevation), math.tan(math.radians(camera.fov) / 2)
    cos, sin = math.cos(e), math.sin(e)
    return Eye(camera.distance * cos, TARGET[2] + camera.distance * sin, cos, sin, slope)


def outline(thing: Object, at: Place, seen_by: Eye, azimuth: float) -> int:
    """The pixels that the object covers, as a number of GRID * GRID bits."""
    r = RADIUS[thing.size]
    across = r
    if thing.shape == "cube":
        d = math.radians(thing.yaw - azimuth)
        across = r * (abs(math.cos(d)) + abs(math.sin(d)))
    ellipses: list[tuple[float, float, float, float]] = []
    h = at.w + seen_by.back
    for ring in _rings(thing.shape, thing.pose == "sitting", lies(thing)):
        drop = seen_by.height - at.z - ring.height * r
        depth = h * seen_by.cos + drop * seen_by.sin
        scale = GRID / (2 * seen_by.slope * depth)
        flat, thick = ring.radius - ring.thick, ring.thick * r
        ellipses.append(
            (
                GRID / 2 + at.s * scale,
                GRID / 2 - (h * seen_by.sin - drop * seen_by.cos) * scale,
                ring.radius * across * scale,
                max((flat * across * drop / math.hypot(h, drop) + thick) * scale, 0.5),
            )
        )
    return _fill(ellipses)


def _fill(ellipses: Sequence[tuple[float, float, float, float]]) -> int:
    """The bits inside ellipses (column, row, half width, half height) in a row upwards, and between them."""
    first = max(0, int(min(v - b for _, v, _, b in ellipses)))
    last = min(GRID - 1, int(max(v + b for _, v, _, b in ellipses)))
    bits = 0
    for row in range(first, last + 1):
        y = row + 0.5
        half, middle = 0.0, ellipses[0][0]
        for u, v, a, b in ellipses:
            if (t := (y - v) / b) * t < 1 and (wide := a * math.sqrt(1 - t * t)) > half:
                half, middle = wide, u
        for (u, v, a, _), (u2, v2, a2, _) in pairwise(ellipses):
            if v2 <= y <= v and (wide := a + (a2 - a) * (t := (v - y) / (v - v2))) > half:
                half, middle = wide, u + (u2 - u) * t
        left, right = max(0, round(middle - half)), min(GRID, round(middle + half))
        if right > left:
            bits |= ((1 << (right - left)) - 1) << (row * GRID + left)
    return bits


def all_seen(outlines: Sequence[tuple[float, float, int]]) -> bool:
    """Whether enough is seen of each outline; each comes with how far away and how high its object is."""
    hidden = 0
    for _, _, bits in sorted(outlines, key=lambda one: (one[0], -one[1])):
        pixels = (bits & ~hidden).bit_count()
        if pixels < PIXELS or pixels < SEEN * bits.bit_count():
            return False
        hidden |= bits
    return True
