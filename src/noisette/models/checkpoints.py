"""Checkpoints of others' as models of ours, and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from noisette.core import Cond, IndexTime
from noisette.errors import UserError
from noisette.hub.checkpoint import Checkpoint
from noisette.hub.configs import dit_config, pixel_unet_config, text_config, unet_config, vae_config
from noisette.hub.names import Name, dit_names, fitted, renamed, text_names, unet_names, vae_names
from noisette.hub.schedulers import parameterization_of, sampler, schedule_of
from noisette.hub.spec import Defaults, ModelSpec
from noisette.hub.tensors import assigned, unfilled
from noisette.models.texts import ClipTexts, Texts
from noisette.nets import DiT, DiTConfig, UNet, UNetConfig
from noisette.nets.text import Prompted, TextConfig, TextEncoder, TextTowers, TowersConfig
from noisette.nets.vae import AutoencoderKL, Codec

__all__ = ["checkpoint_of", "named_parts", "parts_of", "scheduler_config", "told_sizes"]

M = TypeVar("M", bound=nn.Module)
Parts = tuple[ModelSpec, nn.Module, Codec | None, Texts | None]

# Guidance and steps where nobody asks, as the pipelines of these names have them.
DEFAULTS: Mapping[str, tuple[int, float]] = {
    "DDPMPipeline": (1000, 1.0),
    "DDIMPipeline": (50, 1.0),
    "PNDMPipeline": (50, 1.0),
    "DiTPipeline": (50, 4.0),
    "StableDiffusionPipeline": (50, 7.5),
    "StableDiffusionImg2ImgPipeline": (50, 7.5),
    "StableDiffusionInpaintPipeline": (50, 7.5),
    "StableDiffusionXLPipeline": (50, 5.0),
    "StableDiffusionXLImg2ImgPipeline": (50, 5.0),
    "StableDiffusionXLInpaintPipeline": (50, 7.5),
    "LatentConsistencyModelPipeline": (4, 8.5),
    "LatentConsistencyModelImg2ImgPipeline": (4, 8.5),
}

TEXT_PARTS = ("text_encoder", "text_encoder_2")
AESTHETIC = 6.0, 2.5
"""What the refiner is told of how good a picture is, and of the one it is led away from."""


def parts_of(checkpoint: Checkpoint, name: str) -> Parts:
    """What a `Model` is made of: its description, networks with the checkpoint's own tensors, and texts.

    Raises UserError for pipelines, networks and schedulers that are not known here.
    """
    if checkpoint.pipeline not in DEFAULTS:
        known = ", ".join(DEFAULTS)
        raise UserError(f"{name} is a {checkpoint.pipeline:.60}, which is not known here; known are {known}")
    config = scheduler_config(checkpoint)
    sampler(config)  # an unknown one is told now, not when the first picture is asked for
    schedule = schedule_of(config)
    codec_config = vae_config(checkpoint.configs["vae"]) if "vae" in checkpoint.configs else None
    text = _text_config(checkpoint)
    texts = _texts(checkpoint, text)
    net_config = _net_config(checkpoint, text)
    steps, scale = DEFAULTS[checkpoint.pipeline]
    labels = _labels(checkpoint, net_config)
    side = _side(checkpoint) * (1 if codec_config is None else codec_config.factor)
    spec = ModelSpec(
        name=name,
        net=net_config,
        schedule=schedule,
        parameterization=parameterization_of(config),
        time=IndexTime(schedule.steps),
        image_size=side,
        channels=net_config.in_channels if codec_config is None else codec_config.in_channels,
        labels=labels,
        defaults=Defaults(steps=steps, guidance_scale=scale),
        text=text,
        codec=codec_config,
    )
    net = _network(checkpoint, spec)
    codec = None
    if codec_config is not None:
        codec = _filled(lambda: AutoencoderKL(codec_config), checkpoint, "vae", vae_names(codec_config))
    return spec, net, codec, texts  # pyright: ignore[reportReturnType]


def scheduler_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The scheduler's config, as the pipeline understands it.

    Those of Stable Diffusion 1 and 2 have an offset of 1 and never clip, whatever an old file says.
    """
    config = checkpoint.configs.get("scheduler")
    if config is None:
        raise UserError("this checkpoint has no scheduler, so nobody knows how it was trained")
    old = checkpoint.pipeline.startswith("StableDiffusion") and "XL" not in checkpoint.pipeline
    return {**config, "steps_offset": 1, "clip_sample": False} if old else config


