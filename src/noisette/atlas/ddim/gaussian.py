"""Gaussian data, on which every sampler can be worked out."""

from __future__ import annotations

from typing import Any

from noisette import __version__
from noisette.atlas.cells import Cell, Tick
from noisette.atlas.ddim.bench import Bench, Measured
from noisette.atlas.page import Section, Verdict, number, table
from noisette.metrics.gaussian import gaussian_std_ratio
from noisette.schedules import LinearVP, leading, quadratic
from noisette.solvers import DDIM, DDPM

# (std of the data, steps): deviation ratios of DDIM, fixed-small, fixed-large, and DDIM on the quadratic
# grid, from the recurrences of arXiv:2006.11239 and arXiv:2010.02502.
EXPECTED = {
    (0.5, 10): (0.7483, 0.6665, 1.1781, 0.8490),
    (0.5, 20): (0.8675, 0.7829, 1.0881, 0.9256),
    (0.5, 50): (0.9449, 0.8882, 1.0345, 0.9705),
    (0.5, 100): (0.9720, 0.9365, 1.0170, 0.9854),
    (0.5, 1000): (0.9970, 0.9922, 1.0015, 0.9975),
    (0.1, 10): (0.3678, 0.2909, 3.2381, 0.7655),
    (0.1, 20): (0.5558, 0.4710, 1.8826, 0.8777),
    (0.1, 50): (0.7835, 0.6846, 1.2788, 0.9462),
    (0.1, 100): (0.8832, 0.7936, 1.1289, 0.9694),
    (0.1, 1000): (0.9832, 0.9631, 1.0077, 0.9839),
}
TOLERANCE = 1e-3


def cells(bench: Bench) -> list[Cell]:
    """One cell, which no model and no seed changes."""
    return [Cell({"what": "gaussian", "noisette": __version__}, 0, measure)]


def measure(tick: Tick) -> dict[str, Any]:
    """Deviation of the output over that of the data N(0, s^2), by the exact denoiser, in float64."""
    schedule = LinearVP()
    ratios = []
    for std, steps in EXPECTED:
        rows = leading(schedule, steps)
        row = [gaussian_std_ratio(solver, rows, std) for solver in (DDIM(), DDPM(), DDPM("large"))]
        ratios.append([*row, gaussian_std_ratio(DDIM(), quadratic(schedule, steps), std)])
    return {"ratios": ratios}


def sections(bench: Bench, measured: Measured) -> list[Section]:
    """Ours beside the exact values; a cell that is off is marked."""
    rows, gaps = [], []
    for (std, steps), exact, ours in zip(EXPECTED, EXPECTED.values(), measured[0]["ratios"], strict=True):
        rows.append([f"{std}", f"{steps}", *map(_cell, ours, exact)])
        gaps += [abs(a - b) for a, b in zip(ours, exact, strict=True)]
    good = sum(gap <= TOLERANCE for gap in gaps)
    return [
        Section(
            "gaussian",
            "Gaussian data, in closed form",
            "On Gaussian data the exact denoiser is known and the result can be computed: few steps of "
            "DDIM draw too little spread, <i>η</i> = 1 still less, fixed-large far too much, and a "
            "quadratic grid helps where detail is fine.",
            Verdict(
                "holds" if good == len(gaps) else "holds in part" if good else "does not hold",
                f"{good} of {len(gaps)} cells lie within {TOLERANCE:g} of the exact value; the largest "
                f"difference is {number(max(gaps), 2)}.",
            ),
            [
                table(
                    ["<i>s</i>", "<i>S</i>", "DDIM", "fixed-small", "fixed-large", "quadratic<br>grid"],
                    rows,
                    "Deviation of the output over the true one, 1 being perfect: ours, and beneath it the "
                    "exact value.",
                )
            ],
            "Data <i>N</i>(0, <i>s</i><sup>2</sup>), for which <i>x̂</i><sub>0</sub> = <i>α "
            "s</i><sup>2</sup> <i>x</i> / (<i>α</i><sup>2</sup><i>s</i><sup>2</sup> + "
            "<i>σ</i><sup>2</sup>). Linear schedule of 1000 levels, leading grid (last column: rows "
            "(<i>i</i>/(<i>S</i>−1))<sup>2</sup> · 800), start <i>N</i>(0, 1), no clipping, float64. The "
            "solvers of the other sections, carried as coefficients of their noises: nothing is sampled.",
        )
    ]


def _cell(ours: float, exact: float) -> str:
    mark = " class='off'" if abs(ours - exact) > TOLERANCE else ""
    return f"<span{mark}>{ours:.4f}</span><small class='under'>{exact:.4f}</small>"
