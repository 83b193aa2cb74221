"""The single files that Stable Diffusion was released in: every part in one file, under the first names.

Stable Diffusion 1 and 2, XL and its refiner, and their inpainting forms. Such a file holds weights alone:
configs, schedule and tokenizers follow from which kind it is, and that is told by its tensors.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from noisette.conditioning.tokenizer import EOS, Tokenizer
from noisette.errors import UserError
from noisette.files import atomic_write, ensure_writable
from noisette.hub.checkpoint import Checkpoint
from noisette.hub.configs import text_config, unet_config, vae_config
from noisette.hub.folder import in_precision
from noisette.hub.known import Known, clip_tokenizer, known
from noisette.hub.measured import measured_text, measured_unet, measured_vae
from noisette.hub.names import Column, Name, fitted, renamed, text_names, unet_names, vae_names
from noisette.hub.openclip import from_openclip, to_openclip
from noisette.hub.schedulers import schedule_of
from noisette.hub.tensors import PICKLED, read_tensors, unpickled

__all__ = ["PredictionType", "read_single", "write_single"]

PredictionType: TypeAlias = Literal["epsilon", "v_prediction"]
State: TypeAlias = Mapping[str, Tensor]

UNET, VAE = "model.diffusion_model.", "first_stage_model."


@dataclass(frozen=True)
class _Text:
    """Where a text encoder lies in the file, and in whose names."""

    part: str
    prefix: str
    openclip: bool

    @property
    def tokenizer(self) -> str:
        return self.part.replace("text_encoder", "tokenizer")


_CLIP_G = "text_encoder_2"
# In the order in which they are tried: each is told by the prefixes of its text encoders.
_KINDS = {
    "xl": (
        _Text("text_encoder", "conditioner.embedders.0.transformer.", False),
        _Text(_CLIP_G, "conditioner.embedders.1.model.", True),
    ),
    "xl_refiner": (_Text(_CLIP_G, "conditioner.embedders.0.model.", True),),
    "sd2": (_Text("text_encoder", "cond_stage_model.model.", True),),
    "sd1": (_Text("text_encoder", "cond_stage_model.transformer.", False),),
}

# What training leaves behind: averages kept beside the weights, losses, and the tables of the schedule.
_LEFT_BEHIND = (
    "model_ema.",
    "loss.",
    "cond_stage_model.text_projection",
    "first_stage_model.loss.",
    "first_stage_model.model_ema.",
    "alphas_cumprod",
    "betas",
    "denoiser.sigmas",
    "log_one_minus_alphas_cumprod",
    "logvar",
    "lvlb_weights",
    "posterior_",
    "scale_factor",
    "sqrt_",
)
_UNUSED = ("position_ids", "logit_scale")
# Of OpenCLIP's 24 blocks Stable Diffusion 2 reads the state after 23; XL's tower has 32 and keeps them.
_UNREAD_BLOCK = "transformer.resblocks.23."
_V_MARK, _ZERO_SNR_MARK, _MODELSPEC = "v_pred", "ztsnr", "modelspec.prediction_type"
_BASE_STEP = 875000  # of training, in the released file of Stable Diffusion 2's base, which predicts epsilon


@dataclass(frozen=True)
class _Marks:
    """What a file says besides its weights about how to read the network's output."""

    prediction: PredictionType | None = None
    zero_snr: bool = False


def read_single(path: str | os.PathLike[str], *, prediction: PredictionType | None = None) -> Checkpoint:
    """Read a single-file checkpoint; the tensors are memory-mapped, in the precision they are kept in.

    A safetensors file, or by its ending (.ckpt, .pt, .bin) one of torch's, of which nothing is run. Sizes of
    the networks are measured from the tensors; what no tensor shows is as published for the kind.

    ``prediction`` says what the network predicts. None asks the file: the mark "v_pred", the metadata
    "modelspec.prediction_type". A file of Stable Diffusion 2 without either predicts v, unless its count of
    training steps is that of the base model; all others predict epsilon. If pictures come out as brown noise,
    say the other.

    Raises UserError for what is not such a file, and for tensors missing, unknown, or of no known network.
    """
    path = Path(path)
    _look(path)
    tensors = read_tensors(path)
    try:
        return _understood(tensors, _marks(path, tensors), prediction)
    except UserError as error:
        raise UserError(f"{path} cannot be read as a single-file checkpoint: {error}") from None


