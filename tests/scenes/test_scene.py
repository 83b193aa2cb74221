"""Scenes keep themselves through JSON and refuse what makes no sense, in one line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisette.errors import UserError
from noisette.scenes.scene import (
    CAMERA_MOTIONS,
    COLORS,
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
    motions_of,
)

numbers = st.floats(-3, 3)


@st.composite
def objects(draw: st.DrawFn) -> Object:
    shape = draw(st.sampled_from(SHAPES))
    pose = draw(st.sampled_from(POSES)) if shape == "figure" else "standing"
    motions = [m for m in motions_of(shape) if not (m == "walks" and pose == "sitting")]
    return Object(
        shape,
        draw(st.sampled_from(COLORS)),
        draw(st.sampled_from(SIZES)),
        draw(st.sampled_from(MATERIALS)),
        draw(numbers),
        draw(numbers),
        draw(st.floats(0, 360)),
        pose=pose,
        motion=draw(st.sampled_from(motions)),
    )


scenes = st.builds(
    Scene,
    st.lists(objects(), min_size=1, max_size=4).map(tuple),
    st.builds(Floor, st.sampled_from(FLOOR_COLORS), st.sampled_from(FLOOR_PATTERNS)),
    st.sampled_from(LIGHTS),
    st.sampled_from(STYLES),
    st.builds(
        Camera, st.floats(0, 360), st.floats(0, 80), st.floats(5, 8), motion=st.sampled_from(CAMERA_MOTIONS)
    ),
)


@given(scenes)
def test_json_brings_back_an_equal_scene(scene: Scene) -> None:
    assert Scene.from_json(scene.to_json()) == scene


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.text() | st.sampled_from(["objects", "floor", "light", "camera", "shape"]), x
            )
        ),
    )
)
def test_any_json_is_a_scene_or_one_line_of_complaint(tree: object) -> None:
    try:
        Scene.from_json(json.dumps(tree))
    except UserError as error:
        assert str(error) and "\n" not in str(error)


def test_the_complaint_names_the_place() -> None:
    def complaint(text: str) -> str:
        with pytest.raises(UserError) as caught:
            Scene.from_json(text)
        return str(caught.value)

    assert complaint('{"objects": [{"shape": "cube"}, {"shape": "cub"}]}').startswith(
        "objects[1].shape: 'cub'"
    )
    assert "colour" in complaint('{"objects": [{"shape": "cube", "colour": "red"}]}')
    assert "the shape is missing" in complaint('{"objects": [{}]}')
    assert "one to four" in complaint('{"objects": []}')
    assert "not: " in complaint("{")
    assert complaint('{"objects": [{"shape": "cube"}], "camera": {"fov": 1e9}}').startswith("camera.fov")
    assert "NaN" in json.dumps(float("nan")) and "x: nan" in complaint(
        '{"objects": [{"shape": "cube", "x": NaN}]}'
    )


def test_what_stands_on_another_stands_on_something_flat_and_still() -> None:
    cube, sphere = Object("cube"), Object("sphere")
    assert Scene((cube, Object("cone", on=0))).objects[1].on == 0
    tower = (cube, Object("cylinder", on=0), Object("figure", on=1))
    assert len(Scene(tower).objects) == 3
    for wrong in (
        (sphere, Object("cone", on=0)),
        (Object("cube", on=0),),
        (cube, Object("cone", on=2)),
        (Object("cube", on=1), Object("cube", on=0)),
        (replace(cube, motion="spins"), Object("cone", on=0)),
        (cube, Object("sphere", on=0, motion="rolls left")),
    ):
        with pytest.raises(UserError, match="on"):
            Scene(wrong)


def test_who_sits_does_not_walk_and_what_has_edges_does_not_roll() -> None:
    with pytest.raises(UserError, match="sits"):
        Object("figure", pose="sitting", motion="walks")
    with pytest.raises(UserError, match="motion"):
        Object("cube", motion="rolls left")
    with pytest.raises(UserError, match="pose"):
        Object("cube", pose="sitting")
