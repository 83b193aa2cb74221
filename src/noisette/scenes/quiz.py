"""A quiz for models that draw scenes from text: captions they have not seen, and marks by the reader.

questions = quiz("test", 1000)
images = ... a picture for each question.text ...
marks, ceiling = mark(images, questions), mark(true_pictures(questions), questions)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random

import torch
from torch import Tensor

from noisette.errors import UserError
from noisette.scenes.caption import caption
from noisette.scenes.constraints import Constraints
from noisette.scenes.parse import parse
from noisette.scenes.reader import Reader, Score, score
from noisette.scenes.render import render
from noisette.scenes.sampling import sample_scene
from noisette.scenes.scene import Scene

__all__ = ["KINDS", "Answer", "Mark", "Question", "answers", "mark", "quiz", "true_pictures"]

SEEDS_FROM = 2_000_000
"""Scenes of the quiz come from seeds that no export and no training of ours begins with."""

READ_AT_ONCE = 100


@dataclass(frozen=True)
class Question:
    """A caption, what it asks, the scene it was told of, and which kind of question it is."""

    kind: str
    text: str
    asked: Constraints
    scene: Scene


@dataclass(frozen=True)
class Answer:
    """Whether a picture is right by the kind of its question, and in ``everything`` that it asks."""

    right: bool
    everything: bool


@dataclass(frozen=True)
class Mark:
    """How many pictures of a kind are right: ``right`` of ``total``."""

    right: int
    total: int

    @property
    def share(self) -> float:
        """The part that is right, in [0, 1]; 0 of 0 is 0."""
        return self.right / self.total if self.total else 0.0


def _one(asked: Constraints) -> bool:
    only = asked.objects[0] if len(asked.objects) == 1 else None
    return only is not None and None not in (only.shape, only.color, only.size)


def _two(asked: Constraints) -> bool:
    return len(asked.objects) == 2 and all(thing.shape and thing.color for thing in asked.objects)


def _related(asked: Constraints) -> bool:
    return _two(asked) and len(asked.relations) == 1


def _surrounded(asked: Constraints) -> bool:
    return asked.light is not None and asked.style is not None


KINDS: dict[str, Callable[[Constraints], bool]] = {
    "one object": _one,
    "two objects": _two,
    "relation": _related,
    "style and light": _surrounded,
}
"""Which captions make a question of a kind: one object with shape, color and size; two with shape and color;
the same with one relation between them; any with a style and a light."""


def quiz(split: str = "test", total: int = 1000, first: int = SEEDS_FROM) -> list[Question]:
    """``total`` questions, as many of each kind: the captions, by seed from ``first`` on, that ask for it.

    Source of scenes: ``split``, "test" (combinations training shows, other scenes) or "novel" (each shows one
    that is held out). Raises UserError unless total is divisible by the number of kinds.
    """
    each, rest = divmod(total, len(KINDS))
    if each < 1 or rest:
        raise UserError(f"a quiz has {len(KINDS)} kinds of questions: a total that they divide, not {total}")
    left = dict.fromkeys(KINDS, each)
    questions: list[Question] = []
    for seed in count(first):
        scene = sample_scene(seed, split=split)
        text = caption(scene, Random(seed))
        asked = parse(text)
        kind = next((kind for kind, fits in KINDS.items() if left[kind] and fits(asked)), None)
        if kind is not None:
            questions.append(Question(kind, text, asked, scene))
            left[kind] -= 1
        if not any(left.values()):
            return questions
    raise AssertionError("seeds have no end")


def answers(images: Tensor, questions: Sequence[Question], reader: Reader | None = None) -> list[Answer]:
    """What each of the pictures [N, 3, S, S] in [-1, 1] makes of its question.

    One object is right with all of its shape, color and size; two, when both have shape and color; a
    relation, when it holds between two objects that are right; style and light, both. Everything is
    whatever a caption asks of a picture: each attribute, relation, the floor, the number. Cost: two calls
    of the reader's network for each picture.
    """
    if len(images) != len(questions):
        raise UserError(f"{len(questions)} questions need as many pictures, not {len(images)}")
    found: list[Answer] = []
    for start in range(0, len(images), READ_AT_ONCE):
        part = questions[start : start + READ_AT_ONCE]
        asked = [question.asked for question in part]
        scores = score(images[start : start + READ_AT_ONCE], asked, reader)
        pairs = zip(part, scores, strict=True)
        found += [Answer(_RIGHT[question.kind](one), one.all) for question, one in pairs]
    return found


def mark(images: Tensor, questions: Sequence[Question], reader: Reader | None = None) -> dict[str, Mark]:
    """Marks of pictures, one for each question, by kind, and of "everything": see `answers`."""
    found = answers(images, questions, reader)
    marks: dict[str, Mark] = {}
    for kind in KINDS:
        pairs = zip(questions, found, strict=True)
        mine = [answer.right for question, answer in pairs if question.kind == kind]
        marks[kind] = Mark(sum(mine), len(mine))
    return {**marks, "everything": Mark(sum(answer.everything for answer in found), len(found))}


def _objects_right(one: Score) -> bool:
    names = ("found", "shape", "color")
    return all(thing.get(name, True) for thing in one.objects for name in names)


_RIGHT: dict[str, Callable[[Score], bool]] = {
    "one object": lambda one: all(one.objects[0][name] for name in ("found", "shape", "color", "size")),
    "two objects": _objects_right,
    "relation": lambda one: _objects_right(one) and all(one.relations),
    "style and light": lambda one: one.surroundings["style"] and one.surroundings["light"],
}


def true_pictures(questions: Sequence[Question], size: int = 64) -> Tensor:
    """The scenes themselves, [N, 3, size, size]: their marks are the ceiling of the reader."""
    parts = (questions[i : i + READ_AT_ONCE] for i in range(0, len(questions), READ_AT_ONCE))
    return torch.cat([render([question.scene for question in part], size).rgb for part in parts])
