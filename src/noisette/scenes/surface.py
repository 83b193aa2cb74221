"""The exact geometry of a scene away from any camera: signed distance, points on the surface, a mesh."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from noisette.errors import UserError
from noisette.files import atomic_write, ensure_writable
from noisette.scenes.layout import Primitives, World
from noisette.scenes.scene import Scene
from noisette.scenes.shapes import FAMILIES, gradient
from noisette.scenes.textures import dyed, on_eye, srgb

if TYPE_CHECKING:
    from trimesh import Trimesh

__all__ = ["SurfacePoints", "mesh", "save_mesh", "signed_distance", "surface_points"]

CELLS = 64
"""Of the marching cubes along the longest side of an object."""


@dataclass(frozen=True)
class SurfacePoints:
    """N points on objects: position, normal [N, 3] in the world, color [N, 3] in [0, 1] without
    any light, and instance [N], the index of the object.
    """

    position: Tensor
    normal: Tensor
    color: Tensor
    instance: Tensor


@torch.inference_mode()
def signed_distance(scene: Scene, points: Tensor, time: float = 0.0, *, floor: bool = True) -> Tensor:
    """Distance [N] of world points [N, 3] to the nearest surface, negative inside an object or the floor.

    Exact outside; inside overlapping limbs of a figure its absolute value is a lower bound. In the
    precision of the points.
    """
    nearest = _nearest(World.of([scene], [time], points.device).primitives, points)[0]
    return torch.minimum(nearest, points[:, 2]) if floor else nearest


def _nearest(parts: tuple[Primitives, ...], points: Tensor) -> tuple[Tensor, Tensor]:
    """Distance [N] to the nearest primitive, and which it is, counted through all of them."""
    gaps: list[Tensor] = []
    for part in parts:
        for k in range(len(part.scene)):
            own = part.rotation[k].T.to(points) @ (points - part.center[k].to(points)).T
            gaps.append(FAMILIES[part.family](own, part.size[:, k : k + 1].to(points)))
    nearest, which = torch.stack(gaps).min(0)
    return nearest, which


def _normals(parts: tuple[Primitives, ...], points: Tensor, which: Tensor) -> Tensor:
    """World normals [N, 3] of the primitives `which` at points [N, 3]."""
    normals = torch.zeros_like(points)
    index = 0
    for part in parts:
        for k in range(len(part.scene)):
            here = which == index
            rotation = part.rotation[k].to(points)
            own = rotation.T @ (points[here] - part.center[k].to(points)).T
            normals[here] = (rotation @ gradient(part.family, own, part.size[:, k : k + 1].to(points))).T
            index += 1
    return normals


def _onto(parts: tuple[Primitives, ...], points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points moved along the normal onto the surface, their normals, and the primitives they lie on."""
    for _ in range(3):
        gap, which = _nearest(parts, points)
        points = points - gap[:, None] * _normals(parts, points, which)
    _, which = _nearest(parts, points)
    return points, _normals(parts, points, which), which


def _of_object(parts: tuple[Primitives, ...], index: int) -> tuple[Primitives, ...]:
    """The primitives of one object alone."""
    kept: list[Primitives] = []
    for part in parts:
        rows = (part.slot == index).nonzero()[:, 0]
        if len(rows):
            kept.append(part.pick(rows))
    return tuple(kept)


@torch.inference_mode()
def mesh(scene: Scene, time: float = 0.0, *, cells: int = CELLS) -> Trimesh:
    """Triangles of all objects, coloured at each vertex: marching cubes on the signed distance.

    Every object is closed; its vertices are moved onto the surface, |distance| < 1e-3. cells: of the grid,
    along the longest side of an object.

    Raises UserError for fewer than 8 cells.
    """
    import trimesh

    if cells < 8:
        raise UserError(f"cells: a mesh needs a grid of at least 8, not {cells}")
    world = World.of([scene], [time])
    bodies = [_body(world, index, cells) for index in range(len(scene.objects))]
    return trimesh.util.concatenate(bodies)  # pyright: ignore[reportReturnType]


