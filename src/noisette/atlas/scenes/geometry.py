"""One geometry: do depth, normals, ids, keypoints, mesh and flow speak of the same surface?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from noisette.atlas.cells import Cell, Tick
from noisette.atlas.page import picture
from noisette.atlas.scenes.bench import Bench
from noisette.scenes.render import Rendering, render, render_video
from noisette.scenes.sampling import sample_scene
from noisette.scenes.scene import COLORS, SHAPES, Scene
from noisette.scenes.surface import mesh, signed_distance

SIZE, CLIP = 64, 256
"""Pixels along a side: of the pictures whose pixels are checked, and of clips."""

FPS = 30.0
AREA = 2.5
"""World units about the middle in which the floor is compared: farther off it fades into the haze."""

OCCLUDED = 0.01
"""Relative gap in depth from which what a pixel shows is hidden in the next frame."""

STEP = 1e-3
STRONG = 20


def cells(bench: Bench) -> list[Cell]:
    """Pixels, meshes and clips."""
    plan = bench.plan
    kinds = (("pixels", plan.solid, _pixels), ("mesh", plan.meshes, _meshes), ("flow", plan.clips, _clips))
    return [
        Cell({"what": what, "count": count, **bench.world}, count, partial(measure, bench.seed, count))
        for what, count, measure in kinds
    ]


def unprojected(picture: Rendering, b: int = 0) -> Tensor:
    """World points [H, H, 3] of the pixels of picture b, by its depth and matrices alone, in float64."""
    size = picture.depth.shape[-1]
    line = torch.arange(size, dtype=torch.float64) + 0.5
    x, y = torch.meshgrid(line, line, indexing="xy")
    rays = torch.linalg.inv(picture.intrinsics[b].double()) @ torch.stack((x, y, torch.ones_like(x))).flatten(
        1
    )
    own = torch.cat((rays * picture.depth[b].flatten(), torch.ones(1, size * size)))
    return (torch.linalg.inv(picture.extrinsics[b].double()) @ own)[:3].T.view(size, size, 3)


def _pixels(seed: int, count: int, tick: Tick) -> dict[str, Any]:
    """The worst and the usual of depth, normals, ids and keypoints over scenes of all kinds."""
    gaps, angles, named, seen, counts = [], [], [], [], [0, 0]
    for k in range(count):
        scene = sample_scene(seed * 10**6 + k)
        shown = render([scene], SIZE, samples=1)
        points = unprojected(shown)
        solid = shown.depth[0].isfinite()
        gaps.append(signed_distance(scene, points[solid]).abs())
        angles.append(_angles(scene, shown, points))
        named.append(_named(scene, shown))
        found, near = _keypoints(shown)
        seen.append(found)
        counts = [counts[0] + near, counts[1] + int(solid.sum())]
        tick(1)
    gap, angle = torch.cat(gaps), torch.cat(angles)
    return {
        "depth": float(gap.max()),
        "depth usual": float(gap.median()),
        "angle": float(angle.median()),
        "angle most": _most(angle),
        "ids": sum(named) / count,
        "keypoints": sum(seen),
        "keypoints near": counts[0],
        "pixels": counts[1],
        "objects": len(angle),
    }


def _angles(scene: Scene, shown: Rendering, points: Tensor) -> Tensor:
    """Degrees [K] between the normals of pixels of objects and the slope of the signed distance there."""
    here = shown.instance[0] >= 0
    at, turn = points[here], torch.linalg.inv(shown.extrinsics[0, :3, :3]).double()
    normal = F.normalize(turn @ shown.normal[0][:, here].double(), dim=0)
    slope = torch.stack(
        [
            signed_distance(scene, at + STEP * e) - signed_distance(scene, at - STEP * e)
            for e in torch.eye(3, dtype=torch.float64)
        ]
    )
    aligned = (F.normalize(slope, dim=0) * normal).sum(0).clamp(-1, 1)
    return aligned.acos().rad2deg()


def _named(scene: Scene, shown: Rendering) -> bool:
    """Whether every pixel's shape and color are those of the object whose number it has."""
    instance = shown.instance[0]
    shape, color = torch.full_like(instance, -1), torch.full_like(instance, -1)
    for i, thing in enumerate(scene.objects):
        shape[instance == i], color[instance == i] = SHAPES.index(thing.shape), COLORS.index(thing.color)
    return torch.equal(shape, shown.shape[0]) and torch.equal(color, shown.color[0])


def _keypoints(shown: Rendering) -> tuple[int, int]:
    """How many keypoints are told visible, and how many of them are within 2 pixels of their figure."""
    visible = near = 0
    for slot in range(shown.keypoints.shape[1]):
        table = shown.keypoints[0, slot]
        told = table[table[:, 2] == 1]
        figure = F.max_pool2d((shown.instance == slot).float()[:, None], 5, 1, 2)[0, 0] > 0
        at = told[:, :2].long().clamp(0, SIZE - 1)
        visible, near = visible + len(told), near + int(figure[at[:, 1], at[:, 0]].sum())
    return visible, near


