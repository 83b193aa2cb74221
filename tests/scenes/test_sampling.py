from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from noisette.errors import UserError
from noisette.scenes.caption import caption
from noisette.scenes.constraints import Constraints, Pattern, Relation, holds, position, relations
from noisette.scenes.layout import place
from noisette.scenes.parse import parse
from noisette.scenes.render import Rendering, render, render_views
from noisette.scenes.sampling import DISTANCES, ELEVATIONS, sample_scene
from noisette.scenes.scene import (
    CAMERA_MOTIONS,
    COLORS,
    FLOOR_COLORS,
    FLOOR_PATTERNS,
    LIGHTS,
    MATERIALS,
    SHAPES,
    SIZES,
    STYLES,
    Scene,
)
from noisette.scenes.shapes import footprint, half_height
from noisette.scenes.splits import belongs

STILL = [sample_scene(seed) for seed in range(1_500)]
MOVING = [sample_scene(seed, motion=True) for seed in range(500)]


def bases(scene: Scene) -> list[int]:
    return [i for i, thing in enumerate(scene.objects) if thing.on is None]


def widest(scene: Scene, base: int) -> float:
    """Footprint of what stands on the floor with all that it carries."""
    above = [i for i, thing in enumerate(scene.objects) if thing.on == base]
    return max(footprint(scene.objects[base]), *(widest(scene, i) for i in above), 0.0)


def outlines(scenes: list[Scene]) -> list[tuple[int, int, int]]:
    """For each object: pixels seen, pixels it would fill without the others, and its scene, at 64 px."""
    seen = render(scenes, samples=1).instance
    alone: list[Scene] = []
    whose: list[tuple[int, int]] = []
    for b, scene in enumerate(scenes):
        for i in range(len(scene.objects)):
            chain = [i]
            while (on := scene.objects[chain[-1]].on) is not None:
                chain.append(on)
            ons = [*range(1, len(chain)), None]
            kept = (replace(scene.objects[c], on=on) for c, on in zip(chain, ons, strict=True))
            alone.append(replace(scene, objects=tuple(kept)))
            whose.append((b, i))
    whole = (render(alone, samples=1).instance == 0).sum((1, 2)).tolist()
    return [(int((seen[b] == i).sum()), w, b) for (b, i), w in zip(whose, whole, strict=True)]


def touches_border(picture: Rendering) -> torch.Tensor:
    on = picture.instance >= 0
    return on[:, 0].any(1) | on[:, -1].any(1) | on[:, :, 0].any(1) | on[:, :, -1].any(1)


def test_the_same_number_gives_the_same_scene_and_another_one_another() -> None:
    assert sample_scene(5) == sample_scene(5)
    variants = [
        sample_scene(5),
        sample_scene(6),
        sample_scene(5, split="train"),
        sample_scene(5, split="test"),
        sample_scene(5, motion=True),
        sample_scene(5, light="night"),
    ]
    assert len({scene.to_json() for scene in variants}) == len(variants)
    assert sample_scene(5, objects=[{"shape": "cube"}]) == sample_scene(5, objects=(Pattern("cube"),))


def test_words_and_numbers_are_even() -> None:
    counts = Counter(len(scene.objects) for scene in STILL)
    assert all(0.2 < counts[n] / len(STILL) < 0.3 for n in (1, 2, 3, 4))
    things = [thing for scene in STILL for thing in scene.objects]
    for name, words in [("shape", SHAPES), ("color", COLORS), ("material", MATERIALS), ("size", SIZES)]:
        found = Counter(getattr(thing, name) for thing in things)
        assert all(0.8 < found[w] * len(words) / len(things) < 1.2 for w in words), (name, found)
    for words, found in [
        (LIGHTS, Counter(scene.light for scene in STILL)),
        (STYLES, Counter(scene.style for scene in STILL)),
        (FLOOR_COLORS, Counter(scene.floor.color for scene in STILL)),
        (FLOOR_PATTERNS, Counter(scene.floor.pattern for scene in STILL)),
    ]:
        assert all(0.8 < found[w] * len(words) / len(STILL) < 1.2 for w in words), found