def write_single(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a pipeline as one safetensors file, in ``dtype`` or in the precision of each tensor.

    The file holds the weights, and marks for what the network predicts. Schedulers and tokenizers are not in
    it: a reader takes those of the kind. Of Stable Diffusion 2's text encoder 23 blocks are written, all that
    is read; the web interfaces and diffusers load that, a strict OpenCLIP of 24 blocks does not.

    Raises UserError for a pipeline of another kind, for one that would be read back as something else (heads
    of another width, another schedule), and where ``path`` may not be written.
    """
    from safetensors.torch import save_file

    path = ensure_writable(path, overwrite=overwrite)
    if path.suffix.lower() != ".safetensors":
        raise UserError(f"{path} should end in .safetensors")
    state = in_precision(_flattened(checkpoint), dtype)
    scheduler = checkpoint.configs["scheduler"]
    predicts = scheduler.get("prediction_type", "epsilon")
    marks = _Marks(predicts, bool(scheduler.get("rescale_betas_zero_snr")))
    try:
        again = _understood(state, marks, None)
    except UserError as error:
        raise UserError(f"this pipeline does not fit into a single file, write a folder: {error}") from None
    _require_alike(checkpoint, again)
    if predicts == "v_prediction":
        state[_V_MARK] = torch.zeros(0)
    if marks.zero_snr:
        state[_ZERO_SNR_MARK] = torch.zeros(0)
    spec = {_MODELSPEC: "v" if predicts == "v_prediction" else "epsilon", "format": "pt"}
    with atomic_write(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, temporary, metadata=spec)
    return path


def _look(path: Path) -> None:
    """Tell what a file is that is not what its name says, before a reader stumbles over its bytes."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a single-file checkpoint")
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    with path.open("rb") as file:
        head = file.read(256)
    pickled, named = head[:2] == b"PK" or head[:1] == b"\x80", path.suffix.lower() in PICKLED
    if not head:
        raise UserError(f"{path} is empty: download it again")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a pointer to the file, not the file: fetch it with `git lfs pull`")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path} is a web page, not a checkpoint: the download went wrong")
    if pickled and not named and head[8:9] != b"{":
        raise UserError(f"{path} is no safetensors file; if it is one of torch's, name it .ckpt")
    if named and head[8:9] == b"{":
        raise UserError(f"{path} is a safetensors file: name it .safetensors")


def _marks(path: Path, tensors: State) -> _Marks:
    """The marks in a file that `read_tensors` has read."""
    zero_snr = _ZERO_SNR_MARK in tensors
    if _V_MARK in tensors:
        return _Marks("v_prediction", zero_snr)
    if path.suffix.lower() in PICKLED:
        step = unpickled(path).get("global_step")  # mapped once more, for one number beside the tensors
        return _Marks("epsilon" if isinstance(step, int) and step == _BASE_STEP else None, zero_snr)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        said = (file.metadata() or {}).get(_MODELSPEC, "")
    known_words: dict[str, PredictionType] = {
        "v": "v_prediction",
        "v_prediction": "v_prediction",
        "epsilon": "epsilon",
    }
    return _Marks(known_words.get(said), zero_snr)


def _understood(tensors: State, marks: _Marks, prediction: PredictionType | None) -> Checkpoint:
    """The checkpoint that the tensors of a single file are; messages leave the file to the caller."""
    kind, parts = _parted(tensors)
    published = known(kind)
    configs, named = published.configs, {}
    for text in _KINDS[kind]:
        named[text.part] = _text_read(parts[text.part], text, kind)
        configs[text.part] |= measured_text(named[text.part])
        _require_complete(named[text.part], text_names(text_config(configs[text.part])), "diffusers")
    heads = configs["unet"]["attention_head_dim"]
    configs["unet"] |= measured_unet(parts["unet"], heads=heads if isinstance(heads, int) else None)
    configs["vae"] |= measured_vae(parts["vae"])
    for part, rows in _net_rows(configs).items():
        named[part] = renamed(parts[part], rows, "ldm", "diffusers")
        _require_complete(named[part], rows, "diffusers")
    named["vae"] = fitted(named["vae"], _attention_shapes(named["vae"], 2))
    _require_fitting(configs, [text.part for text in _KINDS[kind]])
    predicts = prediction or marks.prediction or ("v_prediction" if kind == "sd2" else "epsilon")
    extra = configs["unet"]["in_channels"] - configs["unet"]["out_channels"]
    if kind == "sd2" and not (prediction or marks.prediction) and extra:
        predicts = "epsilon"  # the only released one with more channels, for inpainting
    _settle(configs, kind, predicts, marks.zero_snr)
    return Checkpoint(_pipeline(published, extra), configs, named, _tokenizers(kind), published.options)


