"""Pictures of scenes, and everything that is true of each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from noisette.errors import UserError
from noisette.scenes.camera import View, views
from noisette.scenes.figure import KEYPOINTS, keypoints
from noisette.scenes.layout import SLOTS, Placement, World
from noisette.scenes.scene import Camera, Scene
from noisette.scenes.shading import paint
from noisette.scenes.shapes import RADIUS
from noisette.scenes.trace import SKY, Surface, trace

__all__ = ["Rendering", "render", "render_video", "render_views"]

CHUNK = 2**19
"""Rays followed at once: enough to keep a core busy, few enough to stay near it."""
CHUNK_GPU = 2**23

ON_SKIN = tuple(float(name.split()[-1] in ("nose", "eye", "ear")) for name in KEYPOINTS)


@dataclass(frozen=True)
class Rendering:
    """B square pictures of H x H pixels, and what the ray through the centre of each pixel meets.

    rgb [B, 3, H, H] in [-1, 1]. depth [B, H, H]: world units along the optical axis, inf in the sky.
    normal [B, 3, H, H]: unit vectors in camera axes (x right, y down, z forward), 0 in the sky.
    instance [B, H, H]: index of the object, FLOOR = -1, SKY = -2. shape, color [B, H, H]: indices into SHAPES
    and COLORS, -1 where no object is. keypoints [B, 4, 18, 3]: for each object slot the 18 OpenPose points
    as (x, y, visible), in pixels and 0 or 1; NaN where the object is no figure. intrinsics [B, 3, 3] and
    extrinsics [B, 4, 4] as in `camera`. flow [B, 2, H, H], of a video only: how far in pixels what a pixel
    shows has moved in the next frame; the last frame has that of a frame to come.
    """

    rgb: Tensor
    depth: Tensor
    normal: Tensor
    instance: Tensor
    shape: Tensor
    color: Tensor
    keypoints: Tensor
    intrinsics: Tensor
    extrinsics: Tensor
    flow: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rgb)


def render(
    scenes: Sequence[Scene],
    size: int = 64,
    *,
    samples: int = 4,
    time: float | Sequence[float] = 0.0,
    device: str | torch.device = "cpu",
) -> Rendering:
    """Render scenes at a time in seconds (one for all, or one each).

    samples: rays per pixel, a square number. The picture of a scene depends on nothing but the scene, its
    time, size and samples. The cost is linear in size^2 * samples and follows the pictured area of the
    objects: about 20 ms per scene at 64 px and 4 samples on one core.

    Raises UserError for no scenes, a size under 8, or samples that are not a square number.
    """
    times = [float(time)] * len(scenes) if isinstance(time, int | float) else [float(t) for t in time]
    return _render(scenes, [scene.camera for scene in scenes], times, size, samples, device)


def render_views(
    scene: Scene,
    cameras: Sequence[Camera],
    size: int = 64,
    *,
    samples: int = 4,
    time: float = 0.0,
    device: str | torch.device = "cpu",
) -> Rendering:
    """Render one scene from each of the cameras at the same instant; raises as `render` does."""
    count = len(cameras)
    return _render([scene] * count, cameras, [time] * count, size, samples, device)


def render_video(
    scene: Scene,
    frames: int = 16,
    fps: float = 8,
    size: int = 64,
    *,
    samples: int = 4,
    device: str | torch.device = "cpu",
) -> Rendering:
    """Render `frames` pictures 1 / fps seconds apart, with the optical flow from each to the next.

    Raises as `render` does, and UserError for no frames or an fps that is not positive.
    """
    if frames < 1 or not fps > 0:
        raise UserError(f"a video has at least one frame and a positive fps, not {frames} and {fps}")
    times = [i / fps for i in range(frames)]
    return _render([scene] * frames, [scene.camera] * frames, times, size, samples, device, 1 / fps)


@torch.inference_mode()
def _render(
    scenes: Sequence[Scene],
    cameras: Sequence[Camera],
    times: Sequence[float],
    size: int,
    samples: int,
    device: str | torch.device,
    interval: float | None = None,
) -> Rendering:
    side = round(samples**0.5)
    if side * side != samples or samples < 1:
        raise UserError(f"samples: rays per pixel come in squares (1, 4, 9, 16), not {samples}")
    if not scenes or size < 8:
        raise UserError(f"there must be a scene and at least 8 pixels, not {len(scenes)} and {size}")
    most = CHUNK if torch.device(device).type == "cpu" else CHUNK_GPU
    step = max(1, most // (size * size * samples))
    parts = [
        _chunk(scenes[i : i + step], cameras[i : i + step], times[i : i + step], size, side, device, interval)
        for i in range(0, len(scenes), step)
    ]
    columns = ([getattr(part, f.name) for part in parts] for f in fields(Rendering))
    return Rendering(*(torch.cat(c) if isinstance(c[0], Tensor) else None for c in columns))  # pyright: ignore[reportArgumentType]


def _chunk(
    scenes: Sequence[Scene],
    cameras: Sequence[Camera],
    times: Sequence[float],
    size: int,
    side: int,
    device: str | torch.device,
    interval: float | None,
) -> Rendering:
    world, view = World.of(scenes, times, device), views(cameras, times).to(device)
    fine = trace(world, view, size * side)
    rgb = F.avg_pool2d(paint(world, view, fine), side)
    surface = fine if side == 1 else trace(world, view, size)
    is_object = surface.instance >= 0
    camera_normal = (view.axes[..., None, None] * surface.normal[:, None]).sum(2)
    return Rendering(
        rgb=rgb,
        depth=surface.depth,
        normal=camera_normal,
        instance=surface.instance,
        shape=torch.where(is_object, surface.of_object(world.shape), -1),
        color=torch.where(is_object, surface.of_object(world.color), -1),
        keypoints=_keypoints(world, view, surface, size),
        intrinsics=view.intrinsics(size),
        extrinsics=view.extrinsics(),
        flow=None if interval is None else _flow(world, cameras, surface, size, interval),
    )


def _flow(world: World, cameras: Sequence[Camera], surface: Surface, size: int, interval: float) -> Tensor:
    """Where each pixel's surface point is `interval` later, less where it is now."""
    times = [time + interval for time in world.times]
    later = World.of(world.scenes, times, surface.depth.device)
    view = views(cameras, times).to(surface.depth.device)
    point = surface.point.transpose(0, 1).clone()
    moving = surface.primitive >= 0
    which = surface.primitive[moving]
    (center, rotation), (center_then, rotation_then) = (_frames(w, which) for w in (world, later))
    own = (rotation * (point[:, moving] - center)[:, None]).sum(0)
    point[:, moving] = center_then + (rotation_then * own).sum(1)
    point = point.transpose(0, 1)
    # The sky is infinitely far: only the turning of the camera moves it.
    sky = (surface.instance == SKY)[:, None]
    point = torch.where(sky, view.eye[:, :, None, None] + surface.direction, point)
    pixel, _ = view.project(point, size)
    line = torch.arange(size, device=point.device) + 0.5
    return pixel - torch.stack(torch.meshgrid(line, line, indexing="xy"))


