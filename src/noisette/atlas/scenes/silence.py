"""Nothing is seen in nothing: noise, blur, and everything between a picture and nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from noisette.atlas.cells import Cell, Tick
from noisette.atlas.page import Finding, Section, Verdict, abreast, figure, percent, picture, table
from noisette.atlas.plots import Axes, Line, line_plot
from noisette.atlas.scenes.bench import BATCH, Bench, Measured, wilson
from noisette.atlas.scenes.pictures import PIXELATED, matrix
from noisette.atlas.scenes.reading import graded
from noisette.pixels import from_uint8
from noisette.scenes.reader import read
from noisette.training.reader.disturb import voids
from noisette.training.reader.measure import silence
from noisette.training.reader.shards import emptied, pictures

GOAL = 0.99
NOISE = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
CELLS = (64, 48, 32, 24, 16, 12, 8, 6, 4)
"""Standard deviation of the noise at unit variance of the whole, 1 being nothing else; cells across."""

EXAMPLES = 9


def noisy(x: Tensor, sigma: float) -> Tensor:
    """Pictures on their way through diffusion: sqrt(1 - sigma^2) x + sigma eps."""
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    return ((1 - sigma**2) ** 0.5 * x + sigma * eps).clamp(-1, 1)


def blurred(x: Tensor, across: float) -> Tensor:
    """Pictures averaged down to so many cells, and enlarged again."""
    small = F.interpolate(x, (int(across), int(across)), mode="area")
    return F.interpolate(small, x.shape[-2:], mode="bicubic", align_corners=False).clamp(-1, 1)


WAYS = {"noise": (noisy, NOISE), "blur": (blurred, CELLS)}


def cells(bench: Bench) -> list[Cell]:
    """Pictures of nothing, of empty scenes, and two ways from a picture to nothing."""
    plan = bench.plan
    common = {"count": plan.count, **bench.reading}
    return [
        Cell({"what": "nothing", **common}, plan.count, partial(_nothing, bench)),
        *(
            Cell(
                {"what": "fading", "way": way, "steps": list(steps), "read": plan.faded, **common},
                plan.count + plan.faded * len(steps),
                partial(_fading, bench, way),
            )
            for way, (_, steps) in WAYS.items()
        ),
    ]


def _nothing(bench: Bench, tick: Tick) -> dict[str, Any]:
    """The share of pictures of nothing, and of empty scenes, in which no object is seen; some of them."""
    exam = bench.exam("test", tick)
    empty = pictures([emptied(scene) for scene in exam.scenes[:BATCH]], [0.0] * min(BATCH, len(exam.scenes)))
    readings = read(from_uint8(empty.rgb), bench.reader)
    some = voids(exam.images, torch.Generator().manual_seed(1))[:EXAMPLES]
    return {
        "silent": silence(bench.reader, exam.data),
        "empty": sum(not reading.objects for reading in readings),
        "empties": len(readings),
        "pictures": [picture(image[None]) for image in some],
        "seen": [len(reading.objects) for reading in read(some, bench.reader)],
    }


def _fading(bench: Bench, way: str, tick: Tick) -> dict[str, Any]:
    """Step by step: the share of objects told by shape and color, and of pictures that show no object."""
    exam = bench.exam("test", tick).first(bench.plan.faded)
    change, steps = WAYS[way]
    right, silent, shown = [], [], []
    for step in steps:
        images = change(exam.images, step)
        readings = read(images, bench.reader)
        right.append(graded(exam, readings)[0].shares().get("shape and color", 0.0))
        silent.append(sum(not reading.objects for reading in readings) / len(readings))
        shown.append(picture(images[:1]))
        tick(len(images))
    return {"right": right, "silent": silent, "pictures": shown}


def sections(bench: Bench, measured: Measured) -> list[Section]:
    """The shares, and two curves that cross."""
    nothing, *fading = measured
    count = bench.plan.count
    quiet = round(nothing["silent"] * count)
    low, high = wilson(quiet, count)
    empty, empties = nothing["empty"], nothing["empties"]
    good = (nothing["silent"] >= GOAL) + (empty >= GOAL * empties)
    finding: Finding = "holds" if good == 2 else "holds in part" if good else "does not hold"
    rows = [
        ["noise, clouds, plain color, strong blur,<br>late diffusion, overlays, shuffled tiles",
         percent(nothing["silent"], 2), f"{100 * low:.2f} – {100 * high:.2f}", f"{count:,}"],
        ["floor and sky alone", percent(empty / empties, 1),
         "{:.1f} – {:.1f}".format(*(100 * edge for edge in wilson(empty, empties))), f"{empties}"],
    ]  # fmt: skip
    seen = [("none" if n == 0 else f"{n}") for n in nothing["seen"]]
    return [
        Section(
            "silence",
            "Nothing is seen in nothing",
            "In pictures that show nothing (noise, plain color, blur by more than an object is wide), and in "
            f"scenes without objects, no object is seen in {percent(GOAL)} of cases.",
            Verdict(
                finding,
                f"No object is seen in {percent(nothing['silent'], 2)} of {count:,} pictures of nothing, and "
                f"in {empty} of {empties} empty scenes. {_half(fading[0])}",
            ),
            [
                table(
                    ["No object seen in", "share", "95&nbsp;% interval", "pictures"],
                    rows,
                    "Pictures of nothing.",
                ),
                figure(
                    matrix(seen, {"": nothing["pictures"]}, "Objects seen").replace(
                        "border-radius", f"{PIXELATED}border-radius"
                    ),
                    "Some pictures of nothing, and how many objects are seen in each.",
                ),
                figure(
                    abreast(
                        *(_drawing(way, found) for way, found in zip(WAYS, fading, strict=True)), wide=True
                    ),
                    "From a picture to nothing: through diffusion, whose last step is noise alone, and by "
                    "averaging it down to ever fewer cells. Above each step, one of the pictures.",
                ),
            ],
            f"Curves: of {bench.plan.faded} test pictures at each step, the share of objects, counted as in "
            "the section before, and the share of pictures. Between what can and what cannot be read the "
            "reader was taught neither way.",
        )
    ]


def _half(noise: Mapping[str, Any]) -> str:
    """From where on the reader says nothing of most pictures."""
    for step, share in zip(NOISE, noise["silent"], strict=True):
        if share > 0.5:
            return f"Along diffusion most pictures are given up at σ = {step:g}."
    return "Along diffusion it never gives up most pictures."


def _drawing(way: str, found: Mapping[str, Sequence[Any]]) -> str:
    steps = [float(step) for step in WAYS[way][1]]
    lines = [
        Line("shape and color told right", steps, found["right"], 0),
        Line("no object seen", steps, found["silent"], 4),
    ]
    name = {"noise": "noise σ", "blur": "cells across (64: the picture itself)"}[way]
    ticks = (0, 0.2, 0.4, 0.6, 0.8, 1) if way == "noise" else (4, 8, 16, 32, 64)
    axes = Axes(name, "share", "x" * (way == "blur"), ticks, None, (-0.03, 1.03), (5.0, 3.0))
    strip = matrix([f"{step:g}" for step in steps], {"": found["pictures"]}, way)
    drawn = f"<div style='margin-top:.6rem'>{line_plot(name, lines, axes)}</div>"
    return f"<h3>{way.capitalize()}</h3>{strip}{drawn}"
