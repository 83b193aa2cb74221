"""Folders of diffusers' pipelines: model_index.json, and a folder for every part."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisette.conditioning.tokenizer import Tokenizer
from noisette.errors import UserError
from noisette.files import atomic_write, ensure_writable
from noisette.hub.checkpoint import Checkpoint
from noisette.hub.folder import in_precision
from noisette.hub.records import parse_json
from noisette.hub.tensors import read_tensors

__all__ = ["INDEX", "read_pipeline", "write_pipeline"]

INDEX, SCHEDULER = "model_index.json", "scheduler_config.json"
LARGEST_JSON = 2**24
LAYOUT = "0.35.0"
"""The version of diffusers whose layout is written, which its loaders ask for."""

# The parts with weights, and what diffusers' or transformers' files of them are called.
NETWORKS: Mapping[str, str] = {
    "unet": "diffusion_pytorch_model",
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
TOKENIZERS = ("tokenizer", "tokenizer_2")

# Parts that a pipeline runs without here: nothing is drawn by them.
ASIDE = ("safety_checker", "feature_extractor", "image_encoder")


def read_pipeline(folder: str | os.PathLike[str], variant: str | None = None) -> Checkpoint:
    """What a folder of diffusers' holds; weights are memory-mapped.

    ``variant`` chooses among weights ("fp16" reads diffusion_pytorch_model.fp16.safetensors); None takes
    those without a variant, or the one variant there is. Weights in several files are put together by their
    index. Where safetensors are missing, torch's files are read for their tensors only.
    Raises UserError for files that are missing or broken, and for parts that are not known here.
    """
    folder = Path(folder)
    index = _json(folder / INDEX)
    kinds = {name: kind for name, kind in index.items() if isinstance(kind, list)}
    used = [name for name, kind in kinds.items() if kind and kind[-1] is not None]
    strange = [name for name in used if name not in (*NETWORKS, *TOKENIZERS, *ASIDE, "scheduler")]
    if strange:
        raise UserError(f"{folder} needs {', '.join(strange)}, which noisette does not know")
    networks = [name for name in NETWORKS if name in used]
    if not {"unet", "transformer"} & set(networks):
        raise UserError(f"{folder / INDEX} names no network that draws")
    if variant is not None and not any(_has(folder / name, NETWORKS[name], variant) for name in networks):
        raise UserError(f"{folder} has no weights of the variant {variant!r:.40}")
    configs = {name: _json(folder / name / "config.json") for name in networks}
    for name in networks:
        if name.startswith("text_encoder"):
            configs[name].setdefault("architectures", [kinds[name][-1]])
    if "scheduler" in used:
        configs["scheduler"] = _json(folder / "scheduler" / SCHEDULER)
    return Checkpoint(
        pipeline=str(index.get("_class_name")),
        configs=configs,
        tensors={name: _weights(folder / name, NETWORKS[name], variant) for name in networks},
        tokenizers={name: Tokenizer.load(folder / name) for name in TOKENIZERS if name in used},
        options={k: v for k, v in index.items() if k not in kinds and not k.startswith("_")},
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"there is no {path.name} in {path.parent}")
    if path.stat().st_size > LARGEST_JSON:
        raise UserError(f"{path} is too large for a configuration")
    record = parse_json(path.read_bytes(), str(path))
    if not isinstance(record, dict):
        raise UserError(f"{path} must hold one JSON object")
    return record


def _has(folder: Path, stem: str, variant: str) -> bool:
    return any(variant in _choices(folder, *kind) for kind in _kinds(stem))


def _kinds(stem: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """What a part's weights are called: as safetensors, and as torch's files."""
    return (stem, "safetensors"), (_TORCH.get(stem, stem), "bin")


def _weights(folder: Path, stem: str, variant: str | None) -> dict[str, Tensor]:
    """The tensors of one part: one file, or as many as its index names."""
    for kind in _kinds(stem):
        there = _choices(folder, *kind)
        if not there:
            continue
        wanted = variant if variant in there else None
        if variant is not None and wanted is None and None not in there:
            raise UserError(f"{folder} has no weights of the variant {variant!r:.40}: {_named(there)}")
        if wanted is None and None not in there:
            if len(there) > 1:
                raise UserError(f"{folder} has weights of several variants, name one of {_named(there)}")
            wanted = next(iter(there))
        return _read(there[wanted])
    raise UserError(f"there are no weights in {folder}: no {stem}.safetensors")


_TORCH = {"model": "pytorch_model"}


def _choices(folder: Path, stem: str, ending: str) -> dict[str | None, Path]:
    """The weights in a folder by their variants: a file, or the index of several."""
    found: dict[str | None, Path] = {}
    for path in sorted(folder.glob(f"{stem}.*")) if folder.is_dir() else ():
        rest = path.name.removeprefix(f"{stem}.").split(".")
        match rest:
            case [last] if last == ending:
                found[None] = path
            case [variant, last] if last == ending and "-of-" not in variant:
                found[variant] = path
            case [last, "index", "json"] if last == ending:
                found.setdefault(None, path)
            case [last, "index", variant, "json"] if last == ending:
                found.setdefault(variant, path)
            case _:
                pass
    return found


def _named(there: Mapping[str | None, Path]) -> str:
    return ", ".join(sorted(variant for variant in there if variant))


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".json":
        return read_tensors(path)
    where = _json(path).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise UserError(f"{path} names no weights: it should have a weight_map")
    found: dict[str, Tensor] = {}
    for name in sorted({str(name) for name in where.values()}):
        # A name from a file is a stranger's: it must not lead out of the folder.
        if name != Path(name).name or name in ("", ".", ".."):
            raise UserError(f"{path} names {name!r:.60}, which is no file of its folder")
        found |= read_tensors(path.parent / name)
    missing = where.keys() - found.keys()
    if missing:
        raise UserError(f"{path} promises {len(missing)} tensors that its files lack, as {min(missing)!r}")
    return found


def write_pipeline(
    checkpoint: Checkpoint,
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the folder that diffusers loads; model_index.json comes last, with it the folder is a pipeline.

    ``dtype`` is what the weights are kept in; None leaves them as they are. Raises UserError when the folder
    holds something already and ``overwrite`` is not set.
    """
    from safetensors.torch import save_file

    folder = ensure_writable(folder, overwrite=overwrite)
    for name, state in checkpoint.tensors.items():
        kept = in_precision(state, dtype)
        with atomic_write(folder / name / f"{NETWORKS[name]}.safetensors") as path:
            whole = {key: value.detach().cpu().contiguous() for key, value in kept.items()}
            save_file(whole, path, metadata={"format": "pt"})
        _write_json(folder / name / "config.json", checkpoint.configs[name])
    if "scheduler" in checkpoint.configs:
        _write_json(folder / "scheduler" / SCHEDULER, checkpoint.configs["scheduler"])
    for name, tokenizer in checkpoint.tokenizers.items():
        _write_tokenizer(tokenizer, folder / name)
    _write_json(folder / INDEX, dict(_index(checkpoint)))
    return folder


