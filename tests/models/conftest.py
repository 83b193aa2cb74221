"""Small pipelines with random weights, built by diffusers and saved where both sides load them from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
WORDS = ("c a", "ca t</w>", "d o", "do g</w>", "t h", "th e</w>", "r e", "re d</w>")


@pytest.fixture(scope="session")
def parity() -> Iterator[list[dict[str, Any]]]:
    """Where the largest differences are noted; $NOISETTE_PARITY names a file of JSON to keep them in."""
    noted: list[dict[str, Any]] = []
    yield noted
    if path := os.environ.get("NOISETTE_PARITY"):
        Path(path).write_text(json.dumps(noted, indent=1) + "\n")


def tokenizer(folder: Path, pad: str = "<|endoftext|>") -> Any:
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += [*("".join(word.split()) for word in WORDS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *WORDS]) + "\n")
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    return CLIPTokenizer(*files, model_max_length=77, pad_token=pad)


def text_encoder(width: int, heads: int, projected: bool = False, **more: Any) -> Any:
    import transformers

    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    config = transformers.CLIPTextConfig(
        vocab_size=522,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=heads,
        projection_dim=width,
        bos_token_id=520,
        eos_token_id=521,
        pad_token_id=521,
        **more,
    )
    return kind(config).eval()


def unet(width: int, **changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    shape: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": width,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**shape | changes).eval()


def vae() -> Any:
    from diffusers import AutoencoderKL

    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(block_out_channels=(8, 16), norm_num_groups=8, **kinds).eval()


def stable_diffusion(folder: Path, pipeline: str = "StableDiffusionPipeline", **changes: Any) -> Any:
    import diffusers

    scheduler = diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1)
    parts = (vae(), text_encoder(16, 4), tokenizer(folder / "tok"), unet(16, **changes), scheduler)
    return getattr(diffusers, pipeline)(*parts, None, None, requires_safety_checker=False)


def lcm(folder: Path) -> Any:
    import diffusers

    pipe = stable_diffusion(folder, time_cond_proj_dim=32)
    parts = {name: part for name, part in pipe.components.items() if name != "scheduler"}
    scheduler = diffusers.LCMScheduler(**BETAS)
    return diffusers.LatentConsistencyModelPipeline(
        **parts, scheduler=scheduler, requires_safety_checker=False
    )


def xl(folder: Path) -> Any:
    import diffusers

    added: dict[str, Any] = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24 + 6 * 8,
        "transformer_layers_per_block": (1, 2),
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1)
    return diffusers.StableDiffusionXLPipeline(
        vae(),
        text_encoder(16, 4),
        text_encoder(24, 4, projected=True, hidden_act="gelu"),
        tokenizer(folder / "tok"),
        tokenizer(folder / "tok2", pad="!"),
        unet(40, **added),
        scheduler,
    )


def refiner(folder: Path) -> Any:
    import diffusers

    added: dict[str, Any] = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24 + 5 * 8,
        "use_linear_projection": True,
    }
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1)
    encoder, words = text_encoder(24, 4, projected=True, hidden_act="gelu"), tokenizer(folder / "tok", "!")
    parts = (vae(), None, encoder, None, words, unet(24, **added), scheduler)
    return diffusers.StableDiffusionXLImg2ImgPipeline(
        *parts, requires_aesthetics_score=True, force_zeros_for_empty_prompt=False
    )


def pixels(folder: Path, name: str) -> Any:
    import diffusers

    net = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return getattr(diffusers, f"{name}Pipeline")(net.eval(), getattr(diffusers, f"{name}Scheduler")())


def transformer(folder: Path) -> Any:
    import diffusers

    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=1000,
        norm_num_groups=4,
    )
    return diffusers.DiTPipeline(
        net.eval(), vae(), diffusers.DDIMScheduler(clip_sample=False), id2label={0: "tench", 1: "goldfish"}
    )


BUILT: dict[str, Callable[[Path], Any]] = {
    "sd": stable_diffusion,
    "sd-2": lambda folder: stable_diffusion(folder, attention_head_dim=(2, 4), use_linear_projection=True),
    "lcm": lcm,
    "inpainting": lambda folder: stable_diffusion(folder, "StableDiffusionInpaintPipeline", in_channels=9),
    "xl": xl,
    "refiner": refiner,
    "ddpm": lambda folder: pixels(folder, "DDPM"),
    "ddim": lambda folder: pixels(folder, "DDIM"),
    "dit": transformer,
}


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the small pipeline of a name; built once, and only where it is asked for."""
    there: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in there:
            there[name] = tmp_path_factory.mktemp(name)
            torch.manual_seed(0)
            BUILT[name](there[name]).save_pretrained(there[name] / name)
        return there[name] / name

    return folder
