"""From one noise to another, along the sphere and along the straight line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from noisette.atlas.cells import Cell, Tick
from noisette.atlas.ddim.bench import Bench, Measured, Way
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
from noisette.edit import lerp, slerp
from noisette.solvers import NoiseStreams

FIRST = 2 * 10**6
PATHS = {"slerp": slerp, "lerp": lerp}
# A picture is a clear digit where the judge gives one digit this probability; and pairs that are shown.
CLEAR, PAIRS_SHOWN = 0.9, 4
SIZE = (4.0, 3.0)


def cells(bench: Bench) -> list[Cell]:
    """One cell for each kind of path."""
    plan = bench.plan
    common = {"pairs": plan.pairs, "frames": plan.frames, "steps": plan.path_steps, "grid": bench.grid}
    cost = plan.pairs * plan.frames * plan.path_steps
    return [
        Cell(
            {"what": "interpolation", "path": path, **common, **bench.settings},
            cost,
            partial(measure, bench, path),
        )
        for path in PATHS
    ]


def measure(bench: Bench, path: str, tick: Tick) -> dict[str, Any]:
    """Unconditional DDIM from every point of the paths, as the judge reads it."""
    plan, spec, first = bench.plan, bench.model.spec, bench.seed + FIRST
    shape = (spec.channels, spec.image_size, spec.image_size)
    a, b = NoiseStreams(range(first, first + 2 * plan.pairs)).initial(shape).chunk(2)
    places = [k / (plan.frames - 1) for k in range(plan.frames)]
    latents = torch.stack([PATHS[path](a, b, place) for place in places], dim=1)
    count, way = plan.pairs * plan.frames, Way(plan.path_steps, bench.grid)
    images = bench.draw([0] * count, [NO_LABEL] * count, way, tick, latents=latents.flatten(0, 1))
    features, probabilities = bench.read(images)
    sure, digits = (part.reshape(plan.pairs, plan.frames) for part in probabilities.max(1))
    between = features.reshape(plan.pairs, plan.frames, -1)[:, 1:-1].flatten(0, 1)
    return {
        "deviation": latents.flatten(2).std(2).mean(0).tolist(),
        "confidence": sure.mean(0).tolist(),
        "clear": float((sure[:, 1:-1] >= CLEAR).double().mean()),
        "changes": float((digits[:, 1:] != digits[:, :-1]).double().sum(1).mean()),
        "ends_differ": float((digits[:, 0] != digits[:, -1]).double().mean()),
        "frechet": bench.frechet(between),
        "digits": digits[:PAIRS_SHOWN].tolist(),
        "pictures": [picture(row) for row in images.reshape(plan.pairs, plan.frames, *shape)[:PAIRS_SHOWN]],
    }


def sections(bench: Bench, measured: Measured) -> list[Section]:
    """Strips, curves and a table of both kinds of path."""
    both = dict(zip(PATHS, measured, strict=True))
    plan, middle = bench.plan, bench.plan.frames // 2
    rows = [
        [
            name,
            percent(c["clear"]),
            number(c["changes"]),
            number(c["frechet"]),
            number(c["deviation"][middle]),
        ]
        for name, c in both.items()
    ]
    return [
        Section(
            "interpolation",
            "From one noise to another",
            "Of the pictures along a slerp path at least 90&nbsp;% are clear digits, and the digit changes "
            "once at most on average; lerp does worse, because it leaves the shell on which noise lies.",
            _verdict(both, middle),
            [
                figure(
                    _strips(both),
                    f"The first {PAIRS_SHOWN} pairs of noises: slerp above, lerp beneath, and what the "
                    "judge reads.",
                ),
                figure(_drawing(bench, both), "Mean over the pairs, from one noise (0) to the other (1)."),
                table(
                    [
                        "path",
                        f"clear<br>(p&nbsp;≥&nbsp;{CLEAR})",
                        "changes<br>of digit",
                        "Frechet<br>distance",
                        "std<br>half way",
                    ],
                    rows,
                    "Over the pictures between the ends.",
                ),
            ],
            "slerp: sin((1−<i>p</i>)<i>ω</i>)/sin&nbsp;<i>ω</i> · <i>a</i> + "
            "sin(<i>pω</i>)/sin&nbsp;<i>ω</i> · <i>b</i>, with the angle <i>ω</i> of each pair of noises; "
            f"lerp: (1−<i>p</i>)<i>a</i> + <i>pb</i>. {plan.pairs} pairs, {plan.frames} pictures each, DDIM "
            f"with {plan.path_steps} steps, without labels. {percent(both['slerp']['ends_differ'])} of the "
            "pairs end at another digit than they began with, and cannot do with fewer changes than one.",
        )
    ]


def _strips(both: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for k in range(len(both["slerp"]["pictures"])):
        for name, cells in both.items():
            digits = "".join(f"<span>{digit}</span>" for digit in cells["digits"][k])
            rows.append(
                strips({name: cells["pictures"][k]}, f"Pair {k + 1}") + f"<div class='read'>{digits}</div>"
            )
    return f"<div class='paths'>{''.join(rows)}</div>"


def _drawing(bench: Bench, both: Mapping[str, Mapping[str, Any]]) -> str:
    places = [k / (bench.plan.frames - 1) for k in range(bench.plan.frames)]
    expected = Line("lerp, expected", places, [math.hypot(1 - p, p) for p in places], 3, dashed=True)
    looks = {"slerp": 0, "lerp": 4}
    norms = [Line(name, places, cells["deviation"], looks[name]) for name, cells in both.items()]
    sure = [Line(name, places, cells["confidence"], looks[name]) for name, cells in both.items()]
    low = min(0.8, *(min(line.y) - 0.02 for line in sure))
    return abreast(
        line_plot(
            "Deviation of the noise", [*norms, expected], Axes("position", "std of the noise", size=SIZE)
        ),
        line_plot(
            "Confidence of the judge",
            sure,
            Axes("position", "judge's confidence", y_range=(low, 1.0), size=SIZE),
        ),
    )


def _verdict(both: Mapping[str, Mapping[str, Any]], middle: int) -> Verdict:
    arc, line = both["slerp"], both["lerp"]
    met = [
        arc["clear"] >= 0.9,
        arc["changes"] <= 1,
        line["clear"] < arc["clear"],
        line["frechet"] > arc["frechet"],
    ]
    finding: Finding = "holds" if all(met) else "holds in part" if any(met) else "does not hold"
    return Verdict(
        finding,
        f"{percent(arc['clear'])} of the slerp pictures are clear, and {percent(line['clear'])} with lerp; "
        f"the digit changes {number(arc['changes'])} and {number(line['changes'])} times on average; the "
        f"distance to real digits is {number(arc['frechet'])} and {number(line['frechet'])}. Half way along "
        f"a lerp the noise has std {number(line['deviation'][middle])}; √<span class='root'>½</span> = "
        "0.707 is expected.",
    )
