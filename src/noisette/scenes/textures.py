"""What things are made of: the palette, stripes, floors, and the noise that paper and wood are made from.

Colors are written as a person sees them (sRGB) and computed with as light (linear, Rec. 709 primaries).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noisette.scenes.camera import View
from noisette.scenes.figure import keypoints
from noisette.scenes.layout import Placement, World
from noisette.scenes.scene import COLORS, FLOOR_COLORS, FLOOR_PATTERNS, MATERIALS, SHAPES, Object
from noisette.scenes.trace import FLOOR, Surface

__all__ = [
    "PALETTE", "STRIPE", "albedo", "dyed", "hashed", "linear", "luminance", "noise", "on_eye", "paper_grid",
    "smoothstep", "srgb", "unit",
]  # fmt: skip

PALETTE = {
    "red": "#d52b30", "orange": "#f5821f", "yellow": "#f8d42c", "green": "#38a047", "cyan": "#37c8cf",
    "blue": "#2b57cf", "purple": "#7636b0", "pink": "#fb92b6", "brown": "#6a3e27", "white": "#f4f2ee",
}  # fmt: skip
FLOOR_PALETTE = {
    "gray": "#93949a", "beige": "#d6bf98", "green": "#7dac78", "blue": "#6d92c4", "white": "#e9e7e3",
}  # fmt: skip
SKIN, EYE = "#e9b48f", "#2a2024"
STRIPE, STRIPE_ON_WHITE = "#f3ecdd", "#6b6e76"
WOOD = "#c99a68"

EYE_SIZE = 0.065
"""In units of r."""
STRIPED = MATERIALS.index("striped")
TILE, PLANK, BOARD = 0.6, 0.42, 4.2
"""World units: edge of a floor tile; width and length of a plank."""


def linear(color: str) -> tuple[float, float, float]:
    """Light of an sRGB color "#rrggbb"."""
    r, g, b = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return tuple(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (r, g, b))  # pyright: ignore[reportReturnType]


def srgb(light: Tensor) -> Tensor:
    """Light in [0, 1] as it is displayed, in [0, 1]."""
    return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp(min=1e-4) ** (1 / 2.4) - 0.055)


def luminance(color: Tensor) -> Tensor:
    """[B, 3, n, n] to [B, 1, n, n]."""
    r, g, b = color.split(1, 1)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def unit(v: Tensor) -> Tensor:
    """Vectors [B, 3, n, n] of length 1."""
    return v * (v * v).sum(1, keepdim=True).clamp_(min=1e-12).rsqrt_()


def smoothstep(low: float, high: float, x: Tensor) -> Tensor:
    """0 below low, 1 above high, smooth between; falls where low > high."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def hashed(x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
    """A random number in [0, 1) for each pair of whole numbers, the same on every machine."""
    h = (x.long() * 374761393 + y.long() * 668265263 + seed * 1442695041) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFFFF).float() / 2**24


