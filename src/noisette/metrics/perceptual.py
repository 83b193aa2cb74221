"""A perceptual distance without a download: LPIPS's shape on a fixed random convolutional pyramid."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from noisette.errors import UserError

_CHANNELS = (3, 32, 64, 128, 128, 128)
_SMALLEST = 16
# Features weaker than this on average, for pictures of contrast 1, are silence rather than a direction:
# without it the noise of a plain wall would weigh as much as a face.
_SILENCE = 0.1


def _stream(name: str, count: int) -> Tensor:
    """`count` nearly normal integers of mean 0 and variance 21845: centred sums of four SHAKE-256 bytes."""
    raw = bytearray(hashlib.shake_256(name.encode()).digest(4 * count))
    return torch.frombuffer(raw, dtype=torch.uint8).view(count, 4).sum(1, dtype=torch.int64) - 510


def filters() -> list[Tensor]:
    """The 3x3 filters of the five depths, [out, in, 3, 3], variance `2 / (9 in)` (He), always the same.

    Their float32 bits are the same on every machine and under every version of anything: integers from a
    hash function, times one correctly rounded constant. No generator of random numbers, logarithm or matrix
    factorisation takes part. At the first depth three quarters of each filter's mean over its pixels are
    taken away, so that light and colour count, but less than structure does.
    """
    made = []
    for depth, (before, after) in enumerate(pairwise(_CHANNELS)):
        drawn = _stream(f"noisette perceptual pyramid, depth {depth}", after * before * 9)
        drawn = drawn.view(after, before, 3, 3)
        # w - 3/4 mean(w) = (12 w - sum(w)) / 12, in integers: sums of floats depend on their order.
        twelfths = 12 * drawn - (drawn.sum((2, 3), keepdim=True) if depth == 0 else 0)
        made.append((twelfths.double() * (math.sqrt(2 / (9 * before * 21845)) / 12)).float())
    return made


@cache
def _filters(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    with torch.inference_mode(False):  # kept for calls that differentiate
        return [weight.to(device, dtype) for weight in filters()]


def _directions(x: Tensor) -> Iterator[Tensor]:
    """At each depth, the features of every position as a vector of length 1 (shorter where it is silent)."""
    for depth, weight in enumerate(_filters(x.device, x.dtype)):
        if depth > 0:
            x = F.avg_pool2d(x, 2, ceil_mode=True)
        x = F.relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight))
        yield x * (x.square().sum(1, keepdim=True) + x.shape[1] * _SILENCE**2).rsqrt()


def perceptual_distance(x: Tensor, y: Tensor) -> Tensor:
    """How different do two pictures look? 0 for equal ones, differentiable in both.

    `d = sum_l mean_hw sum_c (f_l(x) - f_l(y))^2`, where `f_l` are the features at depth l of a convolutional
    pyramid (3x3, ReLU, halved between depths; 32 to 128 channels at 5 depths), unit-normalised over the
    channels at each position.

    This is LPIPS's form on RANDOM filters that no data has touched. It answers as LPIPS does where the form
    is what matters: a blurred picture is much farther than one whose light changed by the same mean error,
    and a shift costs the more the longer it is. It knows no objects, its channels carry no learned weights,
    and its numbers cannot be compared with published LPIPS values.

    x, y: [B, 3, H, W] in [-1, 1], H, W >= 16; returns [B] in [0, 10], usually below 3, float32 (float64 for
    float64 images).
    Raises UserError for other shapes. Cost: about 13k multiply-adds per pixel and picture.
    Source: arXiv:1801.03924, Eq. 1 (the form; its "random" networks are the closest relatives).
    """
    if x.shape != y.shape or x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < _SMALLEST:
        raise UserError(
            f"pictures to be compared must both be [B, 3, H, W] with sides of at least {_SMALLEST}, "
            f"not {list(x.shape)} and {list(y.shape)}; repeat a grey channel three times"
        )
    kind = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        depths = zip(_directions(x.to(kind)), _directions(y.to(kind)), strict=True)
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in depths]).sum(0)


def perceptual_features(x: Tensor) -> Tensor:
    """A picture as a vector, [B, 480]: its features in `perceptual_distance`, averaged over all positions.

    For distances between sets of pictures that no trained network knows, such as one's own. Such distances
    tell sets apart and rank models on the same data, but compare with no published ones.
    x: [B, 3, H, W] in [-1, 1], H, W >= 16. Raises UserError for other shapes. Cost: as there.
    Source: arXiv:2002.09797, Section 3.2 (random embeddings for data far from ImageNet).
    """
    if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < _SMALLEST:
        raise UserError(f"pictures are [B, 3, H, W] with sides of at least {_SMALLEST}, not {list(x.shape)}")
    kind = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return torch.cat([depth.mean((2, 3)) for depth in _directions(x.to(kind))], 1)
