"""Which drawn images are copies of training images?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from noisette.errors import UserError
from noisette.metrics.manifold import squared_distances

__all__ = ["Copies", "copies"]

NEIGHBOURS, ALPHA = 50, 0.5


@dataclass(frozen=True)
class Copies:
    """The nearest training image of every drawn one.

    index, distance: [N]; ratio: [N], the distance over ``alpha`` times the mean distance to the 50 nearest.
    A ratio of at most 1 marks a copy: an image much nearer to one training image than to its like.
    """

    index: Tensor
    distance: Tensor
    ratio: Tensor

    @property
    def found(self) -> Tensor:
        """Which are copies, bool [N]."""
        return self.ratio <= 1

    @property
    def count(self) -> int:
        """How many different training images are copied."""
        return len(self.index[self.found].unique())


def copies(drawn: Tensor, training: Tensor, *, neighbours: int = NEIGHBOURS, alpha: float = ALPHA) -> Copies:
    """Compare drawn images with training images, both as vectors [N, D] and [M, D]: pixels or features.

    ``l2(x, y) / (alpha * mean of l2(x, z) over the 50 nearest z)``: a plain threshold on l2 would call every
    flat picture a copy. Where ``neighbours`` of the training images are alike to the last pixel, an image
    that equals them has ratio 1 / alpha and is not found: remove duplicates first.
    Cost: O(N M D) time, O(N + M) memory. Source: arXiv:2301.13188, Section 5.1.
    Raises UserError for vectors of different sizes, or fewer training images than neighbours.
    """
    if drawn.ndim != 2 or training.ndim != 2 or drawn.shape[1] != training.shape[1]:
        raise UserError(f"vectors [N, D] are compared, not {list(drawn.shape)} with {list(training.shape)}")
    if not 1 <= neighbours <= len(training):
        raise UserError(
            f"{neighbours} neighbours among {len(training)} training images: take fewer neighbours"
        )
    centre = training.double().mean(0)
    found = [
        squares.topk(neighbours, largest=False)
        for squares in squared_distances(drawn.double() - centre, training.double() - centre)
    ]
    distances = torch.cat([part.values for part in found]).clamp(min=0).sqrt()
    typical = alpha * distances.mean(1)
    ratio = torch.where(typical > 0, distances[:, 0] / typical.clamp(min=1e-300), 1 / alpha)
    return Copies(torch.cat([part.indices[:, 0] for part in found]), distances[:, 0], ratio)
