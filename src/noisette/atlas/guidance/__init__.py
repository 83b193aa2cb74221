"""Classifier-free guidance on scenes from text: what it buys, what it costs, and what helps.

Nine claims, each with what the numbers make of it:

1. Accuracy rises with the guidance scale up to some point (`scales`).
2. The Frechet distance is least at a smaller scale than that (`scales`).
3. Diversity falls monotonically (`scales`).
4. What a caption says is decided at high noise (`levels`).
5. Guidance in an interval keeps accuracy at a lower distance (`remedies`).
6. Rescaling halves saturation (`remedies`).
7. Dynamic thresholding was made for pixels and does not fit latents (`remedies`).
8. On Gaussians: guided DDIM does not draw the density it is derived from (`gaussian`).
9. Larger text encoders, better alignment (`alignment`), of models that `encoders` trains.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import torch

from noisette.atlas.cells import Cell, Store, complete
from noisette.atlas.guidance import alignment, drawn, gaussian, levels, remedies, scales
from noisette.atlas.guidance.bench import QUICK, Bench, Plan
from noisette.atlas.page import Page, Section
from noisette.errors import UserError
from noisette.files import atomic_write, ensure_writable
from noisette.models import Model
from noisette.scenes.quiz import KINDS
from noisette.scenes.reader import Reader
from noisette.scenes.reader.net import SIZE

__all__ = ["run"]

NAME = "guidance"
FEWEST = 2 * len(KINDS)

TITLE = "Guidance: more of what was asked, less of everything else"
LEAD = """<p>A model that draws from text says twice what a noisy picture should become: once told the
caption, once told nothing. Classifier-free guidance goes from the second towards the first, and on:</p>
<p class='eq'><span><i>ε̂</i> = <i>ε</i><sub>∅</sub> + <i>s</i> (<i>ε<sub>c</sub></i> −
<i>ε</i><sub>∅</sub>)</span></p>
<p>Scale <i>s</i> = 1 is the model as it was trained; papers that write <i>w</i> mean <i>s</i> − 1. Here
the captions are of scenes whose truth is known, and a reader that knows this world
says of each picture what it shows. So three things can be told apart: whether a picture shows what was asked,
whether pictures together look like true ones, and whether pictures of one caption differ. Every number below
was measured by the command at the end of the page; the verdicts are computed from the numbers and their
intervals.</p>"""
COLOPHON = """<p>It writes <code>guidance.html</code> and <code>guidance.json</code>, in which every number
stands with its settings and its resamples. What is already measured is not measured again; delete the file to
begin anew.</p>
<p>Sources: classifier-free guidance, arXiv:2207.12598. Guidance in an interval, arXiv:2404.07724. Rescaled
guidance, arXiv:2305.08891. Dynamic thresholding, arXiv:2205.11487. Frechet distance, arXiv:1706.08500.
Intervals of shares, doi:10.1080/01621459.1927.10502953.</p>"""
LEFT_OUT = """<p>Left out: whether larger text encoders align better. That takes three trainings:
<code>python -m noisette.atlas.guidance.encoders RUNS</code>, then <code>--encoders RUNS</code>.</p>"""


def run(
    out: str | os.PathLike[str],
    *,
    quick: bool = False,
    seed: int = 0,
    count: int | None = None,
    model: str | os.PathLike[str] | Model = "scenes",
    encoders: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
) -> Path:
    """Measure what is not yet in ``out/guidance.json`` and write ``out/guidance.html``; its path is returned.

    ``quick`` measures a fraction, enough to see the page; ``count`` is the number of captions behind each
    mark and each distance, by which the rest is scaled. ``model``: a latent text-to-image model of scenes.
    ``encoders``: the folder of three models that differ in their text encoders, as
    `noisette.atlas.guidance.encoders` trains them; without it that section is left out. Stopped and started
    again with the same settings, it goes on where it was.

    Cost: 18 ways of guiding, each of which draws 528 pictures (32 quick), and 1,200 pictures of encoders. At
    0.3 to 0.6 seconds of a core for a picture (20 steps, two lanes) that is 50 to 100 minutes of one core
    in full, 15 to 40 minutes on four; quick, one to three.
    Raises UserError for ``data``, as the page draws its own; for a model that does not draw scenes from text
    in latents; for fewer than eight captions, or a number that four does not divide; and where ``out`` cannot
    be written.
    """
    page, results = Path(out) / f"{NAME}.html", Path(out) / f"{NAME}.json"
    if data is not None:
        raise UserError("the page guidance draws its own pictures: leave --data out")
    bench = Bench(
        _scenes(model if isinstance(model, Model) else Model.load(model)), Reader.load(), seed,
        _plan(quick, count),
    )  # fmt: skip
    trained = None if encoders is None else alignment.Trained.of(bench, encoders, _encoders(encoders))
    if not results.exists():
        ensure_writable(page)
    store = Store(results, NAME)
    command = _command(quick, seed, count, model, encoders)
    sections, measured = _measured(bench, trained, store)
    with atomic_write(page) as path:
        path.write_text(_page(bench, trained, sections, measured, command).html(), encoding="utf-8")
    return page


def _measured(
    bench: Bench, trained: alignment.Trained | None, store: Store
) -> tuple[list[Section], list[tuple[Cell, float]]]:
    """The sections, and every cell with the seconds it took."""
    groups = [
        drawn.cells(bench),
        levels.cells(bench),
        gaussian.cells(bench),
        alignment.cells(trained) if trained else [],
    ]
    everything = [cell for cells in groups for cell in cells]
    complete(everything, store)
    pictures, heard, pair, texts = ([store[cell.settings] for cell in cells] for cells in groups)
    found = drawn.gathered(bench, pictures)
    return [
        *scales.sections(bench, found),
        *levels.sections(bench, heard),
        *remedies.sections(bench, found),
        *gaussian.sections(bench, pair),
        *(alignment.sections(trained, texts) if trained else []),
    ], [(cell, store[cell.settings]["seconds"]) for cell in everything]


def _plan(quick: bool, count: int | None) -> Plan:
    plan = QUICK if quick else Plan()
    if count is None:
        return plan
    if isinstance(count, bool) or not isinstance(count, int) or count < FEWEST or count % len(KINDS):
        raise UserError(
            f"count must be {FEWEST} captions or more, a number that {len(KINDS)} divides: got {count!r:.40}"
        )
    return replace(plan, count=count)


def _scenes(model: Model) -> Model:
    spec, texts = model.spec, model.texts
    if texts is None or model.codec is None or spec.channels != 3 or spec.image_size < SIZE:
        raise UserError(
            f"this page is about latent text-to-image models, from {SIZE} pixels up; {spec.name} is none"
        )
    if any(map(texts.unknown, ("a red cube", "a blue sphere"))):
        raise UserError(f"{spec.name} does not know the words of scenes, which this page asks for")
    return model


def _encoders(folder: str | os.PathLike[str]) -> Mapping[str, Model]:
    return {name: _scenes(model) for name, model in alignment.load(folder).items()}


def _command(quick: bool, seed: int, count: int | None, model: Any, encoders: Any) -> str:
    words = ["noisette atlas guidance -o DIR"]
    words += ["--quick"] * quick
    words += [f"--seed {seed}"] * (seed != 0)
    words += [f"--model {model}"] * (isinstance(model, str | os.PathLike) and str(model) != "scenes")
    words += [f"--count {count}"] * (count is not None)
    words += [f"--encoders {encoders}"] * (encoders is not None)
    return " ".join(words)


def _page(
    bench: Bench,
    trained: alignment.Trained | None,
    sections: Sequence[Section],
    measured: Sequence[tuple[Cell, float]],
    command: str,
) -> Page:
    spec, plan, threads = bench.model.spec, bench.plan, torch.get_num_threads()
    weights = sum(p.numel() for p in bench.model.denoiser.net.parameters())
    pictures = sum(cell.cost for cell, _ in measured)
    seconds = sum(spent for _, spent in measured)
    defaults = spec.defaults
    facts = {
        "Model": escape(f"{spec.name}, {weights / 1e6:.2f} million weights, {type(spec.schedule).__name__}"),
        "Pictures": f"{pictures:,}, of {spec.image_size} × {spec.image_size} pixels",
        "Behind a number": f"{plan.count} captions; {plan.captions} of them {plan.each} times for diversity",
        "Sampler": escape(f"{defaults.solver}, {defaults.steps} steps, {defaults.grid} grid"),
        "Time": f"{seconds / 60:.1f} minutes, {seconds / max(1, pictures):.2f} s a picture",
        "Machine": escape(
            f"{platform.machine()}, {threads} thread{'s' * (threads != 1)}, torch {torch.__version__}"
        ),
        "Text encoders": "compared" if trained else "not compared: no --encoders were given",
    }
    if plan.quick:
        facts["Quick run"] = "a preview, with too few pictures to conclude from"
    colophon = COLOPHON if trained else LEFT_OUT + COLOPHON
    return Page(TITLE, LEAD, facts, sections, command, colophon)
