"""Pictures rendered, or turned into latents, once and kept on disk, so that an epoch costs neither.

A folder of parts, each a safetensors file of pictures or latents and a JSON file of what is said of them. Its
name is a digest of what they were made from, so that other data or another autoencoder have a folder of their
own. A part that is there is not made again: interrupted work goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from noisette.data import Images, loader
from noisette.errors import UserError
from noisette.files import atomic_write, cache_folder
from noisette.nets.vae import Codec
from noisette.pixels import from_uint8, to_uint8
from noisette.scenes import Scene
from noisette.scenes.caption import caption
from noisette.scenes.dataset import ENDLESS

__all__ = ["KeptImages", "KeptScenes", "kept"]

PART, BATCH = 1024, 64
"""Images in a file; images made at a time."""

Progress = Callable[[int, int], None]


class KeptImages:
    """Pictures or latents that lie on disk, fetched as a data set's images are. Nothing is mirrored."""

    shuffled = False

    def __init__(
        self,
        origin: str,
        images: Tensor,
        told: Mapping[str, Sequence[Any]],
        labels: tuple[str, ...] | None,
        fingerprint: str,
    ) -> None:
        self.origin, self.labels = origin, labels
        self.images, self.told = images, told
        self.shape = tuple(images.shape[1:])
        self.fingerprint = fingerprint

    @property
    def corrupt(self) -> Mapping[str, str]:
        """{}: what is kept was readable."""
        return {}

    def note_corrupt(self, found: Mapping[str, str]) -> None:
        """Nothing to note."""

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, indices: Sequence[int], flip: Sequence[bool] | None = None) -> dict[str, Any]:
        """A batch: "image" float32 [B, C, H, W], with "label" or "text" where there are any."""
        if flip is not None and any(flip):
            raise UserError(f"{self.origin}: what is kept is not mirrored, set flip=False")
        told = {name: [column[i] for i in indices] for name, column in self.told.items()}
        if "label" in told:
            told["label"] = torch.tensor(told["label"])  # pyright: ignore[reportArgumentType]
        chosen = self.images[torch.as_tensor(indices)]
        return {"image": from_uint8(chosen) if chosen.dtype == torch.uint8 else chosen.float(), **told}


class KeptScenes(KeptImages):
    """N kept scenes, told in other words each time they are seen.

    There is no end of images: image i shows scene i mod N, in an order of its own for each turn, under
    caption number i.
    """

    shuffled = True

    def __len__(self) -> int:
        return ENDLESS

    def fetch(self, indices: Sequence[int], flip: Sequence[bool] | None = None) -> dict[str, Any]:
        """A batch: "image" float32 [B, C, H, W], "scene", and "text", captions made for this turn."""
        batch = super().fetch([self._row(i) for i in indices], flip)
        scenes = [Scene.from_json(text) for text in batch["scene"]]
        told = (caption(s, Random(f"{self.fingerprint}/{i}")) for s, i in zip(scenes, indices, strict=True))
        return {**batch, "scene": scenes, "text": list(told)}

    def _row(self, index: int) -> int:
        turn, place = divmod(index, len(self.images))
        if turn != getattr(self, "_turn", None):
            generator = torch.Generator().manual_seed(turn)
            self._turn, self._order = turn, torch.randperm(len(self.images), generator=generator)
        return int(self._order[place])


def kept(
    data: Images,
    home: Path | None = None,
    codec: Codec | None = None,
    *,
    workers: int = 0,
    progress: Progress | None = None,
) -> KeptImages:
    """The images of ``data``, or their ``codec.to_latents``, from ``home`` as far as they are there already.

    Pictures are kept as bytes, latents as float16. ``home`` is the user's cache by default. Made where the
    codec is, in batches of 64 that ``workers`` processes read or render; ``progress(done, total)`` hears of
    each. Raises UserError for data without end, or that do not say what they are made of.
    """
    if isinstance(data, KeptScenes):
        data = _Turn(data)
    if len(data) >= ENDLESS:
        raise UserError(f"{data.origin}: images without end cannot be kept: give a count")
    fingerprint = fingerprint_of(data, codec)
    folder = (home or cache_folder() / "images") / fingerprint
    firsts = range(0, len(data), PART)
    missing = [first for first in firsts if not _files(folder, first)[1].exists()]
    if missing:
        _make(data, codec, folder, missing, workers, progress)
    parts = [_read(folder, first) for first in firsts]
    images = torch.cat([part for part, _ in parts])
    told = {name: [item for _, rows in parts for item in rows[name]] for name in parts[0][1]}
    kind = KeptScenes if "scene" in told else KeptImages
    return kind(data.origin, images, told, data.labels, fingerprint)


