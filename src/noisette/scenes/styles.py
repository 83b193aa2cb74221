"""The hands a scene can be drawn by: cartoon, colored pencils, watercolor; the photo is in `shading`.

Everything an artist sees is in `Lit`. Marks are measured in fractions of the picture's width, and the paper
and its strokes are the same in every picture, as noise of the place on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from noisette.scenes.textures import luminance, noise, paper_grid, smoothstep, srgb

LINES = 28
"""Strokes of hatching across the width."""

__all__ = ["Lit", "cartoon", "develop", "outlines", "photo", "sketch", "watercolor"]


@dataclass(frozen=True)
class Lit:
    """What is known of b pictures of n x n when they are to be drawn; all light is linear.

    albedo, gloss, backdrop [b, 3, n, n]: reflectance, mirrored light, and what is seen where haze is 1.
    key, open, up, haze [b, 1, n, n]: cosine to the sun where it is seen, how much of the sky is seen, how
    much a surface faces up, how far the floor has faded into the backdrop. sun, sky, bounce [b, 3, 1, 1]:
    light of the sun, of the sky and from the floor. noon [b, 1, 1, 1]: key of the open floor.
    normal [b, 3, n, n], depth, instance [b, n, n]: as the surface has them. crease [b, n, n]: where folds
    may be outlined.
    """

    albedo: Tensor
    gloss: Tensor
    backdrop: Tensor
    key: Tensor
    open: Tensor
    up: Tensor
    haze: Tensor
    sun: Tensor
    sky: Tensor
    bounce: Tensor
    noon: Tensor
    normal: Tensor
    depth: Tensor
    instance: Tensor
    crease: Tensor

    def pick(self, index: Tensor) -> Lit:
        """The pictures of those indices."""
        return Lit(*(getattr(self, f.name)[index] for f in fields(self)))

    def irradiance(self, key: Tensor, open: Tensor) -> Tensor:
        """Light that falls on each point, for a key and an openness of the artist's choice."""
        return self.sun * key + open * torch.lerp(self.bounce, self.sky, self.up)

    def seen(self, key: Tensor, open: Tensor, gloss: Tensor) -> Tensor:
        """Light that comes from each point: reflected, mirrored, and faded into the backdrop."""
        return torch.lerp(self.albedo * self.irradiance(key, open) + gloss, self.backdrop, self.haze)


def develop(light: Tensor) -> Tensor:
    """Light as it is displayed in [0, 1]: true up to 0.7, then bent to approach 1."""
    bent = 0.7 + 0.3 * (1 - torch.exp((0.7 - light).clamp(max=0) / 0.3))
    return srgb(torch.where(light < 0.7, light, bent).clamp_(min=0))


def photo(lit: Lit) -> Tensor:
    """As a camera sees it."""
    return develop(lit.seen(lit.key, lit.open, lit.gloss))


def cartoon(lit: Lit) -> Tensor:
    """Flat tones with crisp edges, stronger colors, and ink outlines."""
    key = 0.5 * smoothstep(0.06, 0.1, lit.key) + 0.42 * smoothstep(0.52, 0.57, lit.key)
    open = 0.82 + 0.18 * smoothstep(0.5, 0.56, lit.open)
    shine = smoothstep(0.3, 0.36, luminance(lit.gloss) / luminance(lit.sun + lit.sky))
    color = develop(lit.seen(key, open, 0.75 * shine * (lit.sun + lit.sky).clamp(max=1)))
    gray = luminance(color)
    color = (gray + 1.22 * (color - gray)).clamp_(0, 1)
    ink = color.new_tensor((0.07, 0.05, 0.11))[:, None, None]
    return torch.lerp(color, ink, outlines(lit, 0.009)[:, None])


