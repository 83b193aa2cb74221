"""Folders as diffusers saves its pipelines, with random weights: what both libraries load."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from noisette.hub.known import clip_tokenizer, known

SMALL: Mapping[str, Mapping[str, Any]] = {
    "unet": {"block_out_channels": [32, 64, 64, 64], "cross_attention_dim": 64, "sample_size": 8},
    "vae": {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1, "sample_size": 64},
    "text_encoder": {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 256}
    | {"num_attention_heads": 4, "projection_dim": 64},
}
"""What makes Stable Diffusion 1 tiny: narrow networks, pictures of 64 px; the tokens stay CLIP's."""


def write(folder: Path, dtype: torch.dtype = torch.float32, small: bool = False) -> Path:
    """A pipeline with the configuration of Stable Diffusion 1.5, or a tiny one, as diffusers saves it."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    configs = known("sd1").configs
    for part, changes in SMALL.items() if small else ():
        configs[part] |= changes
    words = clip_tokenizer()
    ids = {token: i for i, token in enumerate(words.tokens)}
    text = {k: v for k, v in configs["text_encoder"].items() if k not in ("architectures", "model_type")}
    unet: Any = UNet2DConditionModel.from_config(configs["unet"])
    vae: Any = AutoencoderKL.from_config(configs["vae"])
    pipe = StableDiffusionPipeline(
        vae=_drawn(vae, dtype),
        text_encoder=_drawn(CLIPTextModel(CLIPTextConfig(**text)), dtype),
        tokenizer=CLIPTokenizer(vocab=ids, merges=list(words.merges), model_max_length=words.max_length),
        unet=_drawn(unet, dtype),
        scheduler=PNDMScheduler.from_config(configs["scheduler"]),
        safety_checker=None,
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    del pipe
    gc.collect()
    return folder


def _drawn(net: Any, dtype: torch.dtype) -> Any:
    """The network with weights of which none is zero, in ``dtype``."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.any():
            module.reset_parameters()
    return net.to(dtype).eval()
