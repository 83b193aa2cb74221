"""Network calls at equal error: `python -m bench.equal_error [--pictures N] [--quick]`.

A trained model that ships is drawn with by solvers of ours and by schedulers of diffusers, over the very same
network: `digits`, which predicts on a table of variances, as Stable Diffusion does. The reference of each
picture is the end of its probability flow from the same noise, by 1,000 steps of DDIM. An error is the root
mean square over pixels in [-1, 1], the median of pictures. Calls count, not seconds: all call one network.
And what keeping deep features does (`Model.cached`) to the pictures of `scenes`, in calls, time and error.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from bench import machine
from noisette.core import Denoiser, Level, last, prior, sample
from noisette.models import Model
from noisette.schedules import TableVP, linspace
from noisette.solvers import DDIM, NoiseStreams, solver_named

REFERENCE, PICTURES = 1000, 64
CALLS = (4, 5, 6, 8, 10, 12, 15, 20, 30, 40, 50)
OURS = ("ddim", "plms", "heun", "dpmpp-2m", "dpmpp-3m", "unipc", "unipc-3")
GRIDS = ("leading", "trailing", "karras", "uniform_logsnr")
PEERS: dict[str, dict[str, Any]] = {
    "PNDMScheduler": {"skip_prk_steps": True, "steps_offset": 1},
    "DDIMScheduler": {"steps_offset": 1, "clip_sample": False},
    "EulerDiscreteScheduler": {"timestep_spacing": "leading", "steps_offset": 1},
}
DEFAULT = "PNDMScheduler"
"""What Stable Diffusion 1 comes with."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.equal_error", description=__doc__)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--quick", action="store_true", help="few pictures and steps, nothing is written")
    asked = parser.parse_args(arguments)
    count, calls = (2, (5, 10)) if asked.quick else (asked.pictures, CALLS)
    model = Model.load("digits")
    schedule: Any = model.schedule
    if not isinstance(schedule, TableVP):
        raise RuntimeError("the comparison needs a model on a table of variances")
    labels = [i % 10 for i in range(count)]
    x = NoiseStreams(range(count)).initial(model.spec.shape)
    cond = {"label": torch.tensor(labels)}
    denoiser = model.guided(1.0, clip=False)
    truth = _ours(denoiser, x, cond, linspace(schedule, REFERENCE if not asked.quick else 50), DDIM())
    curves = [
        {"library": "noisette", "solver": solver, "grid": grid, "points": points}
        for solver in OURS
        for grid in GRIDS
        if (points := _curve(_way(model, denoiser, cond, solver, grid), x, truth, calls))
    ]
    for name, options in PEERS.items():
        way = _peer(model, denoiser, cond, name, options)
        curves.append({"library": "diffusers", "solver": name, "points": _curve(way, x, truth, calls)})
    result: dict[str, Any] = {"model": "digits", "pictures": count, "reference": REFERENCE, "curves": curves}
    result["equal"] = [_equal(curves, at) for at in calls if at >= 10]
    result["cached"] = _cached(2 if asked.quick else 8)
    result["machine"] = machine.facts()
    for row in (*result["equal"], *result["cached"]):
        print(row)
    if not asked.quick:
        machine.write("equal_error", result)


Way = Callable[[Tensor, int], tuple[Tensor, int]]
"""From the first noise and a number of steps to the pictures, and how often the network was called."""


def _ours(denoiser: Denoiser, x: Tensor, cond: Any, levels: Sequence[Level], solver: Any) -> Tensor:
    return last(sample(denoiser, prior(x, levels[0]), levels, solver, cond=cond))


def _counted(denoiser: Denoiser, calls: list[None]) -> Denoiser:
    def counting(x: Tensor, level: Level, cond: Any) -> Any:
        calls.append(None)
        return denoiser(x, level, cond)

    return counting


def _way(model: Model, denoiser: Denoiser, cond: Any, solver: str, grid: str) -> Way:
    def draw(x: Tensor, steps: int) -> tuple[Tensor, int]:
        calls: list[None] = []
        levels = model.levels(steps, grid)
        made = _ours(_counted(denoiser, calls), x, cond, levels, solver_named(solver, model.schedule))
        return made, len(calls)

    return draw


