"""IDX files, the format of MNIST and its relatives. No library that we use reads them without
downloading; the format is a header of a few bytes, so the reader is ours."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from noisette.data.source import Row, Source
from noisette.errors import UserError

__all__ = ["idx_source", "read_idx"]

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_BYTES = 8 << 30
NAME = re.compile(r"(.*)images([-.])idx3-ubyte(\.gz)?")


def read_idx(path: str | Path) -> NDArray[Any]:
    """The array in an IDX file, gzipped or not, in native byte order.

    Raises:
        UserError: not IDX, shorter or longer than its header says, a damaged gzip, or above 8 GiB.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if zipped:
                with gzip.open(raw) as unzipped:
                    return _parse(cast(BinaryIO, unzipped), path)
            return _parse(raw, path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: the gzip is truncated or damaged ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _parse(file: BinaryIO, path: Path) -> NDArray[Any]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES or magic[3] == 0:
        raise UserError(f"{path}: not an IDX file (it starts with {magic.hex() or 'nothing'})")
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise UserError(f"{path}: the IDX header ends early")
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4"))
    dtype = np.dtype(DTYPES[magic[2]])
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_BYTES or len(shape) > 32:
        raise UserError(f"{path}: the IDX header promises {' x '.join(map(str, shape))} values, too many")
    data = file.read(size + 1)
    if len(data) != size:
        what = f"only {len(data)} follow" if len(data) < size else "more follow"
        raise UserError(f"{path}: the IDX header promises {size} bytes of values, {what}")
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(shape)


def idx_splits(folder: Path) -> dict[str, Path]:
    """The image files of a folder by split: {"train": ..., "test": ...} (MNIST calls test "t10k")."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if (match := NAME.fullmatch(path.name)) and path.is_file():
            name = match[1].rstrip("-_.") or "train"
            # sorted order puts name before name.gz; of two copies the plain one is used
            found.setdefault("test" if name == "t10k" else name, path)
    return found


def idx_source(images: Path) -> Source:
    """The digits of an IDX image file, with the labels of the label file beside it where there is one.

    Raises:
        UserError: the file is not uint8 [N, H, W], or labels and images differ in number.
    """
    pixels = read_idx(images)
    if pixels.ndim != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape[1:]:
        raise UserError(f"{images}: images are uint8 [N, H, W], not {pixels.dtype} {list(pixels.shape)}")
    labels: list[int] | list[None] = [None] * len(pixels)
    if (beside := next(_label_files(images), None)) is not None:
        numbers = read_idx(beside)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or len(numbers) != len(pixels):
            have = f"{numbers.dtype} {list(numbers.shape)}"
            raise UserError(f"{beside}: needs one whole number for each of {len(pixels)} images, has {have}")
        labels = numbers.tolist()
    rows = [Row(f"{images.name}[{i}]", label=label, place=i) for i, label in enumerate(labels)]
    return Source(str(images), rows, _unread, pixels=pixels)


def _unread(row: Row) -> bytes:
    raise AssertionError(f"{row.name} is already in memory")


def _label_files(images: Path) -> Iterator[Path]:
    if (match := NAME.fullmatch(images.name)) is not None:
        for suffix in (match[3] or "", "", ".gz"):
            path = images.with_name(f"{match[1]}labels{match[2]}idx1-ubyte{suffix}")
            if path.is_file():
                yield path
