"""The autoencoder of a latent diffusion model, by itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from noisette.errors import UserError
from noisette.hub.card import autoencoder_card
from noisette.hub.embedded import find_model
from noisette.hub.folder import CODEC, AnySpec, Notes, in_precision, read_spec, read_weights, write_folder
from noisette.hub.spec import AutoencoderSpec, build_codec
from noisette.nets.tiling import tiled
from noisette.nets.vae import Codec

__all__ = ["Autoencoder", "decoded", "encoded", "load_codec"]

PIXELS_AT_ONCE = 2**18
"""How much is drawn, or coded, at a time when nobody says."""

TILE = 1024
"""Pixels of a side beyond which a picture is taken in tiles, an eighth of each shared with the next."""


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """An autoencoder with its description: what `noisette train` makes of an `AutoencoderRecipe`.

    ``encode`` gives latents of unit variance, ``decode`` pictures in [-1, 1].
    """

    spec: AutoencoderSpec
    codec: Codec
    notes: Notes = field(default_factory=dict[str, str | int | float])

    @classmethod
    def load(cls, name: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32) -> Autoencoder:
        """The autoencoder of that name: a folder, or the folder of a run. Raises UserError."""
        folder = find_model(name)
        spec, notes = read_spec(folder)
        if not isinstance(spec, AutoencoderSpec):
            raise UserError(f"{name} is a diffusion model: load it with noisette.load")
        return cls(spec, _codec_in(folder, spec, dtype), notes)

    def save(
        self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None, overwrite: bool = False
    ) -> Path:
        """Write the folder: model.json, codec.safetensors, README.md; ``dtype`` as in `Model.save`."""
        states = {CODEC: in_precision(self.codec.state_dict(), dtype)}
        card = autoencoder_card(self.spec, sum(p.numel() for p in self.codec.parameters()), self.notes)
        return write_folder(folder, self.spec, states, self.notes, card, overwrite=overwrite)

    def encode(self, images: Tensor) -> Tensor:
        """Pictures [N, C, H, W] in [-1, 1] as latents [N, c, H/f, W/f]; large ones in tiles."""
        return encoded(self.codec, images)

    def decode(self, latents: Tensor) -> Tensor:
        """The pictures of latents; large ones in tiles."""
        return decoded(self.codec, latents)


def load_codec(name: str | os.PathLike[str], *, dtype: torch.dtype | None = torch.float32) -> Codec:
    """The autoencoder of a model of that name, whether it comes alone or with a diffusion model.

    In evaluation mode, its weights without gradient. Raises UserError.
    """
    folder = find_model(name)
    spec, _ = read_spec(folder)
    if spec.codec is None:
        raise UserError(f"{name} draws pixels and has no autoencoder: name a latent model, or an autoencoder")
    return _codec_in(folder, spec, dtype)


def _codec_in(folder: Path, spec: AnySpec, dtype: torch.dtype | None) -> Codec:
    codec: Codec = read_weights(folder / CODEC, lambda: build_codec(spec.codec))  # pyright: ignore
    return codec.to(dtype=dtype).eval().requires_grad_(False)


@torch.no_grad()
def encoded(codec: Codec, images: Tensor, tile: int = TILE) -> Tensor:
    """``codec.to_latents``, a few pictures at a time; in overlapping tiles if a side is beyond ``tile``."""
    return _in_parts(codec, codec.to_latents, images, codec.config.factor, 1, tile)


@torch.no_grad()
def decoded(codec: Codec, latents: Tensor, tile: int = TILE) -> Tensor:
    """``codec.from_latents``, as `encoded` does it; ``tile`` counts pixels."""
    return _in_parts(codec, codec.from_latents, latents, 1, codec.config.factor, tile)


def _in_parts(
    codec: Codec, code: Callable[[Tensor], Tensor], x: Tensor, grain: int, pixels: int, tile: int
) -> Tensor:
    """``code`` of x [N, C, h, w], whose sides count ``pixels`` pixels each and are divisible by ``grain``."""
    step = grain * pixels
    if tile < 8 * step:
        raise UserError(f"tiles of this autoencoder are {8 * step} pixels at least, not {tile}")
    side, overlap = tile // step * grain, tile // 8 // step * grain
    at_once = max(1, PIXELS_AT_ONCE // (x.shape[-2] * x.shape[-1] * pixels**2))
    place = codec.decoder.conv_in.weight.device
    parts = (x if place.type == "meta" else x.to(place)).split(
        at_once
    )  # offloaded weights fetch x themselves
    return torch.cat([tiled(code, part, tile=side, overlap=overlap) for part in parts])
