"""Noise that belongs to an image, not to its batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from noisette.errors import UserError


class NoiseStreams:
    """One stream of standard normal noise for each image, from its own seed.

    An image drawn in a batch equals the same image drawn alone, on every device and with every solver:
    numbers are drawn on the CPU in float32, image by image, and then moved. A stream is used up as
    it is called; make a new one to repeat a trajectory. Raises UserError for no seeds, for a seed
    outside [0, 2^63), and where the batch and the seeds differ in number.

    >>> alone, batch = NoiseStreams([8]), NoiseStreams([7, 8])
    >>> bool((alone.initial((1, 4, 4))[0] == batch.initial((1, 4, 4))[1]).all())
    True
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        if not seeds:
            raise UserError("noise streams need at least one seed, one for each image")
        for seed in seeds:
            if not 0 <= seed < 2**63:
                raise UserError(f"a seed is a whole number from 0 to 2^63 - 1, got {seed}")
        self.seeds = tuple(seeds)
        self._generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]

    def initial(self, shape: Sequence[int]) -> Tensor:
        """Noise [B, *shape] in float32 on the CPU: each image's next draw; ``shape`` is one image's."""
        return torch.stack([torch.randn(*shape, generator=g, dtype=torch.float32) for g in self._generators])

    def __call__(self, like: Tensor) -> Tensor:
        if like.shape[0] != len(self.seeds):
            raise UserError(
                f"{len(self.seeds)} seeds for {like.shape[0]} images: give one seed for each image"
            )
        return self.initial(like.shape[1:]).to(like.device, like.dtype)