def _meshes(seed: int, count: int, tick: Tick) -> dict[str, Any]:
    """The largest distance of any vertex from the surface, and how many bodies are closed."""
    gaps, bodies, closed, vertices = [], 0, 0, 0
    for k in range(count):
        scene = sample_scene(seed * 10**6 + k)
        body = mesh(scene)
        points = torch.from_numpy(body.vertices.copy())
        gaps.append(float(signed_distance(scene, points, floor=False).abs().max()))
        bodies, closed, vertices = bodies + 1, closed + bool(body.is_watertight), vertices + len(points)
        tick(1)
    return {"gap": max(gaps), "bodies": bodies, "closed": closed, "vertices": vertices}


def _clips(seed: int, count: int, tick: Tick) -> dict[str, Any]:
    """Levels of 255 between a frame and the next one fetched along the flow, where nothing is hidden."""
    rows: list[Tensor] = []
    pictures: list[str] = []
    for k in range(count):
        video = render_video(_calm(seed * 10**6 + k, 3 - k % 3), 2, FPS, CLIP)
        warped, clear = _fetched(video, video.rgb[1:]), _clear(video)
        wrong, still = (127.5 * (x - video.rgb[0]).abs().amax(0) for x in (warped, video.rgb[1]))
        rows.append(torch.stack([wrong[clear], still[clear], (video.instance[0][clear] >= 0).float()]))
        if not pictures:
            pictures = list(_pictures(video, wrong, still, clear))
        tick(1)
    wrong, still, thing = torch.cat(rows, 1)
    result: dict[str, Any] = {"pictures": pictures}
    for name, chosen in (("", thing >= 0), (" of objects", thing > 0)):
        result |= {
            f"most{name}": _most(wrong[chosen]),
            f"still{name}": _most(still[chosen]),
            f"compared{name}": int(chosen.sum()),
        }
    return result


def _most(values: Tensor) -> float:
    """What 99 of 100 values do not exceed; 0 of none."""
    return float(values.sort().values[int(0.99 * (len(values) - 1))]) if len(values) else 0.0


def _calm(seed: int, count: int) -> Scene:
    """Matte still things on a plain floor, about which the camera goes: brightness moves with the surface."""
    things = [{"material": "matte"}] * count
    return sample_scene(
        seed, objects=things, count=count, floor_pattern="plain", style="photo", light="day",
        camera_motion="orbits",
    )  # fmt: skip


def _target(video: Rendering) -> Tensor:
    """Pixels [2, H, H] at which the next frame shows what the first shows."""
    line = torch.arange(video.depth.shape[-1]) + 0.5
    assert video.flow is not None
    return torch.stack(torch.meshgrid(line, line, indexing="xy")) + video.flow[0]


def _fetched(video: Rendering, values: Tensor) -> Tensor:
    """Values [1, C, H, H] of the next frame, fetched along the flow: [C, H, H]."""
    grid = (_target(video) / values.shape[-1] * 2 - 1).permute(1, 2, 0)[None]
    return F.grid_sample(values, grid, align_corners=False)[0]


def _clear(video: Rendering) -> Tensor:
    """Pixels [H, H] that the next frame shows too, away from edges, where pixels mix two surfaces."""
    target, size = _target(video), video.depth.shape[-1]
    inside = (target > 1).all(0) & (target < size - 1).all(0)
    points = unprojected(video)
    ahead = video.extrinsics[1, 2].double()
    expected = (points * ahead[:3]).sum(-1) + ahead[3]
    depth = _fetched(video, video.depth[1:, None].nan_to_num(posinf=1e4))[0]
    shown = (depth - expected).abs() < OCCLUDED * expected
    near = points[..., :2].norm(dim=-1) < AREA
    fold = _fold(video.normal[:1])
    return inside & shown & near & (F.max_pool2d(fold, 9, 1, 4)[0, 0] < 0.1)


def _fold(normal: Tensor) -> Tensor:
    """How much the normal turns from a pixel to its neighbours, [1, 1, H, H]."""
    down = normal.diff(dim=2, append=normal[:, :, -1:])
    across = normal.diff(dim=3, append=normal[..., -1:])
    return (down.abs() + across.abs()).amax(1, keepdim=True)


def _pictures(video: Rendering, wrong: Tensor, still: Tensor, clear: Tensor) -> Iterator[str]:
    """A frame, the next, and their differences before and after the warp, gray where not compared."""
    for rgb in video.rgb:
        yield picture(F.avg_pool2d(rgb[None], 2))
    for levels in (still, wrong):
        strong = (levels / 127.5 * STRONG).clamp(max=2) - 1
        yield picture(F.avg_pool2d(torch.where(clear, strong, 0.0).expand(1, 3, *strong.shape), 2))
