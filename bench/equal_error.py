"""Network calls at equal error: `python -m bench.equal_error [--pictures N] [--quick]`.

Schedulers of diffusers, as Stable Diffusion sets them, and solvers of ours draw over the very same network
from the same noise: the shipped `digits`, and on Stable Diffusion's own table a mixture of Gaussians, whose
denoiser is known exactly. A scheduler on a leading grid begins below the noisiest level, where the problem is
easier than from the end: so ours begin at that same row, and all are measured against the end of the
probability flow from there, by every row of the table. An error is the root mean square over values, the
median of pictures. Whole calls count, not seconds.
And what keeping deep features does (`Model.cached`) to the pictures of `scenes`, in calls, time and error.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

from bench import machine
from noisette.core import Denoiser, Level, Prediction, last, prior, sample
from noisette.models import Model
from noisette.schedules import ScaledLinearVP, TableVP, karras, levels_at
from noisette.solvers import NoiseStreams, solver_named

PICTURES = 16
CALLS = (*range(4, 17), 18, 21, 25, 28, 32, 40, 50)
SOLVERS = ("plms", "dpmpp-2m", "unipc", "unipc-3")
PEERS: dict[str, dict[str, Any]] = {
    "PNDMScheduler": {"skip_prk_steps": True, "steps_offset": 1},  # what Stable Diffusion 1 comes with
    "DDIMScheduler": {"steps_offset": 1, "clip_sample": False},
    "EulerDiscreteScheduler": {"timestep_spacing": "leading", "steps_offset": 1},
}
STEPS = (10, 20, 50)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.equal_error", description=__doc__)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--quick", action="store_true", help="few pictures and steps, nothing is written")
    asked = parser.parse_args(arguments)
    count, calls, steps = (2, (5, 10), (10,)) if asked.quick else (asked.pictures, CALLS, STEPS)
    result: dict[str, Any] = {"pictures": count, "subjects": []}
    for subject in (digits(count), mixture(count)):
        peers = list(_peers(subject, steps))
        rows = sorted({peer["first row"] for peer in peers})
        curves = [_curve(subject, *way, calls) for way in product(SOLVERS, GRIDS, rows)]
        equal = [_equal(curves, peer) for peer in peers]
        result["subjects"].append({"name": subject.name, "curves": curves, "equal": equal})
    result["cached"] = _cached(2 if asked.quick else 8)
    result["machine"] = machine.facts()
    for row in (*(row for subject in result["subjects"] for row in subject["equal"]), *result["cached"]):
        print(row)
    if not asked.quick:
        machine.write("equal_error", result)


@dataclass(frozen=True)
class Subject:
    """What is drawn: a denoiser on a table, and the noise to begin with."""

    name: str
    schedule: TableVP
    denoiser: Denoiser
    x: Tensor
    cond: dict[str, Tensor]
    truths: dict[int, Tensor] = field(default_factory=dict)

    def draw(self, levels: Sequence[Level], solver: str) -> Tensor:
        return last(
            sample(
                self.denoiser,
                prior(self.x, levels[0]),
                levels,
                solver_named(solver, self.schedule),
                cond=self.cond,
            )
        )

    def error(self, made: Tensor, row: int) -> float:
        """To the end of the probability flow that begins with this noise at a row of the table."""
        if row not in self.truths:
            times = torch.arange(row + 1, -1, -1, dtype=torch.float64) / self.schedule.steps
            self.truths[row] = self.draw(levels_at(self.schedule, times), "unipc")
        return round(float((made - self.truths[row]).square().flatten(1).mean(1).sqrt().median()), 5)


def digits(count: int) -> Subject:
    model = Model.load("digits")
    if not isinstance(model.schedule, TableVP):
        raise RuntimeError("the comparison needs a model on a table of variances")
    x = NoiseStreams(range(count)).initial(model.spec.shape)
    labels = torch.arange(count) % 10
    return Subject("digits", model.schedule, model.guided(1.0, clip=False), x, {"label": labels})


def mixture(
    count: int, shape: tuple[int, ...] = (1, 16, 16), parts: int = 64, spread: float = 0.4
) -> Subject:
    """64 Gaussians in 256 dimensions: ``E[x_0 | x_t]`` is a weighted mean of the parts' own."""
    shape = (1, 16, 16)
    means = 0.9 * torch.randn(parts, math.prod(shape), generator=torch.Generator().manual_seed(0))

    def denoiser(x: Tensor, level: Level, cond: Any) -> Prediction:
        alpha, sigma, flat = level.alpha.to(x), level.sigma.to(x), x.flatten(1)
        variance = (alpha * spread) ** 2 + sigma**2
        weights = (-(torch.cdist(flat, alpha * means) ** 2) / (2 * variance)).softmax(1)
        mean = weights @ means
        x0 = (mean + alpha * spread**2 / variance * (flat - alpha * mean)).view_as(x)
        return Prediction(x0, (x - alpha * x0) / sigma, level)

    x = NoiseStreams(range(count)).initial(shape)
    return Subject("a mixture on Stable Diffusion's table", ScaledLinearVP(), denoiser, x, {})


