from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from functools import cache
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisette.errors import UserError
from noisette.scenes.constraints import Relation, relations, surroundings
from noisette.scenes.edits import apply, edit
from noisette.scenes.instructions import Add, Change, Move, Remove, Surround, find, told_of
from noisette.scenes.orders import VERBS, read
from noisette.scenes.room import apart, shown
from noisette.scenes.sampling import sample_scene
from noisette.scenes.scene import Camera, Floor, Object, Scene
from noisette.scenes.splits import belongs
from noisette.scenes.vocabulary import phrases

# A red cube on the left with a small ball on it, a large blue ball on the right, a figure far behind.
SCENE = Scene(
    (
        Object("cube", "red", x=0.3, y=-1.1, yaw=20.0),
        Object("sphere", "green", "small", "striped", on=0),
        Object("sphere", "blue", "large", "shiny", x=0.4, y=1.0),
        Object("figure", "yellow", x=-1.2, y=0.1, pose="waving"),
    ),
    Floor("gray", "plain"),
)


@cache
def edits(count: int, motion: bool = False) -> tuple[tuple[Scene, str, Scene], ...]:
    scenes = (sample_scene(seed, motion=motion) for seed in range(count))
    return tuple((scene, *edit(scene, Random(seed), motion=motion)) for seed, scene in enumerate(scenes))


def things_without(scene: Scene, index: int) -> list[Object]:
    """The objects besides one; what they stand on is told by value, as indices may shift."""
    return [
        replace(thing, on=None) if thing.on is None else replace(thing, on=None, x=1000.0 + thing.on)
        for i, thing in enumerate(scene.objects)
        if i != index
    ]


def changed(before: Object, after: Object) -> set[str]:
    return {f.name for f in fields(Object) if getattr(before, f.name) != getattr(after, f.name)}


@pytest.mark.parametrize("motion", [False, True])
def test_the_words_alone_give_the_same_scene(motion: bool) -> None:
    for scene, text, after in edits(400, motion):
        assert apply(scene, text) == after != scene, text


@pytest.mark.parametrize("motion", [False, True])
def test_nothing_changes_but_what_is_said(motion: bool) -> None:
    kinds: Counter[str] = Counter()
    for scene, text, after in edits(400, motion):
        order = read(text)
        kinds[type(order).__name__] += 1
        kinds.update(list(told_of(order.to)) if isinstance(order, Change) else ())
        kinds.update(list(order.to.surroundings()) if isinstance(order, Surround) else ())
        if isinstance(order, Surround):
            said = order.to.surroundings()
            assert surroundings(after) == {**surroundings(scene), **said}
            assert replace(after.camera, motion="still") == replace(scene.camera, motion="still")
            assert after.objects == scene.objects
            continue
        assert replace(after, objects=scene.objects) == scene
        if isinstance(order, Add):
            assert after.objects[:-1] == scene.objects
            assert order.thing.fits(after.objects[-1])
            continue
        index = find(scene, order.target)
        if isinstance(order, Remove):
            assert len(after.objects) == len(scene.objects) - 1
            rest = [o for i, o in enumerate(scene.objects) if i != index]
            assert [replace(o, on=None) for o in after.objects] == [replace(o, on=None) for o in rest]
            carriers = [None if o.on is None else scene.objects[o.on] for o in rest]
            assert [
                None if o.on is None else replace(after.objects[o.on], on=None) for o in after.objects
            ] == [None if o is None else replace(o, on=None) for o in carriers]
            continue
        assert things_without(after, index) == things_without(scene, index)
        names = changed(scene.objects[index], after.objects[index])
        assert names <= ({"x", "y", "on"} if isinstance(order, Move) else told_of(order.to).keys())
    assert set(kinds) >= {"Add", "Change", "Move", "Remove", "Surround", "color", "size", "material", "shape"}
    assert set(kinds) >= {"pose", "light", "style", "floor_color", "floor_pattern"}
    assert ({"motion", "camera_motion"} <= set(kinds)) == motion


