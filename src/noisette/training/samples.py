"""The picture of a model while it learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from noisette.models import Model

__all__ = ["sample_grid", "tile"]

UNCONDITIONAL = 64
SHOWN = 32
"""Captions drawn."""
PER_LABEL = 4
MOST_LABELS = 16


@torch.no_grad()
def sample_grid(
    model: Model,
    *,
    prompts: Sequence[str] = (),
    seed: int = 0,
    steps: int = 20,
    guidance_scale: float | None = None,
) -> Tensor:
    """A grid [C, H, W] in [-1, 1], always from the same noise: one picture of each prompt in rows of 8, or a
    column for each label, or a square.

    At most 16 labels are shown. Costs ``steps`` network calls.
    """
    options: Any = {"num_inference_steps": steps, "seed": seed, "output_type": "torch"}
    labels = model.spec.labels
    if model.texts is not None:
        drawn = model.generate(list(prompts), guidance_scale=guidance_scale, **options)
        return tile(drawn.images, 8)
    if labels is None:
        return tile(model.generate(num_images_per_prompt=UNCONDITIONAL, **options).images, 8)
    shown = [i for _ in range(PER_LABEL) for i in range(min(len(labels), MOST_LABELS))]
    scale = 2.0 if guidance_scale is None else guidance_scale
    return tile(model.generate(label=shown, guidance_scale=scale, **options).images, len(shown) // PER_LABEL)


def tile(images: Tensor, columns: int) -> Tensor:
    """Images [N, C, H, W] in rows of ``columns``, two pixels of black between them: [C, H', W'].

    >>> tile(torch.zeros(6, 3, 8, 8), 3).shape
    torch.Size([3, 18, 28])
    """
    n, c, h, w = images.shape
    rows = -(-n // columns)
    sheet = images.new_full((c, rows * (h + 2) - 2, columns * (w + 2) - 2), -1.0)
    for i, image in enumerate(images):
        top, left = i // columns * (h + 2), i % columns * (w + 2)
        sheet[:, top : top + h, left : left + w] = image
    return sheet.cpu()
