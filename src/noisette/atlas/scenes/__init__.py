"""The world of scenes, and its reader.

Seven claims, each with what the numbers make of it, one module each:

1. No two words of the vocabulary look alike (`world`).
2. Depth, normals, ids, keypoints, flow and mesh speak of one surface (`truth`, `geometry`).
3. What a caption says is so, and an instruction gives the scene of its pair (`words`).
4. Training shows nothing that is held out, and every object of every picture can be seen (`splits`).
5. The reader tells what pictures show, as well as was asked of it (`reading`).
6. It sees nothing in nothing (`silence`).
7. Its features make a distance (`distance`).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

import torch

from noisette.atlas.cells import Cell, Store, complete
from noisette.atlas.page import Page, Section
from noisette.atlas.scenes import distance, reading, silence, splits, truth, words, world
from noisette.atlas.scenes.bench import QUICK, Bench, Plan
from noisette.errors import UserError
from noisette.files import atomic_write, ensure_writable
from noisette.scenes.reader import Reader

__all__ = ["run"]

NAME = "scenes"
EXPERIMENTS = (world, truth, words, splits, reading, silence, distance)
FEWEST = 8

TITLE = "A small world whose truth is known, and its reader"
LEAD = """<p>Whether a picture shows what was asked for is hard to say of photographs. Here is a world of
which everything is known: ray-traced scenes of one to four objects, drawn from a sentence or from a number,
with depth, normals, ids, keypoints, flow and mesh of every one. And here is a small network, the reader, that
says of a picture of it what it shows. What generators of this world are worth will be read off by it; so the
page begins with the world, asks whether it agrees with itself, and ends with what the reader gets wrong.</p>
<p>Every number below was measured by the command at the end of the page; the verdicts are computed from the
numbers.</p>"""
COLOPHON = """<p>It writes <code>scenes.html</code> and <code>scenes.json</code>, in which every number
stands with its settings. What is already measured is not measured again; delete the file to begin anew.</p>
<p>Sources: grouping pixels by their centres, arXiv:1911.10194. Frechet distance, arXiv:1706.08500. Intervals
of shares, doi:10.1080/01621459.1927.10502953.</p>"""


def run(
    out: str | os.PathLike[str],
    *,
    quick: bool = False,
    seed: int = 0,
    count: int | None = None,
    model: str | os.PathLike[str] | Reader | None = None,
    data: str | os.PathLike[str] | None = None,
) -> Path:
    """Measure what is not yet in ``out/scenes.json`` and write ``out/scenes.html``, whose path is returned.

    ``quick`` measures a fraction, enough to see the page; ``count`` is the number of scenes of each split
    that are read, by which everything else is scaled. ``model``: a reader, or the safetensors file of one;
    by default the one that ships. Stopped and started again with the same settings, it goes on where it was.

    Cost: about ten minutes on one core in full, one quick.
    Raises UserError for ``data``, as the page draws its own; for a file that holds no reader; for fewer than
    eight scenes; and where ``out`` cannot be written.
    """
    page, results = Path(out) / f"{NAME}.html", Path(out) / f"{NAME}.json"
    if data is not None:
        raise UserError("the page scenes draws its own pictures: leave --data out")
    bench = Bench(_reader(model), seed, _plan(quick, count))
    if not results.exists():
        ensure_writable(page)
    store = Store(results, NAME)
    planned = [experiment.cells(bench) for experiment in EXPERIMENTS]
    everything = [cell for cells in planned for cell in cells]
    complete(everything, store)
    sections = [
        section
        for experiment, cells in zip(EXPERIMENTS, planned, strict=True)
        for section in experiment.sections(bench, [store[cell.settings] for cell in cells])
    ]
    with atomic_write(page) as path:
        text = _page(bench, sections, everything, store, _command(quick, seed, model, count)).html()
        path.write_text(text, encoding="utf-8")
    return page


def _plan(quick: bool, count: int | None) -> Plan:
    plan = QUICK if quick else Plan()
    if count is None:
        return plan
    if isinstance(count, bool) or not isinstance(count, int) or count < FEWEST:
        raise UserError(f"count must be a whole number of {FEWEST} scenes or more, got {count!r:.40}")
    return replace(plan, count=count)


def _reader(model: str | os.PathLike[str] | Reader | None) -> Reader:
    if model is None:
        return Reader.load()
    if isinstance(model, Reader):
        return model
    from safetensors import SafetensorError
    from safetensors.torch import load

    reader = Reader()
    try:
        reader.load_state_dict(load(Path(model).read_bytes()))
    except (OSError, SafetensorError, RuntimeError):
        raise UserError(f"{model} is no safetensors file of a reader of scenes: leave --model out") from None
    return reader.eval().requires_grad_(False)


def _command(quick: bool, seed: int, model: object, count: int | None) -> str:
    words = ["noisette atlas scenes -o DIR"]
    words += ["--quick"] * quick
    words += [f"--seed {seed}"] * (seed != 0)
    words += [f"--model {model}"] * isinstance(model, str | os.PathLike)
    words += [f"--count {count}"] * (count is not None)
    return " ".join(words)


def _page(
    bench: Bench, sections: Sequence[Section], cells: Sequence[Cell], store: Store, command: str
) -> Page:
    plan = bench.plan
    weights = sum(p.numel() for p in bench.reader.parameters())
    seconds = sum(store[cell.settings]["seconds"] for cell in cells)
    threads = torch.get_num_threads()
    facts = {
        "Reader": f"{weights / 1e6:.2f} million weights, {bench.reading['reader']}",
        "Scenes read": f"{plan.count:,} of each of two splits, at 64 pixels",
        "Scenes put into words": f"{plan.sentences:,}",
        "Time": f"{seconds / 60:.1f} minutes",
        "Machine": escape(f"{platform.machine()}, {threads} thread{'s' * (threads != 1)}"),
        "torch": escape(torch.__version__),
    }
    if plan.quick:
        facts["Quick run"] = "a preview, with too few scenes to conclude from"
    return Page(TITLE, LEAD, facts, sections, command, COLOPHON)
