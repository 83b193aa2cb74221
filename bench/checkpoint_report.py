"""What the report says of checkpoints of Stable Diffusion: ratios first, then what they come from."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from bench import machine
from bench.tables import met, table

PARTS = ("stable_diffusion", "equal_error")
OURS, PEER = "noisette", "diffusers"

Ratio = tuple[str, str, str, str]


def ratios() -> Iterator[Ratio]:
    """Rows of the summary: measured, value, goal, whether it is met."""
    if result := machine.read("stable_diffusion"):
        yield _cold(result["cold"])
        yield from map(_memory, result["memory"])
        yield from map(_call, result["calls"])
        yield from map(_pixel, result["pixels"])
    if result := machine.read("equal_error"):
        for subject in result["subjects"]:
            yield from _equal(subject)


def sections() -> Iterator[str]:
    """The numbers themselves."""
    if result := machine.read("stable_diffusion"):
        yield from _checkpoints(result)
    if result := machine.read("equal_error"):
        yield from _errors(result)


def _cold(cold: dict[str, Any]) -> Ratio:
    ours, theirs, torch = (cold[name]["median"] for name in (OURS, PEER, "import torch"))
    told = f"{ours / theirs:.2f} ({ours:.1f} : {theirs:.1f} s, of which `import torch` {torch:.1f} s)"
    words = f"shell to first picture of a tiny checkpoint over {PEER}'"
    return words, told, "at most 0.25", met(ours / theirs <= 0.25)


def _memory(row: dict[str, Any]) -> Ratio:
    ours, theirs = (max(row[name]["loading_own"], 1e-3) for name in (OURS, PEER))
    mapped = " : ".join(f"{row[name]['loading_all']:.2f}" for name in (OURS, PEER))
    words = f"peak own memory while Stable Diffusion 1.5 is loaded over {PEER}', {_kept(row)}"
    told = f"{ours / theirs:.2f} ({ours:.2f} : {theirs:.2f} GB; with what is mapped {mapped})"
    return words, told, "at most 0.6", met(ours / theirs <= 0.6)


def _kept(row: dict[str, Any]) -> str:
    same = row["kept"] == row["wanted"]
    return f"{row['kept']}" if same else f"{row['kept']} files as {row['wanted']}"


def _call(row: dict[str, Any]) -> Ratio:
    words = f"a call at 512 px, speed over {PEER}', {row['precision']}, {_lanes(row)}"
    return words, _speed(row), "at least 1", met(row["ratio"] >= 1)


def _lanes(row: dict[str, Any]) -> str:
    return "one lane" if row["lanes"] == 1 else "both lanes"


def _speed(row: dict[str, Any]) -> str:
    ours, theirs = (statistics.median(row["seconds"][name]) for name in (OURS, PEER))
    unit, factor = ("s", 1) if ours >= 1 else ("ms", 1e3)
    return f"{row['ratio']:.2f} ({theirs * factor:.1f} : {ours * factor:.1f} {unit})"


def _pixel(row: dict[str, Any]) -> Ratio:
    words = f"a pixel U-Net of {row['parameters'] / 1e6:.1f} M, 32 px, batch {row['batch']}, over {PEER}'"
    return f"{words}, float32", _speed(row), "at least 1.3", met(row["ratio"] >= 1.3)


def _equal(subject: dict[str, Any]) -> Iterator[Ratio]:
    for row in subject["equal"]:
        words = f"network calls for the error of {row['scheduler']} at {row['calls']}, {subject['name']}"
        if row["ratio"] is None:
            yield words, f"none of ours reaches {row['error']}", "at most 0.5", met(False)
        else:
            told = f"{row['ratio']:.2f} ({row['ours']} : {row['calls']}, {row['solver']} on {row['grid']})"
            yield words, told, "at most 0.5", met(row["ratio"] <= 0.5)


def _checkpoints(result: dict[str, Any]) -> Iterator[str]:
    yield from ("## Checkpoints of Stable Diffusion", "")
    yield (
        "The configuration of version 1.5 with random weights, in a folder that diffusers saved. Memory is "
        "what a process takes beyond its imports, in GB: its own, and with all mapped files that it has "
        "looked at; at the most while loading, and when every weight has been looked at once. Calls are on "
        f"{result['threads']} threads; the floor is FLOPs over the rate of a product of 2048 x 2048 matrices."
    )
    yield ""
    names = ("loading_own", "loading_all", "used_own", "used_all")
    rows = [
        (
            library,
            _kept(row),
            *(f"{row[library][name]:.2f}" for name in names),
            f"{row[library]['seconds']:.1f}",
        )
        for row in result["memory"]
        for library in (OURS, PEER)
    ]
    heads = ("library", "weights", "loading, own", "loading, all", "used, own", "used, all", "seconds")
    yield from table(heads, rows)
    calls = [(f"512 px, {row['precision']}, {_lanes(row)}", row) for row in result["calls"]]
    calls += [
        (f"{row['parameters'] / 1e6:.1f} M, 32 px, batch {row['batch']}", row) for row in result["pixels"]
    ]
    yield from table(
        ("network call", OURS, PEER, "floor", f"{OURS} over the floor"),
        [(name, *_beside_floor(row)) for name, row in calls],
    )


def _beside_floor(row: dict[str, Any]) -> tuple[str, ...]:
    ours, theirs = (statistics.median(row["seconds"][name]) for name in (OURS, PEER))
    told = [f"{1e3 * seconds:,.1f} ms" for seconds in (ours, theirs, row["floor_seconds"])]
    return (*told, f"{ours / row['floor_seconds']:.1f}")


def _errors(result: dict[str, Any]) -> Iterator[str]:
    yield from ("## Equal error", "")
    yield (
        f"{result['pictures']} pictures of two denoisers on tables: the shipped `digits`, and a mixture of "
        "Gaussians, known exactly, on the table of Stable Diffusion. The error is to the end of the "
        "probability flow from the same noise at the same row (diffusers' schedulers, as Stable Diffusion "
        "sets them, begin below the noisiest), root mean square, median. All call one network. Ours are the "
        "best of 4 solvers on 3 grids; whole calls."
    )
    yield ""
    for subject in result["subjects"]:
        rows = [
            (row["scheduler"], str(row["calls"]), str(row["first row"]), f"{row['error']:.4f}")
            + (("none", "", "") if row["ours"] is None else _least(row))
            for row in subject["equal"]
        ]
        heads = ("scheduler", "calls", "from row", "error", "our calls", "solver", "ratio")
        yield from (f"Fewest calls for an error no larger, {subject['name']}:", "")
        yield from table(heads, rows)
        shown, row = (6, 10, 21, 50), max(curve["first row"] for curve in subject["curves"])
        rows = []
        for curve in (curve for curve in subject["curves"] if curve["first row"] == row):
            errors = (f"{curve['errors'][str(calls)]:.4f}" for calls in shown)
            rows.append((curve["solver"], curve["grid"], *errors))
        rows.sort(key=lambda row: row[3])
        yield from (f"Errors of ours from row {row}, {subject['name']}:", "")
        yield from table(("solver", "grid", *(f"{call} calls" for call in shown)), rows)
    yield "Deep features of the U-Net kept for a few steps, `scenes` in 20 steps, against none kept:"
    yield ""
    kept = [(str(r["every"]), f"{r['speed']:.2f}", f"{r['error']:.4f}") for r in result["cached"]]
    yield from table(("whole at each ... step", "speed", "error"), kept)


def _least(row: dict[str, Any]) -> tuple[str, ...]:
    return str(row["ours"]), f"{row['solver']}, {row['grid']}", f"{row['ratio']:.2f}"
