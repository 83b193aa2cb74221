"""A map over a large image, one tile at a time."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from noisette.errors import UserError


def _starts(side: int, tile: int, overlap: int, grain: int) -> list[int]:
    """First pixels of as few tiles as cover `side`, spread evenly on multiples of `grain`."""
    if side <= tile:
        return [0]
    steps = -(-(side - tile) // (tile - overlap))
    return [i * (side - tile) // steps // grain * grain for i in range(steps)] + [side - tile]


def _weights(starts: list[int], tile: int, overlap: int, scale: Fraction, like: Tensor) -> list[Tensor]:
    """How much each tile counts along its own output pixels; over all tiles they sum to 1 everywhere.

    From one tile to the next the weight passes in a line, `overlap / 2` long, in the middle of what the two
    share: a quarter of the overlap, where a tile misses its surroundings, is not used at all.
    """
    width = overlap * float(scale) / 2

    def handed_over(pixels: Tensor, after: int) -> Tensor:
        centre = (starts[after] + starts[after - 1] + tile) * float(scale) / 2
        return ((pixels - centre) / max(width, 1e-6) + 0.5).clamp(0, 1)

    weights = []
    for i, start in enumerate(starts):
        pixels = torch.arange(int(tile * scale), dtype=torch.float64, device=like.device)
        pixels = pixels + float(start * scale) + 0.5
        weight = handed_over(pixels, i) if i > 0 else torch.ones_like(pixels)
        if i < len(starts) - 1:
            weight = weight - handed_over(pixels, i + 1)
        weights.append(weight.to(like.dtype))
    return weights


def _check(shape: tuple[int, int], tile: int, overlap: int, scales: tuple[Fraction, Fraction]) -> None:
    for side, scale in zip(shape, scales, strict=True):
        grain = scale.denominator
        sizes = (tile, overlap) if side > tile else ()
        if any(size % grain for size in (side, *sizes)):
            raise UserError(
                f"this map makes one pixel of {grain}: side {side}, tile {tile} and overlap {overlap} "
                f"must be multiples of {grain}"
            )


def tiled(function: Callable[[Tensor], Tensor], x: Tensor, *, tile: int, overlap: int) -> Tensor:
    """`function(x)`, computed on overlapping tiles that are blended linearly: memory is that of one tile.

    function: [B, C, h, w] -> [B, D, h * scale, w * scale] for one fixed rational scale, such as
    `codec.to_latents` (1 / factor) or `codec.from_latents` (factor); it is read off the first tile.
    x: [B, C, H, W], of any size. `tile` and `overlap` are pixels of x, `0 <= overlap < tile`; both and the
    sides of x are multiples of the factor where function shrinks. A side no longer than `tile` is not cut.

    The result equals `function(x)` where function looks no further than `overlap / 4` pixels around each
    output pixel. Group norm and attention look everywhere: with them tiles are an approximation, better the
    larger the tile.
    Cost: `ceil((side - overlap) / (tile - overlap))` calls along each side, each of B tiles of equal size.
    Raises UserError for sizes that do not fit.
    """
    if not 0 <= overlap < tile:
        raise UserError(f"overlap {overlap} must be at least 0 and less than tile {tile}")
    sides = x.shape[-2], x.shape[-1]
    height, width = (min(side, tile) for side in sides)
    first = function(x[..., :height, :width])
    scales = Fraction(first.shape[-2], height), Fraction(first.shape[-1], width)
    _check(sides, tile, overlap, scales)
    if sides == (height, width):
        return first
    top, left = (_starts(s, tile, overlap, scale.denominator) for s, scale in zip(sides, scales, strict=True))
    like = first.new_empty((), dtype=torch.promote_types(first.dtype, torch.float32))
    down = _weights(top, height, overlap, scales[0], like)
    across = _weights(left, width, overlap, scales[1], like)
    out = like.new_zeros(*first.shape[:-2], int(sides[0] * scales[0]), int(sides[1] * scales[1]))
    for row, vertical in zip(top, down, strict=True):
        for column, horizontal in zip(left, across, strict=True):
            begun = row == column == 0
            part = first if begun else function(x[..., row : row + height, column : column + width])
            i, j = int(row * scales[0]), int(column * scales[1])
            place = out[..., i : i + part.shape[-2], j : j + part.shape[-1]]
            place += part * (vertical[:, None] * horizontal)
    return out.to(first.dtype)