def test_cameras_are_in_their_ranges_and_nothing_moves_unasked() -> None:
    for scene in STILL:
        assert ELEVATIONS[0] <= scene.camera.elevation <= ELEVATIONS[1] and scene.camera.fov == 40
        assert DISTANCES[0] <= scene.camera.distance <= DISTANCES[1] + 0.01
        assert scene.camera.motion == "still" and all(thing.motion == "still" for thing in scene.objects)
    turns = Counter(int(scene.camera.azimuth // 90) for scene in STILL)
    assert all(0.2 < turns[q] / len(STILL) < 0.3 for q in range(4))


def test_about_one_in_seven_has_something_on_top_that_is_no_larger() -> None:
    several = [scene for scene in STILL if len(scene.objects) > 1]
    stacked = [(s, thing) for s in several for thing in s.objects if thing.on is not None]
    assert 0.11 < len(stacked) / len(several) < 0.19
    for scene, top in stacked:
        below = scene.objects[top.on or 0]
        assert SIZES.index(top.size) <= SIZES.index(below.size)
    assert sum(s.objects[t.on or 0].size == "large" for s, t in stacked) > 0.75 * len(stacked)


@pytest.mark.parametrize("time", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_nothing_meets_for_two_seconds(time: float) -> None:
    for scene in MOVING if time else STILL + MOVING:
        for a, b in itertools.combinations(bases(scene), 2):
            (xa, ya, _), (xb, yb, _) = place(scene, a, time).center, place(scene, b, time).center
            assert math.hypot(xa - xb, ya - yb) > widest(scene, a) + widest(scene, b) + 0.05


def test_what_is_carried_stands_in_the_middle_of_what_carries_it() -> None:
    for scene in STILL:
        for i, thing in enumerate(scene.objects):
            if thing.on is not None:
                assert position(scene, i) == position(scene, thing.on)
                low = place(scene, i).center[2] - half_height(thing)
                assert low == pytest.approx(2 * half_height(scene.objects[thing.on]))


def test_the_renderer_sees_each_object_whole_and_clearly() -> None:
    scenes = STILL[:120] + MOVING[:60]
    for seen, whole, b in outlines(scenes):
        assert seen >= 20 and seen >= 0.3 * whole, scenes[b].to_json()
    assert not touches_border(render(scenes, samples=1)).any()


def test_every_azimuth_has_the_whole_scene_in_the_picture() -> None:
    for scene in STILL[:25]:
        cameras = [replace(scene.camera, azimuth=float(a)) for a in range(0, 360, 45)]
        assert not touches_border(render_views(scene, cameras, samples=1)).any(), scene.to_json()


def test_what_moves_stays_in_the_picture() -> None:
    for time in (1.0, 2.0):
        assert not touches_border(render(MOVING[:60], samples=1, time=time)).any()


def test_with_motion_something_moves_in_every_way() -> None:
    found: Counter[str] = Counter()
    for scene in MOVING:
        motions = {thing.motion for thing in scene.objects}
        assert motions != {"still"} or scene.camera.motion != "still"
        found.update(motions)
        found[f"camera {scene.camera.motion}"] += 1
        for thing in scene.objects:
            assert not (thing.motion == "walks" and thing.pose == "sitting")
    assert set(found) >= {"still", "rolls left", "rolls right", "bounces", "spins", "walks"}
    assert set(found) >= {f"camera {motion}" for motion in CAMERA_MOTIONS}


def asked_of(scene: Scene, draw: st.DrawFn) -> Constraints:
    """Some of what is true of a scene, so that it can be asked of another one."""
    keep = st.booleans()
    patterns = tuple(
        Pattern(**{f.name: getattr(thing, f.name) if draw(keep) else None for f in fields(Pattern)})
        for thing in scene.objects
    )
    related = draw(st.lists(st.sampled_from(list(relations(scene)) or [None]), max_size=3, unique=True))
    words = {"light": scene.light, "style": scene.style, "floor_color": scene.floor.color}
    return Constraints(
        patterns,
        tuple(r for r in related if r is not None),
        count=len(patterns) if draw(keep) else None,
        **{name: word for name, word in words.items() if draw(keep)},
    )


@settings(max_examples=150)
@given(st.data(), st.integers(0, 10**6), st.integers(), st.sampled_from(["train", "all", "novel"]))
def test_all_that_is_asked_holds(data: st.DataObject, seed: int, other: int, split: str) -> None:
    asked = data.draw(st.composite(lambda draw: asked_of(sample_scene(seed, split=split), draw))())
    scene = sample_scene(other, split=split, **vars(asked))
    assert holds(scene, asked) and belongs(scene, split)
    assert all(pattern.fits(thing) for pattern, thing in zip(asked.objects, scene.objects, strict=False))
    related = {(r.subject, r.kind, r.object) for r in relations(scene)}
    assert all((r.subject, r.kind, r.object) in related for r in asked.relations)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.booleans())
def test_what_is_said_of_one_scene_can_be_asked_of_another(seed: int, motion: bool) -> None:
    asked = parse(caption(sample_scene(seed, motion=motion), random.Random(seed)))
    try:
        scene = sample_scene(seed + 1, motion=motion, **vars(asked))
    except UserError:
        assume(False)  # rare: much motion in a small place is found for some numbers and not for others
    else:
        assert holds(scene, asked)


def thing(words: str) -> dict[str, str]:
    size, shape = words.split()
    return {"size": size, "shape": shape}


ROOMY = {
    "four of the widest": (["large cube"] * 4, []),
    "a row": (["large cylinder"] * 4, [(0, "left of", 1), (1, "left of", 2), (2, "left of", 3)]),
    "a queue": (["small torus"] * 4, [(0, "behind", 1), (1, "behind", 2), (2, "behind", 3)]),
    "a corner": (["large cone", "large cube"], [(0, "left of", 1), (0, "behind", 1)]),
    "large on small": (["large sphere", "small cube"], [(0, "on top of", 1)]),
    "tall": (["large figure", "large cube"], [(0, "on top of", 1)]),
    "a tower": (["large figure", "large cube", "large cylinder"], [(0, "on top of", 1), (1, "on top of", 2)]),
    "beside a stack": (
        ["small cone", "large cube", "small torus"],
        [(0, "on top of", 1), (0, "left of", 2), (1, "behind", 2)],
    ),
}


@pytest.mark.parametrize("name", ROOMY)
def test_what_needs_room_gets_it(name: str) -> None:
    things, related = ROOMY[name]
    asked = Constraints(tuple(Pattern(**thing(t)) for t in things), tuple(Relation(*r) for r in related))
    scenes = [sample_scene(seed, **vars(asked)) for seed in range(4)]
    assert all(holds(scene, asked) for scene in scenes)
    assert not touches_border(render(scenes, samples=1)).any()


IMPOSSIBLE = [
    ({"objects": [{}] * 2, "relations": [(0, "left of", 1), (1, "left of", 0)]}, "contradict"),
    ({"objects": [{}] * 2, "relations": [(0, "left of", 1), (0, "right of", 1)]}, "contradict"),
    (
        {"objects": [{}] * 3, "relations": [(0, "behind", 1), (1, "behind", 2), (0, "in front of", 2)]},
        "contradict",
    ),
    ({"objects": [{}] * 2, "relations": [(0, "on top of", 1), (1, "on top of", 0)]}, "contradict"),
    ({"objects": [{}] * 2, "relations": [(0, "on top of", 1), (0, "left of", 1)]}, "contradict"),
    ({"objects": [{}] * 3, "relations": [(0, "on top of", 1), (2, "on top of", 1)]}, "cannot be built"),
    ({"objects": [{}, {"shape": "sphere"}], "relations": [(0, "on top of", 1)]}, "sphere"),
    ({"objects": [{"motion": "walks"}, {}], "relations": [(0, "on top of", 1)]}, "walks"),
    ({"objects": [{"shape": "cube", "motion": "walks"}]}, "walks"),
    ({"objects": [{"shape": "cube", "pose": "waving"}]}, "waving"),
    ({"objects": [{"shape": "cube", "color": "purple"}], "split": "train"}, "purple cube"),
    ({"objects": [{"shape": "cube", "color": "red"}], "count": 1, "split": "novel"}, "'novel'"),
    ({"objects": [{}] * 3, "count": 2}, "one to four"),
    ({"light": "noon"}, "noon"),
    ({"lamp": "on"}, "lamp"),
    ({"objects": [{"form": "round"}]}, "form"),
    ({"split": "validation"}, "validation"),
]


@pytest.mark.parametrize(("asked", "said"), IMPOSSIBLE)
def test_what_cannot_be_is_told_in_one_line(asked: dict, said: str) -> None:
    related = [Relation(*r) for r in asked.get("relations", ())]
    with pytest.raises(UserError, match=said) as error:
        sample_scene(0, **{**asked, **({"relations": related} if related else {})})
    assert "\n" not in str(error.value)


def test_a_camera_and_objects_that_are_asked_to_move_do_so() -> None:
    scene = sample_scene(1, objects=[{"shape": "figure", "motion": "walks"}], camera_motion="pans left")
    assert scene.objects[0].motion == "walks" and scene.camera.motion == "pans left"
    assert all(thing.motion == "still" for thing in scene.objects[1:])
