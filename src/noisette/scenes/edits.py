"""Pairs for editing: an instruction, and the scene in which nothing but that has changed.

An instruction is chosen as data, carried out, and said in one of many ways: reading the text and carrying
it out (`apply`) gives the same scene again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations

from noisette.errors import UserError
from noisette.scenes.caption import attributes
from noisette.scenes.constraints import Constraints, Pattern, Relation, relations
from noisette.scenes.instructions import Add, Change, Instruction, Move, Remove, Surround, find
from noisette.scenes.orders import read, say
from noisette.scenes.room import shown
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
    Scene,
    motions_of,
)
from noisette.scenes.splits import belongs

__all__ = ["apply", "edit"]

VALUES = {"color": COLORS, "material": MATERIALS, "size": SIZES, "shape": SHAPES, "pose": POSES}

TRIES = 200
"""Instructions that are tried: many cannot be carried out, but those about the light and style always can."""


def apply(scene: Scene, instruction: str) -> Scene:
    """The scene after an instruction in words, such as "put a small blue cone on top of the cube".

    What is added or moved takes the first free place, so that the same words always give the same scene.

    Raises UserError where the words are not understood, where what they mean is not there or not clear, and
    where there is no room.
    """
    return read(instruction).carry_out(scene)


def edit(scene: Scene, rng: random.Random, *, motion: bool = False, split: str = "all") -> tuple[str, Scene]:
    """An instruction in words, and the scene after it, which is another scene of the same split.

    `apply(scene, words)` gives that scene. Objects are called by the shortest names that are clear, or
    sometimes by longer ones. With motion some instructions say how things or the camera move.

    Raises UserError when there is no such split.
    """
    for attempt in range(TRIES):
        propose = rng.choice((*PROPOSALS, *MOVING) if motion else PROPOSALS)
        try:
            instruction = (
                propose(scene, rng) if attempt < TRIES - 1 else _surround(scene, rng, "light", LIGHTS)
            )
            after = instruction.carry_out(scene) if instruction is not None else scene
        except UserError:  # it cannot be so, or has no room
            continue
        placed = not isinstance(instruction, Surround | Remove)
        if instruction is None or after == scene or not belongs(after, split):
            continue
        if not placed or shown(after) or not shown(scene):
            return say(instruction, rng.choice), after
    raise UserError(f"no edit of this scene stays in the split {split!r}")


Propose = Callable[[Scene, random.Random], Instruction | None]


def _unique(scene: Scene, target: Constraints, besides: tuple[int, ...] = ()) -> bool:
    try:
        return find(scene, target, besides) >= 0
    except UserError:
        return False


def _name(scene: Scene, index: int, rng: random.Random, besides: tuple[int, ...] = ()) -> Constraints | None:
    """What is enough to tell an object from all others: attributes, or else where it is; None without."""
    told = attributes(scene.objects[index])
    extras = [some for n in range(4) for some in combinations(("color", "size", "material"), n)]
    names = [Constraints((Pattern(**{k: told[k] for k in ("shape", *some)}),)) for some in extras]
    if clear := [name for name in names if _unique(scene, name, besides)]:
        return clear[0] if rng.random() < 0.7 else rng.choice(clear[: 1 + len(clear) // 2])
    for relation in relations(scene):
        if relation.subject == index:
            ends = (told, attributes(scene.objects[relation.object]))
            pair = tuple(Pattern(shape=end["shape"], color=end["color"]) for end in ends)
            name = Constraints(pair, (Relation(0, relation.kind, 1),))
            if _unique(scene, name, besides):
                return name
    return None


def _some(scene: Scene, rng: random.Random) -> tuple[int, Constraints] | None:
    """One of the objects, and its name."""
    index = rng.randrange(len(scene.objects))
    name = _name(scene, index, rng)
    return None if name is None else (index, name)


def _carries(scene: Scene, index: int) -> bool:
    return any(thing.on == index for thing in scene.objects)


def _change(scene: Scene, rng: random.Random, field: str) -> Change | None:
    """Another value of one attribute, where nothing else must change with it."""
    if (chosen := _some(scene, rng)) is None:
        return None
    index, name = chosen
    thing = scene.objects[index]
    values = {"color": COLORS, "material": MATERIALS, "size": SIZES, "shape": SHAPES, "pose": POSES}.get(
        field
    )
    value = rng.choice([v for v in values or motions_of(thing.shape) if v != getattr(thing, field)])
    to = Pattern(**{field: value})
    if field == "pose" and thing.shape != "figure":
        return None
    if field == "shape":
        if thing.pose != "standing" or thing.motion not in motions_of(value):
            return None
        if rng.random() < 0.4:  # "turn it into a blue cone"
            to = Pattern(shape=value, color=rng.choice(COLORS))
    return Change(name, to)


def _remove(scene: Scene, rng: random.Random) -> Remove | None:
    chosen = _some(scene, rng)
    return None if chosen is None or _carries(scene, chosen[0]) else Remove(chosen[1])


def _new(rng: random.Random) -> Pattern:
    shape = rng.choice(SHAPES)
    return Pattern(
        shape=shape,
        color=rng.choice(COLORS),
        size=rng.choice((None, *SIZES)),
        material=rng.choice((None, *MATERIALS)),
        pose=rng.choice((None, *POSES)) if shape == "figure" else None,
    )


def _add(scene: Scene, rng: random.Random) -> Add | None:
    if rng.random() < 0.3:
        return Add(_new(rng))
    chosen = _some(scene, rng)
    place = rng.choice(("left of", "right of", "in front of", "behind"))
    return None if chosen is None else Add(_new(rng), place, chosen[1])


def _add_on_top(scene: Scene, rng: random.Random) -> Add | None:
    chosen = _some(scene, rng)
    if chosen is None or scene.objects[chosen[0]].shape not in FLAT_TOPPED:
        return None
    thing = _new(rng)
    small = scene.objects[chosen[0]].size == "small"
    return None if small and thing.size == "large" else Add(thing, "on top of", chosen[1])


def _move(scene: Scene, rng: random.Random, places: tuple[str, ...]) -> Move | None:
    """To a place where it is not yet, of another object or of where it stands."""
    chosen = _some(scene, rng)
    if chosen is None or chosen[1].relations:  # where it stands cannot be told beside where it goes
        return None
    index, name = chosen
    place = rng.choice(places)
    if place != "on top of" and scene.objects[index].on is None and rng.random() < 0.5:
        return Move(name, place)
    ground = rng.randrange(len(scene.objects))
    if ground == index or Relation(index, place, ground) in relations(scene):
        return None
    where = _name(scene, ground, rng, besides=(index,))
    sizes = scene.objects[ground].size, scene.objects[index].size
    if where is None or (place == "on top of" and sizes == ("small", "large")):
        return None
    return Move(name, place, where)


def _surround(scene: Scene, rng: random.Random, field: str, values: tuple[str, ...]) -> Surround:
    return Surround(Constraints(**{field: rng.choice(values)}))  # pyright: ignore[reportArgumentType]


def _floor(scene: Scene, rng: random.Random) -> Surround:
    color, pattern = rng.choice(FLOOR_COLORS), rng.choice(FLOOR_PATTERNS)
    color, pattern = rng.choice(((color, None), (None, pattern), (color, pattern)))
    return Surround(Constraints(floor_color=color, floor_pattern=pattern))


PROPOSALS: tuple[Propose, ...] = (
    lambda scene, rng: _change(scene, rng, "color"),
    lambda scene, rng: _change(scene, rng, "material"),
    lambda scene, rng: _change(scene, rng, "size"),
    lambda scene, rng: _change(scene, rng, "shape"),
    lambda scene, rng: _change(scene, rng, "pose"),
    lambda scene, rng: _move(scene, rng, ("left of", "right of", "in front of", "behind")),
    lambda scene, rng: _move(scene, rng, ("on top of",)),
    lambda scene, rng: _surround(scene, rng, "light", LIGHTS),
    lambda scene, rng: _surround(scene, rng, "style", STYLES),
    _remove,
    _add,
    _add_on_top,
    _floor,
)
MOVING: tuple[Propose, ...] = (
    lambda scene, rng: _change(scene, rng, "motion"),
    lambda scene, rng: _surround(scene, rng, "camera_motion", CAMERA_MOTIONS),
)
