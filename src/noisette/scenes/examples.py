"""What an export writes of each scene: its pictures, maps and flow as files, and a row of metadata."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from noisette.errors import UserError
from noisette.pixels import to_uint8
from noisette.scenes import maps
from noisette.scenes.caption import caption
from noisette.scenes.parse import parse
from noisette.scenes.render import Rendering, render, render_video, render_views
from noisette.scenes.sampling import sample_scene
from noisette.scenes.scene import Camera, Scene, check_word
from noisette.scenes.splits import SPLITS

__all__ = ["FOLDER", "FORMATS", "MAPS", "Example", "Export", "examples", "orbit"]

FORMATS = ("imagefolder", "webdataset")

MAPS = (
    "canny", "soft_edges", "scribble", "depth", "normals", "segmentation", "pose",
    "metric_depth", "instances",
)  # fmt: skip
"""The control maps as 8-bit PNGs, and two truths. metric_depth: 16-bit, thousandths of a world unit along
the optical axis, at most 65535 (of floor near the horizon), 0 in the sky. instances: 8-bit, 0 sky, 1 floor,
2 and up the objects in their order."""

CHUNK, FOLDER = 64, 16
"""Pictures to a chunk, the unit of work; chunks to a subfolder or an archive."""
AT_ONCE = 2**18
"""Pixels rendered together."""


@dataclass(frozen=True)
class Export:
    """What is to be exported; `export` says what comes of it.

    split, seed: scene i is that of `SceneDataset(split=split, seed=seed)`. describe: text that every scene
    must fit. views: pictures from that many cameras on a circle, the first of them the scene's own. frames,
    fps: a clip instead of a picture; motion: whether things may move, by default in clips alone.

    Raises UserError for what does not exist, is out of range, or does not go together.
    """

    count: int
    size: int = 64
    format: str = "imagefolder"
    split: str = "train"
    seed: int = 0
    maps: tuple[str, ...] = ()
    describe: str = ""
    views: int | None = None
    frames: int | None = None
    fps: float = 8.0
    motion: bool | None = None

    def __post_init__(self) -> None:
        check_word("format", self.format, FORMATS)
        check_word("split", self.split, SPLITS)
        for name in self.maps:
            check_word("maps", name, MAPS)
        object.__setattr__(self, "maps", tuple(name for name in MAPS if name in self.maps))
        if self.motion is None:
            object.__setattr__(self, "motion", self.frames is not None)
        for name, low, high in (
            ("count", 1, 10**7), ("size", 8, 4096), ("views", 1, 999), ("frames", 1, 999),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UserError(f"{name} is a whole number from {low} to {high}, not {value}")
        if not 0 < self.fps <= 1000:
            raise UserError(f"fps is a positive number up to 1000, not {self.fps}")
        if self.views is not None and self.frames is not None:
            raise UserError("a scene is exported in several views or in several frames: give one of the two")

    @property
    def pictures(self) -> int:
        """Pictures of each scene."""
        return self.views or self.frames or 1

    @property
    def chunk(self) -> int:
        """Scenes of each chunk but the last."""
        return max(1, CHUNK // self.pictures)

    @property
    def chunks(self) -> int:
        return math.ceil(self.count / self.chunk)

    def scenes_in(self, chunk: int) -> range:
        """The scenes of a chunk."""
        return range(chunk * self.chunk, min((chunk + 1) * self.chunk, self.count))

    def scene(self, index: int) -> Scene:
        """Scene `index`: sample_scene of the 8-byte BLAKE2b hash of "seed/index", as a big-endian number."""
        digest = hashlib.blake2b(f"{self.seed}/{index}".encode("ascii"), digest_size=8).digest()
        asked = vars(_asked(self.describe))
        try:
            return sample_scene(
                int.from_bytes(digest, "big"), split=self.split, motion=bool(self.motion), **asked
            )
        except UserError as error:
            raise UserError(f"scene {index}: {error}") from None

    def caption(self, scene: Scene, index: int) -> str:
        """What is said of scene `index`; of motion only where it can be seen."""
        rng = Random(f"caption/{self.seed}/{self.split}/{index}")
        return caption(scene, rng, motion=None if self.frames else False)

    def place(self, index: int) -> str:
        """The subfolder or archive that holds scene `index`."""
        number = index // (self.chunk * FOLDER)
        return f"scenes-{number:05d}.tar" if self.format == "webdataset" else f"{number:05d}"

    def name(self, index: int, key: str) -> str:
        """The name of one of a scene's files: pictures of a clip or of views have a folder of their own."""
        if self.format == "webdataset":
            return f"{index:07d}.{key}"
        return f"{self.place(index)}/{index:07d}{'.' if self.pictures == 1 else '/'}{key}"


