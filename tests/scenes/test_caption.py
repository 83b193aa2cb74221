from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from itertools import product
from random import Random

import pytest

from noisette.scenes.caption import attributes, caption, describe, name_of
from noisette.scenes.constraints import Constraints, Pattern, Relation, holds, relations, surroundings
from noisette.scenes.parse import parse
from noisette.scenes.sampling import sample_scene
from noisette.scenes.scene import (
    CAMERA_MOTIONS,
    COLORS,
    FLAT_TOPPED,
    FLOOR_COLORS,
    FLOOR_PATTERNS,
    LIGHTS,
    MATERIALS,
    MOTIONS,
    POSES,
    SHAPES,
    SIZES,
    STYLES,
    Camera,
    Floor,
    Object,
    Scene,
    motions_of,
)

WORDS = {
    "shape": SHAPES,
    "color": COLORS,
    "size": SIZES,
    "material": MATERIALS,
    "pose": POSES,
    "motion": MOTIONS,
}


def random_scene(seed: int) -> Scene:
    """Any scene that is valid, with objects alike, in each other's place or out of sight as it comes."""
    rng = Random(seed)
    moving, alike = rng.random() < 0.4, rng.random() < 0.3
    things: list[Object] = []
    for _ in range(rng.randint(1, 4)):
        taken = {thing.on for thing in things}
        bases = [
            i
            for i, o in enumerate(things)
            if o.shape in FLAT_TOPPED and o.motion == "still" and i not in taken
        ]
        on = rng.choice(bases) if bases and rng.random() < 0.4 else None
        shape = rng.choice(SHAPES[:2] if alike else SHAPES)
        motions = [
            m for m in motions_of(shape) if moving and (on is None or m in ("still", "bounces", "spins"))
        ]
        motion = rng.choice(motions or ["still"])
        poses = (
            [p for p in POSES if p != "sitting" or motion != "walks"] if shape == "figure" else ["standing"]
        )
        x, y = (0.0, 0.0) if on is not None else (rng.uniform(-2, 2), rng.uniform(-2, 2))
        color, size = rng.choice(COLORS[:2] if alike else COLORS), rng.choice(SIZES)
        material = rng.choice(MATERIALS)
        things.append(Object(shape, color, size, material, x, y, 0.0, on, rng.choice(poses), motion))
    return Scene(
        tuple(things),
        Floor(rng.choice(FLOOR_COLORS), rng.choice(FLOOR_PATTERNS)),
        rng.choice(LIGHTS),
        rng.choice(STYLES),
        Camera(rng.uniform(0, 360), motion=rng.choice(CAMERA_MOTIONS) if moving else "still"),
    )


@cache
def sampled(count: int) -> tuple[Scene, ...]:
    return tuple(sample_scene(seed, motion=seed % 3 == 0) for seed in range(count))


def test_ten_thousand_captions_hold_for_their_scenes() -> None:
    wrong = []
    for seed in range(10_000):
        rng = Random(seed)
        scene = random_scene(seed)
        text = caption(scene, rng, motion=rng.choice((None, None, True, False)))
        if not holds(scene, parse(text)):
            wrong.append(text)
    assert not wrong


def test_captions_hold_for_sampled_scenes() -> None:
    for seed, scene in enumerate(sampled(200)):
        for text in (caption(scene, Random(1000 * seed + k)) for k in range(5)):
            assert holds(scene, parse(text)), text
        assert holds(scene, parse(describe(scene))), describe(scene)


def others(scene: Scene) -> Iterator[Scene]:
    """The scene with one word changed, in every way in which it stays valid."""
    for index, thing in enumerate(scene.objects):
        for name, words in WORDS.items():
            for word in words:
                try:
                    changed = replace(thing, **{name: word})
                    things = (*scene.objects[:index], changed, *scene.objects[index + 1 :])
                    yield replace(scene, objects=things)
                except ValueError:
                    continue
    yield from (replace(scene, light=word) for word in LIGHTS)
    yield from (replace(scene, style=word) for word in STYLES)
    yield from (replace(scene, floor=Floor(*words)) for words in product(FLOOR_COLORS, FLOOR_PATTERNS))
    yield from (replace(scene, camera=replace(scene.camera, motion=word)) for word in CAMERA_MOTIONS)
    if len(scene.objects) < 4:
        yield replace(scene, objects=(*scene.objects, Object("sphere", x=9.0)))
    if len(scene.objects) > 1 and all(thing.on is None for thing in scene.objects):
        yield replace(scene, objects=scene.objects[1:])


