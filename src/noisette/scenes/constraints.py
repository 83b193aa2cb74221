"""What is asked of a scene, and whether it holds: the meaning that text, sampler and reader share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from noisette.errors import UserError
from noisette.scenes.scene import (
    CAMERA_MOTIONS,
    COLORS,
    FLOOR_COLORS,
    FLOOR_PATTERNS,
    LIGHTS,
    MATERIALS,
    MOTIONS,
    POSES,
    SHAPES,
    SIZES,
    STYLES,
    Object,
    Scene,
    check_word,
)

__all__ = ["RELATIONS", "Constraints", "Pattern", "Relation", "assignments", "holds", "relations"]

RELATIONS = ("left of", "right of", "in front of", "behind", "on top of")

CLEARLY = 0.5
"""World units: nearer than this, two objects are neither left nor right, before nor behind one another."""


@dataclass(frozen=True)
class Pattern:
    """What one object must be; None leaves it open. Raises UserError for a word that does not exist."""

    shape: str | None = None
    color: str | None = None
    size: str | None = None
    material: str | None = None
    pose: str | None = None
    motion: str | None = None

    def __post_init__(self) -> None:
        words = (SHAPES, COLORS, SIZES, MATERIALS, POSES, MOTIONS)
        for f, known in zip(fields(self), words, strict=True):
            if getattr(self, f.name) is not None:
                check_word(f.name, getattr(self, f.name), known)

    def fits(self, thing: Object) -> bool:
        """Whether the object is all that the pattern asks."""
        asked = ((f.name, getattr(self, f.name)) for f in fields(self))
        return all(value is None or getattr(thing, name) == value for name, value in asked)


@dataclass(frozen=True)
class Relation:
    """Object `subject` is `kind` object `object`, as the camera sees them; both are indices."""

    subject: int
    kind: str
    object: int

    def __post_init__(self) -> None:
        check_word("relation", self.kind, RELATIONS)


@dataclass(frozen=True)
class Constraints:
    """What a scene must show. Each pattern asks for an object of its own; relations are between patterns.

    count asks for exactly that many objects; without it there may be more than the patterns.

    Raises UserError for a word that does not exist, and for a relation between patterns that are not there.
    """

    objects: tuple[Pattern, ...] = ()
    relations: tuple[Relation, ...] = ()
    count: int | None = None
    floor_color: str | None = None
    floor_pattern: str | None = None
    light: str | None = None
    style: str | None = None
    camera_motion: str | None = None

    def __post_init__(self) -> None:
        patterns = tuple(Pattern(**p) if isinstance(p, Mapping) else p for p in self.objects)
        object.__setattr__(self, "objects", patterns)
        object.__setattr__(self, "relations", tuple(self.relations))
        known = (FLOOR_COLORS, FLOOR_PATTERNS, LIGHTS, STYLES, CAMERA_MOTIONS)
        names = ("floor_color", "floor_pattern", "light", "style", "camera_motion")
        for name, words in zip(names, known, strict=True):
            if getattr(self, name) is not None:
                check_word(name, getattr(self, name), words)
        for relation in self.relations:
            ends = {relation.subject, relation.object}
            if len(ends) != 2 or not ends <= set(range(len(patterns))):
                raise UserError(f"a relation is between two of the {len(patterns)} objects asked for")
        if len(patterns) > 4 or not (self.count is None or max(1, len(patterns)) <= self.count <= 4):
            raise UserError("a scene has one to four objects")

    def surroundings(self) -> dict[str, str]:
        """What is asked of the floor, the light, the style and the camera, by field of Constraints."""
        names = ("floor_color", "floor_pattern", "light", "style", "camera_motion")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def surroundings(scene: Scene) -> dict[str, str]:
    """The same fields of a scene as `Constraints.surroundings`, all of them."""
    return {
        "floor_color": scene.floor.color,
        "floor_pattern": scene.floor.pattern,
        "light": scene.light,
        "style": scene.style,
        "camera_motion": scene.camera.motion,
    }


def position(scene: Scene, index: int) -> tuple[float, float]:
    """Where object `index` stands, x and y in the world: offsets add up along what it stands on."""
    x = y = 0.0
    on: int | None = index
    while on is not None:
        thing = scene.objects[on]
        x, y, on = x + thing.x, y + thing.y, thing.on
    return x, y


def sideways_and_away(scene: Scene, index: int) -> tuple[float, float]:
    """Object `index` as the camera sees the floor: units to the right, and units away from it."""
    x, y = position(scene, index)
    azimuth = math.radians(scene.camera.azimuth)
    cos, sin = math.cos(azimuth), math.sin(azimuth)
    return y * cos - x * sin, -(x * cos + y * sin)


def relations(scene: Scene, margin: float = CLEARLY) -> Iterator[Relation]:
    """Every relation that holds between two objects of the scene by at least `margin` world units.

    Left and right are along the picture, in front of and behind along the floor towards the camera, both
    where the objects stand. What stands on another is on top of it, and in no other relation to it.
    """
    seen = [sideways_and_away(scene, i) for i in range(len(scene.objects))]
    for a, b in itertools.permutations(range(len(scene.objects)), 2):
        if scene.objects[a].on == b:
            yield Relation(a, "on top of", b)
            continue
        if scene.objects[b].on == a:
            continue
        right, away = seen[a][0] - seen[b][0], seen[a][1] - seen[b][1]
        if abs(right) >= margin:
            yield Relation(a, "right of" if right > 0 else "left of", b)
        if abs(away) >= margin:
            yield Relation(a, "behind" if away > 0 else "in front of", b)


def assignments(scene: Scene, constraints: Constraints) -> Iterator[tuple[int, ...]]:
    """Every way to give each pattern an object of its own that fits it, with all relations holding."""
    true = set(relations(scene))
    for chosen in itertools.permutations(range(len(scene.objects)), len(constraints.objects)):
        fits = (p.fits(scene.objects[i]) for p, i in zip(constraints.objects, chosen, strict=True))
        asked = (Relation(chosen[r.subject], r.kind, chosen[r.object]) for r in constraints.relations)
        if all(fits) and all(relation in true for relation in asked):
            yield chosen


def holds(scene: Scene, constraints: Constraints) -> bool:
    """Whether the scene shows all that is asked."""
    here: dict[str, Any] = surroundings(scene)
    if any(here[name] != value for name, value in constraints.surroundings().items()):
        return False
    if constraints.count is not None and constraints.count != len(scene.objects):
        return False
    return next(assignments(scene, constraints), None) is not None