def _index(checkpoint: Checkpoint) -> Iterator[tuple[str, Any]]:
    yield "_class_name", checkpoint.pipeline
    yield "_diffusers_version", LAYOUT
    for name in checkpoint.configs:
        config = checkpoint.configs[name]
        library = "transformers" if name.startswith("text_encoder") else "diffusers"
        yield name, [library, config.get("_class_name") or config["architectures"][0]]
    for name in checkpoint.tokenizers:
        yield name, ["transformers", "CLIPTokenizer"]
    if checkpoint.pipeline.startswith("StableDiffusion") and "XL" not in checkpoint.pipeline:
        yield from ((name, [None, None]) for name in ("safety_checker", "feature_extractor"))
    yield from {"requires_safety_checker": False, **checkpoint.options}.items()


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """CLIP's own files of a tokenizer."""
    bos, eos = (tokenizer.tokens[i] for i in (tokenizer.bos_token_id, tokenizer.eos_token_id))
    marks = {"bos_token": bos, "eos_token": eos, "pad_token": tokenizer.pad, "unk_token": eos}
    settings = {"model_max_length": tokenizer.max_length, "tokenizer_class": "CLIPTokenizer", **marks}
    with atomic_write(folder / "merges.txt") as path:
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in tokenizer.merges)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_json(folder / "special_tokens_map.json", marks)
    _write_json(folder / "tokenizer_config.json", settings)
    with atomic_write(folder / "vocab.json") as path:
        ids = {token: i for i, token in enumerate(tokenizer.tokens)}
        path.write_text(json.dumps(ids, ensure_ascii=False) + "\n", encoding="utf-8")