def noise(x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
    """Value noise in [0, 1] with a lattice of whole numbers."""
    i, j = x.floor(), y.floor()
    u, v = x - i, y - j
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    top = torch.lerp(hashed(i, j, seed), hashed(i + 1, j, seed), u)
    return torch.lerp(top, torch.lerp(hashed(i, j + 1, seed), hashed(i + 1, j + 1, seed), u), v)


def paper_grid(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x and y [n, n] of the picture, whose width is 1."""
    line = (torch.arange(n, device=device) + 0.5) / n
    return torch.meshgrid(line, line, indexing="xy")  # pyright: ignore[reportReturnType]


def albedo(world: World, view: View, surface: Surface) -> Tensor:
    """Linear reflectance [B, 3, n, n] of what each ray meets; the sky gets that of the floor."""
    shape, color, material = (surface.of_object(t) for t in (world.shape, world.color, world.material))
    own = surface.own.unbind(1)
    things = dyed(own, shape, color, material, surface.skin, _eyes(world, surface)).permute(0, 3, 1, 2)
    return torch.where((surface.instance >= 0)[:, None], things, floor(world, view, surface))


def dyed(
    own: tuple[Tensor, ...], shape: Tensor, color: Tensor, material: Tensor, skin: Tensor, eye: Tensor
) -> Tensor:
    """Linear reflectance [..., 3] of points own (x, y, z, each [...]) of their objects' frames.

    shape, color, material: indices into the vocabulary; skin, eye: which points are of either.
    """
    palette = torch.tensor([linear(PALETTE[c]) for c in COLORS], device=color.device)
    stripe = torch.tensor(
        [linear(STRIPE_ON_WHITE if c == "white" else STRIPE) for c in COLORS], device=color.device
    )
    table = torch.cat((palette, stripe, palette.new_tensor([linear(SKIN), linear(EYE)])))
    banded = (material == STRIPED) & (_phase(own, shape) < 0.36)
    row = torch.where(banded, color + len(COLORS), color)
    row = torch.where(skin, 2 * len(COLORS), row).clamp(min=0)
    return table[torch.where(eye & skin, 2 * len(COLORS) + 1, row)]


def on_eye(thing: Object, at: Placement, own: Tensor) -> Tensor:
    """Whether points own [3, ...] of a figure's frame lie on one of its eyes."""
    points = keypoints(thing.pose, at.phase, walking=thing.motion == "walks")
    found = torch.zeros_like(own[0], dtype=torch.bool)
    for eye in (points[14], points[15]):
        away = own - own.new_tensor(eye).view(3, *(1,) * (own.ndim - 1))
        found |= (away * away).sum(0) < EYE_SIZE**2
    return found


def _eyes(world: World, surface: Surface) -> Tensor:
    """Whether each point [B, n, n] lies on the eye of a figure."""
    found = torch.zeros_like(surface.skin)
    for b, slot in (world.shape == SHAPES.index("figure")).nonzero().tolist():
        eye = on_eye(world.scenes[b].objects[slot], world.placements[b][slot], surface.own[b])
        found[b] |= eye & (surface.instance[b] == slot)
    return found


def _phase(own: tuple[Tensor, ...], shape: Tensor) -> Tensor:
    """Where in its period of color and stripe each point of an object is, in [0, 1).

    Every pattern turns visibly with its object: tilted bands on a ball, spirals on what is round about its
    own axis, sectors on a ring; and plain bands across a cube, and across the figure's clothes.
    """
    x, y, z = own
    turn = torch.atan2(y, x) / (2 * math.pi)
    kinds = (
        ("sphere", (0.62 * x + 0.28 * y + 0.73 * z) * 1.75),
        ("cube", z / 0.56 + 0.2),
        ("cylinder", z / 0.7 + 2 * turn),
        ("cone", z / 0.66 + 2 * turn),
        ("torus", 7 * turn),
        ("capsule", z / 0.72 + 2 * turn),
        ("figure", z / 0.3),
    )
    phase = torch.zeros_like(x)
    for name, value in kinds:
        phase = torch.where(shape == SHAPES.index(name), value, phase)
    return phase - phase.floor()


def floor(world: World, view: View, surface: Surface) -> Tensor:
    """Linear reflectance of the floor under each ray; patterns fade where pixels could not hold them."""
    device = surface.depth.device
    table = torch.tensor([linear(FLOOR_PALETTE[c]) for c in FLOOR_COLORS], device=device)
    base = table[world.floor_color][:, :, None, None].expand_as(surface.point)
    x, y = surface.point[:, 0], surface.point[:, 1]
    # What a 64th of the width covers along the line of sight, in tiles; the same at every size of picture.
    reach = (
        surface.depth.clamp(max=1e3) ** 2 * (view.slope / view.eye[:, 2].clamp(min=0.1))[:, None, None] / 32
    )
    shown = smoothstep(0.8, 0.25, reach) * (surface.instance == FLOOR)
    out = base.clone()
    for pattern, painted in (("checkered", _tiles), ("wooden", _planks)):
        pick = (world.floor_pattern == FLOOR_PATTERNS.index(pattern)).nonzero()[:, 0]
        if len(pick):
            out[pick] = painted(base[pick], x[pick], y[pick], shown[pick])
    return out


def _tiles(base: Tensor, x: Tensor, y: Tensor, shown: Tensor) -> Tensor:
    odd = ((x / TILE).floor() + (y / TILE).floor()).remainder(2)
    contrast = (1 + 0.8 * (odd - 0.5) * shown) * 0.92
    return base * contrast[:, None]


def _planks(base: Tensor, x: Tensor, y: Tensor, shown: Tensor) -> Tensor:
    row = (y / PLANK).floor()
    along = x / BOARD + hashed(row, torch.zeros_like(row), 7)
    board = along.floor()
    tone = hashed(row, board, 11)
    # Grain: noise far longer along the plank than across it, bent a little by a slower one.
    across = y / PLANK
    grain = noise(x * 1.3 + 17 * tone, across * 9 + 2.2 * torch.sin(x * 1.1 + 9 * tone), 13)
    side, end = across - row, along - board
    seam = torch.minimum(torch.minimum(side, 1 - side) * PLANK, torch.minimum(end, 1 - end) * BOARD)
    gap = smoothstep(0.024, 0.008, seam)
    value = 1 + shown * (0.3 * (tone - 0.5) + 0.26 * (grain - 0.5) - 0.5 * shown.square() * gap)
    wood = base.new_tensor(linear(WOOD))[:, None, None]
    return torch.lerp(base, base * wood / wood.mean(), 0.42) * (0.95 * value)[:, None]