def _net_config(checkpoint: Checkpoint, text: Any) -> UNetConfig | DiTConfig:
    if "transformer" in checkpoint.configs:
        alike = _one_embedding(checkpoint.tensors["transformer"])
        return dit_config(checkpoint.configs["transformer"], own_embeddings=not alike)
    json = checkpoint.configs["unet"]
    if text is None:
        return pixel_unet_config(json)
    return unet_config(json, pooled_dim=text.pooled_size)


_EMBEDDING = re.compile(r"transformer_blocks\.(\d+)(\.norm1\.emb\..+)")


def _one_embedding(state: Mapping[str, Tensor]) -> bool:
    """Whether all blocks of a transformer embed time and class alike, as those that were released do."""
    blocks = ((_EMBEDDING.fullmatch(key), tensor) for key, tensor in state.items())
    firsts = ((state.get(f"transformer_blocks.0{found[2]}"), tensor) for found, tensor in blocks if found)
    return all(first is not None and torch.equal(first, tensor) for first, tensor in firsts)


def _text_config(checkpoint: Checkpoint) -> TextConfig | TowersConfig | None:
    towers = [text_config(checkpoint.configs[part]) for part in TEXT_PARTS if part in checkpoint.configs]
    if not towers:
        return None
    if "XL" not in checkpoint.pipeline:
        return replace(towers[0], projection_dim=None)
    return TowersConfig((*(replace(tower, projection_dim=None) for tower in towers[:-1]), towers[-1]))


def _texts(checkpoint: Checkpoint, text: TextConfig | TowersConfig | None) -> Texts | None:
    if text is None:
        return None
    order = [part for part in ("tokenizer", "tokenizer_2") if part in checkpoint.tokenizers]
    towers = isinstance(text, TowersConfig)
    if len(order) != (len(text.towers) if towers else 1):
        raise UserError(f"this checkpoint has {len(order)} tokenizers, not one for each text encoder")
    return ClipTexts(tuple(checkpoint.tokenizers[part] for part in order), towers)


def _labels(checkpoint: Checkpoint, net: UNetConfig | DiTConfig) -> tuple[str, ...] | None:
    if net.num_classes is None:
        return None
    told = checkpoint.options.get("id2label")
    names = [str(told.get(str(i), i)) if isinstance(told, dict) else str(i) for i in range(net.num_classes)]
    return tuple(names) if len(set(names)) == len(names) else tuple(map(str, range(net.num_classes)))


def _side(checkpoint: Checkpoint) -> int:
    """The side of what the network works on."""
    json = checkpoint.configs.get("transformer") or checkpoint.configs["unet"]
    size = json.get("sample_size") or 64
    side = size[0] if isinstance(size, list | tuple) else size
    if not isinstance(side, int) or side < 1:
        raise UserError(f"sample_size {size!r:.40} should be a whole number of 1 or more")
    return side


def _network(checkpoint: Checkpoint, spec: ModelSpec) -> nn.Module:
    if isinstance(spec.net, DiTConfig):
        config = spec.net
        if not config.own_embeddings:  # those of the other blocks are copies
            checkpoint = replace(checkpoint, tensors={"transformer": _without_copies(checkpoint)})
        return _filled(lambda: DiT(config), checkpoint, "transformer", dit_names(config))
    config = spec.net
    net = _filled(lambda: UNet(config), checkpoint, "unet", unet_names(config))
    match spec.text:
        case TextConfig() as text:
            return Prompted(net, _encoder(checkpoint, "text_encoder", text))
        case TowersConfig(towers=towers) as text:
            encoder = unfilled(lambda: TextTowers(text))
            parts = [part for part in TEXT_PARTS if part in checkpoint.configs]
            for i, (part, tower) in enumerate(zip(parts, towers, strict=True)):
                filled = _encoder(checkpoint, part, tower)
                encoder.towers[i].load_state_dict(filled.state_dict(), assign=True)
            return Prompted(net, encoder)
        case _:
            return net


def _encoder(checkpoint: Checkpoint, part: str, config: TextConfig) -> Any:
    return _filled(lambda: TextEncoder(config), checkpoint, part, text_names(config))


def _filled(build: Callable[[], M], checkpoint: Checkpoint, part: str, names: Iterable[Name]) -> M:
    """A network with the tensors of one part of the checkpoint."""
    net = unfilled(build)
    state = renamed(_stripped(checkpoint.tensors[part], part), names, "diffusers", "ours")
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    return assigned(net, fitted(state, shapes), f"the {part} of this checkpoint")


