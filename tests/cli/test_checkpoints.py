"""``noisette generate`` with checkpoints of others', as a person types it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import noisette
from noisette.hub import read_settings, write_png
from noisette.models import Model

Typed = Callable[[str], tuple[int, str, str]]
SD = "generate 'a cat' --model sd --steps 3 --seed 4"
OVER = "--image fox.png --strength 0.7"
OPTIONS = [
    "--lora ink.safetensors:0.8",
    "--lora ink.safetensors --lora ./ink.safetensors:-2.5",
    "--clip-skip 1",
    OVER,
    "--image fox.png",
    "--image fox.png --mask mask.png",
    "--image fox.png --width 24 --height 8",
    "--cache-every 2",
    "--precision bf16 --lora ink.safetensors",
    "--solver ddim --eta 1 --spacing trailing",
    "--width 32 --height 16 --negative 'a dog'",
]


def done(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert (code, err) == (0, "")
    return out


def pixels(path: str) -> Any:
    with Image.open(path) as image:
        return np.asarray(image)


def same(one: str, other: str) -> bool:
    return Path(one).read_bytes() == Path(other).read_bytes()


def picture(**options: Any) -> Any:
    """What Python draws of the same cat."""
    model = options.pop("model", None) or noisette.load("sd")
    return np.asarray(model.generate("a cat", num_inference_steps=3, seed=4, **options).images[0])


def test_a_folder_draws_what_python_draws_by_its_own_scheduler(typed: Typed) -> None:
    done(typed(f"{SD} -o a.png"))
    assert np.array_equal(pixels("a.png"), picture())
    found = read_settings("a.png")
    assert (found["solver"], found["grid"], found["size"]) == (None, None, "16x16")
    # PLMS from spaced rows is none of our own defaults.
    assert not np.array_equal(pixels("a.png"), picture(solver=noisette.load("sd").spec.defaults.solver))


def test_a_single_file_draws_and_is_restored(typed: Typed) -> None:
    done(typed(f"{SD} --model sd.safetensors --width 16 --height 16 -o a.png"))
    model = noisette.load("sd.safetensors")
    assert np.array_equal(pixels("a.png"), picture(model=model, width=16, height=16))
    done(typed("generate --from a.png -o b.png"))
    assert same("a.png", "b.png")


@pytest.mark.parametrize("options", OPTIONS)
def test_an_option_matters_and_is_restored(typed: Typed, options: str) -> None:
    done(typed(f"{SD} -o plain.png"))
    done(typed(f"{SD} {options} -o a.png"))
    assert pixels("a.png").shape != (16, 16, 3) or (pixels("a.png") != pixels("plain.png")).any()
    done(typed("generate --from a.png -o b.png"))
    assert same("a.png", "b.png")


@pytest.mark.parametrize("options", ["--cache-every 2", f"{OVER} --mask mask.png --solver ddim --eta 1"])
def test_one_of_several_batches_is_restored(typed: Typed, options: str) -> None:
    done(typed(f"{SD} {options} -n 3 --batch-size 2 -o a.png"))
    for k in range(3):
        done(typed(f"generate --from a-{k}.png -o b-{k}.png"))
        assert same(f"a-{k}.png", f"b-{k}.png")


def test_options_are_those_of_python(typed: Typed) -> None:
    fox = Image.open("fox.png")
    for options, wanted in (
        (OVER, {"image": fox, "strength": 0.7}),
        ("--image fox.png --mask mask.png", {"image": fox, "mask_image": Image.open("mask.png")}),
        ("--clip-skip 1", {"clip_skip": 1}),
        ("--cache-every 2", {"model": noisette.load("sd").cached(2)}),
    ):
        done(typed(f"{SD} {options} -o a.png --overwrite"))
        assert np.array_equal(pixels("a.png"), picture(**wanted))
    assert pixels("a.png").shape == (16, 16, 3) and fox.size == (20, 16)


def test_loras_are_added_into_the_weights(typed: Typed) -> None:
    done(typed(f"{SD} --lora ink.safetensors:0.8 -o a.png"))
    model = noisette.load("sd").load_lora("ink.safetensors", 0.8)
    model.fuse_lora()
    assert np.array_equal(pixels("a.png"), picture(model=model))
    assert read_settings("a.png")["lora"] == ["ink.safetensors:0.8"]
    # Names that a file may have: with colons, of a folder, and with what looks like a weight.
    for name in ("in:k.safetensors", "ink.safetensors:2"):
        shutil.copy("ink.safetensors", name)
        done(typed(f"{SD} --lora {name}:0.8 -o b.png --overwrite"))
        assert np.array_equal(pixels("b.png"), pixels("a.png"))
    done(typed(f"{SD} --lora in:k.safetensors -o c.png"))
    done(typed(f"{SD} --lora ink.safetensors:2 -o d.png"))
    assert np.array_equal(pixels("c.png"), pixels("d.png"))


def test_options_go_before_what_a_picture_says(typed: Typed) -> None:
    done(typed(f"{SD} -o plain.png"))
    done(typed(f"{SD} --lora ink.safetensors:0.8 -o a.png"))
    done(typed("generate --from a.png --lora '' -o b.png"))
    assert np.array_equal(pixels("b.png"), pixels("plain.png"))
    done(typed("generate --from a.png --lora ink.safetensors:0.5 -o c.png"))
    assert read_settings("c.png")["lora"] == ["ink.safetensors:0.5"]
    done(typed(f"{SD} {OVER} -o d.png"))
    Image.open("fox.png").resize((32, 24)).save("large.png")
    done(typed("generate --from d.png --image large.png -o e.png"))
    assert pixels("e.png").shape == (24, 32, 3) and read_settings("e.png")["strength"] == 0.7


def test_what_a_picture_names_may_be_gone_or_another(typed: Typed) -> None:
    done(typed(f"{SD} {OVER} --lora ink.safetensors -o a.png"))
    Path("fox.png").rename("wolf.png")
    code, out, err = typed("generate --from a.png -o b.png")
    assert (code, out, err) == (2, "", "noisette: there is no picture fox.png\n")
    done(typed("generate --from a.png --image wolf.png -o b.png"))
    assert np.array_equal(pixels("a.png"), pixels("b.png"))
    save_file({key: 2 * value for key, value in load_file("ink.safetensors").items()}, "ink.safetensors")
    code, _, err = typed("generate --from a.png --image wolf.png -o c.png")
    assert (code, "the weights of sd are others" in err) == (0, True)
    Path("ink.safetensors").unlink()
    assert typed("generate --from a.png --image wolf.png -o d.png")[0] == 2
    output = noisette.load("sd").generate("a cat", image=Image.open("wolf.png"), num_inference_steps=2)
    write_png("e.png", output.images[0], {"weights": "sd", **output.settings_of(0)})
    assert "does not name: give it by --image" in typed("generate --from e.png -o f.png")[2]
    done(typed("generate --from e.png --image wolf.png -o f.png"))
    assert np.array_equal(pixels("e.png"), pixels("f.png"))


def test_a_folder_of_pictures_goes_on_only_with_the_same_lora_and_picture(typed: Typed) -> None:
    line = f"{SD} -n 2 {OVER} --lora ink.safetensors"
    done(typed(f"{line} -o many/"))
    Path("many/000001.png").unlink()
    assert "1 picture, " in done(typed(f"{line} -o many/"))
    for change, name in (("--lora ink.safetensors:2", "lora"), ("--strength 0.2", "strength")):
        code, _, err = typed(f"{line} {change} -o many/")
        assert (code, f"was drawn with {name} " in err) == (2, True), err
    assert "was drawn with image" in typed(f"{SD} -n 2 --lora ink.safetensors -o many/")[2]


def test_a_variant_is_chosen_and_restored(typed: Typed) -> None:
    weights = Path("sd/unet/diffusion_pytorch_model.safetensors")
    half = {key: (value / 2).half() for key, value in load_file(weights).items()}
    save_file(half, weights.with_suffix(".fp16.safetensors"))
    done(typed(f"{SD} -o plain.png"))
    done(typed(f"{SD} --variant fp16 -o a.png"))
    assert np.array_equal(pixels("a.png"), picture(model=noisette.load("sd", variant="fp16")))
    assert (pixels("a.png") != pixels("plain.png")).any()
    done(typed("generate --from a.png -o b.png"))
    assert same("a.png", "b.png")
    done(typed("generate --from a.png --model sd -o c.png"))
    assert np.array_equal(pixels("c.png"), pixels("plain.png"))


def test_offloaded_weights_draw_the_same(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    offloaded, places = Model.offloaded, []

    def watched(self: Model, device: str) -> Model:
        places.append(device)
        return offloaded(self, "cpu")

    monkeypatch.setattr(Model, "offloaded", watched)
    done(typed(f"{SD} --lora ink.safetensors -o a.png"))
    done(typed(f"{SD} --lora ink.safetensors --offload --device cpu:0 -o b.png"))
    assert same("a.png", "b.png") and places == ["cpu:0"]


def test_the_other_commands_take_the_folder_too(typed: Typed) -> None:
    done(typed("sample sd -n 1 --steps 1 --seed 0 -o a.png"))
    assert pixels("a.png").shape == (16, 16, 3)
    code, _, err = typed("evaluate sd")
    assert (code, "compare its pictures with real ones, --data FOLDER" in err) == (2, True)
    code, _, err = typed("generate --words --model sd")
    assert (code, "sd has no list of words" in err) == (2, True)


class Code:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


def spoil(name: str) -> None:
    """Put a model there that is none, called ``name``."""
    path = Path(name)
    if path.suffix in (".safetensors", ".ckpt") and "+" not in name:
        whole = Path("sd/unet/diffusion_pytorch_model.safetensors").read_bytes()
        found = {
            "text.safetensors": b"a text " * 20,
            "half.safetensors": whole[: len(whole) // 2],
            "empty.safetensors": b"",
            "unet.safetensors": whole,
            "harm.ckpt": pickle.dumps(Code(), protocol=2),
            "text.ckpt": b"a text",
        }
        path.write_bytes(found[name])
        return
    shutil.copytree("sd", path)
    if name.startswith("no-"):
        for lost in path.glob(name.removeprefix("no-").replace("+", "/")):
            shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
        return
    file = path / ("model_index.json" if name.startswith("index") else "scheduler/scheduler_config.json")
    changes = {
        "index-pipeline": {"_class_name": "FluxPipeline"},
        "index-part": {"controlnet": ["diffusers", "ControlNetModel"]},
        "scheduler-class": {"_class_name": "FooScheduler"},
        "scheduler-betas": {"beta_schedule": "sigmoid"},
    }
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes[name]}))


MODELS = [
    ("no-model_index.json", "no-model_index.json holds no model"),
    ("no-unet", "there is no config.json in no-unet/unet"),
    ("no-unet+*.safetensors", "there are no weights in "),
    ("no-tokenizer", "there is no tokenizer at no-tokenizer/tokenizer"),
    ("no-scheduler", "there is no scheduler_config.json in no-scheduler/scheduler"),
    ("index-pipeline", "is a FluxPipeline, which is not known here"),
    ("index-part", "needs controlnet, which noisette does not know"),
    ("scheduler-class", "the scheduler FooScheduler is not known here"),
    ("scheduler-betas", "beta_schedule 'sigmoid' is not known"),
    ("text.safetensors", "is not a whole safetensors file"),
    ("half.safetensors", "is not a whole safetensors file"),
    ("empty.safetensors", "is empty: download it again"),
    ("unet.safetensors", "cannot be read as a single-file checkpoint"),
    ("harm.ckpt", "holds more than tensors, which was not run"),
    ("text.ckpt", "is not a whole file of torch's"),
]


@pytest.mark.parametrize(("name", "message"), MODELS)
def test_a_model_that_is_none_costs_one_line_and_runs_nothing(typed: Typed, name: str, message: str) -> None:
    spoil(name)
    code, out, err = typed(f"generate 'a cat' --model '{name}' -o a.png")
    assert (code, out) == (2, ""), err
    assert message in err and err.startswith("noisette: ") and err.count("\n") == 1
    assert not Path("harm").exists() and not Path("a.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model nowhere/", "there is no model 'nowhere/'"),
        ("--model owner/name", "owner/name is neither here nor to be had from the Hub"),
        ("--model fox.png", "fox.png is no model"),
        ("--model ink.safetensors", "ink.safetensors cannot be read as a single-file checkpoint"),
        ("--lora sd.safetensors", "tensors that are no part of a LoRA"),
        ("--lora sd", "sd holds no LoRA"),
        ("--lora gone.safetensors:0.5", "there is no file gone.safetensors"),
        ("--lora C:\\\\gone.safetensors", "there is no file C:\\gone.safetensors"),
        ("--lora wide.safetensors", "wide.safetensors does not fit"),
        ("--lora ink.safetensors:strong", "'strong': give a number, such as ink.safetensors:0.8"),
        ("--lora ink.safetensors:nan", "'nan': give a number"),
        ("--lora fox.png", "fox.png is not a whole safetensors file"),
        ("--image sd/model_index.json", "not a PNG, JPEG or WebP image"),
        ("--image /dev/zero", "there is no picture /dev/zero"),
        ("--image fox.png --strength 1.5", "'--strength'"),
        ("--image fox.png --strength nan", "strength"),
        ("--image fox.png --width 32", "give both height and width"),
        ("--image fox.png --mask gone.png", "there is no picture gone.png"),
        ("--mask mask.png", "belong to a picture: give it by --image"),
        ("--strength 0.5", "belong to a picture: give it by --image"),
        ("--clip-skip 99", "clip skip 99 must lie in 0 to 3"),
        ("--clip-skip -1", "'--clip-skip'"),
        ("--cache-every 0", "'--cache-every'"),
        ("--cache-every 2 --compile", "--compile and --cache-every do not go together"),
        ("--offload --device cpu:0 --compile", "--compile and --offload do not go together"),
        ("--offload --device cpu", "--offload spares the memory of a GPU"),
        ("--precision float8", "there is no precision 'float8'"),
        ("--eta 1", "has no eta"),
    ],
)
def test_a_mistake_costs_one_line_and_leaves_nothing(typed: Typed, options: str, message: str) -> None:
    code, out, err = typed(f"{SD} {options} -o a.png")
    assert (code, out) == (2, ""), err
    assert message in err and err.startswith("noisette: ") and err.count("\n") == 1
    assert not Path("a.png").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora": [["ink.safetensors", 1]]}, "its LoRAs are not named as FILE:WEIGHT"),
        ({"lora": "ink.safetensors"}, "its lora 'ink.safetensors' is not to be had"),
        ({"image": 3}, "its image 3 is not to be had"),
        ({"image": "fox.png", "strength": 7}, "strength is a part of the steps in [0, 1]"),
        ({"clip_skip": -2}, "clip skip -2 must lie"),
        ({"cache_every": -2}, "its cache_every -2 is less than 1"),
        ({"cache_every": 2, "compile": True}, "do not go together"),
        ({"mask": "mask.png"}, "belong to a picture"),
        ({"variant": 16}, "its variant 16 is not"),
    ],
)
def test_settings_that_cannot_be_restored(typed: Typed, change: dict[str, Any], message: str) -> None:
    good = {"prompt": "a cat", "num_inference_steps": 2, "seed": 0, "weights": "sd"}
    write_png("a.png", Image.new("RGB", (4, 4)), {**good, **change})
    code, out, err = typed("generate --from a.png -o b.png")
    assert (code, out) == (2, ""), err
    assert message in err and err.count("\n") == 1


def test_lack_of_memory_is_told_and_other_errors_keep_their_traceback(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(error: Exception) -> None:
        def fail(*args: Any, **options: Any) -> Any:
            raise error

        monkeypatch.setattr(Model, "generate", fail)

    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
    ):
        failing(error)
        code, _, err = typed(f"{SD} -o a.png")
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith("noisette: not enough memory: ") and "--offload" in err
    failing(RuntimeError("ours"))
    with pytest.raises(RuntimeError, match="ours"):
        typed(f"{SD} -o a.png")
