"""Checkpoints: a folder that is whole or not there, and never a pickle.

A checkpoint is ``step-00001000/`` with safetensors and JSON files and a ``manifest.json`` that lists
the size and SHA-256 of each. It is written beside its place and renamed, so a machine that stops in
between leaves the last one as it was; a damaged one is recognised and the one before it used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from noisette.errors import UserError

__all__ = [
    "Checkpoint",
    "checkpoint_folders",
    "flatten_optimizer",
    "load_latest",
    "restore_optimizer",
    "save",
]

log = getLogger(__name__)
MANIFEST, STATE = "manifest.json", "state.json"
NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """What is saved: named groups of tensors (one safetensors file each), and JSON facts."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    facts: Mapping[str, Any]


def save(folder: Path, checkpoint: Checkpoint, *, keep: int = 2, milestone: int | None = None) -> Path:
    """Write ``folder/step-XXXXXXXX`` atomically, then drop all but the last ``keep``.

    Checkpoints whose step is a multiple of ``milestone`` stay for good. Raises OSError when the disk
    refuses; what was there before is then still whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{checkpoint.step:08d}"
    temporary = folder / f".{target.name}-{secrets.token_hex(4)}"
    try:
        temporary.mkdir()
        for name, tensors in checkpoint.tensors.items():
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
                temporary / f"{name}.safetensors",
            )
        state = {"step": checkpoint.step, **checkpoint.facts}
        (temporary / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        files = {path.name: _fingerprint(path) for path in sorted(temporary.iterdir())}
        (temporary / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush(folder)
    _prune(folder, keep, milestone)
    return target


def load_latest(folder: Path) -> Checkpoint:
    """The newest whole checkpoint; a damaged one is named in a warning and passed over.

    Raises UserError when there is none.
    """
    found = checkpoint_folders(folder)
    for path in reversed(found):
        try:
            return read(path)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            log.warning("%s is damaged (%s): trying the checkpoint before it", path, error)
    if found:
        raise UserError(f"no checkpoint in {folder} is whole: start again without --resume")
    raise UserError(f"there is no checkpoint in {folder} to resume from: start without --resume")


def read(path: Path) -> Checkpoint:
    """The checkpoint at ``path``. Raises OSError or ValueError when a file is missing or changed."""
    files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    for name, expected in files.items():
        if _fingerprint(path / name) != expected:
            raise ValueError(f"{name} is not what was written")
    facts = json.loads((path / STATE).read_text(encoding="utf-8"))
    tensors = {Path(name).stem: load_file(path / name) for name in files if name.endswith(".safetensors")}
    return Checkpoint(facts.pop("step"), tensors, facts)


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first."""
    if not folder.is_dir():
        return []
    named = ((NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return [path for _, path in sorted((int(match[1]), path) for match, path in named if match)]


def flatten_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors and JSON facts."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{key}": value
        for index, entry in state["state"].items()
        for key, value in entry.items()
        if isinstance(value, Tensor)
    }
    return tensors, {"param_groups": state["param_groups"]}


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """The inverse of `flatten_optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": facts["param_groups"]})


def _prune(folder: Path, keep: int, milestone: int | None) -> None:
    for path in checkpoint_folders(folder)[: -max(keep, 1)]:
        if not milestone or int(path.name.removeprefix("step-")) % milestone:
            shutil.rmtree(path, ignore_errors=True)
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