def fingerprint_of(data: Images, codec: Codec | None) -> str:
    """A digest of the content of the images, and of the shape and weights of the codec."""
    known: str | None = getattr(data, "fingerprint", None)
    if known is None:
        raise UserError(f"{data.origin}: only images with a fingerprint can be kept")
    digest = hashlib.blake2b(f"{known}/{PART}".encode(), digest_size=12)
    if codec is not None:
        digest.update(repr(codec.config).encode())
        for name, value in codec.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


class _Turn(KeptImages):
    """Kept scenes in the order they lie in, once."""

    def __init__(self, data: KeptScenes) -> None:
        super().__init__(data.origin, data.images, data.told, data.labels, data.fingerprint)


class _Chosen:
    """Some of the images of a data set, in their order, with all that is told of them."""

    shuffled = False

    def __init__(self, data: Images, indices: Sequence[int]) -> None:
        self.data, self.indices = data, indices
        self.origin, self.shape, self.labels = data.origin, data.shape, data.labels
        self.note_corrupt = data.note_corrupt

    @property
    def corrupt(self) -> Mapping[str, str]:
        return self.data.corrupt

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, indices: Sequence[int], flip: Sequence[bool] | None = None) -> dict[str, Any]:
        return self.data.fetch([self.indices[i] for i in indices])


@torch.no_grad()
def _make(
    data: Images,
    codec: Codec | None,
    folder: Path,
    missing: Sequence[int],
    workers: int,
    progress: Progress | None,
) -> None:
    """Make the missing parts, one after the other."""
    wanted = [i for first in missing for i in range(first, min(first + PART, len(data)))]
    options: Any = {"seed": 0, "shuffle": False, "drop_last": False, "epochs": 1, "num_workers": workers}
    images: list[Tensor] = []
    told: dict[str, list[Any]] = {}
    left, done = list(missing), 0
    for batch in loader(_Chosen(data, wanted), BATCH, **options):
        made = _squeezed(batch.pop("image"), codec)
        if "scene" in batch:
            batch = {"scene": [s if isinstance(s, str) else s.to_json() for s in batch["scene"]]}
        for name, column in batch.items():
            told.setdefault(name, []).extend(column.tolist() if isinstance(column, Tensor) else column)
        images.append(made)
        done += len(made)
        if done % PART == 0 or done == len(wanted):
            _write(_files(folder, left.pop(0)), torch.cat(images), told)
            images, told = [], {}
        if progress is not None:
            progress(done, len(wanted))


def _squeezed(images: Tensor, codec: Codec | None) -> Tensor:
    """Images in [-1, 1] as they are kept."""
    if codec is None:
        return to_uint8(images)
    return codec.to_latents(images.to(next(codec.parameters()).device)).half().cpu()


def _files(folder: Path, first: int) -> tuple[Path, Path]:
    """The files of a part; the second is written last, and where it is the part is whole."""
    name = f"part-{first // PART:06d}"
    return folder / f"{name}.safetensors", folder / f"{name}.json"


def _write(files: tuple[Path, Path], images: Tensor, told: Mapping[str, Sequence[Any]]) -> None:
    from safetensors.torch import save_file

    with atomic_write(files[0]) as path:
        save_file({"images": images.contiguous()}, path)
    with atomic_write(files[1]) as path:
        path.write_text(json.dumps(told), encoding="utf-8")


def _read(folder: Path, first: int) -> tuple[Tensor, dict[str, list[Any]]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    images, told = _files(folder, first)
    try:
        pixels, columns = load_file(images)["images"], json.loads(told.read_text(encoding="utf-8"))
        if not isinstance(columns, dict) or any(len(column) != len(pixels) for column in columns.values()):
            raise ValueError("what is said of its images does not fit them")
        return pixels, columns
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{images} is damaged ({reason}): remove {folder}, it will be made again") from None