def outlines(lit: Lit, width: float) -> Tensor:
    """Lines [b, n, n] as wide as that part of the picture: 1 around objects, 0.6 where they fold, else 0."""
    n = lit.depth.shape[-1]
    k = math.ceil(width * n)
    # Around an object the line lies outside it, on a lower instance, so that small ones keep their color.
    part = lit.instance.clamp(min=-1).float()
    lines = (_widest(part, k) > part).float()
    near = 1 / lit.depth.clamp(max=1e3)  # even over a plane, where depth is not
    normal, disparity, whose = (
        F.pad(v, (k,) * 4, mode="replicate") for v in (lit.normal, near[:, None], part[:, None])
    )
    for (ay, ax), (by, bx) in (((k, 0), (k, 2 * k)), ((0, k), (2 * k, k))):
        first, last = (slice(ay, ay + n), slice(ax, ax + n)), (slice(by, by + n), slice(bx, bx + n))
        fold = (normal[:, :, *first] * normal[:, :, *last]).sum(1) < 0.3
        bend = near - 0.5 * (disparity[:, 0, *first] + disparity[:, 0, *last])
        within = (whose[:, 0, *first] == part) & (whose[:, 0, *last] == part) & (part >= 0)
        lines = torch.where(within & (bend < -0.025 * near), 1.0, lines)
        lines = torch.where(within & fold & lit.crease, lines.clamp(min=0.6), lines)
    return lines


def _widest(x: Tensor, k: int) -> Tensor:
    """Largest value within k samples along rows and columns."""
    rows = F.max_pool2d(x[:, None], (1, 2 * k + 1), 1, (0, k))
    return F.max_pool2d(rows, (2 * k + 1, 1), 1, (k, 0))[:, 0]


def _strokes(n: int, device: torch.device, angle: float, seed: int) -> Tensor:
    """A field of pencil strokes [n, n] in [0, 1]: its part below a share d is drawn where darkness is d."""
    x, y = paper_grid(n, device)
    cos, sin = math.cos(angle), math.sin(angle)
    along, across = x * cos + y * sin, y * cos - x * sin
    across = across + 0.014 * (noise(along * 3, across * 3, seed) - 0.5)
    lines = 2 * ((across * LINES).remainder(1) - 0.5).abs()
    broken = noise(across * LINES, along * 6 + 0.5 * lines, seed + 1)
    tooth = noise(x * 190, y * 190, seed + 2)
    return 0.6 * lines + 0.24 * broken + 0.16 * tooth


def sketch(lit: Lit) -> Tensor:
    """Colored pencils on white paper: each color laid lightly, then hatched where it is dark."""
    n, device = lit.depth.shape[-1], lit.depth.device
    down, across = _strokes(n, device, -0.9, 21), _strokes(n, device, 0.55, 31)
    thing = lit.instance[:, None] >= 0
    # What is lit as the open floor is stays unhatched: the hour is told by the pencils' colors instead.
    full = luminance(lit.sun * torch.where(thing, 0.8, lit.noon) + lit.sky)
    light = luminance(lit.irradiance(lit.key, lit.open)) / full
    hour = lit.sun * 0.8 + lit.sky
    hour = hour / hour.amax(1, keepdim=True).clamp(min=1)
    hour = torch.where(thing, 0.5 + 0.5 * hour, hour)
    pencil, air = srgb((lit.albedo * hour).clamp(0, 1)), srgb(lit.backdrop)
    gray = luminance(pencil)
    pencil = (gray + 1.25 * (pencil - gray)).clamp_(0, 1)
    color = torch.lerp(pencil, air, lit.haze)
    x, y = paper_grid(n, device)
    paper = 0.985 - 0.03 * noise(x * 240, y * 240, 41)
    # First the color itself, laid with the side of the lead; where it is dark, over and over.
    share = torch.where(thing, 0.92, 0.62 + 0.3 * (1 - luminance(air)))
    picture = paper * (1 - share * (1.12 - 0.45 * down) * (1 - color))
    # Then darkness, as hatching, and once more across it in the deepest shade.
    dark = (1 - light).clamp(0, 1) * (1 - lit.haze)
    deep = 0.25 + 0.5 * color
    for field, low, high in ((down, 0.12, 0.85), (across, 0.5, 1.0)):
        mark = smoothstep(0.12, -0.12, field - ((dark - low) / (high - low)).clamp(-0.2, 1) * 0.8)
        picture = torch.lerp(picture, picture * deep, 0.72 * mark)
    shine = smoothstep(0.3, 0.45, luminance(lit.gloss) / luminance(lit.sun + lit.sky))
    picture = torch.lerp(picture, paper.expand_as(picture), 0.92 * shine)
    lines = _moved(outlines(lit, 0.006)[:, None], n, device, 0.005) * (1.15 - 0.5 * down).clamp(max=1)
    return torch.lerp(picture, picture.new_tensor((0.2, 0.19, 0.23))[:, None, None], 0.85 * lines)


