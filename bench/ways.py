"""The best solver and grid at each number of network calls: `python -m bench.ways MODEL [--quick] [--write]`.

Every solver of one network call a step over every grid that the model's schedule has. First the error: the
root mean square, over values and pictures, to the same noise drawn in 200 steps. The two with the least, the
least over two other grids, the model's present default, and a solver with fresh noise, of which no error can
be told, go on to a race: growing numbers of pictures for the same labels or captions and seeds, marked by the
judge of digits or the reader of scenes. Out is who is worse than the best beyond chance: fewer right, or a
greater Frechet distance, by the bootstrap of pictures taken together. At the end stands the smallest distance
of those with as many right as the best but for chance; the default stays where it is not beaten.

What was drawn is kept under runs/, so that a search goes on where it ended; `--calls` lets several processes
share one. `--write` puts what was found into the model's own model.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench import machine
from bench.marking import Marked, Marking, gap_of_distance, gap_of_right, marking_of
from noisette.errors import UserError
from noisette.files import atomic_write
from noisette.hub.finding import located
from noisette.hub.folder import SPEC, WEIGHTS, parse_spec
from noisette.hub.records import to_record
from noisette.hub.spec import GRIDS, Defaults, Way
from noisette.models import Model, load

CALLS = (4, 6, 8, 10, 15, 20)
EXACT = ("ddim", "dpmpp-2m", "dpmpp-3m", "unipc", "unipc-3")
"""Of one call a step and no fresh noise; `euler` is `ddim`, and `plms` makes a call more."""
NOISY = "dpmpp-2m-sde"
REFERENCE = 200
ERROR_PICTURES = {"digits": 32, "scenes": 16}
BEST, OTHER_GRIDS = 2, 2
LEGS = {"digits": (250, 1000, 5000), "scenes": (100, 300)}
AT_ONCE = 50
RUNS = Path(__file__).resolve().parents[1] / "runs" / "ways"


@dataclass(frozen=True)
class Search:
    """A model, where its search is kept, and what marks its pictures."""

    model: Model
    folder: Path
    marking: Marking
    pictures: int
    legs: tuple[int, ...]

    def candidates(self, steps: int) -> list[Way]:
        """Every exact solver over every grid that the schedule has."""
        return [Way(steps, solver, grid) for grid in grids_of(self.model) for solver in EXACT]  # pyright: ignore[reportArgumentType]

    def default(self, steps: int) -> Way:
        own = self.model.spec.defaults
        return Way(steps, own.solver, own.grid)

    def drawn(self, way: Way, first: int, count: int) -> torch.Tensor:
        """Pictures [count, C, H, W] by seeds from ``first`` on."""
        parts: list[torch.Tensor] = []
        for start in range(first, first + count, AT_ONCE):
            part = slice(start, min(start + AT_ONCE, first + count))
            told = {name: list(values[part]) for name, values in self.marking.asked.items()}
            output = self.model.generate(
                **told,  # pyright: ignore[reportArgumentType]
                seed=start,
                num_inference_steps=way.steps,
                solver=way.solver,
                grid=way.grid,
                output_type="torch",
            )
            parts.append(output.images)
        return torch.cat(parts)

    def error(self, way: Way) -> float:
        """The root mean square to the reference, kept once it is known."""
        path = self.folder / f"errors {way.steps} {self.pictures}.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        name = f"{way.solver} {way.grid}"
        if name not in found:
            gap = self.drawn(way, 0, self.pictures) - self.reference()
            found[name] = float(gap.square().mean().sqrt())
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return found[name]

    def reference(self) -> torch.Tensor:
        path = self.folder / f"reference {self.pictures}.pt"
        if not path.exists():
            images = self.drawn(replace(self.default(REFERENCE), solver="dpmpp-2m"), 0, self.pictures)
            with atomic_write(path) as temporary:
                torch.save(images, temporary)
        return torch.load(path, weights_only=True)

    def marked(self, way: Way, count: int) -> Marked:
        """The marks of the first ``count`` pictures: those that are kept, and the missing ones."""
        path = self.folder / f"{way.steps} {way.solver} {way.grid}.pt"
        known = Marked(**torch.load(path, weights_only=True)) if path.exists() else Marked.none()
        for start in range(len(known), count, self.marking.kept_every):
            part = min(self.marking.kept_every, count - start)
            known = known.with_more(self.marking.mark(self.drawn(way, start, part), start))
            with atomic_write(path) as temporary:
                torch.save(known.tensors(), temporary)
        return known.first(count)


def grids_of(model: Model) -> list[str]:
    """The grids that the model's schedule has."""
    found: list[str] = []
    for name, grid in GRIDS.items():
        try:
            grid(model.schedule, 4)
        except UserError:
            continue
        found.append(name)
    return found


