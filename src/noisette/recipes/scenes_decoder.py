"""More training for the decoder of `scenes` alone: sharper pictures from latents that stay as they are."""

from __future__ import annotations

from dataclasses import replace

from noisette.recipes.scenes_vae import recipe as autoencoder
from noisette.training import Reconstruction

recipe = replace(
    autoencoder,
    spec=replace(autoencoder.spec, name="scenes-decoder"),
    start="scenes",
    freeze_encoder=True,
    objective=Reconstruction(perceptual=0.2, kl=0.0, adversarial=0.0, jitter=0.3),
    steps=8_000,
    lr=8e-4,
)