@lru_cache(maxsize=1)
def _asked(text: str) -> Any:
    return parse(text)


def orbit(camera: Camera, count: int) -> list[Camera]:
    """That many still cameras around the scene, counter-clockwise seen from above, the camera first."""
    return [
        replace(camera, azimuth=(camera.azimuth + 360 * k / count) % 360, motion="still")
        for k in range(count)
    ]


Example = tuple[int, list[tuple[str, bytes]], dict[str, Any]]
"""The number of a scene, its files by key, and its row of metadata."""


def examples(job: Export, scenes: range, advance: Callable[[int], None]) -> Iterator[Example]:
    """Draw the scenes one after another, small ones several at a time; the first file is the picture."""
    step = max(1, AT_ONCE // job.size**2) if job.pictures == 1 else 1
    for first in range(scenes.start, scenes.stop, step):
        batch = range(first, min(first + step, scenes.stop))
        drawn = [job.scene(index) for index in batch]
        rendering = _render(job, drawn)
        numbers = [index for index in batch for _ in range(job.pictures)]
        hints = _hints(job, rendering, numbers)
        for k, (index, scene) in enumerate(zip(batch, drawn, strict=True)):
            yield _example(job, index, scene, rendering, hints, k * job.pictures)
        advance(len(batch))


def _render(job: Export, scenes: list[Scene]) -> Rendering:
    if job.frames is not None:
        return render_video(scenes[0], job.frames, job.fps, job.size)
    if job.views is not None:
        return render_views(scenes[0], orbit(scenes[0].camera, job.views), job.size)
    return render(scenes, job.size)


def _hints(job: Export, rendering: Rendering, numbers: list[int]) -> dict[str, Tensor]:
    """The maps wanted, [B, H, W] or [B, 3, H, W], in the numbers that are stored."""
    found: dict[str, Tensor] = {}
    for name in job.maps:
        if name == "metric_depth":
            depth = torch.where(rendering.depth.isfinite(), 1000 * rendering.depth, 0)
            found[name] = depth.round().clamp(0, 65535).int()
        elif name == "instances":
            found[name] = (rendering.instance + 2).to(torch.uint8)
        else:
            options = (numbers,) if name == "scribble" else ()
            hint = (255 * getattr(maps, name)(rendering, *options)).round().to(torch.uint8)
            found[name] = hint if name in ("normals", "segmentation", "pose") else hint[:, 0]
    return found


def _example(
    job: Export, index: int, scene: Scene, rendering: Rendering, hints: dict[str, Tensor], start: int
) -> Example:
    files: list[tuple[str, bytes]] = []
    pictures: list[dict[str, Any]] = []
    for k in range(job.pictures):
        at = start + k
        prefix = "" if job.pictures == 1 else f"{k:03d}."
        images = {"": to_uint8(rendering.rgb[at]), **{name: hint[at] for name, hint in hints.items()}}
        keys = {name: f"{prefix}{name}{'.' if name else ''}png" for name in images}
        files += [(keys[name], _png(image)) for name, image in images.items()]
        row: dict[str, Any] = {"file_name": job.name(index, keys[""])}
        if job.frames is not None:
            row["time"] = k / job.fps
        row["camera"] = {
            "intrinsics": _table(rendering.intrinsics[at]),
            "extrinsics": _table(rendering.extrinsics[at]),
        }
        pictures.append(row | {f"{name}_file_name": job.name(index, keys[name]) for name in hints})
    told = {"caption": job.caption(scene, index), "index": index, "scene": json.loads(scene.to_json())}
    row = {"file_name": pictures[0]["file_name"], **told, **pictures[0]}
    row.pop("time", None)
    if rendering.flow is not None:
        row |= {"fps": job.fps, "flow": job.name(index, "flow.npz"), "frames": pictures}
        files.append(("flow.npz", _npz(flow=rendering.flow.half())))
    elif job.views is not None:
        row["views"] = pictures
    return index, files, row


def _png(pixels: Tensor) -> bytes:
    """[H, W] or [3, H, W] of bytes, or int32 [H, W] below 2^16, as a PNG."""
    if pixels.ndim == 3:
        pixels = pixels.permute(1, 2, 0)
    array = pixels.numpy()
    buffer = io.BytesIO()
    image = Image.fromarray(array.astype(np.uint16) if pixels.dtype == torch.int32 else array)
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _npz(**arrays: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{name: a.numpy() for name, a in arrays.items()})
    return buffer.getvalue()


def _table(matrix: Tensor) -> list[list[float]]:
    """The shortest decimal numbers that are the same in float32."""
    return [[float(str(number)) for number in row] for row in matrix.numpy()]
