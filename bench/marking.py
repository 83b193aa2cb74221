"""Marks for pictures of digits and of scenes, and what chance makes of their differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from noisette.metrics import Judge, Statistics, collect, digits_reference, frechet_distance
from noisette.models import Model
from noisette.scenes.quiz import answers, quiz, true_pictures
from noisette.scenes.reader import Reader

RESAMPLES = 200
ENDS = torch.tensor((0.025, 0.975), dtype=torch.float64)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Marked:
    """What was read in pictures: features [N, D], and whether each is right [N]."""

    features: Tensor
    right: Tensor

    def __len__(self) -> int:
        return len(self.right)

    @classmethod
    def none(cls) -> Marked:
        return cls(torch.empty(0, 0), torch.empty(0, dtype=torch.bool))

    @property
    def share(self) -> float:
        return float(self.right.double().mean())

    def tensors(self) -> dict[str, Tensor]:
        return asdict(self)

    def first(self, count: int) -> Marked:
        # Copies: a slice would be saved with all that it was cut from.
        return Marked(self.features[:count].clone(), self.right[:count].clone())

    def taken(self, rows: Tensor) -> Marked:
        return Marked(self.features[rows], self.right[rows])

    def with_more(self, more: Marked) -> Marked:
        return Marked(
            torch.cat([self.features, more.features]) if len(self) else more.features,
            torch.cat([self.right, more.right]),
        )


@dataclass(frozen=True)
class Marking:
    """``asked`` of `Model.generate`, a value for each picture; ``mark`` reads pictures from a place on.

    ``kept_every``: how many pictures are lost at most where a search is stopped.
    """

    asked: Mapping[str, list[Any]]
    mark: Callable[[Tensor, int], Marked]
    real: Statistics
    kept_every: int

    def distance(self, marked: Marked) -> float:
        return frechet_distance(self.real, Statistics.of(marked.features))


def marking_of(model: Model, count: int) -> Marking:
    """The judge for a model of digits, the reader for a model of scenes."""
    return _digits(count) if model.spec.labels is not None else _scenes(model, count)


def _digits(count: int) -> Marking:
    judge, labels = Judge.load(), [k % 10 for k in range(count)]

    def mark(images: Tensor, first: int) -> Marked:
        asked = torch.tensor(labels[first : first + len(images)])
        return Marked(collect(judge.features, images), collect(judge, images).argmax(1) == asked)

    return Marking({"label": labels}, mark, digits_reference(), 250)


def _scenes(model: Model, count: int) -> Marking:
    reader, questions = Reader.load(), quiz("test", count + -count % 4)
    Random(0).shuffle(questions)  # the rare kinds come last, and a race begins with a few

    def mark(images: Tensor, first: int) -> Marked:
        read = answers(images, questions[first : first + len(images)], reader)
        return Marked(collect(reader.features, images), torch.tensor([answer.right for answer in read]))

    real = Statistics.of(collect(reader.features, true_pictures(questions, model.spec.image_size)))
    return Marking({"prompt": [question.text for question in questions]}, mark, real, 50)


def gap_of_right(top: Marked, other: Marked) -> Interval:
    """What share of the same questions ``other`` has right less than ``top``: 95 % of resampled ones."""
    gap = top.right.double() - other.right.double()
    return _ends(torch.stack([gap[rows].mean() for rows in _resampled(len(gap))]))


def gap_of_distance(marking: Marking, other: Marked, best: Marked) -> Interval:
    """By how much the distance of ``other`` is above that of ``best``, likewise."""
    if torch.equal(other.features, best.features):
        return 0.0, 0.0
    pairs = [
        (marking.distance(other.taken(r)), marking.distance(best.taken(r))) for r in _resampled(len(best))
    ]
    return _ends(torch.tensor([mine - theirs for mine, theirs in pairs], dtype=torch.float64))


def _resampled(count: int) -> list[Tensor]:
    dice = torch.Generator().manual_seed(0)
    return [torch.randint(count, (count,), generator=dice) for _ in range(RESAMPLES)]


def _ends(values: Tensor) -> Interval:
    low, high = torch.quantile(values, ENDS).tolist()
    return low, high
