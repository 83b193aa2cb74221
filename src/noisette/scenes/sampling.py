"""Scenes by number: a seed, and what is asked, become a scene in which all of it holds and can be seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from random import Random
from typing import Any

from noisette.errors import UserError
from noisette.scenes.arrangement import FOV, Distances, arrange, distances, far_enough
from noisette.scenes.constraints import Constraints, Pattern, Relation
from noisette.scenes.scene import (
    CAMERA_MOTIONS,
    COLORS,
    FLAT_TOPPED,
    FLOOR_COLORS,
    FLOOR_PATTERNS,
    LIGHTS,
    MATERIALS,
    POSES,
    SHAPES,
    SIZES,
    STYLES,
    Camera,
    Floor,
    Object,
    Scene,
    check_word,
    motions_of,
)
from noisette.scenes.shapes import half_height
from noisette.scenes.splits import SPLITS, facts, held_out_pairs, is_novel

__all__ = ["DISTANCES", "ELEVATIONS", "sample_scene"]

ELEVATIONS, DISTANCES = (15.0, 40.0), (6.0, 7.0)
"""Degrees and world units: low enough to see what stands before what, high enough to see it at all; so
near that the smallest thing has 20 pixels of a picture of 64. What is very tall moves the camera back."""

WIDE = 57.0
"""Angle of view in degrees at the start of a zoom in or a pan: two seconds later a zoom has come to FOV."""

STACKED, TALLEST = 0.33, 2.45
"""How often one thing is put on another where some fit, which makes 15 % of all scenes with several
objects; and how tall, in world units, unless asked for."""

MOVES, CAMERA_MOVES = 0.6, 0.4
"""Share of objects and of cameras that move, in scenes with motion."""

DRAFTS, LAYOUTS, COLORINGS = 100, 10, 40
"""Tries: of scenes, of places for the objects of one, of colors for those places."""
PATIENCE = 12
"""Tries of scenes before the camera steps back to make room, at the last to nearly twice its distance."""

_STAY = ("still", "bounces", "spins")


def sample_scene(seed: int, *, split: str = "all", motion: bool = False, **constraints: Any) -> Scene:
    """The scene of that number among those of a split in which all that is asked holds.

    A pure function of its arguments, the same in every process. constraints are the fields of Constraints
    (objects may be dictionaries): `sample_scene(3, light="night", objects=[{"shape": "cube"}])`,
    `sample_scene(3, **vars(parse(text)))`. The objects asked for come first, in their order; without
    `count` there may be others, up to four in all. What is not asked for is drawn evenly. Things move only
    where that is asked, or with `motion`, and then without meeting, in the picture, for two seconds.

    No object touches another but what it stands on; each is wholly in the picture, and at least about half
    of it is seen at time 0.

    Raises UserError for a constraint or a split that does not exist, for relations that contradict each
    other, and when no scene was found in a bounded number of tries.
    """
    check_word("split", split, SPLITS)
    asked = _asked(constraints)
    _check_pairs(asked, split)
    rng = Random(f"{seed}/{split}/{motion}/{asked!r}")
    count = asked.count or rng.randint(max(1, len(asked.objects)), 4)
    patterns = asked.objects + (Pattern(),) * (count - len(asked.objects))
    on = _supports(asked.relations, count)
    sideways, away = _orders(asked.relations, on)
    for tried in range(DRAFTS):
        things = [_draw_thing(rng, p, i in on, on[i]) for i, p in enumerate(patterns)]
        _settle_sizes(things, patterns)
        _stack(rng, things, {i for r in asked.relations for i in (r.subject, r.object)})
        camera = _draw_camera(rng, asked)
        if motion:
            camera = _set_in_motion(rng, things, patterns, camera, asked.camera_motion is None)
        camera = _framed(camera, things, 1 + max(0, tried - PATIENCE) / DRAFTS)
        for _ in range(LAYOUTS):
            places = arrange(rng, things, camera, sideways, away)
            if places and (scene := _finish(rng, things, places, camera, asked, patterns, split)):
                return scene
    raise UserError(f"no scene of the split {split!r} was found that shows all of that: ask for less")


def _asked(constraints: Mapping[str, Any]) -> Constraints:
    known = [f.name for f in fields(Constraints)]
    unknown = [name for name in constraints if name not in known]
    if unknown:
        raise UserError(f"there is no constraint {unknown[0]!r:.40}; there are {', '.join(known)}")
    try:
        related = [Relation(**r) if isinstance(r, Mapping) else r for r in constraints.get("relations", ())]
        return Constraints(**{**constraints, "relations": tuple(related)})
    except TypeError as error:
        raise UserError(f"constraints are Patterns and Relations, or their fields: {error}") from None


def _check_pairs(asked: Constraints, split: str) -> None:
    if split in ("train", "test"):
        for pattern in asked.objects:
            if (pattern.shape, pattern.color) in held_out_pairs():
                what = f"a {pattern.color} {pattern.shape}"
                raise UserError(f"{what} is held out of the split {split!r}: it is in 'novel' and 'all'")


def _supports(relations: Sequence[Relation], count: int) -> list[int | None]:
    """What each object is asked to stand on. Raises UserError where that cannot be built."""
    on: list[int | None] = [None] * count
    for r in relations:
        if r.kind != "on top of" or on[r.subject] == r.object:
            continue
        if on[r.subject] is not None or r.object in on:
            raise UserError("the relations cannot be built: one thing stands on one other, and carries one")
        on[r.subject] = r.object
    for start in range(count):
        if start in _below(start, on):
            raise UserError("the relations contradict each other: objects would stand on themselves")
    return on


def _below(index: int, on: Sequence[int | None]) -> list[int]:
    """What object `index` stands on, and what that stands on, down to the floor."""
    chain: list[int] = []
    while (below := on[index]) is not None and below not in chain:
        chain.append(below)
        index = below
    return chain


def _orders(relations: Sequence[Relation], on: Sequence[int | None]) -> tuple[Distances, Distances]:
    """What is asked of places, from left to right and from near to far, of what stands on the floor."""
    pairs: dict[str, list[tuple[int, int]]] = {"left of": [], "in front of": []}
    opposite = {"right of": "left of", "behind": "in front of"}
    for r in relations:
        a, b = ([i, *_below(i, on)][-1] for i in (r.subject, r.object))
        if r.kind in pairs:
            pairs[r.kind].append((a, b))
        elif r.kind in opposite:
            pairs[opposite[r.kind]].append((b, a))
    return distances(len(on), pairs["left of"]), distances(len(on), pairs["in front of"])


@cache
def _shapes(pattern: Pattern, carries: bool, carried: bool) -> tuple[str, ...]:
    """The shapes that can be what is asked. Raises UserError when there is none."""

    def can(shape: str) -> bool:
        motion = pattern.motion or "still"
        return (
            pattern.shape in (None, shape)
            and motion in motions_of(shape)
            and (shape == "figure" or pattern.pose in (None, "standing"))
            and not (carries and (shape not in FLAT_TOPPED or motion != "still"))
            and not (carried and motion not in _STAY)
        )

    found = tuple(shape for shape in SHAPES if can(shape))
    if not found:
        words = {f.name: getattr(pattern, f.name) for f in fields(pattern)}
        asked = ", ".join(f"{name} {word}" for name, word in words.items() if word)
        place = " with something on top" * carries + " on top of something" * carried
        raise UserError(f"no object can be asked for as {asked or 'anything'}{place}: nothing is like that")
    return found


def _draw_thing(rng: Random, pattern: Pattern, carries: bool, on: int | None) -> Object:
    shape, pose, motion = rng.choice(_shapes(pattern, carries, on is not None)), pattern.pose, pattern.motion
    if pose is None:
        pose = rng.choice(POSES) if shape == "figure" else "standing"
        if motion == "walks" and pose == "sitting":
            pose = "standing"
    return Object(
        shape,
        color=pattern.color or rng.choice(COLORS),
        size=pattern.size or rng.choice(SIZES),
        material=pattern.material or rng.choice(MATERIALS),
        yaw=float(rng.randrange(360)),
        on=on,
        pose=pose,
        motion=motion or "still",
    )


def _settle_sizes(things: list[Object], patterns: Sequence[Pattern]) -> None:
    """What carries something is large, and nothing is larger than what it stands on, unless asked for."""
    supports = [thing.on for thing in things]
    for i in supports:
        if i is not None and patterns[i].size is None:
            things[i] = replace(things[i], size="large")
    for _ in things:  # from the floor up, whatever the order of the objects is
        for i, below in enumerate(supports):
            if below is not None and things[below].size == "small" and patterns[i].size is None:
                things[i] = replace(things[i], size="small")


def _stack(rng: Random, things: list[Object], related: set[int]) -> None:
    """Now and then put one thing on another that no relation speaks of, rather on a large one."""
    if rng.random() >= STACKED:
        return
    taken = related | {i for thing in things if (i := thing.on) is not None}
    free = [i for i in range(len(things)) if i not in taken]
    bases = [i for i in free if things[i].shape in FLAT_TOPPED and things[i].motion == "still"]
    fitting = [
        (top, base)
        for base in bases
        for top in free
        if top != base
        and things[top].motion in _STAY
        and (things[top].size == "small" or things[base].size == "large")
        and half_height(things[top]) + half_height(things[base]) <= TALLEST / 2
    ]
    steady = [pair for pair in fitting if things[pair[1]].size == "large"]
    if steady or (fitting and rng.random() < 0.4):
        top, base = rng.choice(steady or fitting)
        things[top] = replace(things[top], on=base)


def _draw_camera(rng: Random, asked: Constraints) -> Camera:
    return Camera(
        azimuth=round(rng.uniform(0, 360), 1),
        elevation=round(rng.uniform(*ELEVATIONS), 1),
        distance=round(rng.uniform(*DISTANCES), 2),
        motion=asked.camera_motion or "still",
    )


def _set_in_motion(
    rng: Random, things: list[Object], patterns: Sequence[Pattern], camera: Camera, free: bool
) -> Camera:
    """Move some objects of which no motion is asked, and the camera if it is free; one of them at least."""
    carrying = {thing.on for thing in things}
    for i, (thing, pattern) in enumerate(zip(things, patterns, strict=True)):
        if pattern.motion is None and i not in carrying and rng.random() < MOVES:
            can = _STAY if thing.on is not None else motions_of(thing.shape)
            walks = thing.pose != "sitting"
            things[i] = replace(thing, motion=rng.choice([m for m in can[1:] if walks or m != "walks"]))
    still = all(thing.motion == "still" for thing in things)
    if free and (still or rng.random() < CAMERA_MOVES):
        return replace(camera, motion=rng.choice(CAMERA_MOTIONS[1:]))
    return camera


def _framed(camera: Camera, things: Sequence[Object], back: float) -> Camera:
    """The camera far enough for what is tall, `back` times that, and wide enough for where it moves."""
    distance = math.ceil(100 * back * far_enough(things, camera.elevation, camera.distance) - 1e-6) / 100
    wide = camera.motion == "zooms in" or camera.motion.startswith("pans")
    return replace(camera, distance=distance, fov=WIDE if wide else FOV)


def _finish(
    rng: Random,
    things: Sequence[Object],
    places: Sequence[tuple[float, float]],
    camera: Camera,
    asked: Constraints,
    patterns: Sequence[Pattern],
    split: str,
) -> Scene | None:
    """The scene with surroundings, and colors that belong to the split; None where none were found."""
    pattern = asked.floor_pattern or rng.choice(FLOOR_PATTERNS)
    floor = Floor(asked.floor_color or rng.choice(FLOOR_COLORS), pattern)
    scene = Scene(
        tuple(replace(thing, x=x, y=y) for thing, (x, y) in zip(things, places, strict=True)),
        floor,
        asked.light or rng.choice(LIGHTS),
        asked.style or rng.choice(STYLES),
        camera,
    )
    if split == "all":
        return scene
    true = facts(scene)
    colors = [thing.color for thing in things]
    for _ in range(COLORINGS):
        pairs = [(thing.shape, color) for thing, color in zip(things, colors, strict=True)]
        if is_novel(pairs, true) == (split == "novel"):
            painted = (replace(o, color=c) for o, c in zip(scene.objects, colors, strict=True))
            return replace(scene, objects=tuple(painted))
        colors = [p.color or rng.choice(COLORS) for p in patterns]
    return None
