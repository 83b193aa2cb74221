"""What training never shows, and what every picture does: held-out combinations and visible objects."""

from __future__ import annotations

from functools import partial
from typing import Any

from noisette.atlas.cells import Cell, Tick
from noisette.atlas.page import Section, Verdict, figure, number, percent, table
from noisette.atlas.scenes.bench import Bench, Measured, wilson
from noisette.atlas.scenes.pictures import each, gallery
from noisette.scenes.constraints import RELATIONS, relations
from noisette.scenes.render import render
from noisette.scenes.sampling import sample_scene
from noisette.scenes.scene import COLORS, SHAPES, Scene
from noisette.scenes.splits import held_out_pairs, held_out_relations, is_held_out_relation

PIXELS, PART = 20, 0.3
"""What the sampler promises of each object: so many of 64 x 64 pixels, this part of it when alone."""

KINDS = 3
"""Relations between two pairs, told once each: left of, in front of, on top of."""


def cells(bench: Bench) -> list[Cell]:
    """Splits, and visibility."""
    plan = bench.plan
    common = {"count": plan.sentences, **bench.world}
    drawn = len(SHAPES)
    return [
        *(
            Cell(
                {"what": "split", "split": split, **common}, plan.sentences, partial(_held_out, bench, split)
            )
            for split in ("train", "novel")
        ),
        Cell({"what": "visible", "count": plan.count, **bench.world}, plan.count, partial(_visible, bench)),
        Cell(
            {"what": "pairs", "tile": plan.tile, "samples": plan.samples, **bench.world, "seed": 0},
            drawn,
            partial(_pairs, bench),
        ),
    ]


def shows(scene: Scene) -> tuple[bool, bool]:
    """Whether a scene shows a held-out pair, and a held-out relation, by going through both lists."""
    pairs = [(thing.shape, thing.color) for thing in scene.objects]
    novel = any(pair in held_out_pairs() for pair in pairs)
    related = any(is_held_out_relation(pairs[r.subject], r.kind, pairs[r.object]) for r in relations(scene))
    return novel, related


def _held_out(bench: Bench, split: str, tick: Tick) -> dict[str, Any]:
    """How many scenes of a split show something held out."""
    pairs = related = both = 0
    start, count = bench.seed * 10**6, bench.plan.sentences
    for k in range(start, start + count):
        a, b = shows(sample_scene(k, split=split, motion=k % 4 == 0))
        pairs, related, both = pairs + a, related + b, both + (a or b)
        tick(1)
    share = sum(1 for _ in held_out_relations()) / (KINDS * (len(SHAPES) * len(COLORS)) ** 2)
    return {"pairs": pairs, "relations": related, "either": both, "held out": share}


def _visible(bench: Bench, tick: Tick) -> dict[str, Any]:
    """The least that any object of the test pictures shows."""
    exam = bench.exam("test", tick)
    shown = [
        (int((owner == i).sum()), whole)
        for owner, alone in zip(exam.data.owner, exam.alone, strict=True)
        for i, whole in enumerate(alone)
    ]
    return {
        "objects": len(shown),
        "seen": sum(n >= PIXELS and n >= PART * whole for n, whole in shown),
        "pixels": min(n for n, _ in shown),
        "part": min(n / max(whole, 1) for n, whole in shown),
        "median": sorted(n for n, _ in shown)[len(shown) // 2],
    }


def _pairs(bench: Bench, tick: Tick) -> dict[str, Any]:
    """A picture of each pair that is held out."""
    pairs = sorted(held_out_pairs(), key=lambda pair: SHAPES.index(pair[0]))
    asked = [[{"shape": shape, "color": color, "size": "large"}] for shape, color in pairs]
    scenes = [sample_scene(3, objects=things, count=1, style="photo", light="day") for things in asked]
    drawn = each(render(scenes, bench.plan.tile, samples=bench.plan.samples).rgb)
    tick(len(drawn))
    return {"pictures": drawn, "names": [f"{color} {shape}" for shape, color in pairs]}


def sections(bench: Bench, measured: Measured) -> list[Section]:
    """Counts, which are zero or all, or the claim does not hold."""
    train, novel, seen, drawn = measured
    n = bench.plan.sentences
    none, every = train["either"] == 0, novel["either"] == n
    visible = seen["seen"] == seen["objects"]
    good = none + every + visible
    rows = [
        ["train: a held-out pair", "0", _count(train["pairs"], n, train["pairs"] == 0)],
        ["train: a held-out relation", "0", _count(train["relations"], n, train["relations"] == 0)],
        ["novel: a held-out pair", "", _count(novel["pairs"], n, True)],
        ["novel: a held-out relation", "", _count(novel["relations"], n, True)],
        ["novel: one or the other", f"{n:,}", _count(novel["either"], n, every)],
        ["test: objects that can be seen", "all", _count(seen["seen"], seen["objects"], visible)],
    ]
    _, most = wilson(train["either"], n)
    tiles = list(zip(drawn["pictures"], drawn["names"], strict=True))
    return [
        Section(
            "splits",
            "What training never shows, and what every picture does",
            "One in ten pairs of shape and color, and one in ten relations between them, never appear in the "
            "training split, and always in the split <i>novel</i>. Every object of every scene can be seen.",
            Verdict(
                "holds" if good == 3 else "holds in part" if good else "does not hold",
                f"{train['either']:,} of {n:,} training scenes show something held out "
                f"(95&nbsp;% interval: up to {percent(most, 2)}), and {novel['either']:,} of {n:,} novel "
                f"ones. Of {seen['objects']:,} objects the least visible has {seen['pixels']} pixels of "
                f"64 × 64, and at least {percent(seen['part'])} of each is in sight.",
            ),
            [
                figure(
                    gallery(tiles, "5rem"),
                    f"The {len(tiles)} pairs of {len(SHAPES) * len(COLORS)} that are held out.",
                ),
                table(["Scenes that show", "wanted", "counted"], rows, "Held out, and in sight."),
            ],
            f"Every relation ({', '.join(RELATIONS)}) that holds in a scene at its beginning is looked up, "
            f"whether a caption tells it or not; {percent(train['held out'], 1)} of all are held out. A "
            f"quarter of the scenes is in motion. In sight is an object of which {PIXELS} pixels and "
            f"{percent(PART)} of what it would show alone are seen, counted on the test pictures of the next "
            f"section; the median is {number(seen['median'])} pixels.",
        )
    ]


def _count(count: int, total: int, good: bool) -> str:
    return f"<span{'' if good else ' class=off'}>{count:,}</span> of {total:,}"
