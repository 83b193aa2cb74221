"""What the sections of the page share: how much is measured, the reader, and the pictures it is shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from noisette import __version__
from noisette.atlas.cells import Tick, digest
from noisette.pixels import from_uint8, to_uint8
from noisette.scenes.reader import Reader
from noisette.scenes.render import render
from noisette.scenes.sampling import sample_scene
from noisette.scenes.scene import Scene
from noisette.training.reader.shards import Pictures, alone, exam_scenes, pictures

FIRST = 2_000_000
"""Seeds of the pictures that are read: beyond those of any exam on the reader's card."""

BATCH = 50

Measured: TypeAlias = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Plan:
    """How much is measured, by the number of scenes that are read; tiles in pixels, rays per pixel."""

    count: int = 2000
    tile: int = 96
    samples: int = 9
    quick: bool = False

    @property
    def sentences(self) -> int:
        """Scenes put into words, and drawn from the training split."""
        return 5 * self.count

    @property
    def edits(self) -> int:
        return self.count

    @property
    def solid(self) -> int:
        """Scenes of which every pixel's depth, normal and ids are checked."""
        return max(3, self.count // 20)

    @property
    def meshes(self) -> int:
        return max(2, self.count // 100)

    @property
    def clips(self) -> int:
        return max(2, self.count // 200)

    @property
    def faded(self) -> int:
        """Pictures that are drowned in noise and blur, step by step."""
        return max(4, self.count // 8)


QUICK = Plan(count=100, tile=64, samples=4, quick=True)


@dataclass(frozen=True)
class Exam:
    """Scenes, their pictures at 64 pixels, and how many pixels each object would fill, were it alone."""

    scenes: list[Scene]
    data: Pictures
    alone: list[list[int]]

    @property
    def images(self) -> Tensor:
        """Float [N, 3, 64, 64] in [-1, 1]."""
        return from_uint8(self.data.rgb)

    def first(self, count: int) -> Exam:
        """The first of them."""
        return Exam(self.scenes[:count], self.data[:count], self.alone[:count])


@dataclass(frozen=True)
class Bench:
    """What everything is measured with."""

    reader: Reader
    seed: int
    plan: Plan
    _exams: dict[str, Exam] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def world(self) -> dict[str, Any]:
        """What decides whatever is measured of the world: its pictures, in twelve letters, and the seed."""
        look = render([sample_scene(k) for k in range(4)], samples=1).rgb
        return {"noisette": __version__, "world": digest([to_uint8(look)]), "seed": self.seed}

    @cached_property
    def reading(self) -> dict[str, Any]:
        """The same of whatever is measured of the reader."""
        return {**self.world, "reader": digest(list(self.reader.state_dict().values()))}

    def exam(self, split: str, tick: Tick) -> Exam:
        """Scenes of a split that nobody was trained or examined on; rendered once, 20 ms each."""
        count = self.plan.count
        if split in self._exams:
            tick(count)
            return self._exams[split]
        scenes = exam_scenes(FIRST + self.seed * 10**6, count, split)
        parts: list[Pictures] = []
        covered: list[list[int]] = []
        for start in range(0, count, BATCH):
            batch = scenes[start : start + BATCH]
            parts.append(pictures(batch, [0.0] * len(batch)))
            covered += alone(batch)
            tick(len(batch))
        self._exams[split] = Exam(scenes, Pictures.joined(parts), covered)
        return self._exams[split]


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share: Wilson's, which stays in [0, 1] and is not empty at 0 and 1.

    Source: doi:10.1080/01621459.1927.10502953.
    """
    if not total:
        return 0.0, 1.0
    share, unit = right / total, z * z / total
    middle = (share + unit / 2) / (1 + unit)
    half = z / (1 + unit) * math.sqrt(share * (1 - share) / total + unit / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def pixels(image: Tensor) -> Tensor:
    """An image [3, H, W] in [0, 1] as the pages show them, [1, 3, H, W] in [-1, 1]."""
    return (2 * torch.nan_to_num(image) - 1).clamp(-1, 1)[None]