def test_afterwards_it_is_where_it_was_said_to_be() -> None:
    count = 0
    for scene, text, after in edits(400):
        order = read(text)
        if isinstance(order, Add | Move) and order.ground is not None and order.place is not None:
            index = find(scene, order.target) if isinstance(order, Move) else len(scene.objects)
            ground = find(scene, order.ground, besides=(index,))
            wanted = Relation(index, order.place, ground)
            assert wanted in set(relations(after)) and wanted not in set(relations(scene)), text
            count += 1
    assert count > 20


def test_all_is_apart_and_in_the_picture() -> None:
    for motion in (False, True):
        for _, text, after in edits(400, motion):
            assert all(apart(after, i) for i in range(len(after.objects))), text
            assert shown(after), text


def test_names_are_clear_and_mostly_short() -> None:
    lengths = []
    for scene, text, _ in edits(400):
        order = read(text)
        if isinstance(order, Change | Move | Remove):
            find(scene, order.target)  # raises where it could be another
            shapes = [o.shape for o in scene.objects]
            if shapes.count(order.target.objects[0].shape or "") == 1:
                lengths.append(len(told_of(order.target.objects[0])))
    assert 1.0 < sum(lengths) / len(lengths) < 1.6


def test_an_edit_stays_in_its_split() -> None:
    for seed in range(60):
        for split in ("train", "novel"):
            text, after = edit(sample_scene(seed, split=split), Random(seed), split=split)
            assert belongs(after, split), text


def test_edits_are_repeatable_and_vary() -> None:
    assert edit(SCENE, Random(3)) == edit(SCENE, Random(3))
    assert len({edit(SCENE, Random(k))[0] for k in range(300)}) > 150


def thing(scene: Scene, index: int, **words: str) -> Scene:
    new = replace(scene.objects[index], **words)  # pyright: ignore[reportArgumentType]
    return replace(scene, objects=(*scene.objects[:index], new, *scene.objects[index + 1 :]))


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("Make the cube blue.", thing(SCENE, 0, color="blue")),
        ("paint the red box orange", thing(SCENE, 0, color="orange")),
        ("change the color of the large ball to pink", thing(SCENE, 2, color="pink")),
        ("make the ball on top of the cube matte", thing(SCENE, 1, material="matte")),
        ("give the cube stripes", thing(SCENE, 0, material="striped")),
        ("shrink the blue sphere", thing(SCENE, 2, size="small")),
        ("replace the blue sphere with a green cone", thing(SCENE, 2, shape="cone", color="green")),
        ("turn the figure into a pill", thing(SCENE, 3, shape="capsule", pose="standing")),
        ("the figure raises its arms", thing(SCENE, 3, pose="arms up")),
        ("make the man sit down", thing(SCENE, 3, pose="sitting")),
        ("make the waving figure red", thing(SCENE, 3, color="red")),
        ("let the small ball bounce", thing(SCENE, 1, motion="bounces")),
        ("turn it into a pencil sketch", replace(SCENE, style="sketch")),
        ("turn the photo into a cartoon", replace(SCENE, style="cartoon")),
        ("make it night", replace(SCENE, light="night")),
        ("make the floor wooden", replace(SCENE, floor=Floor("gray", "wooden"))),
        ("give it a checkered green floor", replace(SCENE, floor=Floor("green", "checkered"))),
        ("let the camera orbit", replace(SCENE, camera=Camera(motion="orbits"))),
        ("remove the blue sphere", replace(SCENE, objects=(*SCENE.objects[:2], SCENE.objects[3]))),
    ],
)
def test_instructions_are_carried_out(text: str, after: Scene) -> None:
    assert apply(SCENE, text) == after


