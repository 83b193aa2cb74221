"""Fidelity and diversity apart: does each image lie on the manifold, a union of balls, of the other set?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from noisette.errors import UserError

CHUNK = 1024


def squared_distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Squared distances of CHUNK rows of a [N, D] at a time to all of b [M, D]; exactly 0 for equal rows."""
    norms = b.square().sum(1)
    for rows in a.split(CHUNK):
        own = rows.square().sum(1, keepdim=True)
        squares = (rows @ b.T).mul_(-2).add_(own).add_(norms)
        yield squares.masked_fill_(squares <= 2e-12 * own, 0)


def _radii(points: Tensor, k: int) -> Tensor:
    """Squared distance [N] of every point to its k-th nearest neighbour, itself not counted."""
    nearest = [squares.topk(k + 1, largest=False).values for squares in squared_distances(points, points)]
    return torch.cat(nearest)[:, -1]


def _prepare(real: Tensor, fake: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if min(len(real), len(fake)) <= k:
        raise UserError(f"Manifolds of {k} neighbours need more than {k} images on each side.")
    if real.shape[1] != fake.shape[1]:
        raise UserError(
            f"Features of size {real.shape[1]} and {fake.shape[1]} do not compare: use one network."
        )
    centre = real.double().mean(0)
    return real.double() - centre, fake.double() - centre


def _covered(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Fraction of points that lie in at least one ball."""
    inside = [(squares <= radii).any(1) for squares in squared_distances(points, centres)]
    return torch.cat(inside).double().mean().item()


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision (fakes on the real manifold) and recall (reals on the fake one), each in [0, 1].

    A manifold is the union of balls around its points [N, D], each reaching its k-th nearest neighbour.
    Both depend on the counts: compare equal N only. Cost: O(N^2 D) time, O(N) memory.
    Raises UserError when a set has at most k vectors. Source: arXiv:1904.06991, Eqs. 1 and 2.
    """
    real, fake = _prepare(real, fake, k)
    return _covered(fake, real, _radii(real, k)), _covered(real, fake, _radii(fake, k))


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> tuple[float, float]:
    """Density (real balls around a fake, over k; may exceed 1) and coverage (real balls with a fake).

    Both use the real manifold only, so one stray fake cannot raise them as it can raise recall.
    Raises UserError when a set has at most k vectors. Source: arXiv:2002.09797, Eqs. 4 and 5.
    """
    real, fake = _prepare(real, fake, k)
    chunks = zip(squared_distances(real, fake), _radii(real, k).split(CHUNK), strict=True)
    holding = torch.cat([(squares <= radii[:, None]).sum(1) for squares, radii in chunks])
    return holding.sum().item() / (k * len(fake)), (holding > 0).double().mean().item()
