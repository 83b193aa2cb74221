"""Where there is room: what an edit may add, move or change without touching or hiding anything else."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

from noisette.scenes.constraints import CLEARLY, Relation, relations, sideways_and_away
from noisette.scenes.layout import place
from noisette.scenes.scene import Scene
from noisette.scenes.shapes import footprint, half_height
from noisette.scenes.visibility import GRID, Place, all_seen, eye, outline

__all__ = ["apart", "first_place", "shown", "stand"]

GAP = 0.05
"""World units between footprints."""

TIMES = (0.0, 0.5, 1.0, 1.5, 2.0)
"""Seconds at which what glides over the floor must have room."""

STEP, REACH = 0.15, 2.4
"""World units between places that are tried, and how far from where they are looked for."""

_BORDER = sum(
    1 << (row * GRID + column)
    for row in range(GRID)
    for column in range(GRID)
    if {row, column} & {0, GRID - 1}
)


def _times(scene: Scene) -> tuple[float, ...]:
    glides = any(thing.motion.startswith("rolls") or thing.motion == "walks" for thing in scene.objects)
    return TIMES if glides else TIMES[:1]


def base(scene: Scene, index: int) -> int:
    """The object on the floor that carries object `index`, or itself."""
    while (on := scene.objects[index].on) is not None:
        index = on
    return index


def apart(scene: Scene, index: int) -> bool:
    """Whether what stands with object `index` keeps clear of all else, each in its cylinder."""
    things, own = scene.objects, base(scene, index)
    if len(carried := [thing.on for thing in things if thing.on is not None]) > len(set(carried)):
        return False
    mine = [i for i in range(len(things)) if base(scene, i) == own]
    others = [i for i in range(len(things)) if i not in mine]
    for time in _times(scene):
        at = [place(scene, i, time).center[:2] for i in range(len(things))]
        for i in mine:
            for j in others:
                if math.dist(at[i], at[j]) < footprint(things[i]) + footprint(things[j]) + GAP:
                    return False
    return True


def shown(scene: Scene) -> bool:
    """Whether every object is wholly in the picture, and enough of it seen to tell what it is."""
    camera, (first, *later) = scene.camera, _times(scene)
    seen_by, azimuth = eye(camera), math.radians(camera.azimuth)
    cos, sin = math.cos(azimuth), math.sin(azimuth)
    for time in (first, *later[-1:]):
        outlines = []
        for i, thing in enumerate(scene.objects):
            x, y, z = place(scene, i, time).center
            at = Place(y * cos - x * sin, -(x * cos + y * sin), z - half_height(thing))
            outlines.append((at.w, at.z, outline(thing, at, seen_by, camera.azimuth)))
        if any(bits & _BORDER for _, _, bits in outlines):
            return False
        if time == first and not all_seen(outlines):
            return False
    return True


def stand(scene: Scene, index: int, s: float, w: float) -> Scene:
    """The scene with object `index` on the floor, s units right of the middle and w farther away."""
    azimuth = math.radians(scene.camera.azimuth)
    cos, sin = math.cos(azimuth), math.sin(azimuth)
    moved = replace(
        scene.objects[index], x=round(-w * cos - s * sin, 3), y=round(s * cos - w * sin, 3), on=None
    )
    return replace(scene, objects=(*scene.objects[:index], moved, *scene.objects[index + 1 :]))


def first_place(scene: Scene, index: int, kind: str | None = None, ground: int | None = None) -> Scene | None:
    """The scene with object `index` at the first place with room, or None.

    Places are tried outwards from the middle; or, with a kind of relation, from object `ground`, or from
    where the object itself is, in that direction.
    """
    start, wanted = (0.0, 0.0), None
    if kind is not None:
        start = sideways_and_away(scene, index if ground is None else ground)
        wanted = None if ground is None else Relation(index, kind, ground)
    for ds, dw in _offsets(kind):
        there = stand(scene, index, start[0] + ds, start[1] + dw)
        if (wanted is None or wanted in relations(there)) and apart(there, index) and shown(there):
            return there
    return None


@cache
def _offsets(kind: str | None) -> tuple[tuple[float, float], ...]:
    """Steps to the right and away, the nearest first; with a kind, to that side and rather straight."""
    count = round(REACH / STEP)
    line = [i * STEP for i in range(-count, count + 1)]
    steps = [(ds, dw) for ds in line for dw in line]
    if kind is None:
        return tuple(sorted(steps, key=lambda d: (round(math.hypot(*d), 6), d)))
    axis, sign = {"left of": (0, -1), "right of": (0, 1), "in front of": (1, -1), "behind": (1, 1)}[kind]
    steps = [d for d in steps if sign * d[axis] > CLEARLY and abs(d[1 - axis]) <= abs(d[axis])]
    return tuple(sorted(steps, key=lambda d: (round(abs(d[axis]) + 2 * abs(d[1 - axis]), 6), d)))