def test_what_stood_on_something_removed_falls_down() -> None:
    after = apply(SCENE, "remove the cube")
    fallen = replace(SCENE.objects[1], on=None, x=0.3, y=-1.1)
    assert after.objects == (fallen, *SCENE.objects[2:])
    tower = (Object("cube", "red"), Object("cube", "blue", on=0, x=0.1), Object("cone", on=1, x=0.1))
    lower = apply(Scene(tower), "remove the blue cube").objects
    assert lower == (tower[0], Object("cone", on=0, x=0.2))


def test_what_stays_keeps_what_it_stands_on() -> None:
    first = Object("cone", y=-1.2)
    after = apply(Scene((first, Object("cube", y=1.0), Object("sphere", on=1))), "remove the cone")
    assert after.objects == (Object("cube", y=1.0), Object("sphere", on=0))


def test_what_leaves_the_picture_or_is_hidden_is_not_shown() -> None:
    ball = Object("sphere", "red", "small")
    assert shown(Scene((ball, replace(ball, y=1.5))))
    assert not shown(Scene((ball, replace(ball, y=2.4))))
    assert not shown(Scene((Object("sphere", x=1.5), replace(ball, x=0.2))))
    with pytest.raises(UserError, match="there is no free place"):
        apply(Scene((replace(ball, y=1.6),)), "move it to the right")


def test_what_is_moved_carries_what_is_on_it() -> None:
    after = apply(SCENE, "move the cube behind the blue sphere")
    assert Relation(0, "behind", 2) in set(relations(after))
    assert after.objects[1] == SCENE.objects[1]
    down = apply(SCENE, "put the small ball in front of the figure")
    assert down.objects[1].on is None and Relation(1, "in front of", 3) in set(relations(down))


def test_a_and_the_tell_adding_from_moving() -> None:
    three = replace(SCENE, objects=(*SCENE.objects[:1], *SCENE.objects[2:]))
    added = apply(three, "put a ball on top of the cube")
    assert added.objects == (*three.objects, Object("sphere", "red", "large", on=0))
    moved = apply(three, "put the ball on top of the cube")
    assert moved.objects[1] == replace(three.objects[1], on=0, x=0.0, y=0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty instruction"),
        ("explode the cube", "'explode' is not understood"),
        ("make the ball blue", "'the sphere' could be any of 2"),
        ("make the cone blue", "there is no such cone"),
        ("make it blue", "could be any of 4"),
        ("make the cube", "what one object is to be must be said"),
        ("make the cube wave", "a cube has no pose"),
        ("make the cube gray", "there is no gray"),
        ("make the floor pink", "the floor is never pink"),
        ("make the cube red and the figure blue", "one thing at a time"),
        ("turn the cube into a cone", "nothing stands on a cone"),
        ("put the figure on top of the cube", "something stands on the cube already"),
        ("put the cube on top of the small ball", "only on cube or cylinder"),
        ("add a cone", "one to four"),
        ("put the cube", "where"),
        ("put the cube next to the figure", "a place is left of"),
        ("remove the cube now blue", "'blue' is not understood at this place"),
    ],
)
def test_what_cannot_be_done_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        apply(SCENE, text)
    assert "\n" not in str(caught.value)


def test_there_is_no_room_for_too_much() -> None:
    tight = Scene((Object("sphere", "red", "small", y=0.5), Object("sphere", "blue", "small", y=-0.5)))
    with pytest.raises(UserError, match="there is no room for the red sphere"):
        apply(tight, "enlarge the red ball")
    with pytest.raises(UserError, match="one object at least"):
        apply(Scene((Object("cone"),)), "remove it")


words = st.sampled_from(sorted({" ".join(phrase) for phrase in phrases()} | set(VERBS)))


@given(st.lists(st.one_of(words, st.sampled_from(["the cube", "make", "put", "it", "a", "to"])), max_size=8))
def test_any_row_of_known_words_is_carried_out_or_refused(row: list[str]) -> None:
    try:
        assert isinstance(apply(SCENE, " ".join(row)), Scene)
    except UserError as error:
        assert "\n" not in str(error)
