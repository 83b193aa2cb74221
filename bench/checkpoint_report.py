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
        yield from map(_equal, result["equal"])


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
    words = f"peak own memory while Stable Diffusion 1.5 is loaded over {PEER}', {_kept(row)}"
    told = f"{ours / theirs:.2f} ({ours:.2f} : {theirs:.2f} GB)"
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


def _equal(row: dict[str, Any]) -> Ratio:
    words = f"network calls for the error of {row['scheduler']} at {row['calls']}"
    if row["ratio"] is None:
        return words, f"none of ours reaches {row['error']}", "at most 0.5", met(False)
    told = f"{row['ratio']:.2f} ({row['ours']:g} : {row['calls']}, {row['solver']} on {row['grid']})"
    # Where it begins, the default cannot reach this reference: most of the ratio is the start, not the steps.
    return words, told, "at most 0.5", "not comparable: another start"


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
        f"`{result['model']}`, {result['pictures']} pictures: error to {result['reference']:,} steps of "
        "DDIM from the same noise, root mean square over pixels in [-1, 1], median. All call one network. "
        "What begins on a leading grid begins below the noisiest level with the noise of that level, which "
        "no step makes good: much of the default's error is its grid, as ours on that grid show."
    )
    yield ""
    calls = sorted({point["calls"] for curve in result["curves"] for point in curve["points"]})
    shown = [call for call in calls if call in (5, 10, 20, 50)]
    rows = []
    for curve in result["curves"]:
        found = {point["calls"]: point["error"] for point in curve["points"]}
        named = f"{curve['solver']}, {curve['grid']}" if "grid" in curve else curve["solver"]
        rows.append((curve["library"], named, *(f"{found[c]:.4f}" if c in found else "" for c in shown)))
    rows.sort(key=lambda row: row[-2] or "9")
    yield from table(("library", "solver", *(f"{call} calls" for call in shown)), rows)
    yield "Deep features of the U-Net kept for a few steps, `scenes` in 20 steps, against none kept:"
    yield ""
    kept = [(str(r["every"]), f"{r['speed']:.2f}", f"{r['error']:.4f}") for r in result["cached"]]
    yield from table(("whole at each ... step", "speed", "error"), kept)
