"""Where everything is at a time: scenes become tables of primitives that the ray tracer reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from noisette.scenes.constraints import position
from noisette.scenes.figure import RUN_STRIDE, WALK_STRIDE, Bone, bones
from noisette.scenes.scene import (
    COLORS,
    FLOOR_COLORS,
    FLOOR_PATTERNS,
    LIGHTS,
    MATERIALS,
    SHAPES,
    STYLES,
    Object,
    Scene,
)
from noisette.scenes.shapes import FAMILIES, PARTS, RADIUS, half_height, lies

__all__ = ["SLOTS", "Placement", "Primitives", "World", "place"]

SLOTS = 4
"""Objects that a scene has at most: tables per object are [B, SLOTS]."""

GLIDE = 0.6
"""World units per second of what rolls or walks."""
BOUNCE, HOP = 0.8, 0.5
"""Seconds and height of one bounce."""
SPIN = 120.0
"""Degrees per second."""
WAVE = 1.1
"""Cycles per second of a waving hand."""

Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]


class Placement(NamedTuple):
    """An object at a time: world = rotation @ own + centre; phase is the figure's, in cycles."""

    center: Vector
    rotation: Matrix
    phase: float


def place(scene: Scene, index: int, time: float = 0.0) -> Placement:
    """Where object `index` is after `time` seconds."""
    thing = scene.objects[index]
    x, y = position(scene, index)
    z = half_height(thing) + _support(scene, thing)
    yaw = math.radians(thing.yaw)
    if thing.motion.startswith("rolls"):
        return _roll(thing, scene.camera.azimuth, (x, y, z), time)
    if thing.motion == "bounces":
        part = (time / BOUNCE) % 1
        z += 4 * HOP * part * (1 - part)
    if thing.motion == "spins":
        yaw += math.radians(SPIN) * time
    if thing.motion == "walks":
        x, y = x + GLIDE * time * math.cos(yaw), y + GLIDE * time * math.sin(yaw)
    return Placement((x, y, z), _about_z(yaw), _phase(thing, time))


def _phase(thing: Object, time: float) -> float:
    """Cycles of the figure's limbs: steps as long as its way, or the wave of a hand."""
    if thing.motion == "walks":
        stride = RUN_STRIDE if thing.pose == "running" else WALK_STRIDE
        return GLIDE * time / (stride * RADIUS[thing.size])
    return WAVE * time if thing.pose == "waving" else 0.0


def _support(scene: Scene, thing: Object) -> float:
    height = 0.0
    while thing.on is not None:
        thing = scene.objects[thing.on]
        height += 2 * half_height(thing)
    return height


def _roll(thing: Object, azimuth: float, start: Vector, time: float) -> Placement:
    """To the left or right of the picture, turning as far as it goes."""
    side = 1 if thing.motion == "rolls right" else -1
    a = math.radians(azimuth)
    ahead = (-math.sin(a) * side, math.cos(a) * side)
    way = GLIDE * time
    # Rolling ahead turns it about the horizontal axis to the left of its way, z cross ahead.
    axis = (-ahead[1], ahead[0], 0.0)
    turn = _about(axis, way / half_height(thing))
    own = _lying(axis) if lies(thing) else _about_z(math.radians(thing.yaw))
    x, y, z = start
    return Placement((x + way * ahead[0], y + way * ahead[1], z), _product(turn, own), 0.0)


def _about_z(angle: float) -> Matrix:
    cos, sin = math.cos(angle), math.sin(angle)
    return ((cos, -sin, 0.0), (sin, cos, 0.0), (0.0, 0.0, 1.0))


def _about(axis: Vector, angle: float) -> Matrix:
    """Rodrigues' rotation about a unit axis."""
    x, y, z = axis
    cos, sin = math.cos(angle), math.sin(angle)
    k = 1 - cos
    return (
        (cos + k * x * x, k * x * y - sin * z, k * x * z + sin * y),
        (k * y * x + sin * z, cos + k * y * y, k * y * z - sin * x),
        (k * z * x - sin * y, k * z * y + sin * x, cos + k * z * z),
    )


def _lying(axis: Vector) -> Matrix:
    """Its own z along a horizontal axis, its own x up."""
    x, y, _ = axis
    return ((0.0, y, x), (0.0, -x, y), (1.0, 0.0, 0.0))


def _product(a: Matrix, b: Matrix) -> Matrix:
    columns = tuple(zip(*b, strict=True))
    return tuple(tuple(sum(p * q for p, q in zip(row, col, strict=True)) for col in columns) for row in a)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class Primitives:
    """Shapes of one family, of all scenes: world = rotation @ own + centre.

    scene, slot [P]: whose they are. size [3, P] as the family reads it; center [P, 3]; rotation [P, 3, 3];
    bound [P]: radius of a sphere about the centre; skin [P]: the bare parts of a figure.
    """

    family: int
    scene: Tensor
    slot: Tensor
    size: Tensor
    center: Tensor
    rotation: Tensor
    bound: Tensor
    skin: Tensor

    def pick(self, rows: Tensor) -> Primitives:
        """The primitives of those indices."""
        flat = (t[rows] for t in (self.center, self.rotation, self.bound, self.skin))
        return Primitives(self.family, self.scene[rows], self.slot[rows], self.size[:, rows], *flat)


