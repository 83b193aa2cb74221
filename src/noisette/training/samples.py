"""The picture of a model while it learns."""

from __future__ import annotations

import torch
from torch import Tensor

from noisette.models import Model

__all__ = ["sample_grid", "tile"]

UNCONDITIONAL = 64
PER_LABEL = 4
MOST_LABELS = 16


@torch.no_grad()
def sample_grid(model: Model, *, seed: int = 0, steps: int = 20, guidance_scale: float = 2.0) -> Tensor:
    """A grid [C, H, W] in [-1, 1], always from the same noise: a column for each label, or a square.

    At most 16 labels are shown. Costs ``steps`` network calls.
    """
    labels = model.spec.labels
    if labels is None:
        images = model.generate(
            num_images_per_prompt=UNCONDITIONAL, num_inference_steps=steps, seed=seed, output_type="torch"
        )
        return tile(images.images, 8)
    shown = [i for _ in range(PER_LABEL) for i in range(min(len(labels), MOST_LABELS))]
    images = model.generate(
        label=shown, num_inference_steps=steps, guidance_scale=guidance_scale, seed=seed, output_type="torch"
    )
    return tile(images.images, len(shown) // PER_LABEL)


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
