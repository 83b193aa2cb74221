"""``noisette convert`` as a person types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import noisette

Typed = Callable[[str], tuple[int, str, str]]
UNET = "unet/diffusion_pytorch_model.safetensors"


def done(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert (code, err, out.count("\n")) == (0, "", 1)
    return out


def drawn(name: str) -> np.ndarray:
    options = {"num_inference_steps": 2, "seed": 0, "width": 16, "height": 16, "output_type": "numpy"}
    return noisette.load(name).generate("a cat", **options).images


def test_there_and_back_nothing_is_lost(typed: Typed) -> None:
    done(typed("convert sd.safetensors folder"))
    said = done(typed("convert folder back.safetensors"))
    assert said.startswith("back.safetensors: StableDiffusionPipeline, float32, ")
    before, after = load_file("sd.safetensors"), load_file("back.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert np.array_equal(drawn("sd.safetensors"), drawn("folder"))
    pipe = diffusers.StableDiffusionPipeline.from_pretrained("folder")
    assert torch.equal(pipe.unet.conv_in.weight, load_file(Path("folder") / UNET)["conv_in.weight"])


def test_the_precision_is_what_is_asked_or_what_it_was(typed: Typed) -> None:
    said = done(typed("convert sd half --dtype float16"))
    size = sum(path.stat().st_size for path in Path("half").rglob("*") if path.is_file())
    assert said == f"half: StableDiffusionPipeline, float16, {size / 1e6:.1f} MB\n"
    whole = load_file(Path("sd") / UNET)
    assert all(torch.equal(v, whole[k].half()) for k, v in load_file(Path("half") / UNET).items())
    done(typed("convert half kept"))
    assert {v.dtype for v in load_file(Path("kept") / UNET).values()} == {torch.float16}
    done(typed("convert half wide --dtype fp32"))
    assert {v.dtype for v in load_file(Path("wide") / UNET).values()} == {torch.float32}


def test_fused_loras_are_those_that_diffusers_fuses(typed: Typed) -> None:
    said = done(typed("convert sd inked --lora ink.safetensors:0.7 --lora ./ink.safetensors:-0.2"))
    assert said.endswith(" MB, with 2 LoRAs in its weights\n")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained("sd")
    pipe.load_lora_weights("ink.safetensors")
    pipe.fuse_lora(lora_scale=0.5)
    pipe.unload_lora_weights()
    for part, file in (("unet", UNET), ("text_encoder", "text_encoder/model.safetensors")):
        found, plain = load_file(Path("inked") / file), load_file(Path("sd") / file)
        wanted = getattr(pipe, part).state_dict()
        moved = 0
        for key, value in wanted.items():
            key = key if key in found else f"text_model.{key}"
            assert (found[key] - value).abs().max() < 1e-6, key
            moved += not torch.equal(found[key], plain[key])
        assert moved == {"unet": 2, "text_encoder": 1}[part]


def test_a_converted_lora_draws_what_generate_draws_with_it(typed: Typed) -> None:
    done(typed("convert sd inked --lora ink.safetensors:0.7"))
    line = "generate 'a cat' --steps 2 --seed 0"
    done(typed(f"{line} --model sd --lora ink.safetensors:0.7 -o a.png"))
    done(typed(f"{line} --model inked -o b.png"))
    from PIL import Image

    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("b.png")))


def test_a_lora_is_added_before_weights_are_rounded(typed: Typed) -> None:
    done(typed("convert sd inked --lora ink.safetensors"))
    done(typed("convert sd half --lora ink.safetensors --dtype float16"))
    whole, half = load_file(Path("inked") / UNET), load_file(Path("half") / UNET)
    assert all(torch.equal(half[key], value.half()) for key, value in whole.items())


def test_a_prediction_is_told_of_a_single_file_alone(typed: Typed) -> None:
    done(typed("convert sd.safetensors v --prediction v_prediction"))
    kept = json.loads(Path("v/scheduler/scheduler_config.json").read_text())
    assert kept["prediction_type"] == "v_prediction"
    code, _, err = typed("convert sd x --prediction epsilon")
    assert (code, "sd is a folder, which says what it predicts" in err) == (2, True)


def test_a_model_of_ours_stays_one(typed: Typed) -> None:
    said = done(typed("convert digits mine --dtype fp32"))
    assert said.startswith("mine: noisette's own format, float32, ")
    assert Path("mine/model.json").is_file()
    found, wanted = (noisette.load(name).denoiser.net.state_dict() for name in ("mine", "digits"))
    assert all(torch.equal(found[key], value) for key, value in wanted.items())


def test_nothing_is_replaced_unasked_and_never_what_is_read(typed: Typed) -> None:
    Path("mine.safetensors").write_text("precious")
    code, _, err = typed("convert sd.safetensors mine.safetensors")
    assert (code, Path("mine.safetensors").read_text()) == (2, "precious")
    assert "mine.safetensors exists already" in err
    done(typed("convert sd.safetensors mine.safetensors --overwrite"))
    before = {path: path.read_bytes() for path in Path("sd").rglob("*") if path.is_file()}
    assert "sd is what is read" in typed("convert ./sd sd --overwrite --dtype fp16")[2]
    assert all(path.read_bytes() == data for path, data in before.items())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gone out", "there is no model 'gone'"),
        ("owner/name out", "owner/name is neither here nor to be had from the Hub"),
        ("ink.safetensors out", "ink.safetensors cannot be read as a single-file checkpoint"),
        ("fox.png out", "fox.png is no model"),
        ("sd out --dtype int8", "there is no precision 'int8'"),
        ("sd out --prediction noise", "--prediction is epsilon or v_prediction"),
        ("sd out --lora wide.safetensors", "wide.safetensors does not fit"),
        ("sd out --lora gone.safetensors", "there is no file gone.safetensors"),
        ("sd out.ckpt", "weights are written as safetensors"),
        ("sd fox.png/out", "is a file, not a folder"),
        ("digits out.safetensors", "digits is in noisette's own format"),
        ("digits out --lora ink.safetensors", "this model does not have"),
        ("sd", "Missing argument"),
    ],
)
def test_a_mistake_costs_one_line_and_leaves_nothing(typed: Typed, line: str, message: str) -> None:
    before = set(Path().rglob("*"))
    code, out, err = typed(f"convert {line}")
    assert (code, out) == (2, ""), err
    assert message in err and err.startswith("noisette: ") and err.count("\n") == 1
    assert set(Path().rglob("*")) == before
