"""The same noise at different step counts: the same digit?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from noisette.atlas.cells import Cell, Tick
from noisette.atlas.ddim.bench import NAMES, SHOWN, SMALL, STILL, Bench, Measured, Way
from noisette.atlas.page import (
    Finding,
    Section,
    Verdict,
    abreast,
    figure,
    number,
    percent,
    picture,
    strips,
    table,
)
from noisette.atlas.plots import Axes, Line, line_plot
from noisette.conditioning import NO_LABEL

# Its seeds lie apart from those of the other experiments, so that none sees the noise of another.
FIRST = 10**6
WANTED = {20: 0.85, 50: 0.93, 100: 0.97}


def cells(bench: Bench) -> list[Cell]:
    """One cell for DDIM and one for DDPM, each with every step count."""
    plan = bench.plan
    common = {"count": plan.same, "steps": list(plan.steps), "grid": bench.grid, **bench.settings}
    cost = sum(plan.steps) * plan.same
    return [
        Cell({"what": "same noise", "eta": eta, **common}, cost, partial(measure, bench, eta))
        for eta in (0.0, 1.0)
    ]


def measure(bench: Bench, eta: float, tick: Tick) -> dict[str, Any]:
    """Unconditional samples of every step count from the same noise, against those of the most steps."""
    count, first = bench.plan.same, bench.seed + FIRST
    digits, images = {}, {}
    for steps in bench.plan.steps:
        way = Way(steps, bench.grid, eta)
        images[steps] = bench.draw(range(first, first + count), [NO_LABEL] * count, way, tick)
        digits[steps] = bench.read(images[steps])[1].argmax(1)
    *few, most = bench.plan.steps
    shares = digits[most].bincount(minlength=10) / count
    return {
        "agreement": [float((digits[s] == digits[most]).double().mean()) for s in few],
        "distance": [float((images[s] - images[most]).square().mean()) for s in few],
        "chance": float(shares.square().sum()),
        "pictures": {str(s): picture(images[s][:SHOWN]) for s in bench.plan.steps},
    }


def sections(bench: Bench, measured: Measured) -> list[Section]:
    """How often the digit stays, drawn and tabulated."""
    *few, most = bench.plan.steps
    both = dict(zip((STILL, SMALL), measured, strict=True))
    still, noisy = measured
    rows = [[f"{s}", *(text for cells in measured for text in _pair(cells, k))] for k, s in enumerate(few)]
    shown = [f"<h3>{NAMES[k]}</h3>" + strips(c["pictures"], f"{NAMES[k]}, steps") for k, c in both.items()]
    return [
        Section(
            "same-noise",
            "The same noise, the same digit?",
            f"From the same noise, DDIM draws the same digit at 20, 50 and 100 steps as at {most} in at "
            "least 85, 93 and 97&nbsp;% of cases; DDPM draws another.",
            _verdict(few, still, noisy),
            [
                _drawing(bench, both),
                table(
                    [
                        "<i>S</i>",
                        "DDIM<br>same digit",
                        "DDIM<br>pixel MSE",
                        "DDPM<br>same digit",
                        "DDPM<br>pixel MSE",
                    ],
                    rows,
                    f"Agreement with {most} steps, and the mean squared distance of the pixels in [−1, 1].",
                ),
                figure(abreast(*shown), "Ten noises (columns) at every step count (rows)."),
            ],
            f"Without labels, so that the digit is free; {bench.plan.same} seeds, {bench.grid} grid. Both "
            "samplers start from the same noise, and DDPM draws its further noise from the same stream at "
            "every step count.",
        )
    ]


def _pair(cells: Mapping[str, Any], k: int) -> tuple[str, str]:
    return percent(cells["agreement"][k]), number(cells["distance"][k])


def _drawing(bench: Bench, both: Mapping[tuple[float, Any], Mapping[str, Any]]) -> str:
    *few, most = bench.plan.steps
    lines = [
        Line(NAMES[kind], few, cells["agreement"], look, _errors(bench, cells))
        for look, (kind, cells) in zip((0, 3), both.items(), strict=True)
    ]
    level = (both[STILL]["chance"], "chance")
    axes = Axes("steps S", f"same digit as with {most} steps", "x", few, level, (0.0, 1.03), size=(5.0, 3.0))
    return figure(
        line_plot("Same digit against steps", lines, axes),
        f"How often the judge reads the same digit as in the {most}-step picture of the same seed. Bars: "
        "one standard error. Dotted: two pictures that have nothing to do with each other.",
    )


def _errors(bench: Bench, cells: Mapping[str, Any]) -> list[float]:
    return [math.sqrt(share * (1 - share) / bench.plan.same) for share in cells["agreement"]]


def _verdict(steps: Sequence[int], still: Mapping[str, Any], noisy: Mapping[str, Any]) -> Verdict:
    agreed = dict(zip(steps, still["agreement"], strict=True))
    met = {s: agreed[s] >= share for s, share in WANTED.items() if s in agreed}
    apart = all(a > b for a, b in zip(still["agreement"], noisy["agreement"], strict=True))
    finding: Finding = "does not hold"
    if apart or any(met.values()):
        finding = "holds" if apart and all(met.values()) else "holds in part"
    known = {s: "met" if met[s] else "missed" for s in met} or dict.fromkeys(agreed, "not asked")
    parts = [f"{percent(agreed[s])} at {s} steps ({word})" for s, word in known.items()]
    other = f"{percent(min(noisy['agreement']))} to {percent(max(noisy['agreement']))}"
    return Verdict(
        finding,
        f"DDIM agrees in {', '.join(parts)}. DDPM agrees in {other}; chance is {percent(still['chance'])}.",
    )
