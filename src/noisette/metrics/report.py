"""One call that compares two sets of images in every way the library knows."""

from __future__ import annotations

import torch
from torch import Tensor

from noisette.metrics.features import Features, Images, collect
from noisette.metrics.frechet import Statistics, frechet_distance
from noisette.metrics.kernel import kernel_distance
from noisette.metrics.manifold import precision_recall


def compare(real: Tensor, fake: Tensor, *, seed: int = 0) -> dict[str, float | int]:
    """Compare feature vectors real [N, D] and fake [M, D] at equal count; see `evaluate` for the result."""
    rng = torch.Generator().manual_seed(seed)
    n = min(len(real), len(fake))
    # A data set often comes sorted by class: its head would be one class, a random subset is fair.
    a, b = (rows[torch.randperm(len(rows), generator=rng)[:n]] for rows in (real, fake))
    kernel = kernel_distance(a, b, seed=seed)
    precision, recall = precision_recall(a, b)
    return {
        "frechet": frechet_distance(Statistics.of(a), Statistics.of(b)),
        "kid": kernel.mean,
        "kid_std": kernel.std,
        "precision": precision,
        "recall": recall,
        "n": n,
        "n_real": len(real),
        "n_fake": len(fake),
    }


def evaluate(features: Features, real: Images, fake: Images, *, seed: int = 0) -> dict[str, float | int]:
    """Measure how well fake images match real ones, in the eyes of one feature network.

    real, fake: tensors [N, C, H, W] in [-1, 1] or iterables of such batches, rounded to uint8 levels first.
    Returns frechet, kid, kid_std, precision, recall, n (images compared on each side), n_real and n_fake
    (images given). Small sets bias the Frechet distance upwards, so the larger set is cut to a random subset
    (by `seed`) of equal count; results at different n do not compare.
    Raises UserError on empty, too small or non-finite sets. Cost: one call of `features` per batch.
    """
    return compare(collect(features, real), collect(features, fake), seed=seed)
