"""Where a model is: inside the package, on this disk, or on the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from noisette.errors import UserError
from noisette.hub.embedded import find_model
from noisette.hub.pipelines import INDEX, NETWORKS, TOKENIZERS

__all__ = ["located"]

SINGLE = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def located(name: str | os.PathLike[str], variant: str | None = None, revision: str | None = None) -> Path:
    """The folder or file of a model: embedded, ours, a pipeline of diffusers', a single file, or downloaded.

    What is on the disk comes before what is on the Hub. Raises UserError when nothing fits.
    """
    path, text = Path(name), os.fspath(name)
    if path.is_file() and path.suffix.lower() in SINGLE:
        return path
    if path.is_file() and path.name == INDEX:
        return path.parent
    for folder in (path, path / "model"):  # a training run has its model inside
        if (folder / INDEX).is_file():
            return folder
    if path.is_file():
        raise UserError(f"{path} is no model: folders, and files that end in {', '.join(SINGLE[:2])}, are")
    if not path.exists() and _REPOSITORY.fullmatch(text):
        return downloaded(text, variant, revision)
    return find_model(name)


def downloaded(repository: str, variant: str | None = None, revision: str | None = None) -> Path:
    """The files of a pipeline on the Hub that are needed here, from the cache that all its users share.

    Tokens, the cache, and working offline (HF_HUB_OFFLINE) are huggingface_hub's own affairs. Torch's files
    are fetched only where there are no safetensors. Raises UserError, in one line, for what it refuses.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        for ending in ("safetensors", "bin"):
            folder = Path(
                snapshot_download(repository, revision=revision, allow_patterns=[*_wanted(variant, ending)])
            )
            if any(folder.glob(f"*/*.{ending}")):
                break
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{repository} is neither here nor to be had from the Hub: {reason}") from None
    if not (folder / INDEX).is_file():
        raise UserError(f"{repository} holds no pipeline of diffusers': there is no {INDEX} in it")
    return folder


def _wanted(variant: str | None, ending: str) -> Iterator[str]:
    yield INDEX
    yield "scheduler/*.json"
    yield from (f"{name}/*" for name in TOKENIZERS)
    names = {stem if ending != "bin" or stem != "model" else "pytorch_model" for stem in NETWORKS.values()}
    for name in NETWORKS:
        yield f"{name}/config.json"
    dotted = f".{variant}" if variant else ""
    for name in names:
        yield f"*/{name}{dotted}.{ending}"
        yield f"*/{name}{dotted}-?????-of-?????.{ending}"
        yield f"*/{name}.{ending}.index{dotted}.json"
