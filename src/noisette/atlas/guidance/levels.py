"""At which noise a caption tells a model anything: the error it makes of true pictures, told and not told."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from noisette.atlas.cells import Cell, Tick
from noisette.atlas.guidance.bench import BATCH, Bench, Measured
from noisette.atlas.guidance.estimates import Estimate, resamples
from noisette.atlas.page import Section, Verdict, figure, percent, spread, table
from noisette.atlas.plots import Axes, Line, line_plot
from noisette.conditioning.text import NO_TEXT
from noisette.solvers import NoiseStreams

RATIOS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
"""Levels, as sigma / alpha."""

ELSEWHERE = 2 * 10**6
"""How far off the seeds are of the noises that disturb true pictures."""

HARDLY = 0.25
"""Of the greatest gain: what a caption tells hardly counts below that."""


def cells(bench: Bench) -> list[Cell]:
    """One cell."""
    count = _count(bench)
    told = {"what": "levels", "count": count, "resamples": bench.plan.resamples, "ratios": list(RATIOS)}
    return [Cell({**told, **bench.settings}, count, partial(measure, bench))]


def _count(bench: Bench) -> int:
    return max(8, bench.plan.count // 4)


@torch.no_grad()
def measure(bench: Bench, tick: Tick) -> dict[str, Any]:
    """The part of the squared error that a caption takes away, at each level.

    ``1 - |d(x, told)|^2 / |d(x, not told)|^2``, of sums over the pictures. At one level the errors of x0, eps
    and v of one prediction are multiples of one another, so the part is the same in each space.
    """
    model, count = bench.model, _count(bench)
    truth = bench.truth.latents[:count].to(model.device)
    eps = NoiseStreams(bench.seeds(count, ELSEWHERE))(torch.empty_like(truth))
    texts = [question.text for question in bench.questions[:count]]
    levels = [model.schedule.at_half_logsnr(-torch.tensor(ratio).log()) for ratio in RATIOS]
    errors = torch.empty(2, len(levels), count)
    for start in range(0, count, BATCH):
        part = slice(start, min(start + BATCH, count))
        x0, told = truth[part], texts[part]
        for lane, cond in enumerate((model.cond(told), model.cond([NO_TEXT] * len(told)))):
            for k, level in enumerate(levels):
                found = model.denoiser(level.diffuse(x0, eps[part]), level, cond)
                errors[lane, k, part] = (found.x0 - x0).square().flatten(1).sum(1).cpu()
        tick(len(told))
    rows = resamples(count, bench.plan.resamples, bench.seed)
    whole = Estimate(1.0, (1.0,) * len(rows))
    pairs = zip(*errors, strict=True)
    gains = [whole - Estimate.mean(told, rows) / Estimate.mean(untold, rows) for told, untold in pairs]
    return {"gains": [gain.record() for gain in gains]}


def sections(bench: Bench, measured: Measured) -> list[Section]:
    """The curve over the levels."""
    [found] = measured
    gains = [Estimate.of(gain) for gain in found["gains"]]
    values, bars = [gain.value for gain in gains], [gain.deviation for gain in gains]
    axes = Axes("σ / α", "part of the error", "x", (0.05, 0.2, 1, 5, 20, 50))
    return [
        Section(
            "levels",
            "Where a caption is heard",
            "What a caption says is decided while there is more noise than picture; afterwards it hardly "
            "matters.",
            heard(gains),
            [
                figure(
                    line_plot(
                        "What a caption takes off the error", [Line("", RATIOS, values, 0, bars)], axes
                    ),
                    "The part of the squared error that being told the caption takes away, against the "
                    "noise. Bars: one bootstrap standard deviation.",
                ),
                table(
                    ["σ / α", *(f"{ratio:g}" for ratio in RATIOS)],
                    [["part", *(spread(*pair) for pair in zip(values, bars, strict=True))]],
                    "The same in numbers.",
                ),
            ],
            f"{_count(bench)} true pictures of captions the model has not seen, each disturbed by one noise "
            "at every level, and predicted twice: told its caption, and told nothing. Guidance goes along "
            "the difference of the two, which is why an interval may do.",
        )
    ]


def heard(gains: Sequence[Estimate]) -> Verdict:
    """Whether a caption matters most at high noise, and hardly at low."""
    best = max(range(len(gains)), key=lambda k: gains[k].value)
    early = [gain for ratio, gain in zip(RATIOS, gains, strict=True) if ratio < 1]
    most, least = gains[best], max(early, key=lambda gain: gain.value)
    loud, quiet = RATIOS[best] > 1 and most.above(0), least.value < HARDLY * most.value
    even = gains[RATIOS.index(1.0)]
    return Verdict(
        "holds" if loud and quiet else "holds in part" if loud else "does not hold",
        f"A caption takes away {percent(most.value, 1)} of the error at σ/α = {RATIOS[best]:g}, "
        f"{percent(even.value, 1)} at 1, and at most {percent(least.value, 1)} below.",
    )
