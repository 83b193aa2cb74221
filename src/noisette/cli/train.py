"""``noisette train``: a model from a recipe and images."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import typer

EPILOG = """\b
Examples:
  noisette train digits --data mnist/ --out runs/digits
  noisette train digits --data mnist/ --out runs/digits --resume
  noisette train digits --data mnist/ --out runs/quick --max-train-steps 500 --batch-size 64
  noisette train scenes --out runs/scenes
  noisette train text-to-image --data pictures/ --out runs/pictures --start scenes
"""


def train(
    recipe: Annotated[str, typer.Argument(help="The recipe by name, such as digits.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the run.")],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="A folder of images, or any data set we read; some recipes bring theirs."
        ),
    ] = None,
    max_train_steps: Annotated[int | None, typer.Option(min=1, help="Stop at this step.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step, over all processes.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of initial weights, order and noise.")] = None,
    start: Annotated[str | None, typer.Option(help="A model whose weights to start from.")] = None,
    codec: Annotated[str | None, typer.Option(help="The model whose autoencoder a latent one uses.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT, exactly.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in OUT.")] = False,
) -> int:
    """Train a model. Ctrl-C saves a checkpoint and leaves; --resume goes on from there."""
    from noisette.errors import UserError
    from noisette.recipes import recipe_named
    from noisette.training import fit

    if resume and overwrite:
        raise UserError("--resume goes on with a run and --overwrite begins it anew: give one of them")
    asked = {"batch_size": batch_size, "lr": lr, "seed": seed, "start": start, "codec": codec}
    changes = {name: value for name, value in asked.items() if value is not None}
    named = recipe_named(recipe)
    if strange := changes.keys() - {field.name for field in fields(named)}:
        raise UserError(f"{recipe} trains no latent diffusion model: leave --{min(strange)} out")
    chosen = replace(named, **changes)
    if data is not None and not data.exists():
        raise UserError(f"there is no data at {data}: name a folder of images or a data set")
    result = fit(chosen, data, out, max_train_steps=max_train_steps, resume=resume, overwrite=overwrite)
    if result.interrupted:
        return 130
    if os.environ.get("RANK", "0") == "0":
        print(f"{result.folder}: step {result.step}; {_next(chosen, result.model, out)}")
    return 0


def _next(recipe: object, model: object, out: Path) -> str:
    """What to do with a model that was just made."""
    from noisette.models import Generator, Model
    from noisette.training import GroundingRecipe

    if isinstance(recipe, GroundingRecipe):
        return f"go on: noisette train scenes --start {out} --out RUN"
    if isinstance(model, Generator):
        return f"look at it: noisette sample {out} -o look.png"
    if not isinstance(model, Model):
        return f"use it: noisette train scenes --codec {out} --out RUN"
    if model.texts is not None:
        return f'look at it: noisette generate "..." --model {out}'
    return f"look at it: noisette sample {out} -o look.png"