def _body(world: World, index: int, cells: int) -> Trimesh:
    import trimesh
    from skimage.measure import marching_cubes

    parts = _of_object(world.primitives, index)
    centers, bounds = torch.cat([p.center for p in parts]), torch.cat([p.bound for p in parts])
    low = (centers - bounds[:, None]).amin(0).double()
    extent = (centers + bounds[:, None]).amax(0).double() - low
    step = float(extent.max() / cells)
    counts = [int(n) + 4 for n in extent / step]
    low = low - step
    axes = (low[i] + step * torch.arange(n, dtype=torch.float64) for i, n in enumerate(counts))
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    volume = _nearest(parts, grid.flatten(0, 2))[0].view(counts)
    vertices, faces, _, _ = marching_cubes(volume.numpy(), 0.0, spacing=(step,) * 3, allow_degenerate=False)
    points = torch.from_numpy(vertices.copy()).double() + low
    points, normals, which = _onto(parts, points)
    body = trimesh.Trimesh(
        points.numpy(), faces, vertex_normals=normals.numpy(), process=False, validate=False
    )
    if body.volume < 0:
        body.invert()
    rgb = _colors(world, index, parts, points, which)
    body.visual.vertex_colors = (rgb * 255).round().byte().numpy()  # pyright: ignore
    return body


def _colors(world: World, index: int, parts: tuple[Primitives, ...], points: Tensor, which: Tensor) -> Tensor:
    """Display colours [N, 3] in [0, 1] of points on an object, without any light."""
    own = (points.float() - world.center[0, index]) @ world.rotation[0, index] / world.radius[0, index]
    skin = torch.cat([part.skin for part in parts])[which]
    eye = on_eye(world.scenes[0].objects[index], world.placements[0][index], own.T) if skin.any() else skin
    shape, color, material = (
        t[0, index].expand(len(own)) for t in (world.shape, world.color, world.material)
    )
    return srgb(dyed(own.unbind(1), shape, color, material, skin, eye)).clamp(0, 1)


@torch.inference_mode()
def surface_points(scene: Scene, count: int, seed: int = 0, time: float = 0.0) -> SurfacePoints:
    """`count` points spread evenly over the visible and hidden surface of all objects together.

    Points are drawn on the triangles of the mesh by area, from `seed`, and moved onto the surface.
    """
    world = World.of([scene], [time])
    rng = torch.Generator().manual_seed(seed)
    bodies = [_body(world, index, CELLS // 2) for index in range(len(scene.objects))]
    corners = [torch.from_numpy(body.triangles.copy()) for body in bodies]
    triangles = torch.cat(corners)
    owner = torch.repeat_interleave(torch.tensor([len(c) for c in corners]))
    a, b, c = triangles.unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=-1)
    chosen = torch.multinomial(area, count, replacement=True, generator=rng)
    u, v = torch.rand((2, count, 1), generator=rng, dtype=torch.float64)
    over = u + v > 1
    u, v = torch.where(over, 1 - u, u), torch.where(over, 1 - v, v)
    points = a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]
    owner = owner[chosen]
    normals, colors = torch.zeros_like(points), torch.zeros((count, 3))
    for index in range(len(scene.objects)):
        here = owner == index
        parts = _of_object(world.primitives, index)
        points[here], normals[here], which = _onto(parts, points[here])
        colors[here] = _colors(world, index, parts, points[here], which)
    return SurfacePoints(points.float(), normals.float(), colors, owner)


def save_mesh(body: Trimesh, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a mesh as GLB, PLY, OBJ or STL, by the ending of the path; z is up, but y in a GLB, by its rules.

    Raises UserError for another ending, and for a file that is there already.
    """
    path = ensure_writable(path, overwrite=overwrite)
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("glb", "ply", "obj", "stl"):
        raise UserError(f"{path}: a mesh is written as .glb, .ply, .obj or .stl")
    if kind == "glb":
        body = body.copy()
        body.apply_transform([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    data = body.export(file_type=kind)
    with atomic_write(path) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else bytes(data))  # pyright: ignore[reportArgumentType]
