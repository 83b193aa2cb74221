"""The distance of this world: what the reader's features make of two sets of pictures."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from noisette.atlas.cells import Cell, Tick
from noisette.atlas.page import Finding, Section, Verdict, number, table
from noisette.atlas.scenes.bench import Bench, Measured
from noisette.metrics import Statistics, collect, frechet_distance
from noisette.training.reader.disturb import softened

NOISES = (0.05, 0.1, 0.2)
SOFT = (0.5, 1.0)


def cells(bench: Bench) -> list[Cell]:
    """One cell."""
    count = bench.plan.count
    return [Cell({"what": "distance", "count": count, **bench.reading}, 2 * count, partial(measure, bench))]


def measure(bench: Bench, tick: Tick) -> dict[str, Any]:
    """Frechet distances of one half of the test pictures to the other, as it is and disturbed."""
    test, novel = bench.exam("test", tick).images, bench.exam("novel", tick).images
    half = len(test) // 2

    def statistics(images: torch.Tensor) -> Statistics:
        return Statistics.of(collect(bench.reader.features, images))

    one, other = test[:half], test[half : 2 * half]
    reference = statistics(one)
    eps = torch.randn(other.shape, generator=torch.Generator().manual_seed(3))
    ways = {"the other half": other, "scenes with held-out combinations": novel[:half]}
    ways |= {f"the other half, with noise of {a:g}": (other + a * eps).clamp(-1, 1) for a in NOISES}
    ways |= {
        f"the other half, {'half ' if a < 1 else ''}blurred by 3 × 3": softened(other, torch.full((half,), a))
        for a in SOFT
    }
    ways["the other half, upside down"] = other.flip(2)
    return {
        "half": half,
        "trace": reference.covariance.trace().item(),
        "distances": {name: frechet_distance(reference, statistics(x)) for name, x in ways.items()},
    }


def sections(bench: Bench, measured: Measured) -> list[Section]:
    """The floor, and what lies above it."""
    [found] = measured
    distances: dict[str, float] = found["distances"]
    floor = distances["the other half"]
    ruined = {name: value for name, value in distances.items() if name.startswith("the other half,")}
    noisy = [value for name, value in ruined.items() if "noise" in name]
    nearer = [_short(name) for name, value in ruined.items() if value <= floor]
    above = not nearer
    rising = noisy == sorted(noisy)
    finding: Finding = (
        "holds" if above and rising else "holds in part" if above or rising else "does not hold"
    )
    rows = [
        [name, number(value), number(value / floor if floor > 0 else float("nan"), 2)]
        for name, value in distances.items()
    ]
    largest = max(ruined.items(), key=lambda item: item[1])
    return [
        Section(
            "distance",
            "A distance of this world",
            "The Frechet distance of the reader's features is least between pictures of one kind, and grows "
            "with what is done to them.",
            Verdict(
                finding,
                f"Two halves of the test pictures, {found['half']:,} each, lie {number(floor)} apart: the "
                "floor against which every later distance at that number is read. What is disturbed lies "
                f"farther, at most {number(largest[1])} ({_short(largest[0])})"
                + (f", but for {', '.join(nearer)}." if nearer else "."),
            ),
            [
                table(
                    ["One half of the test pictures, and", "distance", "times the floor"],
                    rows,
                    f"Squared distances, of {found['half']:,} pictures each; the total variance of the "
                    f"features is {number(found['trace'])}.",
                )
            ],
            "Features are the 128 numbers from which the reader tells floor, light and style. The distance "
            "is biased upwards by about one over the number of pictures: compare equal numbers only.",
        )
    ]


def _short(name: str) -> str:
    return name.removeprefix("the other half, ")
