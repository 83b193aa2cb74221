"""The kernel distance (KID): an unbiased comparison of two sets of feature vectors, fit for small sets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from noisette.errors import UserError


class KernelDistance(NamedTuple):
    """Mean and standard deviation of the squared MMD over subsets."""

    mean: float
    std: float


def squared_mmd(a: Tensor, b: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy of vectors a, b [N, D] under `k(x, y) = (x.y / D + 1)^3`.

    `(sum_{i!=j} k(a_i, a_j) + sum_{i!=j} k(b_i, b_j)) / (N (N - 1)) - 2 mean k(a_i, b_j)`; its expectation
    is 0 for two samples of one distribution, so single values may be negative.
    """
    n = len(a)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)

    aa, bb, ab = kernel(a, a), kernel(b, b), kernel(a, b)
    within = aa.sum() - aa.trace() + bb.sum() - bb.trace()
    return within / (n * (n - 1)) - 2 * ab.mean()


def kernel_distance(
    real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """Average the squared MMD over random subsets of vectors real [N, D] and fake [M, D], in float64.

    Subsets are drawn without replacement and shrink to the smaller set where that has fewer vectors.
    Raises UserError when a set has fewer than 2 vectors or the feature sizes differ.
    Source: arXiv:1801.01401, Sec. 4.
    """
    size = min(subset_size, len(real), len(fake))
    if size < 2 or subsets < 1:
        raise UserError("A kernel distance needs at least 2 images on each side and at least 1 subset.")
    if real.shape[1] != fake.shape[1]:
        raise UserError(
            f"Features of size {real.shape[1]} and {fake.shape[1]} do not compare: use one network."
        )
    rng = torch.Generator().manual_seed(seed)
    real, fake = real.double(), fake.double()

    def pick(rows: Tensor) -> Tensor:
        return rows[torch.randperm(len(rows), generator=rng)[:size].to(rows.device)]

    values = torch.stack([squared_mmd(pick(real), pick(fake)) for _ in range(subsets)])
    return KernelDistance(values.mean().item(), values.std(correction=0).item())
