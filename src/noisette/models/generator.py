"""Models that draw in one call: generators of GANs, normalizing flows, VAEs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisette import __version__
from noisette.errors import UserError
from noisette.hub.card import generator_card
from noisette.hub.embedded import find_model
from noisette.hub.folder import WEIGHTS, Notes, read_spec, read_weights, write_folder
from noisette.hub.generator import Drawer, GeneratorSpec
from noisette.hub.png import OutputType, pictures
from noisette.models.asking import MOST_PICTURES, Labels, label_index, seeds_of, told_to_draw, whole
from noisette.models.autoencoder import PIXELS_AT_ONCE
from noisette.models.model import Output
from noisette.nets.adversarial import ResGenerator
from noisette.solvers import NoiseStreams

__all__ = ["Generator"]


@dataclass(frozen=True, eq=False)
class Generator:
    """A network that draws in one call, with its description: what `noisette train` makes of a
    `GeneratorRecipe`.

    ``notes`` are facts about its making that travel with it. Weights are float32: a flow's inverse is none
    in half precision.
    """

    spec: GeneratorSpec
    net: Drawer
    notes: Notes = field(default_factory=dict[str, str | int | float])

    @classmethod
    def load(cls, name: str | os.PathLike[str]) -> Generator:
        """The generator of that name, in evaluation mode: a folder, or the folder of a run.

        Raises UserError.
        """
        folder = find_model(name)
        spec, notes = read_spec(folder)
        if not isinstance(spec, GeneratorSpec):
            raise UserError(f"{name} does not draw in one call: load it with noisette.load")
        net: Any = read_weights(folder / WEIGHTS, spec.build)
        return cls(spec, net.float().eval().requires_grad_(False), notes)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the model folder: model.json, model.safetensors, README.md.

        Raises UserError when there is something already and ``overwrite`` is not set.
        """
        card = generator_card(self.spec, sum(p.numel() for p in self.net.parameters()), self.notes)
        states = {WEIGHTS: self.net.state_dict()}
        return write_folder(folder, self.spec, states, self.notes, card, overwrite=overwrite)

    @property
    def device(self) -> torch.device:
        """Where the network works."""
        return next(self.net.parameters()).device

    def to(self, device: torch.device | str) -> Generator:
        """Move the network, in place, and return the generator."""
        self.net.to(device)
        return self

    def label_index(self, label: int | str) -> int:
        """The index of a class by its name, or by its number. Raises UserError for neither."""
        spec: Any = self.spec
        return label_index(spec, label)

    @torch.no_grad()
    def generate(
        self,
        label: Labels | None = None,
        *,
        seed: int | Sequence[int] | None = None,
        num_images_per_prompt: int = 1,
        temperature: float | None = None,
        output_type: OutputType = "pil",
        batch_size: int | None = None,
    ) -> Output:
        """Draw pictures from noise, in one call of the network for each batch.

        ``label``: an index or a name, or a list of them, with ``num_images_per_prompt`` pictures of each;
        None draws every label in turn. Picture k of the call is made from ``seed`` + k (or the k-th of a
        list; None takes a fresh seed) and depends on nothing else: not on the other pictures nor on
        ``batch_size``. The noise is scaled by ``temperature``. A VAE gives the mean of each pixel.
        Raises UserError for what cannot be drawn.
        """
        spec: Any = self.spec
        each = whole(num_images_per_prompt, "num_images_per_prompt", 1, MOST_PICTURES)
        labels = told_to_draw(spec, None, None, label, each).labels or ()
        seeds, side = seeds_of(seed, len(labels)), self.spec.image_size
        size = max(1, PIXELS_AT_ONCE // side**2) if batch_size is None else batch_size
        size = whole(size, "batch_size", 1, MOST_PICTURES)
        scale = self.spec.temperature if temperature is None else temperature
        if not 0 <= scale < float("inf"):
            raise UserError(f"temperature is a number from 0 up, not {scale!r:.40}")
        drawn = [
            self._drawn(seeds[first : first + size], labels[first : first + size], scale)
            for first in range(0, len(seeds), size)
        ]
        settings = {
            "model": self.spec.name,
            "temperature": float(scale),
            "size": f"{side}x{side}",
            "noisette": __version__,
        }
        return Output(pictures(torch.cat(drawn), output_type), tuple(seeds), labels, settings)

    @torch.no_grad()
    def bits_per_dim(self, images: Tensor, label: Labels, *, seed: int = 0) -> Tensor:
        """`-log2 p(x | label)` per value of 8-bit images [N, C, H, W] in [-1, 1], [N].

        ``label``: one for all, or one each. Exact for a flow, of images dequantised by uniform noise; for a
        VAE a bound from above, from one draw of its latents; both on average over ``seed``.
        Raises UserError for a GAN, which gives no likelihood.
        """
        net, spec = self.net, self.spec
        if isinstance(net, ResGenerator):
            raise UserError(f"{spec.name} is a GAN, which gives no likelihood: measure its pictures")
        shape = (spec.channels, spec.image_size, spec.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != shape:
            raise UserError(f"{spec.name} measures images [N, *{list(shape)}], not {list(images.shape)}")
        chosen = [label] if isinstance(label, int | str) else list(label)
        if len(chosen) not in (1, len(images)):
            raise UserError(f"{len(images)} images need one label, or one each, not {len(chosen)}")
        told = torch.tensor([self.label_index(one) for one in chosen]).expand(len(images))
        random = torch.Generator().manual_seed(whole(seed, "seed", 0, 2**63 - 1))
        at_once = max(1, PIXELS_AT_ONCE // spec.image_size**2)
        parts = zip(images.split(at_once), told.split(at_once), strict=True)
        return torch.cat(
            [net.bits_per_dim(x.to(self.device), k.to(self.device), random).cpu() for x, k in parts]
        )

    def _drawn(self, seeds: Sequence[int], labels: Sequence[int], scale: float) -> Tensor:
        """Pictures [N, C, H, W] in [-1, 1], on the CPU."""
        streams = NoiseStreams(seeds)
        noise = [(scale * streams.initial(shape)).to(self.device) for shape in self.net.noise_shapes]
        return self.net.draw(noise, torch.tensor(labels, device=self.device)).float().cpu()
