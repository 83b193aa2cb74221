"""A VAE of digits: how many of its units collapse, and what brings them back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from noisette import __version__
from noisette.atlas.cells import Cell, Tick
from noisette.atlas.collapse.bench import Bench, Digits, Measured, interval
from noisette.atlas.page import Finding, Section, Verdict, figure, number, picture, spread, strips, table
from noisette.core import train
from noisette.nets.hvae import LadderConfig, LadderVAE, active_units

UNITS, FREE, SHOWN = 64, 0.1, 10
BATCH, LR, WARMUP = 64, 2e-3, 50
MOST_GRADIENT = 10.0

NET = LadderConfig(
    sides=(16, 8, 4, 1),
    widths=(16, 32, 48, 96),
    blocks=(0, 1, 1, 0),
    groups=(0, 0, 0, 1),
    latents=(4, 4, 4, UNITS),
    norm_groups=8,
)

ONE = 2.0
"""Deviation 1 of pixels in [0, 1], in units of [-1, 1]."""


@dataclass(frozen=True)
class Way:
    """One way to train: the deviation of a pixel, None to learn it, and the free nats of a unit."""

    name: str
    sigma: float | None
    free: float = 0.0


WAYS = (
    Way("σ = 1", ONE),
    Way("σ = 1, free bits", ONE, FREE),
    Way("σ learned", None),
    Way("σ learned, free bits", None, FREE),
)
LARGEST_TIMES, LARGEST_SHARE = 3.0, 0.9
"""What is claimed: so many times the units of the first, and such a share of all."""


def cells(bench: Bench) -> list[Cell]:
    """One for each way and seed, and one that looks at the data alone."""
    if bench.digits is None:
        return []
    plan, data = bench.plan, bench.digits.fingerprint
    common = {"data": data, "noisette": __version__}
    trainings = [
        Cell(
            {"what": "digits", "way": way.name, "seed": seed, "steps": plan.steps,
             "count": plan.count, **common},
            plan.steps * BATCH,
            partial(measure, bench.digits, way, seed, plan.steps),
        )
        for way in WAYS
        for seed in bench.seeds
    ]  # fmt: skip
    return [*trainings, Cell({"what": "variances", **common}, 0, partial(variances, bench.digits))]


def variances(digits: Digits, tick: Tick) -> dict[str, Any]:
    """Of the digits about their class's mean, along their axes: the first of them, pixels in [0, 1]."""
    x = digits.images.flatten(1).double().add(1).div(2)
    for label in digits.labels.unique():
        x[digits.labels == label] -= x[digits.labels == label].mean(0)
    return {"variances": torch.linalg.svdvals(x).square().div(len(x))[:UNITS].tolist()}


