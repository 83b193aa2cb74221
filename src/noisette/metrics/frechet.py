"""The Frechet distance between two sets of feature vectors, each summarised by a Gaussian."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from noisette.errors import UserError


@dataclass(frozen=True)
class Statistics:
    """Count, mean and scatter of feature vectors, in float64; pieces merge in any order.

    count: [] ; mean: [D]; scatter: [D, D], the sum of `(f - mean)(f - mean)^T`.
    Source: Chan, Golub, LeVeque 1979 (pairwise update), stable where sums of squares are not.
    """

    count: Tensor
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Statistics:
        """The statistics of vectors [N, D]."""
        if features.ndim != 2 or not len(features):
            raise UserError(f"Statistics need vectors [N, D] with N >= 1, not {list(features.shape)}.")
        rows = features.detach().double()
        mean = rows.mean(0)
        centred = rows - mean
        return cls(rows.new_tensor(len(rows)), mean, centred.T @ centred)

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance [D, D]; raises UserError below two vectors."""
        if self.count < 2:
            raise UserError("A covariance needs at least 2 images.")
        return self.scatter / (self.count - 1)

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both sets together."""
        count = self.count + other.count
        gap = other.mean - self.mean
        mean = self.mean + gap * (other.count / count)
        scatter = self.scatter + other.scatter + torch.outer(gap, gap) * (self.count * other.count / count)
        return Statistics(count, mean, scatter)

    def update(self, features: Tensor) -> Statistics:
        """These statistics with more vectors [N, D] in them."""
        return self.merge(Statistics.of(features))

    def across_processes(self) -> Statistics:
        """The statistics of all processes of a torch.distributed group together; alone, these ones."""
        from torch import distributed

        if not (distributed.is_available() and distributed.is_initialized()):
            return self
        dim = len(self.mean)
        mine = torch.cat([self.count.reshape(1), self.mean, self.scatter.flatten()])
        theirs = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
        distributed.all_gather(theirs, mine)
        parts = (Statistics(p[0], p[1 : dim + 1], p[dim + 1 :].reshape(dim, dim)) for p in theirs)
        return reduce(Statistics.merge, parts)


def _factor(covariance: Tensor) -> Tensor:
    """F with `F F^T = covariance`; rounding below zero is taken as zero."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Squared Frechet (2-Wasserstein) distance of the two Gaussians; 0 means equal mean and covariance.

    `|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^{1/2})`. With `S = F F^T` the trace of the root is the
    nuclear norm of `F_a^T F_b`: singular values are found to machine precision, whereas the root of a
    small eigenvalue of `S_a S_b` keeps half the digits and an iterated matrix root fails on singular
    covariances. The estimate is biased upwards, by about 1/N: compare equal N only.
    Raises UserError when the feature sizes differ.
    Source: arXiv:1706.08500, Eq. 6.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(f"Features of size {len(a.mean)} and {len(b.mean)} do not compare: use one network.")
    root = torch.linalg.svdvals(_factor(a.covariance).T @ _factor(b.covariance)).sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * root
    return max(distance.item(), 0.0)
