"""Quality against steps, on the model's own grid and on the grid of the DDIM paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, TypeAlias

import torch

from noisette.atlas.cells import Cell, Tick, digest
from noisette.atlas.ddim.bench import (
    LARGE,
    NAMES,
    SHORT,
    SHOWN,
    SMALL,
    STILL,
    Bench,
    Kind,
    Measured,
    Way,
)
from noisette.atlas.page import (
    Finding,
    Section,
    Verdict,
    abreast,
    figure,
    number,
    percent,
    picture,
    spread,
    strips,
    table,
)
from noisette.atlas.plots import Axes, Line, line_plot

Found: TypeAlias = Mapping[Way, Mapping[str, Any]]

# A sampler holds at a step count where its distance is at most this many times the best at the most steps.
WITHIN = 1.5
HEADS = {
    kind: name.removesuffix(", η = 1").replace(", ", "<br>").replace(" fixed", "<br>fixed")
    for kind, name in NAMES.items()
}


def cells(bench: Bench) -> list[Cell]:
    """The floor, then one cell for each of `ways`."""
    count = bench.plan.count
    sizes = {"count": count, "resamples": bench.plan.resamples, **bench.settings}
    images = "drawn from the reference" if bench.real is None else digest([bench.real])
    floor = Cell({"what": "floor", "images": images, **sizes}, 0, partial(measure_floor, bench))
    return [
        floor,
        *(
            Cell(
                {"what": "distance", **asdict(way), **sizes}, way.steps * count, partial(measure, bench, way)
            )
            for way in ways(bench)
        ),
    ]


def ways(bench: Bench) -> list[Way]:
    """The samplers that are measured: all of them on the model's grid, three on the other."""
    plan, other = bench.plan, bench.other_grid
    main = [Way(steps, bench.grid, *kind) for steps in plan.steps for kind in NAMES]
    few = plan.grid_steps if other else ()
    return main + [Way(steps, other or "", *kind) for steps in few for kind in SHORT]


def measure(bench: Bench, way: Way, tick: Tick) -> dict[str, Any]:
    """Frechet distance and accuracy of class-conditional samples; seed k and label k mod 10 in every cell."""
    count = bench.plan.count
    labels = [k % 10 for k in range(count)]
    images = bench.draw(range(bench.seed, bench.seed + count), labels, way, tick)
    features, probabilities = bench.read(images)
    rng = torch.Generator().manual_seed(bench.seed)
    # The same resamples in every cell: cells differ by their sampler and by nothing else.
    again = [torch.randint(count, (count,), generator=rng) for _ in range(bench.plan.resamples)]
    resampled = [bench.frechet(features[rows]) for rows in again]
    return {
        "frechet": bench.frechet(features),
        "deviation": float(torch.tensor(resampled).std()),
        "resampled": resampled,
        "accuracy": float((probabilities.argmax(1) == torch.tensor(labels)).double().mean()),
        "pictures": picture(images[:SHOWN]),
    }


