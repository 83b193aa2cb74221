"""Pictures a little disturbed, whose truth stays, and pictures that show nothing."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from noisette.training.reader.shards import Pictures

MOST_NOISE, LEAST_RUIN = 0.12, 0.6
"""Standard deviations of noise, pictures being in [-1, 1]: up to the first the truth stays, from the second
on nothing can be read. What is in between is not taught either way."""

VOID_SHARE = 0.125
"""Share of a batch that shows nothing."""


def uniform(low: float, high: float, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=rng) * (high - low) + low


def mirrored(batch: Pictures, rng: torch.Generator) -> Pictures:
    """Every second picture seen in a mirror: what was right is left."""
    flip = torch.rand(len(batch), generator=rng) < 0.5
    turned = {
        name: torch.where(flip.view(-1, *[1] * (value.ndim - 1)), value.flip(-1), value)
        for name, value in (("rgb", batch.rgb), ("owner", batch.owner))
    }
    sign = torch.where(flip, -1.0, 1.0)[:, None, None] * torch.tensor([1.0, 0.0]) + torch.tensor([0.0, 1.0])
    return replace(batch, **turned, place=batch.place * sign)


def softened(x: Tensor, amount: Tensor) -> Tensor:
    """Pictures blended with a 3x3 binomial blur of themselves, by amount [B] in [0, 1]."""
    line = torch.tensor([0.25, 0.5, 0.25], device=x.device)
    kernel = torch.outer(line, line).expand(x.shape[1], 1, 3, 3)
    blurred = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=x.shape[1])
    return torch.lerp(x, blurred, amount.view(-1, 1, 1, 1))


def disturb(x: Tensor, rng: torch.Generator) -> Tensor:
    """Blur, dim, tint and add noise, each mildly, each to every second picture [B, 3, H, W] in [-1, 1]."""
    n = len(x)
    x = softened(x, uniform(-1, 1, (n,), rng).clamp(min=0))
    x = (x + 1) * (
        1 + 0.05 * uniform(-1, 1, (n, 1, 1, 1), rng) + 0.02 * uniform(-1, 1, (n, 3, 1, 1), rng)
    ) - 1
    noise = torch.randn(x.shape, generator=rng)
    return (x + noise * uniform(-MOST_NOISE, MOST_NOISE, (n, 1, 1, 1), rng).clamp(min=0)).clamp(-1, 1)


def voids(x: Tensor, rng: torch.Generator) -> Tensor:
    """As many pictures that show nothing readable, some of them made from the pictures [B, 3, 64, 64]."""
    makers = (_noise, _clouds, _plain, _ruined, _drowned, _overlaid, _shuffled)
    return torch.stack(
        [makers[int(torch.randint(len(makers), (), generator=rng))](x, i, rng) for i in range(len(x))]
    ).clamp(-1, 1)


def _noise(x: Tensor, i: int, rng: torch.Generator) -> Tensor:
    """White noise about some gray."""
    return torch.randn(x.shape[1:], generator=rng) * uniform(0.1, 1.2, (), rng) + uniform(
        -0.7, 0.7, (3, 1, 1), rng
    )


def _clouds(x: Tensor, i: int, rng: torch.Generator) -> Tensor:
    """Colored noise of one scale, from a gradient across the picture to blotches of four pixels."""
    cells = int(2 ** torch.randint(1, 5, (), generator=rng))
    rough = torch.randn((1, 3, cells, cells), generator=rng) * uniform(0.1, 0.8, (), rng)
    smooth = F.interpolate(rough, x.shape[-2:], mode="bicubic", align_corners=False)[0]
    return smooth + uniform(-0.7, 0.7, (3, 1, 1), rng)


def _plain(x: Tensor, i: int, rng: torch.Generator) -> Tensor:
    """One color, or two that meet at a level line, with a little noise."""
    above, below = uniform(-1, 1, (2, 3, 1, 1), rng)
    row = torch.randint(-x.shape[-2], x.shape[-2], (), generator=rng)
    sky = (torch.arange(x.shape[-2]) < row)[:, None]
    plain = torch.where(sky, above, below).expand(x.shape[1:])
    return plain + torch.randn(x.shape[1:], generator=rng) * uniform(-0.1, 0.1, (), rng).clamp(min=0)


def _ruined(x: Tensor, i: int, rng: torch.Generator) -> Tensor:
    """A picture blurred by more than an object is wide: averaged down to 3 to 7 cells across."""
    cells = int(torch.randint(3, 8, (), generator=rng))
    return F.interpolate(
        F.interpolate(x[i : i + 1], (cells, cells), mode="area"),
        x.shape[-2:],
        mode="bicubic",
        align_corners=False,
    )[0]


def _drowned(x: Tensor, i: int, rng: torch.Generator) -> Tensor:
    """A picture most of the way through diffusion."""
    sigma = uniform(LEAST_RUIN, 1, (), rng)
    return (1 - sigma**2).sqrt() * x[i] + sigma * torch.randn(x.shape[1:], generator=rng)


def _overlaid(x: Tensor, i: int, rng: torch.Generator) -> Tensor:
    """The mean of several pictures."""
    others = torch.randint(len(x), (int(torch.randint(3, 9, (), generator=rng)),), generator=rng)
    return x[others].mean(0)


def _shuffled(x: Tensor, i: int, rng: torch.Generator) -> Tensor:
    """A picture cut into tiles of 4 or 8 pixels, in any order."""
    tile = int(4 * 2 ** torch.randint(2, (), generator=rng))
    tiles = F.unfold(x[i : i + 1], tile, stride=tile)
    order = torch.randperm(tiles.shape[-1], generator=rng)
    return F.fold(tiles[..., order], x.shape[-2:], tile, stride=tile)[0]
