from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisette.errors import UserError
from noisette.scenes.caption import caption
from noisette.scenes.constraints import Constraints, Pattern, Relation
from noisette.scenes.parse import parse
from noisette.scenes.sampling import sample_scene
from noisette.scenes.vocabulary import ADJECTIVES, NOUNS, STYLES, TIMES, noun, phrases, understood

CUBE, BALL, CONE = Pattern("cube"), Pattern("sphere"), Pattern("cone")
RED, BLUE = Pattern("cube", "red"), Pattern("sphere", "blue")


def on(*objects: Pattern, at: tuple[tuple[int, str, int], ...] = (), **around: str | int) -> Constraints:
    return Constraints(objects, tuple(Relation(*r) for r in at), **around)  # pyright: ignore[reportArgumentType]


READ = {
    "": on(),
    "a red cube": on(RED),
    "Red  CUBE!": on(RED),
    "the red cube": on(RED),
    "a small red cube left of a shiny blue sphere, at night": on(
        Pattern("cube", "red", "small"),
        Pattern("sphere", "blue", material="shiny"),
        at=((0, "left of", 1),),
        light="night",
    ),
    "photo of two big red balls next to a tiny box": on(
        *[Pattern("sphere", "red", "large")] * 2, Pattern("cube", size="small"), style="photo"
    ),
    "three striped doughnuts on a chequered blue floor": on(
        *[Pattern("torus", material="striped")] * 3, floor_color="blue", floor_pattern="checkered"
    ),
    "red cubes": on(RED, RED),
    "a cube left of the cube": on(CUBE, CUBE, at=((0, "left of", 1),)),
    "one red cube and one blue ball": on(RED, BLUE),
    "a red object": on(Pattern(color="red")),
    "a red cube and a blue one": on(RED, Pattern(color="blue")),
    "a pair of red cubes": on(RED, RED),
    "a red cube and another red cube": on(RED, RED),
    "a red cube. The red cube is left of a blue ball.": on(RED, BLUE, at=((0, "left of", 1),)),
    "a cube. The red cube is shiny": on(Pattern("cube", "red", material="shiny")),
    "two red cubes. The second red cube is behind the first one.": on(RED, RED, at=((1, "behind", 0),)),
    "Behind the cone is a red cube.": on(CONE, RED, at=((1, "behind", 0),)),
    "A cube. Behind it is a cone.": on(CUBE, CONE, at=((1, "behind", 0),)),
    "A cube. A cone is behind it.": on(CUBE, CONE, at=((1, "behind", 0),)),
    "a cube with a ball on top, and behind it a cone": on(
        CUBE, BALL, CONE, at=((1, "on top of", 0), (2, "behind", 0))
    ),
    "a cube under a ball": on(CUBE, BALL, at=((1, "on top of", 0),)),
    "a cube with a ball to its left and a cone": on(CUBE, BALL, CONE, at=((1, "left of", 0),)),
    "a cube left of a ball behind a cone": on(CUBE, BALL, CONE, at=((0, "left of", 1), (1, "behind", 2))),
    "a cube left of a ball and behind a cone": on(CUBE, BALL, CONE, at=((0, "left of", 1), (0, "behind", 2))),
    "a red cube on the left, a blue ball on the right": on(
        RED, BLUE, at=((0, "left of", 1), (1, "right of", 0))
    ),
    "two cubes in front of a cone": on(CUBE, CUBE, CONE, at=((0, "in front of", 2), (1, "in front of", 2))),
    "a cube that is red and shiny": on(Pattern("cube", "red", material="shiny")),
    "the floor is gray and wooden": on(floor_color="gray", floor_pattern="wooden"),
    "It is night.": on(light="night"),
    "a grey wooden floor at dusk": on(floor_color="gray", floor_pattern="wooden", light="sunset"),
    "a man with his arms up": on(Pattern("figure", pose="arms up")),
    "a person standing and waving": on(Pattern("figure", pose="waving")),
    "a cube sitting on a box": on(CUBE, CUBE, at=((0, "on top of", 1),)),
    "a ball rolling to the left while the camera orbits": on(
        Pattern("sphere", motion="rolls left"), camera_motion="orbits"
    ),
    "A cube and a spinning ball. Nothing else moves.": on(
        Pattern("cube", motion="still"), Pattern("sphere", motion="spins"), camera_motion="still"
    ),
    "only a red cube": on(RED, count=1),
    "a red cube and nothing else": on(RED, count=1),
    "exactly two objects: a red cube and a blue ball": on(RED, BLUE, count=2),
    "exactly three objects": on(count=3),
    "a watercolour of a red cube": on(RED, style="watercolor"),
    "a cartoon ball": on(BALL, style="cartoon"),
}