def measure(digits: Digits, way: Way, seed: int, steps: int, tick: Tick) -> dict[str, Any]:
    """A VAE trained in one way, and what its units do with digits that are held out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = LadderVAE(replace(NET, sigma=way.sigma))
    _train(net, digits, way, seed, steps, tick)
    net.eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        found = [
            net(x, label, [torch.randn(len(x), *shape, generator=random) for shape in net.noise_shapes])
            for x, label in zip(digits.held_out.split(200), digits.held_labels.split(200), strict=True)
        ]
        noise = [torch.randn(SHOWN, *shape, generator=random) for shape in net.noise_shapes]
        drawn = net.draw(noise, torch.arange(SHOWN))
        said = torch.cat([one.steps[0] for one in found])
        back = _rebuilt(net, digits.held_out[:SHOWN], digits.held_labels[:SHOWN])
        error = _rebuilt(net, digits.held_out, digits.held_labels) - digits.held_out
    kl = torch.cat([one.kl[0] for one in found]).mean(0).sort(descending=True).values
    elbo = torch.cat([one.elbo() for one in found]).mean()
    return {
        "active": active_units(said),
        "kl": [round(float(one), 5) for one in kl],
        "sigma": net.log_deviation.exp().item() / 2,
        "rmse": float(error.square().mean().sqrt()) / 2,
        "bits": -float(elbo) / (digits.held_out[0].numel() * math.log(2)),
        "drawn": picture(drawn),
        "rebuilt": picture(back),
    }


def _train(net: LadderVAE, digits: Digits, way: Way, seed: int, steps: int, tick: Tick) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    pixels = digits.images[0].numel()

    def loss(batch: tuple[Tensor, Tensor, list[Tensor], float]) -> Tensor:
        *told, weight = batch
        return net(*told).loss(way.free, weight) / pixels

    updates = train(loss, _batches(net, digits, seed, steps), optimizer, max_grad_norm=MOST_GRADIENT)
    for k, _ in enumerate(updates, 1):
        tick(BATCH)
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, (k + 1) / WARMUP, 2 * (1 - k / (steps + 1)))


def _batches(
    net: LadderVAE, digits: Digits, seed: int, steps: int
) -> Iterator[tuple[Tensor, Tensor, list[Tensor], float]]:
    """Images, labels, noise, and the weight of the divergence: it climbs through the first half."""
    random = torch.Generator().manual_seed(seed)
    for k in range(steps):
        rows = torch.randint(len(digits.images), (BATCH,), generator=random)
        noise = [torch.randn(BATCH, *shape, generator=random) for shape in net.noise_shapes]
        yield digits.images[rows], digits.labels[rows], noise, min(1.0, 2 * (k + 1) / steps)


def _rebuilt(net: LadderVAE, x: Tensor, label: Tensor) -> Tensor:
    """The mean of the decoder at the mean of the posterior."""
    parts = zip(x.split(200), label.split(200), strict=True)
    return torch.cat([net.rebuild(a, b) for a, b in parts])


def sections(bench: Bench, measured: Measured) -> list[Section]:
    """How many units are active, seed by seed, and what it looks like."""
    if not measured:
        return []
    *trainings, data = measured
    count = len(bench.seeds)
    groups = {way.name: trainings[k * count : (k + 1) * count] for k, way in enumerate(WAYS)}
    shown = {
        f"{name}: {what}": group[0][key]
        for name, group in groups.items()
        for what, key in (("rebuilt", "rebuilt"), ("drawn", "drawn"))
    }
    wide = sum(one > 1 for one in data["variances"])
    return [
        Section(
            "digits",
            "Digits: most units collapse, and come back",
            f"With deviation 1 for pixels in [0, 1] most of {UNITS} units collapse. A learned deviation has "
            f"at "
            f"least {LARGEST_TIMES:g} times as many active ones, and free bits keep at least "
            f"{100 * LARGEST_SHARE:g}&nbsp;% active.",
            verdict(groups),
            [
                table(
                    [
                        "",
                        "active<br>units",
                        "each seed",
                        "KL in<br>nats",
                        "σ",
                        "RMSE",
                        "bits per<br>dimension",
                    ],
                    [_row(name, group) for name, group in groups.items()],
                    f"Of {bench.plan.count} digits held out: means over {count} seeds and half of the "
                    f"95&nbsp;% "
                    "interval by Student’s t. σ and the root mean squared error count for pixels in [0, 1].",
                ),
                figure(
                    strips(shown, "digits"),
                    "Digits held out as they come back, and digits drawn of noise, for each way to train.",
                ),
            ],
            f"A VAE with one group of {UNITS} latents, told the class; {bench.plan.steps} steps of {BATCH} "
            f"of "
            f"{len(bench.digits.images) if bench.digits else 0:,} digits. The weight of the divergence "
            f"climbs through the first half. Free bits: {FREE:g} nats of each "
            f"unit cost nothing. Active: the posterior’s mean varies by more than 0.01. By the law above a "
            f"linear VAE told the class would keep {wide} units at σ = 1: so many directions vary by more "
            f"than 1 about the mean of their class.",
        )
    ]


def _row(name: str, group: Sequence[Mapping[str, Any]]) -> list[str]:
    def told(values: list[float]) -> str:
        mean, half = interval(values)
        return spread(mean, half) if half > 0 else number(mean)

    return [
        name,
        told([one["active"] for one in group]),
        ", ".join(f"{one['active']}" for one in group),
        told([sum(one["kl"]) for one in group]),
        *(told([one[key] for one in group]) for key in ("sigma", "rmse", "bits")),
    ]


def verdict(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> Verdict:
    """Whether the claims hold at the worst of the seeds."""
    active = {name: [one["active"] for one in group] for name, group in groups.items()}
    fixed, held, learned, both = (active[way.name] for way in WAYS)
    times = min(learned) / max(1, max(fixed))
    share = min(*held, *both) / UNITS
    met = [max(fixed) < UNITS / 2, times >= LARGEST_TIMES, share >= LARGEST_SHARE]
    finding: Finding = "holds" if all(met) else "holds in part" if any(met) else "does not hold"
    return Verdict(
        finding,
        f"With deviation 1, {min(fixed)} to {max(fixed)} of {UNITS} units are active; learned, "
        f"{min(learned)} "
        f"to {max(learned)}, {times:.1f} times as many at worst; with free bits at least "
        f"{100 * share:.0f}&nbsp;% are, whether the deviation is learned or not.",
    )
