"""What the report says of solvers and grids: the best at each number of calls, beside the one for all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench import machine
from bench.tables import table

PARTS = ("ways_digits", "ways_scenes")
HEADS = ("calls", "solver", "grid", "right", "Frechet", "error", "one for all", "right", "Frechet", "error")


def sections() -> Iterator[str]:
    """A table for each model that was searched."""
    for part in PARTS:
        if result := machine.read(part):
            yield from _ways(result)


def _ways(result: dict[str, Any]) -> Iterator[str]:
    solver, grid = result["default"]
    yield from (f"## Solvers and grids of `{result['model']}`, by the number of calls", "")
    scale, rescale = result["guidance_scale"], result["guidance_rescale"]
    guidance = f"guidance {scale:g}" + (f" rescaled by {rescale:g}" if rescale else "")
    yield (
        f"Every solver of one call a step over every grid, {guidance}: the best by `python -m bench.ways "
        f"{result['model']}`, beside one for all, {solver} over {grid}, which stays where it is not worse "
        f"beyond chance. {_count(result)} pictures a row, of the same labels or captions and seeds; "
        f"right and Frechet distance by the judge or the reader. The error is the root mean square to "
        f"{result['reference']} steps from the same noise, {result['error_pictures']} pictures. In brackets "
        "the best's distance is below the one for all, 95 % of resampled pictures."
    )
    yield ""
    yield from table(HEADS, [_row(row, (solver, grid)) for row in result["rows"]])


def _count(result: dict[str, Any]) -> str:
    counts = {max(one["pictures"] for one in row["rows"]) for row in result["rows"]}
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


def _row(row: dict[str, Any], default: tuple[str, str]) -> tuple[str, ...]:
    names = row["solver"], row["grid"]
    best, other = (next(one for one in row["rows"] if _names(one) == wanted) for wanted in (names, default))
    cells = (str(row["calls"]), *names, *_marks(row, best))
    if names == default:
        return (*cells, "the same", "", "", "")
    low, high = other["frechet_over_best"]
    return (*cells, f"by {low:.2f} to {high:.2f}", *_marks(row, other))


def _marks(row: dict[str, Any], one: dict[str, Any]) -> tuple[str, str, str]:
    error = row["errors"].get(" ".join(_names(one)))
    return f"{one['right']:.1%}", f"{one['frechet']:.2f}", "" if error is None else f"{error:.3f}"


def _names(one: dict[str, Any]) -> tuple[str, str]:
    return one["solver"], one["grid"]
