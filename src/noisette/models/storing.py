"""Models from and to disk: our own folders, and what others left."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from noisette.adapters.lora import attached
from noisette.errors import UserError
from noisette.files import ensure_writable
from noisette.hub.card import model_card
from noisette.hub.checkpoint import Checkpoint
from noisette.hub.finding import located
from noisette.hub.folder import (
    CODEC,
    SPEC,
    WEIGHTS,
    Notes,
    in_precision,
    read_spec,
    read_weights,
    write_folder,
)
from noisette.hub.generator import GeneratorSpec
from noisette.hub.pipelines import read_pipeline, write_pipeline
from noisette.hub.single import PredictionType, read_single, write_single
from noisette.hub.spec import ModelSpec
from noisette.models.autoencoder import load_codec
from noisette.models.checkpoints import checkpoint_of, parts_of
from noisette.models.texts import Texts, texts_in
from noisette.nets.vae import Codec

if TYPE_CHECKING:
    from noisette.models.model import Model

__all__ = ["read_model", "write_model"]

Read = tuple[ModelSpec, nn.Module, Notes, Codec | None, Texts | None, Checkpoint | None]


def read_model(
    name: str | os.PathLike[str],
    dtype: torch.dtype | None,
    variant: str | None = None,
    revision: str | None = None,
    prediction: PredictionType | None = None,
) -> Read:
    """The parts of the model of that name, as `Model.load` describes."""
    place = located(name, variant, revision)
    if (place / SPEC).is_file():
        return _own(place, name, dtype)
    single = place.is_file()
    checkpoint = read_single(place, prediction=prediction) if single else read_pipeline(place, variant)
    # A repository of the Hub lies in a folder that is named after a commit.
    given = Path(name).resolve() if Path(name).exists() else Path(name)
    shown = given.parent.name if given.is_file() and not single else given.name
    spec, net, codec, texts = parts_of(checkpoint, Path(shown).stem if single else shown)
    checkpoint = replace(checkpoint, tensors={})  # what is cast lets go of the file
    if codec is not None:
        codec = codec.to(dtype=dtype).eval().requires_grad_(False)
    return spec, net.to(dtype=dtype).eval(), {}, codec, texts, checkpoint


def _own(folder: Path, name: str | os.PathLike[str], dtype: torch.dtype | None) -> Read:
    spec, notes = read_spec(folder)
    if isinstance(spec, GeneratorSpec):
        raise UserError(
            f"{name} draws in one call, without diffusion: load it with noisette.models.Generator.load"
        )
    if not isinstance(spec, ModelSpec):
        raise UserError(f"{name} is an autoencoder and draws nothing: name a model trained with it")
    net = read_weights(folder / WEIGHTS, spec.build).to(dtype=dtype).eval()
    codec = None if spec.codec is None else load_codec(folder, dtype=dtype)
    return spec, net, notes, codec, texts_in(folder, spec.text), None


def write_model(
    model: Model, path: str | os.PathLike[str], dtype: torch.dtype | None, overwrite: bool
) -> Path:
    """Write a model in the layout that it came in, as `Model.save` describes."""
    net, codec = model.denoiser.net, model.codec
    if attached(net):
        raise UserError("a LoRA is attached: make it a part of the weights by fuse_lora(), or unload_lora()")
    if model.checkpoint is not None:
        whole = checkpoint_of(model.checkpoint, model.spec, net, codec)
        write = write_single if Path(path).suffix.lower() == ".safetensors" else write_pipeline
        return write(whole, path, dtype=dtype, overwrite=overwrite)
    folder = ensure_writable(path, overwrite=overwrite)
    parts: dict[str, nn.Module] = {WEIGHTS: net} if codec is None else {WEIGHTS: net, CODEC: codec}
    if model.texts is not None:
        model.texts.save(folder)
    states = {name: in_precision(part.state_dict(), dtype) for name, part in parts.items()}
    weights = sum(p.numel() for part in parts.values() for p in part.parameters())
    card = model_card(model.spec, weights, model.notes)
    return write_folder(folder, model.spec, states, model.notes, card, overwrite=True)
