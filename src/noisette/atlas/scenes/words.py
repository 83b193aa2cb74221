"""Words and scenes: is what a caption says so, and does an instruction give the scene of its pair?"""

from __future__ import annotations

from functools import partial
from html import escape
from random import Random
from typing import Any

from noisette.atlas.cells import Cell, Tick
from noisette.atlas.page import Section, Verdict, figure, percent, table
from noisette.atlas.scenes.bench import Bench, Measured, wilson
from noisette.atlas.scenes.pictures import SMALL, each, gallery, matrix
from noisette.errors import UserError
from noisette.scenes.caption import caption
from noisette.scenes.constraints import holds
from noisette.scenes.edits import apply, edit
from noisette.scenes.parse import parse
from noisette.scenes.render import render
from noisette.scenes.sampling import sample_scene
from noisette.scenes.splits import belongs

TOLD, WAYS, PAIRS = 4, 3, 4
"""Scenes shown with captions, captions of each, and pairs shown with instructions."""


def cells(bench: Bench) -> list[Cell]:
    """Captions, edits, and some of both to be seen."""
    plan, seed = bench.plan, bench.seed
    kinds = (("captions", plan.sentences, _captions), ("edits", plan.edits, _edits))
    counted = [
        Cell({"what": what, "count": count, **bench.world}, count, partial(measure, seed, count))
        for what, count, measure in kinds
    ]
    settings = {"what": "told", "tile": plan.tile, "samples": plan.samples, **bench.world}
    return [*counted, Cell(settings, TOLD + 2 * PAIRS, partial(_shown, bench))]


def _captions(seed: int, count: int, tick: Tick) -> dict[str, Any]:
    """How many captions, read again, ask for nothing that does not hold in their scene; some that do not."""
    right, lengths, wrong = 0, 0, []
    texts: set[str] = set()
    for k in range(seed * 10**6, seed * 10**6 + count):
        scene = sample_scene(k, motion=k % 4 == 0)
        text = caption(scene, Random(k))
        try:
            true = holds(scene, parse(text))
        except UserError:
            true = False
        right, lengths = right + true, lengths + len(text.split())
        texts.add(text)
        wrong += [] if true else [text]
        tick(1)
    return {"right": right, "different": len(texts), "words": lengths / count, "wrong": wrong[:3]}


def _edits(seed: int, count: int, tick: Tick) -> dict[str, Any]:
    """How many instructions, carried out in words, give the scene of the pair, another one, in its split."""
    right, kept, said = 0, 0, set()
    for k in range(seed * 10**6, seed * 10**6 + count):
        scene = sample_scene(k, split="train")
        text, after = edit(scene, Random(k), split="train")
        right += apply(scene, text) == after != scene
        kept += belongs(after, "train")
        said.add(text)
        tick(1)
    return {"right": right, "kept": kept, "different": len(said)}


def _shown(bench: Bench, tick: Tick) -> dict[str, Any]:
    """Some scenes with captions, and some pairs with their instructions."""
    start = bench.seed * 10**6 + 10
    scenes = [sample_scene(k) for k in range(start, start + TOLD)]
    pairs = []
    for k in range(start + TOLD, start + TOLD + PAIRS):
        scene = sample_scene(k)
        pairs.append((scene, *edit(scene, Random(k))))
    both = [scene for before, _, after in pairs for scene in (before, after)]
    size = round(1.5 * bench.plan.tile)
    drawn = each(render([*scenes, *both], size, samples=bench.plan.samples).rgb)
    tick(len(drawn))
    told = [list(dict.fromkeys(caption(s, Random(w)) for w in range(2 * WAYS)))[:WAYS] for s in scenes]
    return {
        "pictures": drawn[:TOLD],
        "told": told,
        "pairs": drawn[TOLD:],
        "said": [text for _, text, _ in pairs],
    }


def sections(bench: Bench, measured: Measured) -> list[Section]:
    """What is said, and whether it is so."""
    said, edited, shown = measured
    plan = bench.plan
    counts = {
        "captions, read again, that hold": (said["right"], plan.sentences),
        "instructions that give the scene of their pair": (edited["right"], plan.edits),
        "edited scenes that stay in the training split": (edited["kept"], plan.edits),
    }
    good = sum(right == total for right, total in counts.values())
    rows = []
    for name, (right, total) in counts.items():
        low, _ = wilson(right, total)
        rows.append([name, f"{right:,} of {total:,}", percent(low, 2)])
    failed = f" The first that fails: “{escape(said['wrong'][0])}”" if said["wrong"] else ""
    told = [
        (address, "<br>".join(f"“{escape(text)}”" for text in texts))
        for address, texts in zip(shown["pictures"], shown["told"], strict=True)
    ]
    return [
        Section(
            "words",
            "What is said is so",
            "Captions are paraphrased, reordered and shortened, and still every one, read by the same "
            "grammar, holds in its scene; an instruction in words gives exactly the scene of its pair.",
            Verdict(
                "holds" if good == len(counts) else "holds in part" if good else "does not hold",
                f"{said['right']:,} of {plan.sentences:,} captions hold, and {edited['right']:,} of "
                f"{plan.edits:,} instructions give their scene.{failed}",
            ),
            [
                figure(gallery(told, "9.5rem"), f"{TOLD} scenes, told in up to {WAYS} of their many ways."),
                figure(_pairs(shown), "Pairs for editing: before, the instruction, after."),
                table(
                    ["", "count", "at least <small>(95 %)</small>"],
                    rows,
                    f"{said['different']:,} of the captions and {edited['different']:,} of the instructions "
                    f"are different texts; a caption has {said['words']:.0f} words on average.",
                ),
            ],
            "A caption is read into constraints by a parser that knows nothing of the scene, and these are "
            "held against the scene; every fourth scene is in motion. At least: the lower end of Wilson's "
            "interval.",
        )
    ]


def _pairs(shown: Any) -> str:
    """Before and after side by side, the instruction below."""
    tiles = []
    for k, text in enumerate(shown["said"]):
        before, after = shown["pairs"][2 * k : 2 * k + 2]
        tiles.append(
            f"<div>{matrix(('before', 'after'), {'': (before, after)}, text)}"
            f"<div style='{SMALL};margin-top:.15rem'>“{escape(text)}”</div></div>"
        )
    columns = "repeat(auto-fill,minmax(15rem,1fr))"
    return (
        f"<div style='display:grid;grid-template-columns:{columns};gap:1.2rem 1.4rem'>{''.join(tiles)}</div>"
    )
