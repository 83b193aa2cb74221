"""Posterior collapse: when a latent of a VAE says nothing, computed, shown, and cured.

Two claims, each with what the numbers make of it, one module each:

1. A linear VAE keeps exactly the directions that vary more than its decoder's noise (`linear`).
2. On digits a fixed deviation of 1 collapses most units; a learned one, or free bits, bring them back
   (`digits`).
"""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from noisette.atlas.cells import Store, complete
from noisette.atlas.collapse import digits, linear
from noisette.atlas.collapse.bench import QUICK, Bench, Digits, Plan
from noisette.atlas.page import Page
from noisette.errors import UserError
from noisette.files import atomic_write, ensure_writable

__all__ = ["run"]

NAME = "collapse"
EXPERIMENTS = (linear, digits)
LEARNED, LABELS = 10_000, tuple("0123456789")

TITLE = "Posterior collapse: latents that say nothing"
LEAD = """<p>A variational autoencoder is paid for giving back its input and pays for every nat that its
latents say of it:</p>
<p class='eq'><span>log <i>p</i>(<i>x</i>) ≥ E<sub><i>q</i></sub> log <i>p</i>(<i>x</i>|<i>z</i>) −
KL(<i>q</i>(<i>z</i>|<i>x</i>) ‖ <i>p</i>(<i>z</i>))</span></p>
<p>A unit whose nats cost more than they earn is switched off: <i>q</i> becomes the prior, and the decoder
learns to ignore it. What a nat earns is decided by the deviation <i>σ</i> that the decoder grants a pixel,
so that collapse is a matter of one number that is often left at 1. Every number below was measured by the
command at the end of the page; the verdicts are computed from the numbers, at the worst of the seeds.</p>"""
COLOPHON = """<p>It writes <code>collapse.html</code> and <code>collapse.json</code>, in which every number
stands with its settings. What is already measured is not measured again; delete the file to begin anew.</p>
<p>Sources: the linear VAE, arXiv:1911.02469. Learned deviation, arXiv:2006.13202. Free bits,
arXiv:1606.04934. Active units, arXiv:1509.00519.</p>"""
LEFT_OUT = """<p>Left out: the digits. They need MNIST: <code>--data MNIST</code>.</p>"""


def run(
    out: str | os.PathLike[str],
    *,
    quick: bool = False,
    seed: int = 0,
    data: str | os.PathLike[str] | None = None,
    count: int | None = None,
    model: str | None = None,
) -> Path:
    """Measure what is not yet in ``out/collapse.json`` and write ``out/collapse.html``; its path is returned.

    ``quick`` measures a fraction, enough to see the page. ``data``: a folder with MNIST, without which the
    section of digits is left out; ``count``: the held-out digits by which units are counted. Stopped and
    started again with the same settings, it goes on where it was.

    Cost on one core: two minutes for the law, and a minute for each of twelve trainings on digits; quick,
    one minute in all. Raises UserError for ``model``, as the page trains its own; for data that are not
    digits; and where ``out`` cannot be written.
    """
    page, results = Path(out) / f"{NAME}.html", Path(out) / f"{NAME}.json"
    if model is not None:
        raise UserError("the page collapse trains its own models: leave --model out")
    if count is not None and not 2 <= count <= 10_000:
        raise UserError(f"count is a number of held-out digits, from 2 to 10000, not {count!r:.40}")
    if not results.exists():
        ensure_writable(page)
    plan = QUICK if quick else Plan()
    plan = plan if count is None else replace(plan, count=count)
    bench = Bench(None if data is None else _digits(Path(data), seed, plan.count), seed, plan)
    store = Store(results, NAME)
    planned = [experiment.cells(bench) for experiment in EXPERIMENTS]
    complete([cell for cells in planned for cell in cells], store)
    sections = [
        section
        for experiment, cells in zip(EXPERIMENTS, planned, strict=True)
        for section in experiment.sections(bench, [store[cell.settings] for cell in cells])
    ]
    seconds = sum(store[cell.settings]["seconds"] for cells in planned for cell in cells)
    made = Page(
        TITLE,
        LEAD + LEFT_OUT * (data is None),
        _facts(bench, seconds),
        sections,
        _command(quick, seed, data is not None, count),
        COLOPHON,
    )
    with atomic_write(page) as path:
        path.write_text(made.html(), encoding="utf-8")
    return page


def _digits(data: Path, seed: int, count: int) -> Digits:
    """Digits to learn from and held-out ones, in orders drawn from the seed."""
    from noisette.data import open_dataset

    parts: list[Tensor] = []
    for split, most in (("train", LEARNED), ("test", count)):
        found = open_dataset(data, size=32, channels=1, fit="pad", split=split)
        if found.labels != LABELS:
            raise UserError(f"{data}: this page is about digits 0 to 9, and the classes are {found.labels}")
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
        batch = found.fetch(order[:most].tolist())
        parts += [batch["image"], torch.as_tensor(batch["label"], dtype=torch.long)]
    return Digits(*parts)


def _facts(bench: Bench, seconds: float) -> dict[str, str]:
    threads = torch.get_num_threads()
    facts = {
        "Seeds": f"{bench.seeds.start} to {bench.seeds.stop - 1}",
        "Time": f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s",
        "Machine": escape(f"{platform.machine()}, {threads} thread{'s' * (threads != 1)}"),
        "torch": escape(torch.__version__),
    }
    if bench.plan.quick:
        facts["Quick run"] = "a preview, with too little training to conclude from"
    return facts


def _command(quick: bool, seed: int, data: bool, count: int | None) -> str:
    words = ["noisette atlas collapse -o DIR"]
    words += ["--quick"] * quick
    words += [f"--seed {seed}"] * (seed != 0)
    words += ["--data MNIST"] * data
    words += [f"--count {count}"] * (count is not None)
    return " ".join(words)
