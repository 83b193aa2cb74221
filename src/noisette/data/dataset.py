"""A path becomes a data set of images in [-1, 1]."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from logging import getLogger
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from noisette.data.images import CorruptImage, Fit, decode, fit_square, to_array
from noisette.data.layout import find_source
from noisette.data.source import NO_FIELDS, Row, Source, label_ids
from noisette.errors import UserError
from noisette.pixels import from_uint8

__all__ = ["ImageDataset", "open_dataset"]

CACHE_BYTES = 512 << 20
CACHE_IMAGES = 100_000
CHECKED_AT_ONCE = 2_000
MAX_CORRUPT = 0.01
NAMED = 20
PROBED = 32
WORTH_A_THREAD = 0.002  # seconds an image
A = TypeVar("A")
B = TypeVar("B")
log = getLogger(__name__)


class Damage:
    """The corrupt images of one data set: each is named once in a warning, and too many are an error."""

    def __init__(self, origin: str, total: int) -> None:
        self.origin, self.total = origin, total
        self.reasons: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """Count one corrupt image.

        Raises:
            UserError: more than 1 % of all images are known to be corrupt; the first few are named.
        """
        if name not in self.reasons:
            self.reasons[name] = reason
            if get_worker_info() is None and len(self.reasons) <= NAMED:  # a worker's are told by the loader
                more = "; further ones are only counted" if len(self.reasons) == NAMED else ""
                log.warning("%s: skipped corrupt image %s (%s)%s", self.origin, name, reason, more)
        if len(self.reasons) > MAX_CORRUPT * self.total:
            few = ", ".join(f"{name} ({reason})" for name, reason in islice(self.reasons.items(), 3))
            few += ", ..." if len(self.reasons) > 3 else ""
            raise UserError(f"{self.origin}: more than 1 % of {self.total} images are corrupt: {few}")


class ImageDataset(Dataset[dict[str, Any]]):
    """Images [C, H, W] in [-1, 1], with class numbers and captions where the data have them.

    Made by `open_dataset`. `data[i]` is {"image": float32 [C, H, W], "label": int, "text": str}, the last
    two where known.

    Attributes:
        labels: class names, `labels[k]` is class k; None without classes.
        has_text: whether examples carry a caption ("" where a single one has none).
        shape: (C, H, W) of every image.
        metadata: per image, all fields of its metadata.jsonl row or .json member.
        origin: the path, for messages.
        shuffled: False, the images have an order of their own.
    """

    shuffled = False

    def __init__(
        self,
        source: Source,
        *,
        size: int | None,
        channels: Literal[1, 3],
        fit: Fit,
        labels: Sequence[str] | None,
        cache: bool | None,
    ) -> None:
        if not source.rows:
            raise UserError(f"{source.origin}: holds no image")
        self.origin = source.origin
        self._read, self._rows = source.read, list(source.rows)
        self._size = size
        self._channels: Literal[1, 3] = channels
        self._fit: Fit = fit
        self._damage = Damage(source.origin, len(source.rows))
        self._ids, self.labels = label_ids(source, labels) or (None, None)
        self.has_text = any(row.text is not None for row in source.rows)
        self._held: Tensor | None = None
        if source.pixels is not None:
            self._held = self._hold(source.pixels)
            self.shape: tuple[int, ...] = tuple(self._held.shape[1:])
        else:
            self.shape = (channels, size, size) if size is not None else self._native_shape()
            small = len(self) <= CACHE_IMAGES and len(self) * int(np.prod(self.shape)) <= CACHE_BYTES
            keep = small if cache is None else cache
            if keep or len(self) < CHECKED_AT_ONCE:
                self._decode_all(keep)
        self.metadata: Sequence[Mapping[str, Any]] = [row.fields or NO_FIELDS for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.origin} has {len(self)} images, no image {index}")
        batch = self.fetch([index % len(self)])
        return {key: int(value[0]) if key == "label" else value[0] for key, value in batch.items()}

    @property
    def corrupt(self) -> Mapping[str, str]:
        """{name: reason} of the images skipped so far."""
        return dict(self._damage.reasons)

    def fetch(self, indices: Sequence[int], flip: Sequence[bool] | None = None) -> dict[str, Any]:
        """A batch: "image" float32 [B, C, H, W] in [-1, 1], "label" int64 [B] (-1: none), "text" list[str].

        `flip[j]` mirrors image j left to right. The place of an image that turns out to be corrupt is
        taken by the next readable one, so that a batch keeps its size and stays a function of `indices`.

        Raises:
            UserError: more than 1 % of the images are corrupt, or their sizes differ and no size was given.
        """
        if self._held is not None:
            pixels = self._held[torch.as_tensor(indices)]
            texts = [self._rows[i].text or "" for i in indices] if self.has_text else []
        else:
            indices, arrays, texts = zip(*map(self._readable, indices), strict=True)
            pixels = torch.from_numpy(np.stack(arrays))
        if flip is not None and any(flip):
            chosen = torch.as_tensor(flip, dtype=torch.bool)
            pixels[chosen] = pixels[chosen].flip(-1)
        batch: dict[str, Any] = {"image": from_uint8(pixels)}
        if self._ids is not None:
            batch["label"] = self._ids[torch.as_tensor(indices)]
        if self.has_text:
            batch["text"] = list(texts)
        return batch

    @property
    def fingerprint(self) -> str:
        """A digest of the content of the images, of how they are cut, and of what is said of them.

        Reads every image once where they are not in memory.
        """
        digest = hashlib.blake2b(repr((self.shape, self._fit, self.labels)).encode(), digest_size=16)
        if self._held is not None:
            digest.update(self._held.contiguous().numpy().data)
        for i, row in enumerate(self._rows):
            if self._held is None:
                digest.update(self._read(row))
            label = None if self._ids is None else int(self._ids[i])
            digest.update(repr((row.name, label, _caption(row))).encode())
        return digest.hexdigest()

    def note_corrupt(self, found: Mapping[str, str]) -> None:
        """Take over what worker processes found: warn, count, and raise `UserError` above 1 %."""
        for name, reason in found.items():
            self._damage.add(name, reason)

    def _readable(self, index: int) -> tuple[int, NDArray[np.uint8], str]:
        for i in chain(range(index, len(self)), range(index)):
            if self._rows[i].name not in self._damage.reasons:
                try:
                    return i, *self._example(self._rows[i])
                except CorruptImage as error:
                    self._damage.add(self._rows[i].name, str(error))
        raise AssertionError("Damage.add raises long before every image is corrupt")

    def _example(self, row: Row) -> tuple[NDArray[np.uint8], str]:
        image = decode(self._read(row), self._channels)
        _, height, width = self.shape
        if self._size is not None:
            image = fit_square(image, self._size, self._fit)
        elif image.size != (width, height):
            have = f"{image.width} x {image.height}"
            raise UserError(f"{row.name} is {have} pixels, others are {width} x {height}: give a size")
        return to_array(image), _caption(row)

    def _native_shape(self) -> tuple[int, int, int]:
        for row in self._rows:
            try:
                image = decode(self._read(row), self._channels)
                return self._channels, image.height, image.width
            except CorruptImage as error:
                self._damage.add(row.name, str(error))
        raise AssertionError("Damage.add raises long before every image is corrupt")

    def _decode_all(self, keep: bool) -> None:
        held = torch.empty((len(self), *self.shape), dtype=torch.uint8) if keep else None
        kept: list[int] = []
        rows: list[Row] = []
        for i, example in enumerate(_all(self._attempt, self._rows)):
            row = self._rows[i]
            if isinstance(example, CorruptImage):
                self._damage.add(row.name, str(example))
                continue
            pixels, text = example
            if held is not None:
                held[len(rows)] = torch.tensor(pixels)
            kept.append(i)
            rows.append(row._replace(text=text if row.text is not None else None))
        self._rows = rows
        self._held = held[: len(rows)] if held is not None else None
        self._ids = self._ids[kept] if self._ids is not None else None

    def _attempt(self, row: Row) -> tuple[NDArray[np.uint8], str] | CorruptImage:
        try:
            return self._example(row)
        except CorruptImage as error:
            return error

    def _hold(self, pixels: NDArray[np.uint8]) -> Tensor:
        _, height, width = pixels.shape
        size = self._size
        if size is not None and self._fit == "pad" and max(height, width) <= size:
            above, left = (size - height) // 2, (size - width) // 2
            margins = ((0, 0), (above, size - height - above), (left, size - width - left))
            pixels = np.pad(pixels, margins)
        elif size is not None and (height, width) != (size, size):
            fitted = (to_array(fit_square(Image.fromarray(image), size, self._fit)) for image in pixels)
            pixels = np.concatenate(list(fitted))
        return torch.tensor(pixels)[:, None].expand(-1, self._channels, -1, -1)


def _caption(row: Row) -> str:
    if not isinstance(row.text, Path):
        return row.text or ""
    try:
        return row.text.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptImage(f"its caption {row.text.name} cannot be read ({error})") from None


def _all(function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
    """`map`, in threads where that pays: Pillow decodes outside the interpreter lock, but for images of
    a few kilobytes the lock itself is most of the work."""
    start = time.perf_counter()
    yield from map(function, items[:PROBED])
    if time.perf_counter() - start < PROBED * WORTH_A_THREAD:
        yield from map(function, items[PROBED:])
        return
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for first in range(PROBED, len(items), 1024):  # chunks bound what waits to be stored
            yield from pool.map(function, items[first : first + 1024])


def open_dataset(
    path: str | Path,
    *,
    size: int | None = None,
    channels: Literal[1, 3] = 3,
    fit: Fit = "crop",
    split: str | None = None,
    labels: Sequence[str] | None = None,
    text_field: str | None = None,
    label_field: str | None = None,
    cache: bool | None = None,
) -> ImageDataset:
    """Open the images at `path`, whatever the layout.

    Recognised, in this order: a folder saved by Hugging Face `datasets`; IDX files (MNIST) or the IDX
    image file itself; WebDataset archives (.tar, .tar.gz) or a folder of them; a folder with train /
    test / validation subfolders; a folder with metadata.jsonl; a folder of PNG, JPEG and WebP images,
    where two or more subfolders are classes and same-stem .txt files are captions. Nothing is
    downloaded, extracted or written.

    A corrupt image is named in a warning, counted and skipped: data sets below 2,000 images, and those
    that are kept in memory, are decoded once right here; of larger ones each image as it is met.

    Args:
        size: side of the square images; None keeps the native size, which must then be the same for all.
        channels: 1 (grey) or 3 (RGB); transparency is laid over white.
        fit: "crop" resizes the shorter side (antialiased) and crops the centre; "pad" centres on zeros.
        split: "train", "test", "validation", ...; None means "train" where the path has splits.
        labels: class names in the order of their numbers; None sorts the names found.
        text_field, label_field: fields of metadata.jsonl or .json members to use; by default the first
            of text, caption, prompt, and label.
        cache: keep all images in memory as uint8; None decides (at most 512 MiB and 100,000 images).

    Raises:
        UserError: nothing usable at `path` (what was looked for is named), a damaged archive, no such
            split, a label outside `labels`, more than 1 % corrupt images.
    """
    if size is not None and size < 1:
        raise UserError(f"an image size is at least 1, not {size}")
    if channels not in (1, 3):
        raise UserError(f"images have 1 or 3 channels, not {channels}")
    if fit not in ("crop", "pad"):
        raise UserError(f"fit is 'crop' or 'pad', not {fit!r}")
    source = find_source(path, split, text_field, label_field)
    return ImageDataset(source, size=size, channels=channels, fit=fit, labels=labels, cache=cache)
