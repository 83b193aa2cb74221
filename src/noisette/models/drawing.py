"""A trajectory with all its choices made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from noisette.core import Cond, Denoiser, Level, Noise, Solver, Step, sample
from noisette.errors import UserError
from noisette.hub.schedulers import sampler
from noisette.hub.spec import GRIDS, ModelSpec
from noisette.models.asking import whole
from noisette.models.starting import Scale, Start
from noisette.solvers import solver_named

__all__ = ["Drawing", "drawing_of"]

MOST_STEPS = 100_000


@dataclass(frozen=True)
class Drawing:
    """Levels, solver, how noise is scaled and predictions are clipped, and what to call it all."""

    levels: list[Level]
    solver: Solver[Any]
    settings: dict[str, Any]
    clip: Callable[[Denoiser], Denoiser] | None = None
    scale: Scale = "marginal"

    def run(
        self,
        denoiser: Denoiser,
        start: Start,
        cond: Cond,
        eps: Tensor,
        noise: Noise,
        callback: Callable[[Step], None] | None,
    ) -> Tensor:
        """From standard normal ``eps`` to images, or latents; of no step at all, the start's own."""
        levels = start.levels(self.levels)
        if len(levels) == 1 and start.latents is not None:
            return start.latents.to(eps)
        x = start.at(levels[0], eps)
        denoiser = denoiser if self.clip is None else self.clip(denoiser)
        for step in sample(denoiser, x, levels, self.solver, cond=cond, noise=noise):
            step.x = start.kept(step, eps)
            if callback is not None:
                callback(step)
            x = step.x
        return x


def drawing_of(
    spec: ModelSpec,
    scheduler: Mapping[str, Any] | None,
    steps: int | None,
    grid: str | None,
    solver: str | Solver[Any] | None,
    eta: float | None,
) -> Drawing:
    """What a call asks for, and the model's own defaults where it does not.

    A checkpoint that brings a ``scheduler`` config is sampled as diffusers would sample it, with that solver;
    a solver that is no name goes over the checkpoint's own grid.
    """
    steps = whole(spec.defaults.steps if steps is None else steps, "num_inference_steps", 1, MOST_STEPS)
    if grid is not None and grid not in GRIDS and grid != "exponential":
        raise UserError(f"there is no grid {grid!r}: take one of {', '.join(GRIDS)}")
    if scheduler is None:
        return _own(spec, steps, grid, solver, eta)
    named, given = (solver, None) if isinstance(solver, str) else (None, solver)
    plain = grid in ("quadratic", "shifted", "uniform_logsnr")
    way = sampler(scheduler, named, None if plain else grid)
    chosen = way.solver if given is None else given
    levels = GRIDS[grid](spec.schedule, steps) if plain and grid else way.grid(steps)
    settings = {"solver": named if given is None else repr(given), "grid": grid}
    return Drawing(
        levels,
        with_eta(chosen, eta, named or repr(chosen)),
        _settings(levels, settings, eta),
        way.clip,
        way.start,
    )


def _own(
    spec: ModelSpec, steps: int, grid: str | None, solver: str | Solver[Any] | None, eta: float | None
) -> Drawing:
    asked = solver if solver is None or isinstance(solver, str) else repr(solver)
    name, spaced = spec.defaults.names(steps, asked, grid)
    if spaced not in GRIDS:
        raise UserError(f"there is no grid {spaced!r}: take one of {', '.join(GRIDS)}")
    levels = GRIDS[spaced](spec.schedule, steps)
    # What is written are names, so that a picture stays the same where the model's table changes.
    settings = {"solver": name, "grid": spaced}
    made = solver_named(name, spec.schedule) if solver is None or isinstance(solver, str) else solver
    return Drawing(levels, with_eta(made, eta, name), _settings(levels, settings, eta))


def _settings(levels: list[Level], chosen: dict[str, Any], eta: float | None) -> dict[str, Any]:
    return {"num_inference_steps": len(levels) - 1, **chosen, "eta": eta}


def with_eta(solver: Solver[Any], eta: float | None, name: str) -> Solver[Any]:
    """The solver with another ``eta`` where one is asked. Raises UserError for one that has none."""
    if eta is None:
        return solver
    found: Any = solver
    if not is_dataclass(found) or isinstance(found, type) or "eta" not in {f.name for f in fields(found)}:
        raise UserError(f"the solver {name!r:.60} has no eta: take ddim, or leave eta out")
    changed: Any = replace(found, eta=eta)
    return changed
