"""Images in, feature vectors out: the one door through which every distribution metric looks at images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from noisette.errors import UserError
from noisette.pixels import from_uint8, to_uint8

Features = Callable[[Tensor], Tensor]
"""A feature network: images [B, C, H, W] in [-1, 1] -> vectors [B, D]."""

Images = Tensor | Iterable[Tensor]
"""One tensor [N, C, H, W] in [-1, 1], or an iterable of such batches."""


def quantize(images: Tensor) -> Tensor:
    """Round images to what an 8-bit file keeps: `round((x + 1) * 127.5)` clipped to 0..255, back in [-1, 1].

    images: [..., H, W] of any float type; returns float32 of the same shape. Metrics see images as files
    see them: float images score better than the files made from them, and truncation shifts every distance.
    Raises UserError when a value is not finite.
    """
    if not torch.isfinite(images).all():
        raise UserError("The images hold NaN or infinity and cannot be measured: check how they were made.")
    return from_uint8(to_uint8(images))


def batched(images: Images, size: int = 256) -> Iterator[Tensor]:
    """Read one tensor in batches of `size`; an iterable of batches passes as it is."""
    return iter(images.split(size)) if isinstance(images, Tensor) else iter(images)


@torch.no_grad()
def collect(features: Features, images: Images) -> Tensor:
    """Run every image, rounded to uint8 levels first, through a feature network.

    images: one tensor [N, C, H, W] or batches of it, values in [-1, 1]. Returns float32 [N, D] on the CPU.
    Raises UserError when there is no image, when a value is not finite, or when the network returns
    anything but [B, D]. Cost: one call of `features` per batch.
    """
    rows = []
    for batch in batched(images):
        row = features(quantize(batch))
        if row.ndim != 2 or len(row) != len(batch):
            raise UserError(
                f"A feature network must return [B, D]: for {len(batch)} images it gave {list(row.shape)}."
            )
        rows.append(row.float().cpu())
    if not sum(map(len, rows)):
        raise UserError("There are no images to measure.")
    return torch.cat(rows)
