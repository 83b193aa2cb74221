"""A linear VAE on Gaussian data, whose collapse can be computed: it learns the law by gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from noisette import __version__
from noisette.atlas.cells import Cell, Tick
from noisette.atlas.collapse.bench import Bench, Measured
from noisette.atlas.page import Section, Verdict, abreast, figure, number, table
from noisette.atlas.plots import Axes, Line, line_plot

VARIANCES = (6.0, 4.0, 2.5, 1.6, 1.0, 0.6, 0.4, 0.25, 0.15, 0.1)
"""Of the data, direction by direction."""

NOISE = (0.05, 0.2, 0.5, 1.3, 3.0, 8.0)
"""Variances of the decoder, none of them one of the data's."""

UNITS, TOLERANCE = 12, 0.02
LEAST = 0.01
"""Nats, or variance of a posterior's mean, from which a unit counts as active."""


class LinearVAE(nn.Module):
    """`q(z|x) = N(W x, diag v)`, `p(x|z) = N(D z, s^2 I)`, `p(z) = N(0, I)`, in float64.

    Data N(0, diag variances) make the bound a function of W, v and D in closed form.
    Source: arXiv:1911.02469.
    """

    def __init__(self, size: int, units: int) -> None:
        super().__init__()
        self.encode = nn.Parameter(0.3 * torch.randn(units, size, dtype=torch.float64))
        self.log_variance = nn.Parameter(torch.zeros(units, dtype=torch.float64))
        self.decode = nn.Parameter(0.3 * torch.randn(size, units, dtype=torch.float64))

    def divergence(self, variances: Tensor) -> Tensor:
        """`E_x KL(q || p)` of each unit, in nats, [units]."""
        square = (self.encode.square() * variances).sum(1)
        return 0.5 * (square + torch.expm1(self.log_variance) - self.log_variance)

    def loss(self, variances: Tensor, noise: float) -> Tensor:
        """The negative bound, in nats, without the constant; ``noise`` is s^2."""
        left = torch.eye(len(variances), dtype=torch.float64) - self.decode @ self.encode
        error = (left.square() * variances).sum() + (self.decode.square() * self.log_variance.exp()).sum()
        return error / (2 * noise) + self.divergence(variances).sum()


def trained(seed: int, noise: float, steps: int) -> LinearVAE:
    """A linear VAE after at most so many steps of L-BFGS from random weights.

    Plain gradients turn the units into the axes of the data too slowly to tell two per cent.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = LinearVAE(len(VARIANCES), UNITS)
    variances = torch.tensor(VARIANCES, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        net.parameters(),
        max_iter=steps,
        max_eval=4 * steps,
        history_size=30,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = net.loss(variances, noise)
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    return net


def law(noise: float) -> list[float]:
    """What theory says: `1/2 ln(variance / s^2)` for each direction that varies more than the noise."""
    return [0.5 * math.log(one / noise) for one in VARIANCES if one > noise]


def cells(bench: Bench) -> list[Cell]:
    """One for each decoder variance and seed."""
    return [
        Cell(
            {"what": "linear", "noise": noise, "seed": seed, "steps": bench.plan.linear_steps,
             "noisette": __version__},
            0,
            partial(measure, seed, noise, bench.plan.linear_steps),
        )
        for noise in NOISE
        for seed in bench.seeds
    ]  # fmt: skip


@torch.no_grad()
def _found(net: LinearVAE) -> dict[str, Any]:
    variances = torch.tensor(VARIANCES, dtype=torch.float64)
    divergences = net.divergence(variances).sort(descending=True).values
    means = (net.encode.square() * variances).sum(1)
    return {"divergences": divergences.tolist(), "active": int((means > LEAST).sum())}


def measure(seed: int, noise: float, steps: int, tick: Tick) -> dict[str, Any]:
    """The divergences, the largest first, and how many units are active."""
    return _found(trained(seed, noise, steps))


def gap(found: Sequence[float], noise: float) -> float:
    """The largest relative difference of the active units' divergences from the law."""
    wanted = law(noise)
    return max((abs(a - b) / b for a, b in zip(found, wanted, strict=False)), default=0.0)


def sections(bench: Bench, measured: Measured) -> list[Section]:
    """The law beside what was learned, at the worst of the seeds."""
    count = len(bench.seeds)
    groups = [measured[first : first + count] for first in range(0, len(measured), count)]
    rows, right, gaps = [], 0, []
    for noise, group in zip(NOISE, groups, strict=True):
        wanted = law(noise)
        right += sum(one["active"] == len(wanted) for one in group)
        worst = max(gap(one["divergences"], noise) for one in group)
        gaps.append(worst)
        active = sorted({one["active"] for one in group})
        total = sum(sum(one["divergences"]) for one in group) / count
        rows.append(
            [f"{noise:g}", f"{len(wanted)}", ", ".join(map(str, active)), number(sum(wanted)),
             number(total), "–" if not wanted else f"{100 * worst:.2g} %"]
        )  # fmt: skip
    whole = right == len(measured) and max(gaps) <= TOLERANCE
    return [
        Section(
            "linear",
            "A linear VAE: collapse as a law",
            "Of data <i>N</i>(0, diag <i>Λ</i>), a linear VAE whose pixels have variance "
            "<i>σ</i><sup>2</sup> "
            "keeps exactly those directions with <i>Λ<sub>i</sub></i> &gt; <i>σ</i><sup>2</sup>, at a cost "
            "of "
            "½ ln(<i>Λ<sub>i</sub></i>/<i>σ</i><sup>2</sup>) nats each; every other unit collapses.",
            Verdict(
                "holds" if whole else "holds in part" if right else "does not hold",
                f"The number of active units is the law’s in {right} of {len(measured)} trainings; their "
                f"divergences lie within {100 * max(gaps):.2g}&nbsp;% of it.",
            ),
            [
                _drawing(groups),
                table(
                    ["<i>σ</i><sup>2</sup>", "<i>Λ<sub>i</sub></i> &gt; <i>σ</i><sup>2</sup>",
                     "active<br>units", "nats<br>by the law", "nats<br>learned", "largest<br>difference"],
                    rows,
                    f"By the law, and as learned from {count} random starts.",
                ),
            ],
            f"{len(VARIANCES)} directions with variances {', '.join(f'{one:g}' for one in VARIANCES)}, "
            f"{UNITS} "
            f"units; at most {bench.plan.linear_steps} steps of L-BFGS on the exact bound, in float64: no "
            f"data are "
            f"drawn. Active: the posterior’s mean varies by more than {LEAST:g}.",
        )
    ]  # fmt: skip


def _drawing(groups: Sequence[Measured]) -> str:
    lines = []
    for look, noise in enumerate(NOISE[1:5]):
        found = groups[1 + look]
        wanted = [*law(noise), *[0.0] * UNITS][:UNITS]
        learned = [sum(one["divergences"][k] for one in found) / len(found) for k in range(UNITS)]
        units = list(range(1, UNITS + 1))
        lines += [
            Line(f"σ² = {noise:g}, learned", units, learned, look),
            Line(f"σ² = {noise:g}, law", units, wanted, look, dashed=True),
        ]
    axes = Axes("unit, the dearest first", "nats", "", tuple(range(1, UNITS + 1)), size=(5.0, 3.9))
    plot = line_plot("Divergence of each unit, learned and by the law", lines, axes)
    return figure(abreast(plot), "Divergence of each unit. Lines with marks were learned; dashed, the law.")
