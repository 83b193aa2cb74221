"""DDIM against DDPM, on the digits model.

Six claims, each with what the numbers make of it, one module each:

1. DDIM keeps its quality at 20 to 100 steps, where DDPM fails below 100 (`distance`).
2. How badly DDPM fails depends on the grid (`distance`).
3. From the same noise, DDIM draws the same digit at every step count; DDPM does not (`same_noise`).
4. Between two noises slerp passes through digits; lerp leaves the shell of noise (`interpolation`).
5. DDIM backwards turns a picture into its noise, the better the more steps it takes (`inversion`).
6. On Gaussian data all of this can be computed: our solvers give the exact table to 1e-3 (`gaussian`).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisette.atlas.cells import Cell, Store, complete
from noisette.atlas.ddim import distance, gaussian, interpolation, inversion, same_noise
from noisette.atlas.ddim.bench import QUICK, Bench, Plan
from noisette.atlas.page import Page, Section
from noisette.errors import UserError
from noisette.files import atomic_write, ensure_writable
from noisette.metrics import Judge, Statistics, digits_reference
from noisette.models import Model

__all__ = ["run"]

NAME = "ddim"
EXPERIMENTS = (distance, same_noise, interpolation, inversion, gaussian)
# So many test digits are read, where there are some.
REAL = 2400

TITLE = "DDIM against DDPM: what few steps keep"
LEAD = """<p>One trained network, many ways to walk from noise to a picture. DDPM takes a random step back
along the chain it was trained on; DDIM belongs to a family of walks with the same marginals, in which
<i>η</i> sets how much fresh noise each step adds. From a level <i>s</i> to the next, cleaner level
<i>t</i>:</p>
<p class='eq'><span><i>x<sub>t</sub></i> = <i>α<sub>t</sub> x̂</i><sub>0</sub> +
√<span class='root'><i>σ<sub>t</sub></i><sup>2</sup> − <i>η</i><sup>2</sup><i>β̃</i></span> <i>ε̂</i> +
<i>η b z</i></span>
<span><i>β̃</i> = <i>β</i> <i>σ<sub>t</sub></i><sup>2</sup> / <i>σ<sub>s</sub></i><sup>2</sup>, &ensp;
<i>β</i> = <i>σ<sub>s</sub></i><sup>2</sup> −
(<i>α<sub>s</sub></i>/<i>α<sub>t</sub></i>)<sup>2</sup><i>σ<sub>t</sub></i><sup>2</sup></span></p>
<p>With <i>η</i> = 0 nothing is random after the first noise: that is DDIM. With <i>η</i> = 1 and
<i>b</i><sup>2</sup> = <i>β̃</i> it is DDPM with fixed-small variance, with
<i>b</i><sup>2</sup> = <i>β</i> DDPM with fixed-large variance, the default of its authors. Every number
below was measured by the command at the end of the page; the verdicts are computed from the numbers.</p>"""
COLOPHON = """<p>It writes <code>ddim.html</code> and <code>ddim.json</code>, in which every number stands
with its settings. What is already measured is not measured again; delete the file to begin anew.</p>
<p>Sources: DDPM, arXiv:2006.11239. DDIM, arXiv:2010.02502. Leading and trailing grids, arXiv:2305.08891.
Frechet distance, arXiv:1706.08500.</p>"""


def run(
    out: str | os.PathLike[str],
    *,
    quick: bool = False,
    seed: int = 0,
    model: str | os.PathLike[str] | Model = "digits",
    data: str | os.PathLike[str] | None = None,
    count: int | None = None,
    judge: Judge | None = None,
    reference: Statistics | None = None,
) -> Path:
    """Measure what is not yet in ``out/ddim.json`` and write ``out/ddim.html``, whose path is returned.

    ``quick`` measures a fraction, enough to see the page; ``count`` is the number of images behind each
    Frechet distance (a multiple of ten). ``data``: a folder with MNIST, whose test digits then give the
    floor of the distance and the pictures of the round trip. ``judge`` and ``reference`` default to those
    that ship. Stopped and started again with the same settings, it goes on where it was.

    Cost: about 1.6 million network calls in full, 27 thousand quick, each for one image.
    Raises UserError for a model that does not draw 32x32 digits, and where ``out`` cannot be written.
    """
    page, results = Path(out) / f"{NAME}.html", Path(out) / f"{NAME}.json"
    if not results.exists():
        ensure_writable(page)
    bench = Bench(
        _digits(model if isinstance(model, Model) else Model.load(model)),
        Judge.load() if judge is None else judge,
        digits_reference() if reference is None else reference,
        None if data is None else _real(Path(data), seed),
        seed,
        _plan(quick, count),
    )
    store = Store(results, NAME)
    planned = [experiment.cells(bench) for experiment in EXPERIMENTS]
    everything = [cell for cells in planned for cell in cells]
    complete(everything, store)
    sections = [
        section
        for experiment, cells in zip(EXPERIMENTS, planned, strict=True)
        for section in experiment.sections(bench, [store[cell.settings] for cell in cells])
    ]
    command = _command(quick, seed, model, data, count)
    with atomic_write(page) as path:
        path.write_text(_page(bench, sections, everything, store, command).html(), encoding="utf-8")
    return page


def _plan(quick: bool, count: int | None) -> Plan:
    plan = QUICK if quick else Plan()
    if count is None:
        return plan
    if isinstance(count, bool) or not isinstance(count, int) or count < 10 or count % 10:
        raise UserError(f"count must be a multiple of ten, as many of each digit, got {count!r:.40}")
    return replace(plan, count=count)


def _digits(model: Model) -> Model:
    spec = model.spec
    if (spec.channels, spec.image_size, spec.labels) != (1, 32, tuple("0123456789")):
        raise UserError(f"this page is about 1-channel 32x32 digits 0 to 9, which {spec.name} does not draw")
    return model


def _real(data: Path, seed: int) -> Tensor:
    """Test digits [N, 1, 32, 32] in an order drawn from the seed."""
    from noisette.data import open_dataset

    digits = open_dataset(data, size=32, channels=1, fit="pad", split="test")
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
    return digits.fetch(order[:REAL].tolist())["image"]


def _command(quick: bool, seed: int, model: Any, data: Any, count: int | None) -> str:
    words = ["noisette atlas ddim -o DIR"]
    words += ["--quick"] * quick
    words += [f"--seed {seed}"] * (seed != 0)
    words += [f"--model {model}"] * (isinstance(model, str | os.PathLike) and str(model) != "digits")
    words += ["--data MNIST"] * (data is not None)
    words += [f"--count {count}"] * (count is not None)
    return " ".join(words)


def _page(
    bench: Bench, sections: Sequence[Section], cells: Sequence[Cell], store: Store, command: str
) -> Page:
    spec, plan = bench.model.spec, bench.plan
    size = sum(p.numel() for p in bench.model.denoiser.net.parameters())
    seconds = sum(store[cell.settings]["seconds"] for cell in cells)
    threads = torch.get_num_threads()
    facts = {
        "Model": escape(f"{spec.name}, {size / 1e6:.2f} million parameters"),
        "Schedule": escape(f"{type(spec.schedule).__name__}, {spec.defaults.grid} grid"),
        "Images behind a distance": f"{plan.count}, seeds {bench.seed} to {bench.seed + plan.count - 1}",
        "Network calls": f"{sum(cell.cost for cell in cells):,} in {_duration(seconds)}",
        "Machine": escape(f"{platform.machine()}, {threads} thread{'s' * (threads != 1)}"),
        "torch": escape(torch.__version__),
    }
    if plan.quick:
        facts["Quick run"] = "a preview, with too few images to conclude from"
    return Page(TITLE, LEAD, facts, sections, command, COLOPHON)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{minutes} min"
        if minutes < 120
        else f"{minutes / 60:.1f} h"
    )
