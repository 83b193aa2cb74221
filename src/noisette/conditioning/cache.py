"""Encoded texts kept on disk, so that a frozen text encoder reads each text once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from noisette.core import Cond
from noisette.errors import UserError
from noisette.files import atomic_write

Row: TypeAlias = dict[str, Tensor]

KEYS, SUMS = "keys", "sums"
DTYPES = {str(dtype): dtype for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}


class Encodes(Protocol):
    """A text encoder with a name for all that decides what a text becomes, such as a `FrozenText`."""

    @property
    def identity(self) -> str: ...

    @property
    def device(self) -> torch.device: ...

    def __call__(self, texts: Sequence[str]) -> Cond: ...


def cached(
    encoder: Encodes, folder: str | os.PathLike[str], *, half: bool = False, batch_size: int = 64
) -> CachedText:
    """The encoder with a memory in ``folder``: its network runs only for texts that are not there yet.

    What is new is encoded ``batch_size`` texts at a time, each time into one more file. ``half`` keeps
    floats as float16 (unless one overflows) for half the disk; the values are rounded the first time too,
    so a text is the same whether it was found or made. Other encoders, lengths, layers and precisions may
    share the folder, and so may several processes: a file appears whole or not at all.
    """
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size} must be at least 1")
    kind = hashlib.sha256(encoder.identity.encode()).hexdigest()[:24] + ("-half" if half else "")
    return CachedText(encoder, Path(folder) / kind, half, batch_size)


class CachedText:
    """What `cached` makes. Call it as the encoder itself; `fill` prepares a whole data set.

    Each file holds some texts as safetensors: "keys" uint8 [N, 32], SHA-256 of the texts; "sums" int64 [N],
    a checksum of each row; and the encoder's tensors, [N, ...] each. So every file is its own index.
    A damaged file is named in one warning and removed, and its texts are encoded again.
    """

    def __init__(self, encoder: Encodes, folder: Path, half: bool, batch_size: int) -> None:
        self.encoder, self.folder, self.half, self.batch_size = encoder, folder, half, batch_size
        self._where: dict[bytes, tuple[Path, int]] = {}
        self._read: set[Path] = set()

    @property
    def identity(self) -> str:
        """The encoder's own, so that a cached encoder is one too."""
        return self.encoder.identity

    @property
    def device(self) -> torch.device:
        """Where the conditions are made: where the encoder is."""
        return self.encoder.device

    def fill(self, texts: Iterable[str]) -> int:
        """Encode the texts that are not on disk yet, keeping none in memory; returns how many they were."""
        wanted = {_key(text): text for text in texts}
        self._look(wanted)
        missing = {key: text for key, text in wanted.items() if key not in self._where}
        return sum(len(made) for made in self._encode(missing))

    def __call__(self, texts: Sequence[str]) -> Cond:
        """The encoder's condition, in its shapes, precisions and on its device; no call for known texts."""
        if not texts:
            return self.encoder(texts)
        keys = [_key(text) for text in texts]
        wanted = dict(zip(keys, texts, strict=True))
        self._look(wanted)
        rows = self._load(wanted)
        for made in self._encode({key: text for key, text in wanted.items() if key not in rows}):
            rows |= made
        names = rows[keys[0]]
        return {name: torch.stack([rows[key][name] for key in keys]).to(self.device) for name in names}

    def _look(self, wanted: Mapping[bytes, str]) -> None:
        """Take in the files that were added since the last look, if there is something to look for."""
        if wanted.keys() <= self._where.keys():
            return
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            if path not in self._read:
                with self._dropping(path), _opened(path) as file:
                    self._index(path, file.get_tensor(KEYS))

    def _index(self, path: Path, keys: Tensor) -> None:
        if keys.dtype != torch.uint8 or keys.shape[1:] != (32,):
            raise ValueError("its keys are none")
        self._read.add(path)
        self._where |= {key.tobytes(): (path, row) for row, key in enumerate(keys.numpy())}

    def _load(self, wanted: Mapping[bytes, str]) -> dict[bytes, Row]:
        """The rows on disk; those of a damaged file are left out."""
        places: dict[Path, dict[bytes, int]] = {}
        for key in wanted:
            if key in self._where:
                path, row = self._where[key]
                places.setdefault(path, {})[key] = row
        found: dict[bytes, Row] = {}
        for path, rows in places.items():
            with self._dropping(path):
                found |= _read_rows(path, rows)
        return found

    def _encode(self, texts: Mapping[bytes, str]) -> Iterator[dict[bytes, Row]]:
        """Encode, write and give back, a batch at a time."""
        from safetensors.torch import save_file

        keys = list(texts)
        for start in range(0, len(keys), self.batch_size):
            batch = keys[start : start + self.batch_size]
            cond = self.encoder([texts[key] for key in batch])
            dtypes = {name: str(value.dtype) for name, value in cond.items()}
            values = {name: self._kept(value) for name, value in cond.items()}
            rows = [{name: value[i] for name, value in values.items()} for i in range(len(batch))]
            index = torch.frombuffer(bytearray(b"".join(batch)), dtype=torch.uint8).view(-1, 32)
            path = self.folder / f"{secrets.token_hex(16)}.safetensors"
            with atomic_write(path) as temporary:
                sums = torch.tensor([_sum(row) for row in rows])
                save_file({**values, KEYS: index, SUMS: sums}, temporary, dtypes)
            self._index(path, index)
            yield {key: _restored(row, dtypes) for key, row in zip(batch, rows, strict=True)}

    def _kept(self, value: Tensor) -> Tensor:
        value = value.detach().cpu().contiguous()
        if self.half and value.is_floating_point() and value.half().isfinite().all():
            return value.half()
        return value

    @contextlib.contextmanager
    def _dropping(self, path: Path) -> Iterator[None]:
        """Forget a file that cannot be read, and remove it, unless another process did so already."""
        from safetensors import SafetensorError

        try:
            yield
        except (FileNotFoundError, SafetensorError, ValueError, IndexError, KeyError, TypeError) as error:
            self._read.discard(path)
            self._where = {key: place for key, place in self._where.items() if place[0] != path}
            if not isinstance(error, FileNotFoundError):
                warnings.warn(f"{path} is damaged ({error}): its texts are encoded again", stacklevel=2)
                with contextlib.suppress(OSError):
                    path.unlink()


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _opened(path: Path) -> Any:
    from safetensors import safe_open

    return safe_open(path, framework="pt")


def _read_rows(path: Path, places: Mapping[bytes, int]) -> dict[bytes, Row]:
    """Rows of one file, checked against their sums; ValueError for one that is not what was written."""
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys() if name not in (KEYS, SUMS)}  # noqa: SIM118
        sums, dtypes = file.get_tensor(SUMS), file.metadata() or {}
        found: dict[bytes, Row] = {}
        for key, i in places.items():
            row = {name: part[i] for name, part in slices.items()}
            if _sum(row) != sums[i]:
                raise ValueError("a row does not match its checksum")
            found[key] = _restored(row, dtypes)
        return found


def _restored(row: Row, dtypes: Mapping[str, str]) -> Row:
    """A row in the precision that the encoder gave it."""
    return {name: value.to(DTYPES.get(dtypes[name], value.dtype)) for name, value in row.items()}


def _sum(row: Row) -> int:
    total = 0
    for name in sorted(row):
        total = zlib.crc32(name.encode(), total)
        total = zlib.crc32(row[name].contiguous().flatten().view(torch.uint8).numpy().data, total)
    return total