def found(search: Search, steps: int) -> dict[str, Any]:
    """What the search says of one number of calls."""
    default = search.default(steps)
    errors = {way: search.error(way) for way in search.candidates(steps)}
    ranked = sorted(errors, key=lambda way: errors[way])
    others = {way.grid: way for way in reversed(ranked)}
    others = [way for way in ranked[BEST:] if way == others[way.grid]][:OTHER_GRIDS]
    noisy = [Way(steps, NOISY, grid) for grid in dict.fromkeys((ranked[0].grid, default.grid))]
    running = list(dict.fromkeys((default, *ranked[:BEST], *others, *noisy)))
    rows: list[dict[str, Any]] = []
    best = default
    for leg in search.legs:
        marks = {way: search.marked(way, leg) for way in running}
        best, rows = race(search.marking, marks, default)
        still = {(row["solver"], row["grid"]) for row in rows if not row["beaten"]}
        print(steps, leg, *rows, sep="\n  ", flush=True)
        running = [way for way in running if way == default or (way.solver, way.grid) in still]
    told = {f"{way.solver} {way.grid}": round(error, 5) for way, error in errors.items()}
    return {"calls": steps, "solver": best.solver, "grid": best.grid, "errors": told, "rows": rows}


def race(marking: Marking, marks: dict[Way, Marked], default: Way) -> tuple[Way, list[dict[str, Any]]]:
    """Who is best of the ways whose pictures were marked, and how far behind it each of them is."""
    top = max(marks, key=lambda way: marks[way].share)
    right = {way: gap_of_right(marks[top], mark) for way, mark in marks.items()}
    rightful = [way for way in marks if right[way][0] <= 0]
    distances = {way: marking.distance(mark) for way, mark in marks.items()}
    best = min(rightful, key=lambda way: distances[way])
    behind = {way: gap_of_distance(marking, mark, marks[best]) for way, mark in marks.items()}
    beaten = {way: right[way][0] > 0 or behind[way][0] > 0 for way in marks}
    rows = [
        {
            "solver": way.solver,
            "grid": way.grid,
            "pictures": len(marks[way]),
            "right": round(marks[way].share, 4),
            "frechet": round(distances[way], 4),
            "right_below_top": [round(end, 4) for end in right[way]],
            "frechet_over_best": [round(end, 4) for end in behind[way]],
            "beaten": beaten[way],
        }
        for way in marks
    ]
    return (best if beaten[default] else default), rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ways", description=__doc__)
    parser.add_argument("model", choices=sorted(LEGS))
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS, help="of the network, one a step")
    parser.add_argument("--pictures", type=int, help="at the end of the race, in place of the usual number")
    parser.add_argument("--quick", action="store_true", help="a few pictures, nothing is written")
    parser.add_argument("--write", action="store_true", help="put what was found into the model's model.json")
    asked = parser.parse_args(arguments)
    legs = tuple(leg for leg in LEGS[asked.model] if leg < (asked.pictures or LEGS[asked.model][-1]))
    legs = (8, 16) if asked.quick else (*legs, asked.pictures or LEGS[asked.model][-1])
    calls = (4, 6) if asked.quick else tuple(asked.calls)
    search = begun(asked.model, 4 if asked.quick else ERROR_PICTURES[asked.model], legs, quick=asked.quick)
    rows = [found(search, steps) for steps in calls]
    print(*(f"{row['calls']}: {row['solver']} over {row['grid']}" for row in rows), sep="\n")
    if not asked.quick:
        ways = kept(search, rows)
        if asked.write:
            write_ways(located(asked.model), ways)


def kept(search: Search, rows: list[dict[str, Any]]) -> tuple[Way, ...]:
    """Put the rows into the results, beside those of other numbers of calls; what there is to draw with."""
    own, name = search.model.spec.defaults, f"ways_{search.model.spec.name}"
    about = {
        "model": search.model.spec.name,
        "weights": search.folder.name,
        "guidance_scale": own.guidance_scale,
        "guidance_rescale": own.guidance_rescale,
        "default": [own.solver, own.grid],
        "reference": REFERENCE,
        "error_pictures": search.pictures,
    }
    before = machine.read(name) or {}
    same = all(before.get(key) == value for key, value in about.items())
    known = {row["calls"]: row for row in [*(before["rows"] if same else ()), *rows]}
    every = [known[count] for count in sorted(known)]
    machine.write(name, {**about, "machine": machine.facts(), "rows": every})
    return tuple(Way(row["calls"], row["solver"], row["grid"]) for row in every)


def begun(name: str, pictures: int, legs: tuple[int, ...], *, quick: bool = False) -> Search:
    """A search, kept in a folder that is named after the model and its weights."""
    home = located(name)
    digest = hashlib.sha256((home / WEIGHTS).read_bytes()).hexdigest()[:8]
    folder = RUNS / f"{name}-{digest}{'-quick' * quick}"
    folder.mkdir(parents=True, exist_ok=True)
    model = load(name)
    return Search(model, folder, marking_of(model, max(pictures, *legs)), pictures, legs)


def write_ways(home: Path, ways: tuple[Way, ...]) -> None:
    """Put the ways into a model folder's description, and nothing else."""
    path = home / SPEC
    record = json.loads(path.read_text(encoding="utf-8"))
    record["spec"]["defaults"]["ways"] = to_record(Defaults(ways=ways).ways)
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    parse_spec(text, str(path))
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
