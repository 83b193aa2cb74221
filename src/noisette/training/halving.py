"""Students of a model: their recipes, and progressive distillation as a row of runs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from noisette.data import Images
from noisette.errors import UserError
from noisette.files import ensure_writable
from noisette.models import Model
from noisette.training.distilling import DistillRecipe, teachable
from noisette.training.folder import last_checkpoint, replace_model
from noisette.training.lessons import ConsistencyDistillation, Match, Progressive
from noisette.training.runner import FitResult, fit

__all__ = ["halve", "halved", "student_of"]

STAGES = "halvings"
USUAL: dict[str, Any] = {"warmup": 20, "decay": "cosine", "ema": 0.95, "fit": "pad"}
"""The rate falls to nothing within each run, which does what a long average would: so a short one does."""


def student_of(
    name: str,
    teacher: Model,
    lesson: Progressive | ConsistencyDistillation | Match,
    guidance: tuple[float, float] | None = None,
    **changes: Any,
) -> DistillRecipe:
    """The recipe of a student of the model of that name, guided as it is by default where nobody says.

    Raises UserError for a model whose conditions leave nothing to guide.
    """
    spec, usual = teachable(teacher).spec, teacher.spec.defaults
    guided = spec.labels is not None or spec.text is not None
    if not guided and guidance not in (None, (1.0, 1.0)):
        raise UserError(f"{spec.name} is told nothing, so there is nothing to guide: leave the scale out")
    own = guided and not getattr(spec.net, "guidance_dim", None)
    asked = {**USUAL, "guidance_rescale": usual.guidance_rescale if own else 0.0, **changes}
    scales = guidance or ((usual.guidance_scale, usual.guidance_scale) if own else (1.0, 1.0))
    return DistillRecipe(spec=spec, start=name, lesson=lesson, guidance=scales, **asked)


def halve(
    name: str,
    teacher: Model,
    data: Path | Images,
    out: Path,
    *,
    first: int = 32,
    last: int = 4,
    guidance: tuple[float, float] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **changes: Any,
) -> FitResult:
    """Train students of ``first`` steps, of half as many, and so on to ``last``, each by the one before it.

    A run for each, ``out``/halvings/STEPS; the last student is ``out``/model as well. The first learns from
    the guided teacher; where a range of scales is asked, a student of as many steps learns to be told the
    scale before it. ``resume`` goes on in the middle. Returns the result of the last run, or of the one that
    was interrupted. Source: arXiv:2202.00512, Algorithm 2; guided, arXiv:2210.03142. Raises UserError.
    """
    counts = halved(first, last)
    if not resume:
        ensure_writable(out, overwrite=overwrite)
        shutil.rmtree(out / STAGES, ignore_errors=True)
        shutil.rmtree(out / "model", ignore_errors=True)
    elif not (out / STAGES).is_dir():
        raise UserError(f"there is nothing to resume in {out}: leave --resume out")
    grid = teacher.spec.defaults.grid
    grid = grid if grid in ("trailing", "shifted") else "trailing"
    lessons: list[tuple[str, Progressive | Match, int]] = [
        (str(count), Progressive(count, grid), count) for count in counts
    ]
    if guidance is not None and guidance[0] != guidance[1]:
        lessons.insert(0, ("guided", Match(2 * first, grid), 2 * first))
    for stage, lesson, count in lessons:
        folder = out / STAGES / stage
        recipe = student_of(name, teacher, lesson, guidance, inference_steps=count, **changes)
        done = fit(recipe, data, folder, resume=last_checkpoint(folder) is not None)
        if done.interrupted:
            return done
        name, teacher = str(folder), Model.load(folder)
        guidance = guidance if getattr(teacher.spec.net, "guidance_dim", None) else (1.0, 1.0)
    replace_model(done.model, out / "model")
    return replace(done, folder=out / "model")


def halved(first: int, last: int) -> list[int]:
    """first, first / 2, ... last. Raises UserError where that is not what halving gives."""
    counts = [first]
    while counts[-1] > last and counts[-1] % 2 == 0:
        counts.append(counts[-1] // 2)
    if counts[-1] != last:
        raise UserError(f"halving {first} steps does not give {last}: take a power of two times {last}")
    return counts
