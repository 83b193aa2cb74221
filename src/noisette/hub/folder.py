"""A model as a folder: model.json (what it is), safetensors (its weights), README.md (for people).

model.safetensors are the network's weights, codec.safetensors the autoencoder's, where there is one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noisette.errors import UserError
from noisette.files import atomic_write, ensure_writable
from noisette.hub.generator import GeneratorSpec
from noisette.hub.records import from_record, parse_json, to_record
from noisette.hub.spec import AutoencoderSpec, ModelSpec
from noisette.hub.tensors import assigned, read_safetensors, unfilled

Notes = Mapping[str, str | int | float]
AnySpec = ModelSpec | AutoencoderSpec | GeneratorSpec

SPEC, WEIGHTS, CODEC, CARD = "model.json", "model.safetensors", "codec.safetensors", "README.md"
FORMAT, VERSION = "noisette model", 1
LARGEST_SPEC = 2**22


def write_folder(
    folder: str | os.PathLike[str],
    spec: AnySpec,
    states: Mapping[str, Mapping[str, Tensor]],
    notes: Notes | None = None,
    card: str = "",
    *,
    overwrite: bool = False,
) -> Path:
    """Write a model folder, each file atomically, model.json last: with it the folder is a model.

    ``states`` are what ``state_dict()`` of the parts gives, by the names of their files, in the precision
    they are to be kept in.
    Raises UserError when there is something already and ``overwrite`` is not set; OSError of the disk.
    """
    from safetensors.torch import save_file

    folder = ensure_writable(folder, overwrite=overwrite)
    record = {"format": FORMAT, "version": VERSION, "spec": to_record(spec), "notes": dict(notes or {})}
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    for name, state in states.items():
        with atomic_write(folder / name) as path:
            save_file({key: value.detach().cpu().contiguous() for key, value in state.items()}, path)
    with atomic_write(folder / CARD) as path:
        path.write_text(card, encoding="utf-8")
    with atomic_write(folder / SPEC) as path:
        path.write_text(text, encoding="utf-8")
    return folder


def in_precision(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """A state with its floating-point tensors in ``dtype``; None leaves it as it is."""
    return {k: v.to(dtype) if dtype is not None and v.is_floating_point() else v for k, v in state.items()}


def read_spec(folder: str | os.PathLike[str]) -> tuple[AnySpec, dict[str, str | int | float]]:
    """The spec and the notes in a folder's model.json. Raises UserError for whatever is wrong with it."""
    path = Path(folder) / SPEC
    if not path.is_file():
        raise UserError(f"{folder} holds no model: there is no {SPEC} in it")
    if path.stat().st_size > LARGEST_SPEC:
        raise UserError(f"{path} is too large to be the description of a model")
    return parse_spec(path.read_bytes(), str(path))


def parse_spec(data: bytes | str, where: str) -> tuple[AnySpec, dict[str, str | int | float]]:
    """What `read_spec` reads, from the text of a model.json; ``where`` names it in messages."""
    record = parse_json(data, where)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError(f"{where} does not describe a noisette model: its format is not {FORMAT!r}")
    if record.get("version") != VERSION:
        raise UserError(f"{where} has version {record.get('version')!r:.40}; this noisette reads {VERSION}")
    for key in record:
        if key not in ("format", "version", "spec", "notes"):
            raise UserError(f"{where}: {key[:40]!r} is not a part of a model description")
    notes = record.get("notes", {})
    if not isinstance(notes, dict) or any(type(note) not in (str, int, float) for note in notes.values()):
        raise UserError(f"{where}: notes must map names to text or numbers")
    kind: Any = AnySpec
    return from_record(kind, record.get("spec"), f"{where}: spec"), notes


def read_weights(path: Path, build: Callable[[], nn.Module]) -> nn.Module:
    """The network that ``build`` makes, with the weights of a safetensors file, memory-mapped and uncast.

    Raises UserError, in one line, for a broken file, and as `assigned` does.
    """
    if not path.is_file():
        raise UserError(f"{path.parent} holds no weights: there is no {path.name} in it")
    return assigned(unfilled(build), read_safetensors(path), str(path))


@dataclass(frozen=True)
class Listing:
    """A model folder at a glance: ``size`` in bytes of weights, ``parameters`` counted from its header."""

    name: str
    folder: Path
    size: int
    parameters: int
    notes: Notes


def list_folder(folder: Path) -> Listing:
    """What is in a model folder, without building the network or reading its weights."""
    from safetensors import safe_open

    record = parse_json((folder / SPEC).read_bytes(), str(folder / SPEC))
    counts, size = [], 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
            counts += [torch.Size(shape).numel() for shape in shapes]
        size += path.stat().st_size
    return Listing(folder.name, folder, size, sum(counts), record.get("notes", {}))