def measure_floor(bench: Bench, tick: Tick) -> dict[str, Any]:
    """The distance of real digits to the reference at the same count: what a perfect model would score."""
    count, rng = bench.plan.count, torch.Generator().manual_seed(bench.seed)
    if bench.real is not None:
        rows = bench.read(bench.real)[0]
        groups = list(rows[: max(1, len(rows) // count) * count].split(count))
    else:
        values, vectors = torch.linalg.eigh(bench.reference.covariance)
        factor = vectors * values.clamp(min=0).sqrt()
        white = torch.randn(20, count, len(values), generator=rng, dtype=torch.float64)
        groups = list(bench.reference.mean + white @ factor.T)
    found = torch.tensor([bench.frechet(rows) for rows in groups], dtype=torch.float64)
    return {
        "frechet": float(found.mean()),
        "deviation": float(found.std(correction=0)),
        "groups": len(groups),
    }


def sections(bench: Bench, measured: Measured) -> list[Section]:
    """Distance against steps; and where there is a second grid, what it changes."""
    floor, *rest = measured
    found = dict(zip(ways(bench), rest, strict=True))
    return [
        _steps(bench, found, floor),
        *([_grids(bench, found, bench.other_grid)] if bench.other_grid else []),
    ]


def _steps(bench: Bench, found: Found, floor: Mapping[str, Any]) -> Section:
    plan = bench.plan
    curves = {kind: [found[Way(s, bench.grid, *kind)] for s in plan.steps] for kind in NAMES}
    rows = [[f"{s}", *(_cell(curve[k]) for curve in curves.values())] for k, s in enumerate(plan.steps)]
    pictures = [
        f"<h3>{NAMES[kind]}</h3>" + strips(_rows(plan.steps, curves[kind]), f"{NAMES[kind]}, steps")
        for kind in SHORT
    ]
    return Section(
        "steps",
        "Few steps",
        "DDIM keeps its quality at 20 to 100 steps, where DDPM fails below 100.",
        _verdict(plan.steps, curves),
        [
            _drawing(bench, curves, floor),
            table(
                ["<i>S</i>", *HEADS.values()],
                rows,
                "Frechet distance, and beneath it the share of digits that the judge reads as asked.",
            ),
            figure(
                abreast(*pictures, wide=True),
                "What the distances look like: the same ten seeds and labels in every row, not chosen.",
            ),
        ],
        "Class-conditional, guidance scale 1, <i>x̂</i><sub>0</sub> clipped to [−1, 1] for every sampler, "
        f"{bench.grid} grid. N&nbsp;=&nbsp;{plan.count} images in every cell, with the same seeds and "
        f"labels, against the statistics of {int(bench.reference.count):,} training digits. So small an N "
        "raises every distance by about as much as that of the real digits: compare the cells with one "
        "another, and with no number elsewhere.",
    )


def _rows(steps: Sequence[int], curve: Measured) -> dict[str, str]:
    return {f"{s}": cell["pictures"] for s, cell in zip(steps, curve, strict=True)}


def _cell(cell: Mapping[str, Any], with_deviation: bool = True) -> str:
    accuracy = percent(cell["accuracy"], 1)
    distance = spread(cell["frechet"], cell["deviation"]) if with_deviation else number(cell["frechet"])
    return f"{distance}<small class='under'>{accuracy}</small>"


def _drawing(bench: Bench, curves: Mapping[Kind, Measured], floor: Mapping[str, Any]) -> str:
    steps = bench.plan.steps
    lines = [
        Line(NAMES[kind], steps, [c["frechet"] for c in curve], k, [c["deviation"] for c in curve])
        for k, (kind, curve) in enumerate(curves.items())
    ]
    level = (floor["frechet"], "real digits")
    axes = Axes("steps S", "Frechet distance", "xy", steps, level, size=(5.0, 3.7))
    origin = "test digits" if bench.real is not None else "vectors from the Gaussian of the reference"
    return figure(
        line_plot("Frechet distance against steps", lines, axes),
        "Frechet distance in the features of the digits judge; lower is better. Bars: one bootstrap "
        f"standard deviation. Dotted: {floor['groups']} sets of as many {origin}, "
        f"{spread(floor['frechet'], floor['deviation'])}.",
    )


def _verdict(steps: Sequence[int], curves: Mapping[Kind, Measured]) -> Verdict:
    values = {kind: [cell["frechet"] for cell in curve] for kind, curve in curves.items()}
    limit = WITHIN * min(curve[-1] for curve in values.values())
    holds = all(v <= limit for s, v in zip(steps, values[STILL], strict=True) if 20 <= s <= 100)
    fails = [all(v > limit for s, v in zip(steps, values[k], strict=True) if s < 100) for k in (SMALL, LARGE)]
    finding: Finding = "does not hold"
    if holds or any(fails):
        finding = "holds" if holds and all(fails) else "holds in part"
    at20 = steps.index(20)
    ahead = [percent(_ahead(curves[STILL][at20], curves[kind][at20])) for kind in (SMALL, LARGE)]
    return Verdict(
        finding,
        f"Let a sampler hold where its distance is at most {WITHIN} times the best at {steps[-1]} steps, "
        f"that is {number(limit)}. "
        f"{'; '.join(f'{SHORT[k]} {_from(steps, values[k], limit)}' for k in SHORT)}. At 20 steps the "
        f"distances are {', '.join(f'{SHORT[k]} {number(values[k][at20])}' for k in SHORT)}; DDIM’s is the "
        f"smaller one in {ahead[0]} and {ahead[1]} of the paired resamples.",
    )


def _ahead(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """In which share of the paired resamples a lies below b."""
    return sum(x < y for x, y in zip(a["resampled"], b["resampled"], strict=True)) / len(a["resampled"])


def _from(steps: Sequence[int], values: Sequence[float], limit: float) -> str:
    failed = [k for k, value in enumerate(values) if value > limit]
    if not failed:
        return "holds at every step count"
    return "never holds" if failed[-1] + 1 == len(steps) else f"holds from {steps[failed[-1] + 1]} steps on"


def _grids(bench: Bench, found: Found, other: str) -> Section:
    grids = (bench.grid, other)
    steps = [s for s in bench.plan.grid_steps if s in bench.plan.steps]
    at = {(s, k, g): found[Way(s, g, *k)] for s in steps for k in SHORT for g in grids}
    rows = [[f"{s}", *(_cell(at[s, k, g], False) for k in SHORT for g in grids)] for s in steps]
    ratio = {g: at[20, LARGE, g]["frechet"] / at[20, STILL, g]["frechet"] for g in grids}
    finding: Finding = "does not hold"
    if ratio["leading"] > ratio["trailing"]:
        finding = "holds" if ratio["leading"] >= 2 * ratio["trailing"] else "holds in part"
    drawn = [
        f"<h3>{g.capitalize()} grid</h3>"
        + strips({SHORT[k]: at[20, k, g]["pictures"] for k in SHORT}, f"{g} grid")
        for g in grids
    ]
    begin = float(bench.model.levels(steps[0], "leading")[0].alpha)
    return Section(
        "grid",
        "Where the steps are put",
        "How badly DDPM fails depends on the grid: the leading grid, which most published numbers were "
        "taken with, adds its last noise where no step is left to remove it.",
        Verdict(
            finding,
            f"At 20 steps fixed-large is {number(ratio['leading'])} times as far off as DDIM on the leading "
            f"grid, and {number(ratio['trailing'])} times on the trailing grid.",
        ),
        [
            table(
                ["<i>S</i>", *(f"{SHORT[k].removeprefix('fixed-')}<br>{g}" for k in SHORT for g in grids)],
                rows,
                "Frechet distance, and the share of digits read as asked, of DDIM and of DDPM, fixed-small "
                "and fixed-large, on both grids.",
            ),
            figure(abreast(*drawn), "Twenty steps from the same ten seeds."),
        ],
        "As above. Leading: rows 0, T/S, 2T/S, … of the table of T levels; the walk begins below the "
        "noisiest level and ends with a short step from almost clean data. Trailing: it begins at the "
        f"noisiest level and ends with a long step, without noise, straight to the data. With {steps[0]} "
        f"steps the leading grid of this schedule begins at <i>α</i> = {number(begin, 2)}, and the pure "
        "noise it begins with lacks that much signal, for every sampler.",
    )