def _frames(world: World, which: Tensor) -> tuple[Tensor, Tensor]:
    """Centres [3, K] and rotations [3, 3, K] of primitives, counted through all of the world's."""
    center = torch.cat([part.center for part in world.primitives])[which].T
    return center, torch.cat([part.rotation for part in world.primitives])[which].permute(1, 2, 0)


def _keypoints(world: World, view: View, surface: Surface, size: int) -> Tensor:
    """The figures' points in pixels; visible where the picture shows that figure at about that depth."""
    table = torch.full((len(world.scenes), SLOTS, 18, 3), torch.nan)
    for b, scene in enumerate(world.scenes):
        for slot, thing in enumerate(scene.objects):
            if thing.shape == "figure":
                at = world.placements[b][slot]
                own = keypoints(thing.pose, at.phase, walking=thing.motion == "walks")
                table[b, slot] = _in_world(own, at, RADIUS[thing.size])
    scene, slot = table[..., 0, 0].isfinite().nonzero(as_tuple=True)
    table = table.to(view.eye.device)
    if len(scene):
        points = table[scene, slot].mT  # [K, 3, 18]
        pixel, depth = view.pick(scene).project(points, size)
        column, row = (p.long().clamp(0, size - 1) for p in pixel.unbind(1))
        inside = ((pixel >= 0) & (pixel < size)).all(1)
        shown = surface.instance[scene[:, None], row, column]
        nearer = surface.depth[scene[:, None], row, column]
        # Joints lie inside their limbs, nose, eyes and ears on the skin: hidden is what something else, or
        # more of the figure than that, stands before.
        radius = world.radius[scene, slot][:, None] * torch.where(depth.new_tensor(ON_SKIN) > 0, 0.12, 0.32)
        hidden = nearer < torch.where(shown == slot[:, None], depth - radius, depth)
        visible = (inside & ~hidden).float()
        table[scene, slot] = torch.cat((pixel, visible[:, None]), 1).mT
    return table


def _in_world(points: Sequence[tuple[float, float, float]], at: Placement, radius: float) -> Tensor:
    own, rotation, center = (torch.tensor(t, dtype=torch.float64) for t in (points, at.rotation, at.center))
    return (radius * own @ rotation.T + center).float()
