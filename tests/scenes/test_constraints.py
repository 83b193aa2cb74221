"""Relations are as the camera sees them, and constraints hold exactly when a scene shows them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from noisette.errors import UserError
from noisette.scenes.constraints import Constraints, Pattern, Relation, assignments, holds, relations
from noisette.scenes.scene import Camera, Object, Scene

# The camera stands on +x and looks back along it: +y is to its right, +x towards it.
PAIR = Scene((Object("cube", "red", x=0.0, y=-1.0), Object("sphere", "blue", x=1.0, y=1.0)))


def test_left_and_front_are_the_cameras() -> None:
    assert set(relations(PAIR)) == {
        Relation(0, "left of", 1),
        Relation(1, "right of", 0),
        Relation(0, "behind", 1),
        Relation(1, "in front of", 0),
    }


def test_walking_round_the_scene_turns_every_relation_about() -> None:
    other_side = replace(PAIR, camera=Camera(azimuth=180))
    opposite = {
        "left of": "right of",
        "right of": "left of",
        "behind": "in front of",
        "in front of": "behind",
    }
    assert set(relations(other_side)) == {replace(r, kind=opposite[r.kind]) for r in relations(PAIR)}


def test_what_is_nearly_level_is_in_no_relation() -> None:
    assert not list(relations(Scene((Object("cube"), Object("sphere", x=0.4, y=-0.4)))))
    assert len(list(relations(Scene((Object("cube"), Object("sphere", x=0.4, y=-0.6)))))) == 2


def test_on_top_is_on_top_and_nothing_else() -> None:
    scene = Scene((Object("cube"), Object("cone", on=0, x=0.0), Object("sphere", y=2.0)))
    of_cone = {(r.kind, r.object) for r in relations(scene) if r.subject == 1}
    assert of_cone == {("on top of", 0), ("left of", 2)}
    leaning = Scene((Object("cube"), Object("cone", on=0, x=0.6, y=-0.6)))
    assert list(relations(leaning)) == [Relation(1, "on top of", 0)]


def test_constraints_hold_only_for_what_is_there() -> None:
    red, blue = Pattern("cube", "red"), Pattern(color="blue")
    assert holds(PAIR, Constraints((red, blue), (Relation(0, "left of", 1),), count=2, light="day"))
    assert not holds(PAIR, Constraints((red, blue), (Relation(1, "left of", 0),)))
    assert not holds(PAIR, Constraints((red, red)))
    assert not holds(PAIR, Constraints((red,), count=1))
    assert not holds(PAIR, Constraints(light="night"))
    assert not holds(PAIR, Constraints((Pattern(size="small"),)))


def test_every_pattern_has_an_object_of_its_own() -> None:
    scene = Scene((Object("cube", "red"), Object("cube", "blue", x=1), Object("sphere", "red", y=1)))
    both = Constraints((Pattern("cube"), Pattern(color="red")))
    assert set(assignments(scene, both)) == {(0, 2), (1, 0), (1, 2)}


def test_dictionaries_will_do_and_nonsense_will_not() -> None:
    assert Constraints(({"shape": "cube"},)).objects == (Pattern("cube"),)  # pyright: ignore[reportArgumentType]
    for wrong in (
        lambda: Pattern(shape="cub"),
        lambda: Relation(0, "near", 1),
        lambda: Constraints((Pattern(),), (Relation(0, "behind", 1),)),
        lambda: Constraints((Pattern(),), (Relation(0, "behind", 0),)),
        lambda: Constraints((Pattern(), Pattern()), count=1),
        lambda: Constraints(light="noon"),
    ):
        with pytest.raises(UserError):
            wrong()