def _stripped(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Without what is no weight, and without what only other uses of a text encoder need."""
    drop = ("position_ids", "logit_scale", "pos_embed.pos_embed")
    if part == "text_encoder":
        drop = (*drop, "text_projection.weight")
    return {key: value for key, value in state.items() if not key.endswith(drop)}


def _without_copies(checkpoint: Checkpoint) -> dict[str, Tensor]:
    named = ((key, _EMBEDDING.fullmatch(key)) for key in checkpoint.tensors["transformer"])
    kept = [key for key, found in named if found is None or found[1] == "0"]
    return {key: checkpoint.tensors["transformer"][key] for key in kept}


def named_parts(spec: ModelSpec, net: nn.Module) -> dict[str, tuple[nn.Module, list[Name]]]:
    """The network and its text encoders by the names of their parts, with the names of their modules."""
    inner: Any = net.net if isinstance(net, Prompted) else net
    if isinstance(spec.net, DiTConfig):
        return {"transformer": (inner, list(dit_names(spec.net)))}
    found: dict[str, tuple[nn.Module, list[Name]]] = {"unet": (inner, list(unet_names(spec.net)))}
    if isinstance(net, Prompted):
        text: Any = net.text
        encoders: list[Any] = list(text.towers) if isinstance(text, TextTowers) else [text]
        # The refiner of SDXL has the second of two encoders alone.
        parts = TEXT_PARTS[-len(encoders) :] if isinstance(text, TextTowers) else TEXT_PARTS[:1]
        found |= {p: (e, list(text_names(e.config))) for p, e in zip(parts, encoders, strict=True)}
    return found


def checkpoint_of(kept: Checkpoint, spec: ModelSpec, net: nn.Module, codec: Codec | None) -> Checkpoint:
    """The checkpoint that a model came from, with the weights that it has now."""
    parts = named_parts(spec, net)
    if isinstance(codec, AutoencoderKL):
        parts["vae"] = codec, list(vae_names(codec.config))
    tensors = {
        part: _as_theirs(renamed(module.state_dict(), rows, "ours", "diffusers"), kept, part)
        for part, (module, rows) in parts.items()
    }
    return replace(kept, tensors=tensors)


def _as_theirs(state: dict[str, Tensor], kept: Checkpoint, part: str) -> dict[str, Tensor]:
    """Linear maps as the 1x1 convolutions that Stable Diffusion 1 has in their place, embeddings repeated."""
    config = kept.configs[part]
    if part == "transformer":
        blocks = range(1, int(config.get("num_layers", 28)))
        first = {key: found[2] for key in state if (found := _EMBEDDING.fullmatch(key)) and found[1] == "0"}
        copies = {f"transformer_blocks.{i}{rest}": state[key] for i in blocks for key, rest in first.items()}
        return {**{key: value.clone() for key, value in copies.items()}, **state}
    if part != "unet" or "cross_attention_dim" not in config or config.get("use_linear_projection", False):
        return state
    ends = (".proj_in.weight", ".proj_out.weight")
    return {
        key: value[..., None, None]
        if key.endswith(ends) and "attentions" in key and value.ndim == 2
        else value
        for key, value in state.items()
    }


def told_sizes(
    checkpoint: Checkpoint, spec: ModelSpec, cond: Cond, null: Cond, size: tuple[int, int], silent: bool
) -> tuple[Cond, Cond]:
    """Both conditions with what SDXL is told beside texts: sizes, and nothing at all in place of no prompt.

    ``size`` is that of the latents; the picture is said to be whole and of the size it is drawn in.
    ``silent`` says that nobody gave a negative prompt. Source: arXiv:2307.01952, Section 2.2.
    """
    count = getattr(spec.net, "size_count", 0)
    if not count:
        return cond, null
    side = [float(length * spec.factor) for length in size]
    batch, device = len(cond["tokens"]), cond["tokens"].device
    told = []
    for score in AESTHETIC:
        numbers = [*side, 0.0, 0.0, *(side if count == 6 else [score])]
        told.append(torch.tensor(numbers, device=device).expand(batch, -1))
    if silent and checkpoint.options.get("force_zeros_for_empty_prompt", True):
        null = {**null, **{key: torch.zeros_like(null[key]) for key in ("tokens", "pooled")}}
    return {**cond, "sizes": told[0]}, {**null, "sizes": told[1]}
