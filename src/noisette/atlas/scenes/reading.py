"""The reader against its goals, on pictures it never saw; what it takes for what; its worst misreadings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from noisette.atlas.cells import Cell, Tick
from noisette.atlas.page import Finding, Section, Verdict, figure, percent, table
from noisette.atlas.scenes.bench import Bench, Exam, Measured, wilson
from noisette.atlas.scenes.pictures import PIXELATED, SMALL, each, flowing, heat, shown
from noisette.scenes.constraints import Relation, relations
from noisette.scenes.reader import Reading, Seen, read
from noisette.scenes.reader.net import SURROUNDINGS, WORDS
from noisette.scenes.scene import COLORS, Object, Scene
from noisette.scenes.textures import PALETTE
from noisette.training.reader.measure import (
    CLEAR_PART,
    CLEAR_PIXELS,
    OVERLAP,
    Tally,
    check,
    check_scores,
    clear,
    matches,
)
from noisette.training.reader.shards import around_of

GOALS = {
    "shape": 0.99,
    "color": 0.99,
    "shape and color": 0.98,
    "relation": 0.98,
    "style": 0.995,
    "light": 0.995,
}
ROWS = {
    "shape": "shape",
    "color": "color",
    "shape and color": "shape and color, both",
    "relation": "relation of two objects",
    "style": "style",
    "light": "light",
    "found": "object found",
    "size": "size",
    "material": "material",
    "pose": "pose, of figures",
    "floor_color": "floor, color",
    "floor_pattern": "floor, pattern",
    "count": "number of objects",
    "no object too many": "no object too many",
    "description holds": "the whole of a scene",
    "wrong word refused": "one wrong word refused",
}
SHORT = {"shape and color": "both", "relation": "relations"}
TABLES = ("shape", "color", "material", "pose", "style", "light", "size", "floor_color", "floor_pattern")
SPLITS = ("test", "novel")
WORST, GOOD = 9, 3
TOLD = ("left of", "in front of", "on top of")
"""Relations told of a misreading: the others are these from the other end."""


def cells(bench: Bench) -> list[Cell]:
    """One cell for each split."""
    count = bench.plan.count
    return [
        Cell(
            {"what": "reader", "split": split, "count": count, **bench.reading},
            count,
            partial(measure, bench, split),
        )
        for split in SPLITS
    ]


def graded(scenes: Exam, readings: Sequence[Reading]) -> tuple[Tally, list[int]]:
    """What was read right, and the numbers of the scenes, those with most faults first."""
    tally = Tally()
    order: list[tuple[int, int, int]] = []
    rows = zip(scenes.scenes, readings, scenes.data.owner, scenes.alone, strict=True)
    for k, each_of in enumerate(rows):
        own = Tally()
        check(own, *each_of)
        tally.right.update(own.right)
        tally.total.update(own.total)
        for name, counts in own.confusion.items():
            tally.confusion[name].update(counts)
        order.append((-sum(own.total[name] - own.right[name] for name in GOALS), -_missed(own), k))
    return tally, [k for *_, k in sorted(order)]


def _missed(tally: Tally) -> int:
    return sum(tally.total.values()) - sum(tally.right.values())


def measure(bench: Bench, split: str, tick: Tick) -> dict[str, Any]:
    """Counts, confusion tables, and the pictures that were read worst."""
    exam = bench.exam(split, tick)
    readings = read(exam.images, bench.reader)
    tally, order = graded(exam, readings)
    check_scores(tally, exam.scenes, readings)
    worst = [_told(exam, readings, k) for k in order[:WORST]]
    good = [_told(exam, readings, k) for k in sorted(order[-len(order) // 3 :])[:GOOD]]
    return {
        "right": dict(tally.right),
        "total": dict(tally.total),
        "confusion": {name: tally.table(name) for name in tally.confusion},
        "worst": [one for one in worst if one["faults"]],
        "good": good,
    }


def faults(scene: Scene, reading: Reading, owner: Tensor, alone: Sequence[int]) -> Iterator[str]:
    """What was read wrong of one scene, in words."""
    if not reading.readable:
        yield "taken for no picture of this world"
        return
    here, visible = matches(owner, len(scene.objects), reading.objects), clear(owner, alone)
    others = [_name(seen) for k, seen in enumerate(reading.objects) if k not in here]
    for thing, at, is_clear in zip(scene.objects, here, visible, strict=True):
        if at is None and (name := _name(thing)) in others:
            others.remove(name)
            yield f"{name}: mask too far off"
        elif is_clear:
            yield from _misread(thing, None if at is None else reading.objects[at])
    yield from (f"{name} that is not there" for name in others)
    for name, true in around_of(scene).items():
        if (read_as := getattr(reading, name)) != true:
            yield f"{name.replace('_', ' ')}: {true} → {read_as}"
    said = set(reading.relations())
    for true in relations(scene):
        a, b = here[true.subject], here[true.object]
        looked_at = visible[true.subject] and visible[true.object] and true.kind in TOLD
        if looked_at and a is not None and b is not None and Relation(a, true.kind, b) not in said:
            subject, other = (_name(scene.objects[i]) for i in (true.subject, true.object))
            yield f"{subject} not {true.kind} {other}"


def _misread(thing: Object, seen: Seen | None) -> Iterator[str]:
    if seen is None:
        yield f"{_name(thing)}: not seen"
        return
    for name in WORDS:
        if name == "pose" and (thing.shape != "figure" or seen.shape != "figure"):
            continue
        if (read_as := getattr(seen, name)) != (true := getattr(thing, name)):
            yield f"{_name(thing)}: {true} → {read_as}"


def _name(thing: Object | Seen) -> str:
    return f"{thing.color} {thing.shape}"


def _told(exam: Exam, readings: Sequence[Reading], k: int) -> dict[str, Any]:
    """A picture, the masks that were seen in it, what was read, and what of that is wrong."""
    scene, reading = exam.scenes[k], readings[k]
    image = exam.images[k]
    there = [f"{seen.size} {seen.material} {_name(seen)}" for seen in reading.objects]
    picture, masks = each(torch.stack([image, _painted(image, reading)]))
    return {
        "picture": picture,
        "masks": masks,
        "read": ", ".join(there) or "nothing",
        "around": f"{reading.style}, {reading.light}, {reading.floor_pattern} {reading.floor_color} floor",
        "faults": list(faults(scene, reading, exam.data.owner[k], exam.alone[k])),
    }


def _painted(image: Tensor, reading: Reading) -> Tensor:
    """The picture in pale gray, and each mask in the color that was read, with a dark line about it."""
    pale = image.mean(0, keepdim=True).expand(3, -1, -1) * 0.35 + 0.45
    for seen in reading.objects:
        code = PALETTE[COLORS[COLORS.index(seen.color)]]
        color = torch.tensor([int(code[i : i + 2], 16) / 127.5 - 1 for i in (1, 3, 5)])[:, None, None]
        wide = F.max_pool2d(seen.mask.float()[None], 3, 1, 1)[0] > 0
        pale = torch.where(seen.mask, color, torch.where(wide, -0.8, pale))
    return pale


def sections(bench: Bench, measured: Measured) -> list[Section]:
    """Shares against goals, the confusion tables, and pictures."""
    test, novel = measured
    met = {name: _share(test, name) >= goal for name, goal in GOALS.items()}
    finding: Finding = (
        "holds" if all(met.values()) else "holds in part" if any(met.values()) else "does not hold"
    )
    shares = ", ".join(f"{SHORT.get(name, name)} {percent(_share(test, name), 2)}" for name in GOALS)
    return [
        Section(
            "reader",
            "What the reader reads",
            "Of clearly visible objects in pictures it never saw the reader tells shape and color, each, in "
            "99&nbsp;% and both in 98&nbsp;%, relations in 98&nbsp;%, style and light in 99.5&nbsp;%.",
            Verdict(
                finding,
                f"{sum(met.values())} of {len(met)} goals are met on {bench.plan.count:,} test pictures: "
                f"{shares}. Later scores are read against these: they are the ceiling.",
            ),
            [
                table(
                    ["Told right", "goal", "test", "novel", "of <small>(test)</small>"],
                    [_row(name, test, novel) for name in ROWS],
                    "Shares, and below them the 95&nbsp;% interval. A goal that is missed is marked.",
                ),
                figure(
                    _readings(test["good"]), "Pictures, and what was read in them: masks in the colors read."
                ),
                figure(
                    flowing(*(heat(_title(name), *_heated(name, test)) for name in TABLES)),
                    "What is taken for what, on the test pictures: rows are true, columns read, the last an "
                    "object not seen. The depth of the color is the root of the share of a row, so that "
                    "one in a hundred still shows.",
                ),
                figure(
                    _readings(test["worst"]) or "<p>Not one test picture was misread.</p>",
                    f"The worst of {bench.plan.count:,} test pictures, and what was read wrong.",
                ),
                figure(
                    _readings(novel["worst"]) or "<p>Not one novel picture was misread.</p>",
                    "The same of the pictures with held-out combinations.",
                ),
            ],
            f"Pictures of 64 × 64 pixels. Clearly visible is an object of which {CLEAR_PIXELS} pixels and "
            f"{percent(CLEAR_PART)} of what it would show alone are seen. An object that is not found, or "
            f"whose mask overlaps the true one by less than {OVERLAP:g} (intersection over union), counts "
            "as wrong in every line, and so do the relations that it is in. The reader learned from scenes "
            "of all combinations, as it has to know them all: the novel ones are held out of what it will "
            "judge, not of itself. The whole of a scene is every shape, color and relation, light and style; "
            "a wrong word is another shape or color of one object. Intervals are Wilson's and take objects "
            "as independent.",
        )
    ]


def _share(found: Mapping[str, Any], name: str) -> float:
    return found["right"].get(name, 0) / max(1, found["total"].get(name, 0))


def _title(name: str) -> str:
    return ROWS[name].partition(" of ")[0].rstrip(",").capitalize()


def _row(name: str, *splits: Mapping[str, Any]) -> list[str]:
    goal = GOALS.get(name)
    cells = []
    for found in splits:
        right, total = found["right"].get(name, 0), found["total"].get(name, 0)
        low, high = wilson(right, total)
        off = " class=off" if goal is not None and _share(found, name) < goal else ""
        interval = f"<small class='under'>{100 * low:.2f} – {100 * high:.2f}</small>"
        cells.append(f"<span{off}>{percent(_share(found, name), 2)}</span>{interval}" if total else "–")
    counts = f"{splits[0]['total'].get(name, 0):,}"
    return [ROWS[name], percent(goal, 1) if goal else "", *cells, counts]


def _heated(name: str, found: Mapping[str, Any]) -> tuple[Sequence[str], str, Sequence[Sequence[int]]]:
    words = (WORDS | SURROUNDINGS)[name]
    empty = [[0] * (len(words) + 1) for _ in words]
    return words, "not seen", found["confusion"].get(name, empty)


def _readings(told: Sequence[Mapping[str, Any]]) -> str:
    """Pictures with their masks; below, what was read wrong, or else what was read."""
    tiles = []
    for one in told:
        wrong = "<br>".join(
            f"<span style='color:var(--bad)'>{escape(fault)}</span>" for fault in one["faults"][:6]
        )
        more = f"<br>and {len(one['faults']) - 6} more" if len(one["faults"]) > 6 else ""
        text = wrong + more if wrong else escape(f"{one['read']}; {one['around']}")
        both = shown(one["picture"], "picture", PIXELATED) + shown(one["masks"], "masks read", PIXELATED)
        tiles.append(
            f"<div><div style='display:grid;grid-template-columns:1fr 1fr;gap:3px'>{both}</div>"
            f"<div style='margin-top:.3rem'>{text}</div></div>"
        )
    if not tiles:
        return ""
    return (
        "<div style='display:grid;grid-template-columns:repeat(auto-fill,minmax(10.5rem,1fr));gap:1rem .8rem;"
        f"color:var(--muted);{SMALL}'>{''.join(tiles)}</div>"
    )
