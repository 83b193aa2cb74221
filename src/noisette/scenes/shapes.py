"""The shapes, as signed distances: everything about their geometry follows from these few functions.

Each function takes points of the shape's own frame (z up, centre at the origin) as p [3, N] and sizes
[3, N] in the same units, and returns the exact distance [N]: negative inside, positive outside. Edges are
rounded by ROUNDING of the size, as nothing real has perfectly sharp ones and highlights live on edges.

All but the torus are convex, so that their distance along any straight line is a convex function.
Source of the closed forms: https://iquilezles.org/articles/distfunctions/ (derived anew here).
"""

from __future__ import annotations

import torch
from torch import Tensor

from noisette.scenes.scene import Object

__all__ = ["CONVEX", "FAMILIES", "PARTS", "RADIUS", "footprint", "gradient", "half_height", "lies"]

RADIUS = {"small": 0.45, "large": 0.75}
"""World radius r of a size; a shape's own measures are multiples of it."""

ROUNDING = 0.08
"""Radius of rounded edges, in units of r."""


def capsule(p: Tensor, size: Tensor) -> Tensor:
    """All within size[1] of the segment of half length size[0] along z; a sphere where that is 0."""
    x, y, z = p
    half, radius = size[0], size[1]
    beyond = (z.abs() - half).clamp_(min=0)
    return (x * x + y * y + beyond * beyond).sqrt_() - radius


def box(p: Tensor, size: Tensor) -> Tensor:
    """A cube of half edge size[0], edges rounded by size[2]."""
    q = p.abs() - (size[0] - size[2])
    outside = q.clamp(min=0)
    return (outside * outside).sum(0).sqrt_() + q.amax(0).clamp(max=0) - size[2]


def cylinder(p: Tensor, size: Tensor) -> Tensor:
    """Radius size[0], half height size[1], edges rounded by size[2]."""
    x, y, z = p
    across = (x * x + y * y).sqrt_() - (size[0] - size[2])
    along = z.abs() - (size[1] - size[2])
    inside = torch.maximum(across, along).clamp_(max=0)
    across, along = across.clamp(min=0), along.clamp(min=0)
    return (across * across + along * along).sqrt_() + inside - size[2]


def cone(p: Tensor, size: Tensor) -> Tensor:
    """Base radius size[0] at z = -size[1], apex at z = size[1], all rounded by size[2]."""
    x, y, z = p
    base, top = size[0] - size[2], size[1] - size[2]
    across = (x * x + y * y).sqrt_()
    # The slant edge runs from the apex (0, top) to the rim (base, -top).
    down = top - z
    along = ((across * base + down * 2 * top) / (base * base + 4 * top * top)).clamp_(0, 1)
    slant = (across - base * along).square_() + (down - 2 * top * along).square_()
    under = (across - base).clamp(min=0).square_() + (z + top).square()
    inside = (across * 2 * top < base * down) & (z > -top)
    distance = torch.minimum(slant, under).sqrt_()
    return torch.where(inside, -distance, distance) - size[2]


def torus(p: Tensor, size: Tensor) -> Tensor:
    """A ring of radius size[0] about z, as thick as a disc of radius size[1]."""
    x, y, z = p
    ring = (x * x + y * y).sqrt_() - size[0]
    return (ring * ring + z * z).sqrt_() - size[1]


FAMILIES = (capsule, box, cylinder, cone, torus)
CONVEX = (True, True, True, True, False)

PARTS = {  # family, its sizes, and the radius of a sphere about it, all in units of r
    "sphere": (0, (0.0, 1.0, 0.0), 1.0),
    "cube": (1, (0.8, 0.8, ROUNDING), 1.33),
    "cylinder": (2, (0.75, 0.85, ROUNDING), 1.11),
    "cone": (3, (0.95, 1.0, ROUNDING), 1.36),
    "torus": (4, (0.72, 0.28, 0.0), 1.0),
    "capsule": (0, (0.6, 0.5, 0.0), 1.1),
}

_HALF_HEIGHT = {"sphere": 1.0, "cube": 0.8, "cylinder": 0.85, "cone": 1.0, "torus": 0.28, "capsule": 1.1}
_LYING = {"cylinder": 0.75, "torus": 1.0, "capsule": 0.5}
_FOOTPRINT = {"sphere": 1.0, "cube": 1.14, "cylinder": 0.75, "cone": 0.95, "torus": 1.0, "capsule": 0.5}


def lies(thing: Object) -> bool:
    """Whether it lies on its side, as a cylinder, torus or capsule does to roll."""
    return thing.motion.startswith("rolls") and thing.shape in _LYING


def half_height(thing: Object) -> float:
    """World units from the centre of the object down to what it stands on."""
    r = RADIUS[thing.size]
    if thing.shape == "figure":
        return r * (0.95 if thing.pose == "sitting" else 1.35)
    return r * (_LYING if lies(thing) else _HALF_HEIGHT)[thing.shape]


def footprint(thing: Object) -> float:
    """Radius in world units of an upright cylinder about the centre that holds the whole object."""
    r = RADIUS[thing.size]
    if thing.shape == "figure":
        return r * (0.9 if thing.pose == "running" or thing.motion == "walks" else 0.8)
    if lies(thing):
        return r * {"cylinder": 1.13, "torus": 1.0, "capsule": 1.1}[thing.shape]
    return r * _FOOTPRINT[thing.shape]


def gradient(family: int, p: Tensor, size: Tensor, step: float = 2e-3) -> Tensor:
    """Outward unit normals [3, N] of a family at points p, by differences over a tetrahedron.

    Four distances instead of the six of central differences; good to about 1e-4 in float32.
    """
    distance = FAMILIES[family]
    corners = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=p.dtype, device=p.device)
    total = torch.zeros_like(p)
    for corner in corners:
        total += corner[:, None] * distance(p + step * corner[:, None], size)
    return torch.nn.functional.normalize(total, dim=0)
