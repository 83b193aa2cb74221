"""``noisette distill``: a student that draws in few steps what its teacher draws in many."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noisette.errors import UserError

if TYPE_CHECKING:
    from noisette.data import Images
    from noisette.models import Model

app = typer.Typer(name="distill", help="Teach a student to draw in few steps what a model draws in many.")

EPILOG = """\b
Examples:
  noisette distill progressive digits --data mnist/ --steps 4 --out runs/digits-4
  noisette distill progressive runs/mine --steps 4 --out runs/mine-4 --resume
  noisette distill consistency digits --data mnist/ --steps 1 --out runs/digits-1
  noisette distill consistency scenes --guidance-scale 3:8 --steps 4 --out runs/scenes-lcm
  noisette distill consistency scenes --lora 32 --steps 4 --out runs/scenes-lora
"""

DRAWN = 8192
"""Pictures that the teacher draws where there are no others to learn from."""

Teacher = Annotated[str, typer.Argument(help="A model that ships, a model folder, or the folder of a run.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder of the run.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Images to learn from. Default: those of the recipe, or the teacher's own."),
]
Scale = Annotated[
    str | None,
    typer.Option(
        "--guidance-scale", help="At which the teacher is guided; 2:8 for a student that is told which."
    ),
]
Batch = Annotated[int, typer.Option(min=1, help="Images a step, over all processes.")]
Rate = Annotated[float, typer.Option(help="Peak learning rate; it falls to 0.")]
Seed = Annotated[int, typer.Option(help="Of order, levels and noise.")]
Lora = Annotated[int, typer.Option(min=0, help="Learn updates of this rank only; 0 learns all weights.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT, exactly.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in OUT.")]


@app.command()
def progressive(
    model: Teacher,
    out: Out,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the last student, a power of two.")] = 4,
    first: Annotated[int, typer.Option("--from", min=1, help="Steps of the first student.")] = 32,
    updates: Annotated[int, typer.Option(min=1, help="Training steps of each halving.")] = 400,
    data: Data = None,
    guidance_scale: Scale = None,
    batch_size: Batch = 128,
    lr: Rate = 2e-4,
    seed: Seed = 0,
    lora: Lora = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> int:
    """Halve the steps again and again: one step of each student is two of the one before it.

    Every student is kept, OUT/halvings/STEPS; the last is OUT/model. arXiv:2202.00512.
    """
    from noisette.models import Model
    from noisette.training.distilling import teachable
    from noisette.training.halving import halve, halved

    # What is wrong is told before the teacher draws thousands of pictures to learn from.
    halved(first, steps)
    _check_out(out, resume, overwrite)
    teacher, told = teachable(Model.load(model)), _guidance(guidance_scale)
    changes: dict[str, Any] = {"steps": updates, "batch_size": batch_size, "lr": lr, "seed": seed}
    run = halve(
        model,
        teacher,
        _data(model, teacher, data),
        out,
        first=first,
        last=steps,
        guidance=told,
        resume=resume,
        overwrite=overwrite,
        lora=lora,
        **changes,
    )
    return _told(run, out)


@app.command()
def consistency(
    model: Teacher,
    out: Out,
    steps: Annotated[int, typer.Option(min=1, help="Steps that the student draws in when nobody says.")] = 1,
    intervals: Annotated[int, typer.Option(min=1, help="Steps of the teacher's trajectory.")] = 32,
    updates: Annotated[int, typer.Option(min=1, help="Training steps.")] = 2000,
    target: Annotated[
        float, typer.Option(min=0, max=1, help="Decay of the average that is agreed with; 0 for none.")
    ] = 0.0,
    data: Data = None,
    guidance_scale: Scale = None,
    batch_size: Batch = 128,
    lr: Rate = 2e-4,
    seed: Seed = 0,
    lora: Lora = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> int:
    """Learn to jump to the end of the teacher's trajectory from anywhere on it.

    With a range of scales in latents this is latent consistency distillation. arXiv:2303.01469, 2310.04378.
    """
    from noisette.models import Model
    from noisette.training import ConsistencyDistillation, fit
    from noisette.training.halving import student_of

    _check_out(out, resume, overwrite)
    teacher = Model.load(model)
    recipe = student_of(
        model,
        teacher,
        ConsistencyDistillation(intervals, teacher.spec.defaults.grid, target=target),
        _guidance(guidance_scale),
        inference_steps=steps,
        steps=updates,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        lora=lora,
    )
    return _told(fit(recipe, _data(model, teacher, data), out, resume=resume, overwrite=overwrite), out)


def _check_out(out: Path, resume: bool, overwrite: bool) -> None:
    from noisette.files import ensure_writable

    if resume and overwrite:
        raise UserError("--resume goes on with a run and --overwrite begins it anew: give one of them")
    if not resume:
        ensure_writable(out, overwrite=overwrite)


def _guidance(text: str | None) -> tuple[float, float] | None:
    """One scale, or "low:high"; None is the teacher's own."""
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(":")]
        low, high = numbers if len(numbers) == 2 else (*numbers, *numbers)
    except ValueError:
        raise UserError(f"--guidance-scale is a number, or two as in 2:8, not {text!r:.40}") from None
    return low, high


def _data(name: str, teacher: Model, data: Path | None) -> Path | Images:
    """What there is to learn from: what is named, the world of the teacher's recipe, or its own pictures."""
    from noisette.training.drawn import DrawnImages
    from noisette.training.kept import kept
    from noisette.training.report import working

    if data is not None:
        if not data.exists():
            raise UserError(f"there is no data at {data}: name a folder of images or a data set")
        return data
    for world in _worlds(name):
        opened = world.open(teacher.spec.image_size)
        with working("rendering scenes") as progress:
            return kept(opened, progress=progress) if world.count else opened
    with working(f"drawing pictures of {teacher.spec.name}") as progress:
        return kept(DrawnImages(teacher, DRAWN), progress=progress)


def _worlds(name: str) -> Iterator[Any]:
    """The world of the recipe that made a model, where it is known and has one."""
    from noisette.hub.records import from_record
    from noisette.recipes import recipe_named, recipe_names
    from noisette.training import ScenesWorld

    if name in recipe_names():
        world: Any = recipe_named(name).world
    else:
        file = Path(name) / "recipe.json"
        record = json.loads(file.read_text(encoding="utf-8")).get("world") if file.is_file() else None
        world = None if record is None else from_record(ScenesWorld, record, f"{file}.world")
    if world is not None:
        yield world


def _told(run: Any, out: Path) -> int:
    if run.interrupted:
        return 130
    if os.environ.get("RANK", "0") == "0":
        model = getattr(run.model, "model", run.model)  # a LoRA comes with the model it makes
        command = "sample" if model.texts is None else 'generate "..." --model'
        print(f"{run.folder}: step {run.step}; look at it: noisette {command} {out} -o look.png")
    return 0
