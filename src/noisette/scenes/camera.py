"""Where the camera stands at a time, and its matrices.

One convention everywhere, OpenCV's: the camera's x points right, y down, z forward; pixel (column i, row j)
has its centre at (i + 0.5, j + 0.5); a world point X is seen at K (E X)[:2] / depth with E the extrinsics
(world to camera) and K the intrinsics in pixels. Depth is the camera's z, not the length of the ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from noisette.scenes.scene import Camera

__all__ = ["TARGET", "View", "views"]

TARGET = (0.0, 0.0, 0.6)
"""The world point at which every camera looks while it is still."""

ORBIT, ZOOM, PAN = 30.0, 0.2, 6.0
"""Degrees per second of an orbit; rate per second at which a zoom magnifies; degrees per second of a pan."""


@dataclass(frozen=True)
class View:
    """Cameras of a batch: eye [B, 3] in the world, axes [B, 3, 3] with rows right, down, forward, and
    slope [B] = tan(fov / 2), all float32."""

    eye: Tensor
    axes: Tensor
    slope: Tensor

    def to(self, device: str | torch.device) -> View:
        return View(self.eye.to(device), self.axes.to(device), self.slope.to(device))

    def pick(self, index: Tensor) -> View:
        """The views of those indices."""
        return View(self.eye[index], self.axes[index], self.slope[index])

    def intrinsics(self, size: int) -> Tensor:
        """K [B, 3, 3] in pixels of a square picture of that size."""
        matrix = torch.zeros((len(self.eye), 3, 3), device=self.eye.device)
        matrix[:, 0, 0] = matrix[:, 1, 1] = size / (2 * self.slope)
        matrix[:, 0, 2] = matrix[:, 1, 2] = size / 2
        matrix[:, 2, 2] = 1
        return matrix

    def extrinsics(self) -> Tensor:
        """E [B, 4, 4], from world to camera coordinates."""
        matrix = torch.zeros((len(self.eye), 4, 4), device=self.eye.device)
        matrix[:, :3, :3] = self.axes
        matrix[:, :3, 3] = -(self.axes * self.eye[:, None]).sum(-1)
        matrix[:, 3, 3] = 1
        return matrix

    def project(self, points: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """World points [B, 3, ...] to pixels [B, 2, ...] and depths [B, ...]."""
        shape = (len(self.eye), 3) + (1,) * (points.ndim - 2)
        from_eye = points - self.eye.view(shape)
        x, y, depth = ((self.axes[:, i].view(shape) * from_eye).sum(1) for i in range(3))
        scale = size / (2 * self.slope).view(len(self.eye), *shape[2:])
        return torch.stack((x / depth * scale + size / 2, y / depth * scale + size / 2), 1), depth

    def directions(self, size: int) -> Tensor:
        """World rays [B, 3, size, size] through the pixel centres: at eye + d * ray the depth is d."""
        line = ((torch.arange(size, device=self.eye.device) + 0.5) / size * 2 - 1) * self.slope[:, None]
        right, down, forward = (self.axes[:, i, :, None, None] for i in range(3))
        return right * line[:, None, None, :] + down * line[:, None, :, None] + forward


def views(cameras: Sequence[Camera], times: Sequence[float]) -> View:
    """Where each camera is at its time in seconds: orbits go counter-clockwise seen from above."""
    rows = [_pose(camera, time) for camera, time in zip(cameras, times, strict=True)]
    table = torch.tensor(rows, dtype=torch.float64).to(torch.float32)
    return View(table[:, :3], table[:, 3:12].unflatten(1, (3, 3)), table[:, 12])


def at_time(camera: Camera, time: float) -> Camera:
    """The still camera that an orbiting or zooming one is at that time; a pan has none and is kept."""
    if camera.motion == "orbits":
        return replace(camera, azimuth=camera.azimuth + ORBIT * time, motion="still")
    if camera.motion in ("zooms in", "zooms out"):
        sign = -1 if camera.motion == "zooms in" else 1
        slope = math.tan(math.radians(camera.fov) / 2) * math.exp(sign * ZOOM * time)
        return replace(camera, fov=2 * math.degrees(math.atan(slope)), motion="still")
    return camera


def _pose(camera: Camera, time: float) -> list[float]:
    camera = at_time(camera, time)
    azimuth, elevation = math.radians(camera.azimuth), math.radians(camera.elevation)
    pan = {"pans left": 1, "pans right": -1}.get(camera.motion, 0) * math.radians(PAN) * time
    eye = [
        TARGET[0] + camera.distance * math.cos(elevation) * math.cos(azimuth),
        TARGET[1] + camera.distance * math.cos(elevation) * math.sin(azimuth),
        TARGET[2] + camera.distance * math.sin(elevation),
    ]
    # Looking back along the azimuth, turned about the vertical by the pan.
    cos, sin = math.cos(azimuth + pan), math.sin(azimuth + pan)
    right = [-sin, cos, 0.0]
    forward = [-math.cos(elevation) * cos, -math.cos(elevation) * sin, -math.sin(elevation)]
    return [*eye, *right, *_cross(forward, right), *forward, math.tan(math.radians(camera.fov) / 2)]


def _cross(a: list[float], b: list[float]) -> list[float]:
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