def even_times(schedule: TableVP, row: int, n: int) -> list[Level]:
    return levels_at(
        schedule, torch.linspace(row + 1, 0, n + 1, dtype=torch.float64).round() / schedule.steps
    )


def karras_from(schedule: TableVP, row: int, n: int) -> list[Level]:
    return karras(schedule, n, sigma_max=_ratio(schedule, row))


def even_logsnr(schedule: TableVP, row: int, n: int) -> list[Level]:
    high, low = (math.log(_ratio(schedule, at)) for at in (row, 0))
    lams = -torch.linspace(high, low, n, dtype=torch.float64)
    return [*(schedule.at_half_logsnr(lam) for lam in lams), schedule(0.0)]


def _ratio(schedule: TableVP, row: int) -> float:
    """``sigma / alpha`` of a row."""
    level = schedule((row + 1) / schedule.steps)
    return float(level.sigma / level.alpha)


GRIDS = (even_times, karras_from, even_logsnr)


def _curve(subject: Subject, solver: str, grid: Any, row: int, calls: Sequence[int]) -> dict[str, Any]:
    """Error against calls from a row; these solvers call the network once a step."""
    errors = {str(n): subject.error(subject.draw(grid(subject.schedule, row, n), solver), row) for n in calls}
    name = grid.__name__.removesuffix("_from").replace("_", " ")
    return {"solver": solver, "grid": name, "first row": row, "errors": errors}


@torch.no_grad()
def _peers(subject: Subject, steps: Sequence[int]) -> Iterator[dict[str, Any]]:
    """diffusers' schedulers over our network: they ask for eps at rows of the table."""
    import diffusers

    betas, rows = subject.schedule.betas().tolist(), subject.schedule.steps
    for name, options in PEERS.items():
        for n in steps:
            peer = getattr(diffusers, name)(trained_betas=betas, num_train_timesteps=rows, **options)
            peer.set_timesteps(n)
            x = subject.x * float(peer.init_noise_sigma)
            for row in peer.timesteps:
                level = subject.schedule((float(row) + 1) / rows)
                eps = subject.denoiser(peer.scale_model_input(x, row), level, subject.cond).eps
                x = peer.step(eps, row, x).prev_sample
            first = int(peer.timesteps[0])
            error = subject.error(x, first)
            yield {"scheduler": name, "calls": len(peer.timesteps), "first row": first, "error": error}


def _equal(curves: Sequence[dict[str, Any]], peer: dict[str, Any]) -> dict[str, Any]:
    """The fewest calls of ours whose error is no larger than the scheduler's."""
    enough = [
        (int(calls), curve["solver"], curve["grid"])
        for curve in curves
        if curve["first row"] == peer["first row"]
        for calls, error in curve["errors"].items()
        if error <= peer["error"]
    ]
    if not enough:
        return {**peer, "ours": None, "ratio": None}
    calls, solver, grid = min(enough)
    return {**peer, "ours": calls, "solver": solver, "grid": grid, "ratio": round(calls / peer["calls"], 2)}


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
