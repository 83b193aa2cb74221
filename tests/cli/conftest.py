"""Stable Diffusion of a few thousand weights, as others leave it on a disk, and what goes onto it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from noisette.cli import main
from noisette.conditioning.tokenizer import Tokenizer
from noisette.hub.checkpoint import Checkpoint
from noisette.hub.known import clip_tokenizer, known
from noisette.hub.pipelines import write_pipeline
from noisette.hub.single import write_single

Typed = Callable[[str], tuple[int, str, str]]


def pipeline(tokenizer: Tokenizer) -> Checkpoint:
    """Networks of diffusers' and transformers' own, in the shape of Stable Diffusion 1 with two levels."""
    import diffusers
    import transformers

    configs = known("sd1").configs
    ends = {f"{end}_token_id": tokenizer.eos_token_id for end in ("eos", "pad")}
    configs["text_encoder"] |= {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3} | ends
    configs["text_encoder"] |= {"num_attention_heads": 1, "vocab_size": len(tokenizer.tokens)}
    configs["text_encoder"] |= {"projection_dim": 16, "bos_token_id": tokenizer.bos_token_id}
    configs["unet"] |= {"block_out_channels": [32, 32], "layers_per_block": 1, "sample_size": 8}
    configs["unet"] |= {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
    configs["unet"] |= {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "cross_attention_dim": 16}
    configs["vae"] |= {"block_out_channels": [32, 32], "layers_per_block": 1}
    configs["vae"] |= {
        f"{way}_block_types": configs["vae"][f"{way}_block_types"][:2] for way in ("down", "up")
    }
    torch.manual_seed(1)
    nets = {
        "unet": diffusers.UNet2DConditionModel.from_config(configs["unet"]),
        "vae": diffusers.AutoencoderKL.from_config(configs["vae"]),
        "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**configs["text_encoder"])),
    }
    tensors = {part: net.state_dict() for part, net in nets.items()}
    # transformers draws its weights so small that no two prompts would differ, and its newer versions have
    # dropped a prefix that files have.
    tensors["text_encoder"] = {
        f"text_model.{key.removeprefix('text_model.')}": 8 * value if value.ndim > 1 else value
        for key, value in tensors["text_encoder"].items()
    }
    return Checkpoint("StableDiffusionPipeline", configs, tensors, {"tokenizer": tokenizer})


def letters() -> Tokenizer:
    """CLIP's tokenizer without its merges, which take a while to read."""
    whole = clip_tokenizer()
    return replace(whole, tokens=(*whole.tokens[:512], *whole.tokens[-2:]), merges=())


def write_lora(path: Path, width: int = 32, seed: int = 0) -> None:
    """An update of one attention of the U-Net, whose first level is ``width`` wide, and of the encoder."""
    draw = torch.Generator().manual_seed(seed)
    block = "unet.down_blocks.0.attentions.0.transformer_blocks.0"
    modules = {f"{block}.attn1.to_q": width, f"{block}.attn2.to_out.0": width}
    modules["text_encoder.text_model.encoder.layers.1.self_attn.q_proj"] = width // 2
    state = {}
    for module, size in modules.items():
        state[f"{module}.lora_A.weight"] = torch.randn(2, size, generator=draw)
        state[f"{module}.lora_B.weight"] = torch.randn(size, 2, generator=draw) / 2
    save_file(state, path)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``sd``, the file ``sd.safetensors``, the LoRAs ``ink`` and ``wide``, and two pictures."""
    folder = tmp_path_factory.mktemp("made")
    write_pipeline(pipeline(letters()), folder / "sd")
    write_single(pipeline(clip_tokenizer()), folder / "sd.safetensors")
    write_lora(folder / "ink.safetensors")
    write_lora(folder / "wide.safetensors", width=320)
    Image.linear_gradient("L").resize((20, 16)).convert("RGB").save(folder / "fox.png")
    mask = Image.new("L", (20, 16))
    mask.paste(255, (10, 0, 20, 16))
    mask.save(folder / "mask.png")
    return folder


@pytest.fixture
def typed(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Typed:
    """Type a command line in a folder that holds what was ``made``, where nothing can be downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)

    def run(line: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(shlex.split(line))
        out, err = capsys.readouterr()
        return code, out, err

    return run