def _moved(picture: Tensor, n: int, device: torch.device, far: float, pitch: float = 14) -> Tensor:
    """[b, c, n, n] seen through slightly uneven glass: points shift by up to `far` of the width."""
    x, y = paper_grid(n, device)
    dx, dy = (2 * far * (noise(x * pitch, y * pitch, seed) - 0.5) for seed in (51, 52))
    column, row = (((p + d) * n).floor().clamp(0, n - 1).long() for p, d in ((x, dx), (y, dy)))
    return picture.flatten(2).index_select(2, (row * n + column).flatten()).view(picture.shape)


def _blurred(picture: Tensor, k: int) -> Tensor:
    """Mean within k samples along rows and columns."""
    picture = F.avg_pool2d(picture, (1, 2 * k + 1), 1, (0, k), count_include_pad=False)
    return F.avg_pool2d(picture, (2 * k + 1, 1), 1, (k, 0), count_include_pad=False)


def watercolor(lit: Lit) -> Tensor:
    """Washes of pigment that gather at their edges and in the grain of the paper, which shines through."""
    n, device = lit.depth.shape[-1], lit.depth.device
    x, y = paper_grid(n, device)
    # Three washes, one over the other, instead of a smooth shade.
    key = 0.25 * lit.key + 0.35 * smoothstep(0.1, 0.22, lit.key) + 0.4 * smoothstep(0.5, 0.75, lit.key)
    color = _moved(develop(lit.seen(key, lit.open, 0.8 * lit.gloss)), n, device, 0.007, 9)
    # Density of pigment: what it takes to make paper that color. It runs over edges and dries darker there.
    density = _blurred(-torch.log(color.clamp_(0.03, 0.98)), max(1, round(0.0025 * n)))
    total = density.mean(1, keepdim=True)
    far = max(1, round(0.009 * n))
    edge = total - _blurred(_blurred(total, far), far)
    gathered = (1 + 1.7 * edge / (total + 0.15)).clamp_(0.5, 1.6)
    pools = noise(x * 4, y * 4, 61) + 0.5 * noise(x * 9, y * 9, 62) - 0.75
    front = noise(x * 3.3, y * 3.3, 67) + 0.25 * noise(x * 14, y * 14, 68) - 0.62
    grain = noise(x * 120, y * 120, 63) + noise(x * 230, y * 230, 64) - 1
    dried = smoothstep(0.0, 0.02, front) * smoothstep(0.25, 0.0, front)
    texture = 0.8 + 0.4 * pools + 0.16 * dried + 0.13 * grain
    # Where the brush stopped: a ragged margin with a dark rim.
    rim = torch.minimum(torch.minimum(x, 1 - x), torch.minimum(y, 1 - y))
    rim = rim + 0.022 * (noise(x * 9, y * 9, 65) - 0.5) + 0.01 * (noise(x * 31, y * 31, 66) - 0.5)
    brushed = smoothstep(0.012, 0.02, rim) * (1 + 0.3 * smoothstep(0.04, 0.02, rim))
    paper = density.new_tensor((0.985, 0.975, 0.95))[:, None, None] - 0.02 * grain
    return paper * torch.exp(-density * (gathered * (texture * brushed)))