def test_a_description_fits_no_scene_with_another_word() -> None:
    count = 0
    for seed in range(60):
        scene = random_scene(seed)
        asked = parse(describe(scene))
        assert holds(scene, asked)
        for other in others(scene):
            if other != scene:
                count += 1
                assert not holds(other, asked), (describe(scene), other)
    assert count > 4000


def closure(found: set[Relation]) -> set[Relation]:
    """All that follows: "right of" from "left of", and chains."""
    turned = {"left of": "right of", "right of": "left of", "behind": "in front of", "in front of": "behind"}
    found = found | {Relation(r.object, turned[r.kind], r.subject) for r in found if r.kind in turned}
    while True:
        chains = {
            Relation(r.subject, r.kind, s.object)
            for r, s in product(found, found)
            if r.kind == s.kind != "on top of" and r.object == s.subject and r.subject != s.object
        }
        if chains <= found:
            return found
        found |= chains


def test_a_description_tells_every_relation() -> None:
    for seed in range(300):
        scene = random_scene(seed)
        if len(set(scene.objects)) == len(scene.objects):
            assert set(relations(scene)) <= closure(set(parse(describe(scene)).relations)), describe(scene)


def test_a_description_is_plain_and_fixed() -> None:
    cube = Object("cube", "blue", "large", "shiny", 0.0, 0.5)
    scene = Scene(
        (cube, Object("figure", "red", "small", on=0, pose="waving")), light="night", style="sketch"
    )
    assert describe(scene) == (
        "A pencil sketch of a large shiny blue cube and a small matte red waving figure on a plain gray "
        "floor, at night, and nothing else. The figure is on top of the cube. Nothing moves."
    )


def test_what_a_caption_says_is_asked() -> None:
    """Another word for all that have it, and the caption is not true any more."""
    said: Counter[str] = Counter()
    for seed in range(300):
        scene = random_scene(seed)
        asked = parse(caption(scene, Random(seed)))
        for pattern in asked.objects:
            for f in fields(Pattern):
                value = getattr(pattern, f.name)
                said[f.name] += value is not None
                if f.name in ("color", "size", "material") and value is not None:
                    other = next(w for w in WORDS[f.name] if w != value)
                    things = [
                        replace(o, **{f.name: other}) if getattr(o, f.name) == value else o
                        for o in scene.objects
                    ]
                    assert not holds(replace(scene, objects=tuple(things)), asked)
        for name in asked.surroundings():
            said[name] += 1
            assert not holds(scene, replace(asked, **{name: another(scene, name)}))
        said["objects"] += len(asked.objects)
        said["scenes"] += 1
        said["related"] += bool(asked.relations)
        said["several"] += len(scene.objects) > 1
    assert said["objects"] > 0.85 * sum(len(random_scene(seed).objects) for seed in range(300))
    assert said["shape"] > 0.9 * said["objects"] and said["color"] > 0.75 * said["objects"]
    assert 0.35 < said["size"] / said["objects"] < 0.65
    assert all(0.3 < said[name] / said["scenes"] < 0.7 for name in ("light", "style", "floor_pattern"))
    assert said["related"] > 0.6 * said["several"]


def another(scene: Scene, name: str) -> str:
    words = {"light": LIGHTS, "style": STYLES, "floor_color": FLOOR_COLORS, "floor_pattern": FLOOR_PATTERNS}
    here = surroundings(scene)[name]
    return next(word for word in {**words, "camera_motion": CAMERA_MOTIONS}[name] if word != here)


def test_captions_vary_and_are_repeatable() -> None:
    scene = sampled(200)[7]
    texts = [caption(scene, Random(k)) for k in range(200)]
    assert len(set(texts)) > 190
    assert texts == [caption(scene, Random(k)) for k in range(200)]


@pytest.mark.parametrize("motion", [None, True, False])
def test_motion_is_told_where_something_moves_or_as_asked(motion: bool | None) -> None:
    told = 0
    for seed in range(200):
        scene = random_scene(seed)
        moves = scene.camera.motion != "still" or any(o.motion != "still" for o in scene.objects)
        asked = parse(caption(scene, Random(seed), motion=motion))
        tells = asked.camera_motion is not None or any(p.motion for p in asked.objects)
        told += tells
        if motion is False or (motion is None and not moves):
            assert not tells
    assert (told > 50) == (motion is not False)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_noun_phrases_are_read_back_exactly(count: int) -> None:
    for seed in range(500):
        rng = Random(seed)
        words = attributes(random_scene(seed).objects[0])
        words = {k: v for k, v in words.items() if k == "shape" or rng.random() < 0.6}
        text = name_of(words, rng.choice, "a", count)
        assert parse(text) == Constraints((Pattern(**words),) * count), text
