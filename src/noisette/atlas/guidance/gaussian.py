"""A pair of Gaussians, on which guidance can be worked out: what DDIM draws is not the power density."""

from __future__ import annotations

import math
from typing import Any

import torch

from noisette import __version__
from noisette.atlas.cells import Cell, Tick
from noisette.atlas.guidance.bench import Bench, Measured
from noisette.atlas.page import Section, Verdict, abreast, figure, number, table
from noisette.atlas.plots import Axes, Line, line_plot
from noisette.core import guide, last, sample
from noisette.metrics.gaussian import gaussian_denoiser
from noisette.schedules import LinearVP, leading
from noisette.solvers import DDIM

MEAN, STD = 1.0, 0.3
"""Of p(x|c); p(x) has mean 0 and deviation 1."""

# w: mean and deviation of what guided DDIM draws in 1000 steps, by the recurrence of arXiv:2010.02502, and
# those of p(x|c)^(1+w) / p(x)^w.
EXPECTED = {
    0.0: ((0.9981, 0.2985), (1.0000, 0.3000)),
    0.5: ((1.1287, 0.1630), (1.0309, 0.2487)),
    1.0: ((1.1749, 0.0890), (1.0471, 0.2171)),
    3.0: ((1.1573, 0.0078), (1.0724, 0.1553)),
    6.5: ((1.1199, 0.0001), (1.0846, 0.1141)),
}
BETWEEN = (0.25, 0.75, 1.5, 2.0, 4.0, 5.0)
TOLERANCE = 1e-3
STEPS = 1000


def cells(bench: Bench) -> list[Cell]:
    """One cell, which no model and no seed changes."""
    return [Cell({"what": "gaussian", "noisette": __version__}, 0, measure)]


def guided(w: float, steps: int = STEPS) -> tuple[float, float]:
    """Exact mean and deviation of what DDIM makes of N(0, 1) under guidance ``w`` = scale - 1, in float64.

    Both denoisers are affine in x, and so is what is guided with them: x is carried as its coefficients of
    one and of the noise it starts from.
    """
    one, start = torch.eye(2, dtype=torch.float64)
    denoiser = guide(gaussian_denoiser(MEAN * one, STD), gaussian_denoiser(0.0, 1.0), 1 + w)
    x = last(sample(denoiser, start, leading(LinearVP(), steps), DDIM()))
    return float(x[0]), float(x[1].abs())


def power(w: float) -> tuple[float, float]:
    """Mean and deviation of the Gaussian p(x|c)^(1+w) / p(x)^w."""
    precision = (1 + w) / STD**2 - w
    return (1 + w) * MEAN / STD**2 / precision, 1 / math.sqrt(precision)


def measure(tick: Tick) -> dict[str, Any]:
    """Both, for every weight."""
    weights = sorted((*EXPECTED, *BETWEEN))
    return {"weights": weights, "guided": [guided(w) for w in weights], "power": [power(w) for w in weights]}


def sections(bench: Bench, measured: Measured) -> list[Section]:
    """The table, ours beside the exact values, and both curves."""
    [found] = measured
    ours = dict(zip(found["weights"], zip(found["guided"], found["power"], strict=True), strict=True))
    rows, gaps = [], []
    for w, exact in EXPECTED.items():
        pairs = [pair for both in zip(ours[w], exact, strict=True) for pair in zip(*both, strict=True)]
        gaps += [abs(a - b) for a, b in pairs]
        rows.append([f"{w:g}", f"{1 + w:g}", *(_cell(a, b) for a, b in pairs)])
    good = sum(gap <= TOLERANCE for gap in gaps)
    (drawn, powered), (strong, _) = ours[1.0], ours[6.5]
    # Past its mean, and narrower, wherever there is guidance at all.
    apart = all(a[0] > b[0] + TOLERANCE and a[1] < b[1] - TOLERANCE for w, (a, b) in ours.items() if w)
    return [
        Section(
            "gaussian",
            "What guidance draws, in closed form",
            "Guided DDIM does not draw the density that the rule is derived from, "
            "<i>p</i>(<i>x</i>|<i>c</i>)<sup>1+<i>w</i></sup> / <i>p</i>(<i>x</i>)<sup><i>w</i></sup>: it "
            "goes past its mean, and keeps far less of its spread.",
            Verdict(
                "holds" if good == len(gaps) and apart else "holds in part" if good else "does not hold",
                f"{good} of {len(gaps)} numbers lie within {TOLERANCE:g} of the exact ones, the farthest at "
                f"{number(max(gaps), 2)}. At scale 2 (<i>w</i> = 1) the samples have deviation "
                f"{drawn[1]:.3f} where the density has {powered[1]:.3f}; at scale 7.5 they have "
                f"{strong[1]:.4f}.",
            ),
            [
                table(
                    ["<i>w</i>", "scale", "drawn:<br>mean", "<br>deviation", "density:<br>mean",
                     "<br>deviation"],
                    rows,
                    "What guided DDIM draws, and the density it is often said to draw; beneath each number "
                    "the exact value.",
                ),
                _drawing(found),
            ],
            "<i>p</i>(<i>x</i>|<i>c</i>) = <i>N</i>(1, 0.3<sup>2</sup>), <i>p</i>(<i>x</i>) = <i>N</i>(0, "
            "1), whose denoisers are known. DDIM, <i>η</i> = 0, all 1000 levels of the linear schedule from "
            "<i>N</i>(0, 1), float64: nothing is sampled and nothing is learned. The guided score is that of "
            "the power density at the data only; at every noisier level it is not the score of that "
            "density diffused, and a walk along it ends elsewhere.",
        )
    ]  # fmt: skip


def _cell(ours: float, exact: float) -> str:
    mark = " class='off'" if abs(ours - exact) > TOLERANCE else ""
    return f"<span{mark}>{ours:.4f}</span><small class='under'>{exact:.4f}</small>"


def _drawing(found: Any) -> str:
    scales = [1 + w for w in found["weights"]]
    plots = []
    for k, (name, log) in enumerate((("mean", ""), ("deviation", "y"))):
        lines = [
            Line("guided DDIM", scales, [pair[k] for pair in found["guided"]], 0),
            Line("power density", scales, [pair[k] for pair in found["power"]], 3),
        ]
        values = [pair[k] for pairs in (found["guided"], found["power"]) for pair in pairs]
        limits = (min(values) / 1.5, max(values) * 1.5) if log else None
        axes = Axes("guidance scale", name, log, (1, 2, 3, 4, 5, 6, 7.5), y_range=limits, size=(4.2, 3.1))
        plots.append(line_plot(f"{name} against guidance scale", lines, axes))
    return figure(abreast(*plots), "Mean and deviation against the scale, 1 + <i>w</i>.")