@dataclass(frozen=True)
class World:
    """A batch of scenes at a time, as tensors on one device.

    Per object [B, SLOTS]: shape, color, material (indices into the vocabulary, -1 where there is none),
    center [.., 3], rotation [.., 3, 3], radius r and bound (0 where there is none), all in world units.
    Per scene [B]: floor_color, floor_pattern, light, style.
    """

    scenes: tuple[Scene, ...]
    times: tuple[float, ...]
    shape: Tensor
    color: Tensor
    material: Tensor
    center: Tensor
    rotation: Tensor
    radius: Tensor
    bound: Tensor
    floor_color: Tensor
    floor_pattern: Tensor
    light: Tensor
    style: Tensor
    primitives: tuple[Primitives, ...]

    @cached_property
    def placements(self) -> tuple[tuple[Placement, ...], ...]:
        """`place` of every object of every scene."""
        return _placements(self.scenes, self.times)

    @classmethod
    def of(cls, scenes: Sequence[Scene], times: Sequence[float], device: str | torch.device = "cpu") -> World:
        """The tables of scenes[i] at times[i] seconds."""
        placements = _placements(scenes, times)
        table = [
            [_object_row(s.objects[i], row[i]) if i < len(s.objects) else _NOTHING for i in range(SLOTS)]
            for s, row in zip(scenes, placements, strict=True)
        ]
        objects = torch.tensor(table, dtype=torch.float64).to(device, torch.float32)
        shape, color, material = objects[..., :3].long().unbind(-1)
        words = [
            [
                FLOOR_COLORS.index(s.floor.color),
                FLOOR_PATTERNS.index(s.floor.pattern),
                LIGHTS.index(s.light),
                STYLES.index(s.style),
            ]
            for s in scenes
        ]
        floor_color, floor_pattern, light, style = torch.tensor(words, device=device).unbind(-1)
        return cls(
            scenes=tuple(scenes),
            times=tuple(times),
            shape=shape,
            color=color,
            material=material,
            center=objects[..., 3:6],
            rotation=objects[..., 6:15].unflatten(-1, (3, 3)),
            radius=objects[..., 15],
            bound=objects[..., 16],
            floor_color=floor_color,
            floor_pattern=floor_pattern,
            light=light,
            style=style,
            primitives=_primitives(scenes, placements, device),
        )


_NOTHING = [-1.0, -1.0, -1.0] + [0.0] * 14
FIGURE_BOUND = 1.52
"""Radius, in units of r, of a sphere about the figure's centre that holds every pose."""


def _placements(scenes: Sequence[Scene], times: Sequence[float]) -> tuple[tuple[Placement, ...], ...]:
    return tuple(
        tuple(place(s, i, time) for i in range(len(s.objects))) for s, time in zip(scenes, times, strict=True)
    )


def _object_row(thing: Object, at: Placement) -> list[float]:
    r = RADIUS[thing.size]
    bound = r * (FIGURE_BOUND if thing.shape == "figure" else PARTS[thing.shape][2])
    ids = [SHAPES.index(thing.shape), COLORS.index(thing.color), MATERIALS.index(thing.material)]
    return [*ids, *at.center, *(v for row in at.rotation for v in row), r, bound]


def _primitives(
    scenes: Sequence[Scene], placements: Sequence[Sequence[Placement]], device: str | torch.device
) -> tuple[Primitives, ...]:
    rows: list[list[list[float]]] = [[] for _ in FAMILIES]
    for b, (scene, places) in enumerate(zip(scenes, placements, strict=True)):
        for slot, (thing, at) in enumerate(zip(scene.objects, places, strict=True)):
            r = RADIUS[thing.size]
            frame = [r, *at.center, *(v for row in at.rotation for v in row)]
            if thing.shape == "figure":
                for bone in bones(thing.pose, at.phase, walking=thing.motion == "walks"):
                    rows[0].append([b, slot, bone.skin, *_capsule(bone), *frame])
            else:
                family, size, bound = PARTS[thing.shape]
                rows[family].append([b, slot, 0, *size, bound, 0, 0, 0, 0, 0, 1, *frame])
    return tuple(_assemble(family, table, device) for family, table in enumerate(rows) if table)


def _capsule(bone: Bone) -> list[float]:
    """Sizes, bound, middle and axis of a bone in the figure's frame."""
    middle = [(p + q) / 2 for p, q in zip(bone.a, bone.b, strict=True)]
    along = [q - p for p, q in zip(bone.a, bone.b, strict=True)]
    length = math.hypot(*along)
    axis = [v / length for v in along] if length else [0.0, 0.0, 1.0]
    return [length / 2, bone.radius, 0.0, length / 2 + bone.radius, *middle, *axis]


def _assemble(family: int, rows: list[list[float]], device: str | torch.device) -> Primitives:
    table = torch.tensor(rows, dtype=torch.float64).to(device)
    scene, slot, skin = table[:, :3].long().unbind(-1)
    size, bound, middle, axis = table[:, 3:6], table[:, 6], table[:, 7:10], table[:, 10:13]
    r, center, rotation = table[:, 13], table[:, 14:17], table[:, 17:26].unflatten(-1, (3, 3))
    center = center + r[:, None] * (rotation @ middle[..., None])[..., 0]
    return Primitives(
        family=family,
        scene=scene,
        slot=slot,
        size=(r[:, None] * size).T.float().contiguous(),
        center=center.float(),
        rotation=(rotation @ _basis(axis)).float(),
        bound=(r * bound).float(),
        skin=skin.bool(),
    )


def _basis(axis: Tensor) -> Tensor:
    """Rotations [P, 3, 3] that turn z into unit vectors [P, 3]; the identity for z itself.

    Their y leans as little as it can from the figure's left, so that a swinging limb does not twist.
    """
    across = axis[:, 1:2].abs() > 0.95
    left = torch.where(across, axis.new_tensor([1.0, 0.0, 0.0]), axis.new_tensor([0.0, 1.0, 0.0]))
    first = torch.nn.functional.normalize(torch.linalg.cross(left, axis), dim=-1)
    return torch.stack((first, torch.linalg.cross(axis, first), axis), -1)
