"""How well the reader reads: on renders of its own seeds, object by object, relation by relation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from noisette.pixels import from_uint8
from noisette.scenes.constraints import Constraints, Pattern, Relation, relations
from noisette.scenes.reader import Reader, Reading, Seen, judge, read
from noisette.scenes.reader.net import SURROUNDINGS, WORDS
from noisette.scenes.scene import Scene
from noisette.training.reader.disturb import voids
from noisette.training.reader.shards import Pictures, around_of

CLEAR_PIXELS, CLEAR_PART = 40, 0.5
"""An object is clearly visible if at least this many of the 64 x 64 pixels show it, and at least this part of
what would show of it were it alone."""

OVERLAP = 0.5
"""Intersection over union from which a mask seen is that of an object."""

NOTHING = "(not seen)"


@dataclass
class Tally:
    """Counts of right and of all, by name; and of what was read for what is true, by field."""

    right: Counter[str] = field(default_factory=Counter)
    total: Counter[str] = field(default_factory=Counter)
    confusion: defaultdict[str, Counter[tuple[str, str]]] = field(
        default_factory=lambda: defaultdict(Counter)
    )

    def add(self, name: str, right: bool) -> None:
        self.right[name] += right
        self.total[name] += 1

    def word(self, name: str, true: str, read: str | None) -> None:
        self.add(name, true == read)
        self.confusion[name][true, read or NOTHING] += 1

    def shares(self) -> dict[str, float]:
        return {name: self.right[name] / total for name, total in self.total.items()}

    def table(self, name: str) -> list[list[int]]:
        """Rows: what is true, in the order of the vocabulary; columns: what was read, "not seen" last."""
        words = (WORDS | SURROUNDINGS)[name]
        return [[self.confusion[name][true, read] for read in (*words, NOTHING)] for true in words]


def clear(owner: Tensor, alone: Sequence[int]) -> list[bool]:
    """Which objects are clearly visible, by the owner of each pixel [64, 64] and the pixels of each alone."""
    shown = [(owner == i).sum().item() for i in range(len(alone))]
    return [n >= CLEAR_PIXELS and n >= CLEAR_PART * whole for n, whole in zip(shown, alone, strict=True)]


def matches(owner: Tensor, count: int, seen: Sequence[Seen]) -> list[int | None]:
    """For each of count objects, the index of the object seen whose mask is its own, or None."""
    masks = torch.stack([owner == i for i in range(count)]).flatten(1).float()
    if not seen:
        return [None] * count
    found = torch.stack([thing.mask for thing in seen]).flatten(1).float()
    both = masks @ found.T
    union = masks.sum(1)[:, None] + found.sum(1) - both
    value, index = (both / union.clamp(min=1)).max(1)
    return [int(i) if v >= OVERLAP else None for v, i in zip(value, index, strict=True)]


def check(tally: Tally, scene: Scene, reading: Reading, owner: Tensor, alone: Sequence[int]) -> None:
    """Count what of one scene was read right."""
    here, visible = matches(owner, len(scene.objects), reading.objects), clear(owner, alone)
    for name, true in around_of(scene).items():
        tally.word(name, true, getattr(reading, name))
    for thing, at, is_clear in zip(scene.objects, here, visible, strict=True):
        seen = None if at is None else reading.objects[at]
        if is_clear:
            for name in WORDS:
                if name != "pose" or thing.shape == "figure":
                    tally.word(name, getattr(thing, name), getattr(seen, name, None))
            tally.add("found", seen is not None)
            tally.add(
                "shape and color", seen is not None and (seen.shape, seen.color) == (thing.shape, thing.color)
            )
    read_relations = set(reading.relations())
    for true in relations(scene):
        if visible[true.subject] and visible[true.object]:
            a, b = here[true.subject], here[true.object]
            right = a is not None and b is not None and Relation(a, true.kind, b) in read_relations
            tally.add("relation", right)
            tally.add(true.kind, right)
    tally.add("no object too many", len(reading.objects) <= len(set(here) - {None}))
    tally.add("count", len(reading.objects) == len(scene.objects))


def described(scene: Scene) -> Constraints:
    """Shape and color of every object, every relation, light and style."""
    patterns = tuple(Pattern(shape=thing.shape, color=thing.color) for thing in scene.objects)
    return Constraints(patterns, tuple(relations(scene)), light=scene.light, style=scene.style)


def check_scores(tally: Tally, scenes: Sequence[Scene], readings: Sequence[Reading]) -> None:
    """Count how often a scene's own description is found to hold, and one with a wrong word is refused."""
    for i, (scene, reading) in enumerate(zip(scenes, readings, strict=True)):
        asked = described(scene)
        tally.add("description holds", judge(reading, asked).all)
        one = replace(asked, objects=asked.objects[:1], relations=())
        tally.add("one object holds", judge(reading, one).all)
        shapes, colors = WORDS["shape"], WORDS["color"]
        first = asked.objects[0]
        wrong = [
            replace(first, color=colors[(colors.index(first.color) + 1 + i % 9) % 10]),
            replace(first, shape=shapes[(shapes.index(first.shape) + 1 + i % 6) % 7]),
        ][i % 2]
        false = replace(asked, objects=(wrong, *asked.objects[1:]))
        tally.add("wrong word refused", not judge(reading, false).all)


def measure(reader: Reader, data: Pictures, scenes: Sequence[Scene], alone: Sequence[Sequence[int]]) -> Tally:
    """Read all pictures of scenes and count."""
    readings = read(from_uint8(data.rgb), reader)
    tally = Tally()
    for each in zip(scenes, readings, data.owner, alone, strict=True):
        check(tally, *each)
    check_scores(tally, scenes, readings)
    return tally


def silence(reader: Reader, data: Pictures, seed: int = 1) -> float:
    """The share of pictures that show nothing in which no object is seen."""
    ruined = voids(from_uint8(data.rgb), torch.Generator().manual_seed(seed))
    return sum(not reading.objects for reading in read(ruined, reader)) / len(ruined)


def steadiness(reader: Reader, data: Pictures, amounts: Sequence[float]) -> Iterator[tuple[float, float]]:
    """For noise of each amount: the share of objects, of 10 pixels or more, told by shape and color."""
    rng = torch.Generator().manual_seed(2)
    clean = from_uint8(data.rgb)
    for amount in amounts:
        readings = read((clean + amount * torch.randn(clean.shape, generator=rng)).clamp(-1, 1), reader)
        tally = Tally()
        for reading, owner, words in zip(readings, data.owner, data.words, strict=True):
            count = int((words[:, 0] >= 0).sum())
            for i, at in enumerate(matches(owner, count, reading.objects)):
                if (owner == i).sum() >= 10:
                    seen = None if at is None else reading.objects[at]
                    true = (WORDS["shape"][int(words[i, 0])], WORDS["color"][int(words[i, 1])])
                    tally.add("both", seen is not None and (seen.shape, seen.color) == true)
        yield amount, tally.shares().get("both", 0.0)


def report(tally: Tally) -> dict[str, Any]:
    """Shares, counts and confusion tables, for JSON."""
    tables = {name: tally.table(name) for name in tally.confusion}
    return {"shares": tally.shares(), "counts": dict(tally.total), "confusion": tables}
