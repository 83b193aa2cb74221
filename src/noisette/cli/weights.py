"""The weights behind a command: a model's by its name, and the LoRAs that go onto it."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from noisette.errors import UserError

if TYPE_CHECKING:
    import torch

    from noisette.models import Model

__all__ = ["Lora", "dtype_named", "fused", "weights_hash"]

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
LARGE = 2**27
"""Bytes from which on a file's digest is worth keeping."""


def dtype_named(name: str) -> torch.dtype:
    """A precision by its short name or by torch's. Raises UserError for another."""
    import torch

    found = PRECISIONS.get(name, name)
    if found not in PRECISIONS.values():
        raise UserError(f"there is no precision {name!r:.20}: take {', '.join(PRECISIONS)}")
    return getattr(torch, found)


@dataclass(frozen=True)
class Lora:
    """A file with updates of a model, and how strongly they count."""

    file: str
    weight: float = 1.0

    @classmethod
    def parsed(cls, text: str) -> Lora:
        """FILE, or FILE:WEIGHT: what follows the last colon is a weight if it is a number.

        Other colons belong to the file, and so do all where a file has the whole text for its name.
        Raises UserError for a file with something after it that is no finite number.

        >>> Lora.parsed("style.safetensors:0.8"), Lora.parsed("C:\\\\style.safetensors").weight
        (Lora(file='style.safetensors', weight=0.8), 1.0)
        """
        file, _, end = text.rpartition(":")
        if not file or Path(text).exists():
            return cls(text)
        try:
            weight = float(end)
        except ValueError:
            if not Path(file).exists():
                return cls(text)
            weight = math.nan
        if not math.isfinite(weight):
            raise UserError(f"the weight in --lora {text} is {end!r:.40}: give a number, such as {file}:0.8")
        return cls(file, weight)

    def __str__(self) -> str:
        return f"{self.file}:{self.weight}"


def fused(model: Model, loras: Sequence[str]) -> Model:
    """The model with LoRAs, each as `Lora` reads it, added into its weights, in place.

    A fused model is as fast as it was. Raises UserError for files that are none or do not fit.
    """
    for k, lora in enumerate(map(Lora.parsed, loras)):
        try:
            model.load_lora(lora.file, lora.weight, name=f"lora_{k}")
        except UserError as error:
            named = lora.file in str(error)
            raise UserError(str(error) if named else f"{lora.file} does not fit: {error}") from None
    if loras:
        model.fuse_lora()
    return model


def weights_hash(
    name: str, variant: str | None = None, revision: str | None = None, loras: Sequence[str] = ()
) -> str:
    """The first digits of the SHA-256 over all that a model's pictures hang on: A1111's Model hash.

    That is its weights, tokenizers and configs, and the LoRAs that are put onto it.
    """
    from noisette.hub.finding import located

    files = [*_files(located(name, variant, revision)), *(Path(Lora.parsed(lora).file) for lora in loras)]
    digest = hashlib.sha256()
    for path in files:
        digest.update(_digest(path))
    return digest.hexdigest()[:12]


def _files(place: Path) -> Iterator[Path]:
    from noisette.hub.folder import SPEC
    from noisette.hub.pipelines import INDEX, NETWORKS

    if place.is_file():
        yield place
    elif (place / SPEC).is_file():
        yield from sorted((*place.glob("*.safetensors"), *place.glob("tokenizer.json")))
    elif (place / INDEX).is_file():
        yield from sorted((*place.glob("*/*.json"), *place.glob("*/merges.txt")))
        for part in NETWORKS:
            yield from sorted((place / part).glob("*.safetensors")) or sorted((place / part).glob("*.bin"))


def _digest(path: Path) -> bytes:
    """The SHA-256 of a file, or of the files in a folder; of a large file it is kept, by size and date."""
    from noisette.files import atomic_write, cache_folder

    if path.is_dir():
        return b"".join(_digest(file) for file in sorted(path.iterdir()) if file.is_file())
    told = path.stat()
    known = f"{path.resolve()}\n{told.st_size}\n{told.st_mtime_ns}"
    kept = cache_folder() / "digests" / hashlib.sha256(os.fsencode(known)).hexdigest()
    with contextlib.suppress(OSError):
        if told.st_size >= LARGE and len(found := kept.read_bytes()) == hashlib.sha256().digest_size:
            return found
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    if told.st_size >= LARGE:
        # A cache that cannot be written costs time, and nothing else.
        with contextlib.suppress(OSError, UserError), atomic_write(kept) as temporary:
            temporary.write_bytes(digest)
    return digest