@pytest.mark.parametrize("text", READ)
def test_what_is_read(text: str) -> None:
    assert parse(text) == READ[text]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a gren cube", r"'gren' is not understood; did you mean green"),
        ("a mauve cube", r"'mauve' is not understood"),
        ("a red and blue cube", r"both red and blue .* one color"),
        ("a photo of a cube in watercolor", r"both photo and watercolor"),
        ("five cubes", r"one to four"),
        ("three cubes and two cones", r"one to four"),
        ("a waving cube", r"a cube has no pose 'waving'"),
        ("a rolling cone", r"'rolling' is not understood"),
        ("a cone rolling left", r"a cone never rolls left"),
        ("a gray cube", r"there is no gray cube; colors are red"),
        ("a wooden cube", r"only the floor is wooden"),
        ("a pink floor.", r"the floor is never pink; it is gray or"),
        ("left of", r"'left of' needs an object"),
        ("a cube left of", r"'left of' needs an object"),
        ("behind the cube.", r"what is behind"),
        ("a red", r"'a red': a noun is missing"),
        ("two cubes. The cube is red", r"'the cube' could be any of 2"),
        ("two cubes. The third cube is red", r"there is no 3\. cube"),
        ("a cube of red", r"'of' is not understood here"),
        ("a cube on the left", r"nothing is there for the cube to be left of"),
        ("is red", r"which object is red\?"),
    ],
)
def test_what_is_not_understood_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_unknown_words_are_skipped_if_wanted() -> None:
    assert parse("a fabulous red cube, trending online", strict=False) == on(RED)
    with pytest.raises(UserError, match="fabulous"):
        parse("a fabulous red cube")


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("left of", ("left of", "to the left of", "on the left of")),
        ("right of", ("right of", "to the right of", "on the right of")),
        ("in front of", ("in front of", "before")),
        ("behind", ("behind", "in back of", "at the back of")),
        ("on top of", ("on top of", "on", "atop", "upon", "above")),
    ],
)
def test_places(kind: str, texts: tuple[str, ...]) -> None:
    for text in texts:
        assert parse(f"a cube {text} a ball").relations == (Relation(0, kind, 1),)
    for text in ("under", "beneath", "below"):
        assert parse(f"a cube {text} a ball").relations == (Relation(1, "on top of", 0),)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("little glossy crimson box", Pattern("cube", "red", "small", "shiny")),
        ("huge dull violet donut", Pattern("torus", "purple", "large", "matte")),
        ("tiny stripy turquoise pill", Pattern("capsule", "cyan", "small", "striped")),
        ("person who jogs", Pattern("figure", pose="running")),
        ("woman with her hands in the air", Pattern("figure", pose="arms up")),
        ("seated man", Pattern("figure", pose="sitting")),
        ("ball rolling to the right", Pattern("sphere", motion="rolls right")),
        ("cone that rotates", Pattern("cone", motion="spins")),
        ("hopping block", Pattern("cube", motion="bounces")),
        ("person strolling", Pattern("figure", motion="walks")),
        ("globe that does not move", Pattern("sphere", motion="still")),
    ],
)
def test_synonyms_mean_what_they_should(text: str, pattern: Pattern) -> None:
    assert parse(f"a {text}") == on(pattern)


def test_every_synonym_means_its_value() -> None:
    for value, _ in ADJECTIVES["color"].items():
        where = "floor" if value in ("gray", "beige") else "cube"
        for word in understood("color", value):
            asked = parse(f"a {word} {where}")
            assert (asked.floor_color if where == "floor" else asked.objects[0].color) == value
    for kind in ("size", "material"):
        for value in ADJECTIVES[kind]:
            assert all(
                getattr(parse(f"a {w} cube").objects[0], kind) == value for w in understood(kind, value)
            )
    for shape in list(NOUNS)[:7]:
        for word in understood("shape", shape):
            assert parse(f"{word}, two {noun(word, 2)}") == on(*[Pattern(shape)] * 3)
    for light in TIMES:
        assert all(parse(f"a cube {w}").light == light for w in understood("light", light))
    for style in STYLES:
        assert all(parse(f"a {w} of a cube").style == style for w in understood("style", style))


def test_no_phrase_has_two_meanings() -> None:
    """The table is built in order, so a phrase given twice would lose its first meaning."""
    from noisette.scenes.vocabulary import _entries

    meanings: dict[str, set[object]] = {}
    for form, kind, value in _entries():
        meanings.setdefault(form, set()).add((kind, value))
    assert {form: m for form, m in meanings.items() if len(m) > 1} == {}


@pytest.mark.parametrize("seed", range(20))
def test_case_and_space_do_not_matter(seed: int) -> None:
    text = caption(sample_scene(seed), Random(seed))
    assert parse(text.upper()) == parse(text) == parse(f"  {text.replace(' ', '   ')}\n")


words = st.sampled_from(
    [*sorted(" ".join(phrase) for phrase in phrases()), ",", ".", "and", "a", "the", "cube"]
)


@given(st.lists(words, max_size=12))
def test_any_row_of_known_words_is_read_or_refused(row: list[str]) -> None:
    try:
        asked = parse(" ".join(row))
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
    else:
        assert isinstance(asked, Constraints)


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert isinstance(parse(text), Constraints)
    except UserError as error:
        assert "\n" not in str(error)