def _parted(tensors: State) -> tuple[str, dict[str, dict[str, Tensor]]]:
    """The kind of a file, and its tensors by part, without the prefixes of the parts."""
    kind = next((kind for kind, texts in _KINDS.items() if _holds(tensors, texts)), None)
    if kind is None:
        low_rank = any(".lora" in key or key.startswith("lora_") for key in tensors)
        hint = ", but updates of one (a LoRA): name the model, and this file as its lora" if low_rank else ""
        raise UserError(f"it has no text encoder of Stable Diffusion 1, 2 or XL{hint}")
    places = {UNET: "unet", VAE: "vae", **{text.prefix: text.part for text in _KINDS[kind]}}
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in places.values()}
    unknown: list[str] = []
    for key, tensor in tensors.items():
        if key.startswith(_LEFT_BEHIND) or key.endswith(_UNUSED) or key in (_V_MARK, _ZERO_SNR_MARK):
            continue
        prefix = next((prefix for prefix in places if key.startswith(prefix)), None)
        if prefix is None:
            unknown.append(key)
            continue
        if not tensor.is_floating_point() or tensor.layout is not torch.strided:
            raise UserError(f"its tensor {key!r} holds {tensor.dtype}, which are not weights")
        parts[places[prefix]][key.removeprefix(prefix)] = tensor
    if unknown:
        raise UserError(f"it has {len(unknown)} tensors of no known part, such as {min(unknown)!r}")
    for prefix, part in places.items():
        if not parts[part]:
            raise UserError(f"it has no {part}: no tensor begins with {prefix!r}")
    return kind, parts


def _holds(tensors: State, texts: Iterable[_Text]) -> bool:
    return all(any(key.startswith(text.prefix) for key in tensors) for text in texts)


def _text_read(state: State, text: _Text, kind: str) -> dict[str, Tensor]:
    """A text encoder under transformers' names, without what is never read."""
    unread = ["attn_mask"]
    if text.part != _CLIP_G:
        unread.append("text_projection")
    if kind == "sd2":
        unread.append(_UNREAD_BLOCK)
    kept = {key: tensor for key, tensor in state.items() if not key.startswith(tuple(unread))}
    if text.openclip:
        return from_openclip(kept)
    # Files of an older transformers lack the prefix.
    return {f"text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in kept.items()}


def _net_rows(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Name]]:
    """The names of the U-Net and the autoencoder."""
    pooled = configs.get(_CLIP_G, {}).get("projection_dim")
    unet = unet_config(configs["unet"], pooled_dim=pooled)
    return {"unet": list(unet_names(unet)), "vae": list(vae_names(vae_config(configs["vae"])))}


