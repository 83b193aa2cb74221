"""The text encoder of `scenes`, before anything is drawn: which shape and color is where. Data: scenes.

A network that begins with it (`noisette train scenes --start RUN`) learns what stands left of what; one that
begins without it had not, after 640,000 pictures.
"""

from __future__ import annotations

from dataclasses import replace

from noisette.recipes.scenes import recipe as scenes
from noisette.training import GroundingRecipe, ScenesWorld

recipe = GroundingRecipe(
    spec=replace(scenes.spec, name="scenes-text"),
    codec="scenes",
    world=ScenesWorld(131_072),
    cond_dropout=0.0,
    steps=3_000,
    lr=1.5e-3,
    warmup=100,
    decay="cosine",
    betas=(0.9, 0.99),
    weight_decay=0.01,
    ema=0.995,
)
