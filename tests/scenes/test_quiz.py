"""The quiz: what is asked, and that marks go to what is right and to nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from noisette.errors import UserError
from noisette.scenes import quiz as room
from noisette.scenes.constraints import Constraints, holds, sideways_and_away
from noisette.scenes.parse import parse
from noisette.scenes.quiz import KINDS, Answer, Mark, Question, answers, mark, quiz, true_pictures
from noisette.scenes.reader import Reading, Score, Seen, judge
from noisette.scenes.render import render
from noisette.scenes.scene import COLORS, LIGHTS, SHAPES, SIZES, STYLES, Scene
from noisette.scenes.splits import belongs, facts, is_held_out_relation, is_novel

NUMBER = 60


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return quiz("test", NUMBER)


def perfect(scene: Scene) -> Reading:
    """What a reader would say of a scene who makes no mistakes."""
    things = []
    for i, thing in enumerate(scene.objects):
        right, away = sideways_and_away(scene, i)
        pose = thing.pose if thing.shape == "figure" else None
        told = (thing.shape, thing.color, thing.size, thing.material, pose, (0.0, 0.0))
        things.append(Seen(*told, right, away, thing.on, {}, torch.zeros(1, 1)))
    return Reading(
        True,
        tuple(things),
        light=scene.light,
        style=scene.style,
        floor_color=scene.floor.color,
        floor_pattern=scene.floor.pattern,
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Scene]], Tensor]:
    """Pictures whose only pixel is their number, and a perfect reader that knows what each number shows."""
    shown: list[Scene] = []

    def read(images: Tensor, asked: Sequence[Constraints], reader: Any = None) -> list[Score]:
        assert len(images) == len(asked) <= room.READ_AT_ONCE
        return [judge(perfect(shown[int(i)]), one) for i, one in zip(images[:, 0, 0, 0], asked, strict=True)]

    def draw(scenes: Sequence[Scene]) -> Tensor:
        first = len(shown)
        shown.extend(scenes)
        return torch.arange(first, len(shown)).float()[:, None, None, None]

    monkeypatch.setattr(room, "score", read)
    return draw


def shares(marks: dict[str, Mark]) -> dict[str, float]:
    return {kind: one.share for kind, one in marks.items()}


def test_every_kind_is_asked_as_often_and_asks_what_it_says(questions: list[Question]) -> None:
    assert Counter(q.kind for q in questions) == dict.fromkeys(KINDS, NUMBER // len(KINDS))
    for q in questions:
        asked = q.asked
        assert asked == parse(q.text) and KINDS[q.kind](asked)
        assert holds(q.scene, asked), q.text
        match q.kind:
            case "one object":
                (only,) = asked.objects
                assert only.shape in SHAPES and only.color in COLORS and only.size in SIZES
            case "two objects":
                assert len(asked.objects) == 2
                assert all(thing.shape in SHAPES and thing.color in COLORS for thing in asked.objects)
            case "relation":
                assert len(asked.objects) == 2 and len(asked.relations) == 1
                assert all(thing.shape in SHAPES and thing.color in COLORS for thing in asked.objects)
            case _:
                assert asked.style in STYLES and asked.light in LIGHTS


def test_the_quiz_is_always_the_same(questions: list[Question]) -> None:
    again = quiz("test", NUMBER)
    assert [(q.kind, q.text, q.scene) for q in again] == [(q.kind, q.text, q.scene) for q in questions]
    assert len({q.text for q in questions}) > 0.9 * NUMBER


def test_a_novel_quiz_is_of_what_training_never_shows() -> None:
    for split in ("test", "novel"):
        for q in quiz(split, 16):
            assert belongs(q.scene, split)
            pairs = [(thing.shape, thing.color) for thing in q.scene.objects]
            true = facts(q.scene)
            shown = is_novel(pairs, ()) or any(
                is_held_out_relation(pairs[i], k, pairs[j]) for i, k, j in true
            )
            assert shown == (split == "novel")
    assert {q.text for q in quiz("test", 16)}.isdisjoint(q.text for q in quiz("novel", 16))


def test_true_pictures_have_full_marks(questions: list[Question], drawn: Any) -> None:
    marks = mark(drawn([q.scene for q in questions]), questions)
    assert list(marks) == [*KINDS, "everything"]
    assert shares(marks) == dict.fromkeys(marks, 1.0)
    assert marks["relation"] == Mark(15, 15) and marks["everything"] == Mark(NUMBER, NUMBER)


def test_an_answer_belongs_to_its_picture(questions: list[Question], drawn: Any) -> None:
    mine = [q for q in questions if q.kind == "one object"][:6]
    images = drawn([q.scene for q in mine])
    spoiled = [replace(thing, color=other(thing.color, COLORS)) for thing in mine[2].scene.objects]
    wrong = drawn([replace(mine[2].scene, objects=tuple(spoiled))])
    found = answers(torch.cat([images[:2], wrong, images[3:]]), mine)
    right = Answer(right=True, everything=True)
    assert found == [right] * 2 + [Answer(right=False, everything=False)] + [right] * 3


def test_pictures_of_other_captions_lose_nearly_all(questions: list[Question], drawn: Any) -> None:
    scenes = [q.scene for q in questions]
    marks = mark(drawn(scenes[1:] + scenes[:1]), questions)
    assert max(marks[kind].share for kind in ("one object", "two objects", "relation")) <= 0.2
    assert marks["everything"].share <= 0.1 and marks["style and light"].share <= 0.5


def other(word: str, words: Sequence[str]) -> str:
    return words[(words.index(word) + 1) % len(words)]


@pytest.mark.parametrize(
    ("spoil", "lost", "kept"),
    [
        (
            lambda thing: replace(thing, color=other(thing.color, COLORS)),
            ("one object", "two objects", "relation"),
            ("style and light",),
        ),
        (
            lambda thing: replace(thing, size=other(thing.size, SIZES)),
            ("one object",),
            ("two objects", "style and light"),
        ),
    ],
    ids=["color", "size"],
)
def test_a_wrong_word_costs_the_kinds_that_ask_for_it(
    questions: list[Question], drawn: Any, spoil: Any, lost: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    wrong = [replace(q.scene, objects=tuple(map(spoil, q.scene.objects))) for q in questions]
    marks = mark(drawn(wrong), questions)
    assert all(marks[kind].share <= 0.1 for kind in lost), marks
    assert all(marks[kind].share == 1 for kind in kept), marks


def test_a_wrong_style_or_light_costs_that_kind_alone(questions: list[Question], drawn: Any) -> None:
    for change in ("style", "light"):
        words = STYLES if change == "style" else LIGHTS
        wrong = [replace(q.scene, **{change: other(getattr(q.scene, change), words)}) for q in questions]
        marks = mark(drawn(wrong), questions)
        assert marks["style and light"].right == 0
        assert all(marks[kind].share == 1 for kind in ("one object", "two objects", "relation"))
        assert marks["everything"].share <= 0.75


def test_a_turned_relation_is_wrong_and_its_objects_are_not(questions: list[Question], drawn: Any) -> None:
    """Half a turn of the floor makes left right, and before behind; what stands on top stays there."""
    asked = [q for q in questions if q.kind == "relation" and q.asked.relations[0].kind != "on top of"]
    asked = [q for q in asked if len({(p.shape, p.color) for p in q.asked.objects}) == 2]
    assert len(asked) >= 5

    def turned(scene: Scene) -> Scene:
        objects = (replace(thing, x=-thing.x, y=-thing.y) for thing in scene.objects)
        return replace(scene, objects=tuple(objects))

    images = drawn([turned(q.scene) for q in asked])
    assert mark(images, asked)["relation"] == Mark(0, len(asked))
    as_two = [replace(q, kind="two objects") for q in asked]
    assert mark(images, as_two)["two objects"].share == 1


def test_an_empty_picture_is_right_in_nothing(
    questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "score", lambda x, asked, reader: [judge(Reading(False), one) for one in asked])
    marks = mark(torch.zeros(NUMBER, 3, 8, 8), questions)
    assert all(one.right == 0 for one in marks.values())


def test_true_pictures_are_the_scenes_in_their_order(
    questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "READ_AT_ONCE", 2)
    some = questions[:5]
    pictures = true_pictures(some, 16)
    assert torch.equal(pictures, render([q.scene for q in some], 16).rgb)


def test_what_is_no_quiz_is_told(questions: list[Question]) -> None:
    for total in (0, -4, 10):
        with pytest.raises(UserError, match=f"4 kinds of questions: a total that they divide, not {total}"):
            quiz("test", total)
    with pytest.raises(UserError, match="60 questions need as many pictures, not 3"):
        mark(torch.zeros(3, 3, 64, 64), questions)
    with pytest.raises(UserError, match="split"):
        quiz("exam", 4)
    assert Mark(0, 0).share == 0 and Mark(3, 4).share == 0.75