def _attention_shapes(state: State, dimensions: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the autoencoder's attention weights: 1x1 convolutions in LDM, linear maps in diffusers."""
    return {
        key: (*tensor.shape[:2], 1, 1)[:dimensions]
        for key, tensor in state.items()
        if (".mid_block.attentions.0.to_" in key or ".mid.attn_1." in key)
        and key.endswith(".weight")
        and tensor.ndim > 1
    }


def _require_complete(state: State, rows: Iterable[Name], column: Column) -> None:
    """Raise UserError unless the rows explain every tensor, and each row has its weight."""
    modules = {getattr(row, column) for row in rows}
    unknown = [key for key in state if key.rpartition(".")[0] not in modules]
    missing = [f"{module}.weight" for module in modules if f"{module}.weight" not in state]
    if unknown:
        raise UserError(f"it has {len(unknown)} tensors of no known network, such as {min(unknown)!r}")
    if missing:
        raise UserError(f"it misses {len(missing)} tensors, such as {min(missing)!r}")


def _require_fitting(configs: Mapping[str, Mapping[str, Any]], texts: Iterable[str]) -> None:
    """Raise UserError unless the U-Net reads what the text encoders write, and those CLIP's tokens."""
    width, context = (
        sum(configs[part]["hidden_size"] for part in texts),
        configs["unet"]["cross_attention_dim"],
    )
    if width != context:
        raise UserError(f"its U-Net reads tokens {context} wide, but its text encoders write {width}")
    for part in texts:
        size = configs[part]["vocab_size"]
        if size != (wanted := clip_tokenizer().vocab_size):
            raise UserError(f"its {part} knows {size} tokens, but CLIP's tokenizer has {wanted}")


def _settle(configs: dict[str, dict[str, Any]], kind: str, predicts: str, zero_snr: bool) -> None:
    """Write into the configs what goes with a prediction of v, and with a terminal SNR of zero."""
    scheduler = configs["scheduler"]
    scheduler["prediction_type"] = predicts
    if zero_snr:
        scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if kind == "sd2" and predicts == "v_prediction":
        # As published for 768 pixels; its attention overflows in float16.
        scheduler["_class_name"] = "DDIMScheduler"
        configs["unet"] |= {"sample_size": 96, "upcast_attention": True}
        configs["vae"]["sample_size"] = 768


def _pipeline(published: Known, extra: int) -> str:
    pipeline = published.pipelines.get(str(extra))
    if pipeline is None:
        raise UserError(f"its U-Net takes {extra} channels beside the latent, which no known pipeline has")
    return pipeline


def _tokenizers(kind: str) -> dict[str, Tokenizer]:
    return {text.tokenizer: clip_tokenizer("!" if text.openclip else EOS) for text in _KINDS[kind]}


def _flattened(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Every tensor of a pipeline under its name in a single file."""
    configs, tensors = checkpoint.configs, checkpoint.tensors
    kind = _kind_of(checkpoint)
    state: dict[str, Tensor] = {}
    for part, rows in _net_rows(configs).items():
        named = renamed(tensors[part], rows, "diffusers", "ldm")
        _require_complete(named, rows, "ldm")
        if part == "vae":
            named = fitted(named, _attention_shapes(named, 4))
        state |= {f"{UNET if part == 'unet' else VAE}{key}": tensor for key, tensor in named.items()}
    for text in _KINDS[kind]:
        kept = {key: tensor for key, tensor in tensors[text.part].items() if not key.endswith("position_ids")}
        rows = list(text_names(text_config(configs[text.part])))
        named = renamed(kept, rows, "diffusers", "ldm")
        _require_complete(named, rows, "ldm")
        named = to_openclip(named) if text.openclip else named
        state |= {f"{text.prefix}{key}": tensor for key, tensor in named.items()}
    return state


def _kind_of(checkpoint: Checkpoint) -> str:
    """Which kind of single file a pipeline makes: told by its parts and by whose text encoders they are."""
    parts = {part for part in checkpoint.tensors if part.startswith("text_encoder")}
    if {"unet", "vae"} <= checkpoint.tensors.keys() and {
        "unet",
        "vae",
        "scheduler",
    } <= checkpoint.configs.keys():
        for kind, texts in _KINDS.items():
            acts = [
                checkpoint.configs.get(part, {}).get("hidden_act", "quick_gelu") for part in sorted(parts)
            ]
            wanted = ["gelu" if text.openclip else "quick_gelu" for text in texts]
            if parts == {text.part for text in texts} and acts == wanted:
                return kind
    raise UserError(f"a {checkpoint.pipeline} does not fit into a single file of Stable Diffusion 1, 2 or XL")


def _require_alike(given: Checkpoint, again: Checkpoint) -> None:
    """Raise UserError unless the networks that a file would be read as are those that went into it."""
    for part in again.tensors:
        ours, theirs = (_network(one.configs, part) for one in (given, again))
        for field in fields(ours):
            wanted, found = getattr(ours, field.name), getattr(theirs, field.name)
            if wanted != found:
                raise UserError(
                    f"a single file cannot say that the {part} has {field.name} {wanted}: it would be read "
                    f"with {found}; write a folder"
                )
    if schedule_of(given.configs["scheduler"]) != schedule_of(again.configs["scheduler"]):
        raise UserError("a single file cannot say that the noise schedule is not its kind's: write a folder")


def _network(configs: Mapping[str, Mapping[str, Any]], part: str) -> Any:
    """The config of a part in our terms, without what is said in two ways and means the same."""
    if part == "unet":
        config = unet_config(configs[part], pooled_dim=configs.get(_CLIP_G, {}).get("projection_dim"))
        used = {*config.attention_levels, len(config.channels) - 1}
        levels = range(len(config.channels))
        return replace(
            config,
            transformer_depth=tuple(config.depth(i) if i in used else 1 for i in levels),
            num_heads=tuple(config.heads(i) if i in used else 1 for i in levels),
        )
    if part == "vae":
        return vae_config(configs[part])
    return replace(text_config(configs[part]), bos_token_id=0, eos_token_id=0, pad_token_id=0)
