"""Paths between two noises."""

from __future__ import annotations

import torch
from torch import Tensor

# Below this sine the two directions are one line, and the great circle between them is not defined.
PARALLEL = 1e-4


def slerp(a: Tensor, b: Tensor, position: float | Tensor) -> Tensor:
    """Spherical interpolation, image by image: ``sin((1-p) w) / sin(w) a + sin(p w) / sin(w) b``.

    ``w`` is the angle between a and b, each image [C, H, W] taken as one vector. a, b: [B, C, H, W];
    position: a number, or one for each image [B]; 0 gives a, 1 gives b. Two independent noises are nearly
    orthogonal and of one length, and so is every point between them; where they are parallel the path is
    the straight one. No network call. Source: arXiv:2010.02502, Eq. 67.

    >>> slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
    tensor([[0.7071, 0.7071]])
    """
    p = _per_image(position, a)
    u, v = a.double().flatten(1), b.double().flatten(1)
    norms = u.norm(dim=1) * v.norm(dim=1)
    cosine = torch.where(norms > 0, (u * v).sum(1) / norms, 1.0)
    w = cosine.clamp(-1, 1).arccos().reshape(p.shape[0], *[1] * (a.ndim - 1))
    sine = w.sin()
    straight = sine < PARALLEL
    sine = sine.where(~straight, 1.0)
    first = torch.where(straight, 1 - p, ((1 - p) * w).sin() / sine)
    second = torch.where(straight, p, (p * w).sin() / sine)
    return (first * a + second * b).to(a.dtype)


def lerp(a: Tensor, b: Tensor, position: float | Tensor) -> Tensor:
    """Straight interpolation ``(1-p) a + p b``; arguments as for `slerp`.

    Between two noises of standard deviation 1 it passes ``sqrt((1-p)^2 + p^2)``: 0.71 in the middle.
    """
    p = _per_image(position, a)
    return ((1 - p) * a + p * b).to(a.dtype)


def _per_image(position: float | Tensor, like: Tensor) -> Tensor:
    p = torch.as_tensor(position, dtype=torch.float64, device=like.device)
    return p.expand(like.shape[0]).reshape(-1, *[1] * (like.ndim - 1))
