"""Training an autoencoder, as a task of the runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from noisette.data import Images
from noisette.errors import UserError
from noisette.hub.spec import build_codec
from noisette.models import Autoencoder, load_codec
from noisette.nets.gan import PatchDiscriminator
from noisette.nets.vae import Codec, calibrated
from noisette.training.draws import Draws
from noisette.training.recipe import AutoencoderRecipe
from noisette.training.reconstruction import Contest, contest_loss, latent_noise
from noisette.training.samples import tile

__all__ = ["Autoencoding"]

SHOWN, MEASURED, AT_ONCE = 8, 1024, 32


class Autoencoding:
    """The task of an `AutoencoderRecipe`: its pictures are originals above what came back of them."""

    labels = None

    def __init__(self, recipe: AutoencoderRecipe, device: torch.device) -> None:
        self.recipe, self.name = recipe, recipe.spec.name
        self.pictures_shape = (recipe.spec.codec.in_channels, recipe.spec.image_size, recipe.spec.image_size)

    def prepare(self, data: Images) -> Images:
        """Pictures are learned as they come."""
        self.data = data
        return data

    def build(self) -> nn.Module:
        """The autoencoder, with random weights or those training starts from, and its adversary."""
        recipe, objective = self.recipe, self.recipe.objective
        self.codec: Codec = build_codec(recipe.spec.codec) if recipe.start is None else _started(recipe)
        if recipe.freeze_encoder:
            self.codec.requires_grad_(False).decoder.requires_grad_(True)
        adversary = PatchDiscriminator(objective.adversary) if objective.adversarial else None
        self.net = Contest(self.codec, adversary)
        return self.net

    def loss(self, net: nn.Module, batch: Mapping[str, Any], draws: Draws, step: int) -> Tensor:
        """The mean of the reconstruction objective over a batch."""
        objective, x = self.recipe.objective, batch["image"]
        if step < objective.perceptual_from:
            objective = replace(objective, perceptual=0.0)
        contested = objective.adversarial > 0 and step >= objective.adversary_from
        noise, spread = draws.normal(latent_noise(self.codec, x)), None
        if objective.jitter:
            shares = draws.uniform(len(x)).to(x).view(-1, 1, 1, 1)
            spread = objective.jitter / self.codec.config.scaling_factor * shares
        last_layer = self.codec.decoder.conv_out.weight
        return contest_loss(objective, net, last_layer, x, noise, contested, spread)

    @torch.no_grad()
    def pictures(self) -> Tensor:
        """Two rows of originals and, under each, what came back of it: [C, H, W] in [-1, 1]."""
        columns = min(SHOWN, len(self.data))
        x = self._images(range(2 * columns if len(self.data) >= 2 * columns else columns))
        back = self.codec.decode(self.codec.mode(x))
        rows = [part for pair in zip(x.split(columns), back.split(columns), strict=True) for part in pair]
        return tile(torch.cat(rows).clamp(-1, 1), columns)

    @torch.no_grad()
    def finished(self, notes: Mapping[str, str | int | float]) -> Autoencoder:
        """The autoencoder, its latents scaled to unit variance as measured on up to 1,024 images.

        Those of a frozen encoder keep their scale.
        """
        if not self.recipe.freeze_encoder:
            count = min(MEASURED, len(self.data))
            parts = (range(first, min(first + AT_ONCE, count)) for first in range(0, count, AT_ONCE))
            latents = torch.cat([self.codec.mode(self._images(part)) for part in parts])
            self.codec.config = calibrated(self.codec.config, latents, shift=True)
        return Autoencoder(replace(self.recipe.spec, codec=self.codec.config), self.codec, notes)

    def state_dict(self) -> Mapping[str, Tensor]:
        """{}: everything is in the net."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to load."""

    def _images(self, indices: Sequence[int]) -> Tensor:
        return self.data.fetch(indices)["image"].to(self.codec.decoder.conv_out.weight.device)


def _started(recipe: AutoencoderRecipe) -> Codec:
    """The autoencoder a run starts from, ready to learn. Raises UserError for one of another shape."""
    codec, wanted = load_codec(recipe.start or ""), recipe.spec.codec
    scale = (wanted.scaling_factor, wanted.shift_factor)
    if replace(codec.config, scaling_factor=scale[0], shift_factor=scale[1]) != wanted:
        raise UserError(
            f"{recipe.start} has another autoencoder than {recipe.spec.name}: training cannot start from it"
        )
    return codec.train().requires_grad_(True)
