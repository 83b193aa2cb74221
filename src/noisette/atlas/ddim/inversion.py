"""Pictures back to their noise, and home again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from noisette.atlas.cells import Cell, Tick, digest
from noisette.atlas.ddim.bench import SHOWN, Bench, Measured, Way
from noisette.atlas.page import Finding, Section, Verdict, figure, number, picture, spread, strips, table
from noisette.atlas.plots import Axes, Line, line_plot
from noisette.conditioning import NO_LABEL
from noisette.metrics import quantize

FIRST = 3 * 10**6


def cells(bench: Bench) -> list[Cell]:
    """One cell for each step count."""
    plan = bench.plan
    images = "generated" if bench.real is None else digest([bench.real[: plan.trips]])
    made = plan.path_steps if bench.real is None else 0
    common = {"count": plan.trips, "images": images, "made in": made, "grid": bench.grid, **bench.settings}
    return [
        Cell(
            {"what": "inversion", "steps": steps, **common},
            plan.trips * (2 * steps + made),
            partial(measure, bench, steps),
        )
        for steps in plan.trip_steps
    ]


def measure(bench: Bench, steps: int, tick: Tick) -> dict[str, Any]:
    """Images to noise and back by DDIM without labels or clipping, on one grid both ways."""
    count, first = bench.plan.trips, bench.seed + FIRST
    if bench.real is not None:
        images = bench.real[:count]
    else:
        way = Way(bench.plan.path_steps, bench.grid)
        images = bench.draw(range(first, first + count), [k % 10 for k in range(count)], way, tick)
    # What is inverted is a picture of 256 greys, not the floats that the model itself just made.
    images = quantize(images)
    latents = bench.model.invert(images, num_inference_steps=steps, grid=bench.grid)
    tick(count * steps)
    home = Way(steps, bench.grid)
    back = bench.draw([0] * count, [NO_LABEL] * count, home, tick, latents=latents, clip=False)
    errors = (back - images).square().flatten(1).mean(1)
    return {
        "error": float(errors.mean()),
        "deviation": float(errors.std() / count**0.5),
        "latent": float(latents.square().mean().sqrt()),
        "before": picture(images[:SHOWN]),
        "after": picture(back[:SHOWN].clamp(-1, 1)),
    }


def sections(bench: Bench, measured: Measured) -> list[Section]:
    """The error of the round trip, and the size of the noise, against steps."""
    steps = bench.plan.trip_steps
    rows = [
        [f"{s}", spread(c["error"], c["deviation"]), f"{_psnr(c['error']):.1f} dB", number(c["latent"])]
        for s, c in zip(steps, measured, strict=True)
    ]
    shown = {"original": measured[0]["before"]} | {
        f"{s} steps": c["after"] for s, c in zip(steps, measured, strict=True)
    }
    line = Line("round trip", steps, [c["error"] for c in measured], 0, [c["deviation"] for c in measured])
    axes = Axes("steps S, each way", "MSE", "xy", steps, size=(5.0, 2.8))
    source = "real test digits" if bench.real is not None else "generated digits"
    return [
        Section(
            "inversion",
            "Back to the noise, and home again",
            "DDIM run backwards turns a picture into the noise it would be drawn from; the error of the "
            "round trip falls with the number of steps, and with few steps the noise comes out too small.",
            _verdict(steps, measured),
            [
                figure(
                    line_plot("Round-trip error against steps", [line], axes),
                    "Mean squared error of the pixels in [−1, 1]; bars: one standard error over the "
                    "pictures.",
                ),
                table(
                    ["<i>S</i>", "MSE", "PSNR", "std of the noise"],
                    rows,
                    "There and back with <i>S</i> steps each way.",
                ),
                figure(strips(shown, "Round trip"), "Originals and what comes back."),
            ],
            f"{bench.plan.trips} {source}, without labels, unclipped, the {bench.grid} grid in both "
            "directions. Backwards, the noise at the end of a step is taken to be the noise at its "
            "beginning, which is where the error comes from.",
        )
    ]


def _verdict(steps: Sequence[int], measured: Measured) -> Verdict:
    errors, noises = [c["error"] for c in measured], [c["latent"] for c in measured]
    slope = _slope(steps, errors)
    falls, small = all(a > b for a, b in pairwise(errors)), noises[0] < min(noises[-1], 1)
    finding: Finding = (
        "holds" if falls and small else "holds in part" if slope < 0 or small else "does not hold"
    )
    return Verdict(
        finding,
        f"From {steps[0]} to {steps[-1]} steps the mean squared error "
        f"{'falls without exception,' if falls else 'goes'} from {number(errors[0])} to "
        f"{number(errors[-1])}: a slope of {number(slope)} in the logarithms, where a first-order method "
        f"on a smooth field has −2. The std of the noise goes from {number(noises[0])} to "
        f"{number(noises[-1])}; 1 is right.",
    )


def _slope(steps: Sequence[int], errors: Sequence[float]) -> float:
    """Least squares in the logarithms."""
    x, y = [math.log(s) for s in steps], [math.log(max(e, 1e-30)) for e in errors]
    middle = sum(x) / len(x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


def _psnr(error: float) -> float:
    return 10 * math.log10(4 / max(error, 1e-30))
