"""The text encoder of `scenes`, before anything is drawn: which shape and color is where. Data: scenes.

Networks begin with it: `noisette train scenes --start RUN`. Without it, "left" and "right" were the same to
one that had seen 640,000 pictures; after 64,000 more with a text encoder taught so, it told them apart.
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
