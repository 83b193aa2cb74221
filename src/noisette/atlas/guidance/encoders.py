"""Three text encoders before one U-Net: a bag of words, a small transformer and a larger one.

``python -m noisette.atlas.guidance.encoders OUT --steps N`` trains a model with each, one after the other,
on the same scenes in the same order, into OUT/bag, OUT/small and OUT/large; ``noisette atlas guidance
--encoders OUT`` compares them. Each encoder is first taught where things are, as by the recipe `scenes-
text`, into OUT/text. With ``--unet MODEL`` the U-Net begins with that model's weights, the same for all
three, and only the encoders begin anew: then far fewer steps tell them apart. Stopped and started again it
goes on where it was. It takes as long as three trainings of both recipes of so many steps.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from noisette.errors import UserError
from noisette.models import Model
from noisette.nets.text import Prompted, TextConfig
from noisette.recipes.scenes import recipe as scenes
from noisette.recipes.scenes_text import recipe as scenes_text
from noisette.training import GroundingRecipe, Recipe, fit
from noisette.training.checkpoint import checkpoint_folders
from noisette.training.folder import CHECKPOINTS

__all__ = ["BEGIN", "TEXT", "recipes", "train"]

BEGIN, TEXT = "begin", "text"
"""Beside the three models: the U-Net with new encoders, and the encoders that have been taught."""

SMALL, LARGE = 1, 3
"""Layers of the two transformers, the larger as deep as that of `scenes`. All three are equally wide, so that
the U-Net is the same to a weight."""

STEPS, TEXT_STEPS = 8000, 3000


def recipes(steps: int, base: Recipe = scenes) -> dict[str, Recipe]:
    """The recipe ``base`` with each of the text encoders, for so many steps. Raises UserError."""
    text = base.spec.text
    if not isinstance(text, TextConfig):
        raise UserError(f"{base.spec.name} does not train its text encoder: there is nothing to exchange")
    encoders = {
        "bag": replace(text, num_hidden_layers=0, positions=False),
        "small": replace(text, num_hidden_layers=SMALL, positions=True),
        "large": replace(text, num_hidden_layers=LARGE, positions=True),
    }
    return {
        name: replace(
            base,
            spec=replace(base.spec, name=f"{base.spec.name}-{name}", text=encoder),
            steps=steps,
            warmup=min(base.warmup, steps // 10),
        )
        for name, encoder in encoders.items()
    }


def train(
    out: str | os.PathLike[str],
    steps: int = STEPS,
    base: Recipe = scenes,
    unet: Model | None = None,
    text_steps: int = TEXT_STEPS,
) -> bool:
    """Train what is not trained yet in ``out``; False when asked to stop before the end.

    ``unet``: the model with whose U-Net, autoencoder and words all three begin. ``text_steps``: for how long
    encoders are taught alone. Raises UserError where ``out`` holds something else, or runs of another recipe
    or number of steps, and for a U-Net that does not fit.
    """
    out = Path(out)
    for name, recipe in recipes(steps, base).items():
        if unet is not None:
            recipe = _beginning_with(unet, recipe, out / BEGIN / name)
        taught = out / TEXT / name
        if not (_trained(_teaching(recipe, text_steps), taught)
                and _trained(replace(recipe, start=str(taught), codec=None), out / name)):  # fmt: skip
            return False
    return True


def _teaching(recipe: Recipe, steps: int) -> GroundingRecipe:
    """How the text encoder of a recipe is taught where things are."""
    return replace(
        scenes_text,
        spec=recipe.spec,
        start=recipe.start,
        codec=recipe.codec,
        world=recipe.world,
        steps=steps,
        warmup=min(scenes_text.warmup, steps // 10),
    )


def _trained(recipe: Recipe, folder: Path) -> bool:
    """Begin or go on with a run; whether it came to its end."""
    begun = bool(checkpoint_folders(folder / CHECKPOINTS))
    # Stopped before its first checkpoint, a run has nothing to go on from, and begins anew.
    fresh = not begun and (folder / "recipe.json").exists()
    return not fit(recipe, None, folder, resume=begun, overwrite=fresh).interrupted


def _beginning_with(unet: Model, recipe: Recipe, folder: Path) -> Recipe:
    """The recipe from a model in ``folder`` that has the U-Net of ``unet`` and a new text encoder."""
    whole, text, plan = unet.denoiser.net, unet.spec.text, recipe.spec.text
    if (
        not isinstance(whole, Prompted)
        or not isinstance(text, TextConfig)
        or not isinstance(plan, TextConfig)
    ):
        raise UserError(f"{unet.spec.name} does not train its text encoder: there is nothing to exchange")
    if unet.spec.net != recipe.spec.net:
        raise UserError(f"{unet.spec.name} has another U-Net than the recipe {recipe.spec.name}")
    if not folder.exists():
        torch.manual_seed(recipe.seed)
        chosen = replace(text, num_hidden_layers=plan.num_hidden_layers, positions=plan.positions)
        spec = replace(unet.spec, name=recipe.spec.name, text=chosen)
        new: Any = spec.build()
        new.net.load_state_dict(whole.net.state_dict())
        Model.new(spec, new, codec=unet.codec, texts=unet.texts).save(folder)
    return replace(recipe, start=str(folder), codec=None)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 130 when it was interrupted, 2 for what cannot be done."""
    parser = argparse.ArgumentParser("python -m noisette.atlas.guidance.encoders", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("out", type=Path, help="the folder of the three runs")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each training; default {STEPS}")
    parser.add_argument("--text-steps", type=int, default=TEXT_STEPS,
                        help=f"of teaching each encoder alone; default {TEXT_STEPS}")  # fmt: skip
    parser.add_argument("--codec", help="the model whose autoencoder is used; default scenes")
    parser.add_argument("--unet", help="the model with whose U-Net all three begin; default none")
    asked = parser.parse_args(arguments)
    base = scenes if asked.codec is None else replace(scenes, codec=asked.codec)
    try:
        unet = None if asked.unet is None else Model.load(asked.unet)
        return 0 if train(asked.out, asked.steps, base, unet, asked.text_steps) else 130
    except UserError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    raise SystemExit(main())