def _peer(model: Model, denoiser: Denoiser, cond: Any, name: str, options: dict[str, Any]) -> Way:
    """diffusers' scheduler over our network: it asks for eps at a row of the table."""
    import diffusers

    schedule: Any = model.schedule
    betas = schedule.betas().tolist()

    @torch.no_grad()
    def draw(x: Tensor, steps: int) -> tuple[Tensor, int]:
        peer = getattr(diffusers, name)(trained_betas=betas, num_train_timesteps=schedule.steps, **options)
        peer.set_timesteps(steps)
        x = x * float(peer.init_noise_sigma)
        for row in peer.timesteps:
            level = schedule((float(row) + 1) / schedule.steps)
            eps = denoiser(peer.scale_model_input(x, row), level, cond).eps
            x = peer.step(eps, row, x).prev_sample
        return x, len(peer.timesteps)

    return draw


def _curve(way: Way, x: Tensor, truth: Tensor, calls: Sequence[int]) -> list[dict[str, float]]:
    """Error against calls; steps are counted down from the calls so that none is over."""
    points: list[dict[str, float]] = []
    for wanted in calls:
        for steps in (wanted, wanted - 1, (wanted + 1) // 2):
            if steps < 1:
                continue
            made, used = way(x, steps)
            if used <= wanted:
                error = (made - truth).square().flatten(1).mean(1).sqrt().median()
                points.append({"calls": used, "steps": steps, "error": round(float(error), 5)})
                break
    return points


def _equal(curves: Sequence[dict[str, Any]], at: int) -> dict[str, Any]:
    """The fewest calls of ours whose error is no larger than that of the default scheduler at so many."""
    peer = next(curve for curve in curves if curve["solver"] == DEFAULT)
    point = min(peer["points"], key=lambda p: (abs(p["calls"] - at), p["calls"]))
    found = [
        (_calls_for(curve["points"], point["error"]), curve["solver"], curve["grid"])
        for curve in curves
        if curve["library"] == "noisette"
    ]
    calls, solver, grid = min(found, key=lambda row: row[0])
    return {
        "scheduler": DEFAULT,
        "calls": point["calls"],
        "error": point["error"],
        "ours": None if math.isinf(calls) else round(calls, 1),
        "solver": solver,
        "grid": grid,
        "ratio": None if math.isinf(calls) else round(calls / point["calls"], 3),
    }


def _calls_for(points: Sequence[dict[str, float]], error: float) -> float:
    """Calls at which a curve comes down to an error, between two points in their logarithms."""
    for before, after in pairwise(points):
        if after["error"] <= error < before["error"]:
            share = math.log(before["error"] / error) / math.log(before["error"] / after["error"])
            return before["calls"] * (after["calls"] / before["calls"]) ** share
    return points[0]["calls"] if points and points[0]["error"] <= error else math.inf


def _cached(count: int, steps: int = 20) -> list[dict[str, Any]]:
    """Features of the deep part kept for a few steps: what that costs in error, and saves in time."""
    model = Model.load("scenes")
    prompts = ["a small red cube left of a shiny blue sphere, at night"] * count
    rows, plain = [], None
    for every in (1, 2, 3, 5):
        seconds: list[float] = []
        for _ in range(3):
            drawer = model.cached(every)
            start = time.perf_counter()
            made = drawer.generate(prompts, seed=0, num_inference_steps=steps, output_type="torch").images
            seconds.append(time.perf_counter() - start)
        plain = made if plain is None else plain
        error = float((made.float() - plain.float()).square().mean().sqrt())
        first = rows[0]["seconds"] if rows else statistics.median(seconds)
        took = statistics.median(seconds)
        rows.append(
            {
                "every": every,
                "seconds": round(took, 3),
                "speed": round(first / took, 2),
                "error": round(error, 4),
            }
        )
    return rows


if __name__ == "__main__":
    main()
