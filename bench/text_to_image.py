"""Pictures from sentences: `python -m bench.text_to_image [--threads N] [--repeats N] [--quick]`.

Cold start: from the start of a process to a PNG of 64 px on disk, of `noisette generate` with the model that
ships (one of its shape with random weights, where none does). Then images a second with guidance, all
libraries in one process, alone and in batches, in float32 and in bfloat16.

The peer is diffusers' StableDiffusionPipeline with DPMSolverMultistepScheduler, built from CLIPTextModel,
UNet2DConditionModel and AutoencoderKL. What both libraries draw with, the twin, is the nearest to `scenes`
that both can build: the autoencoder folds no pixels but has three levels, of about as many parameters in all,
the network reads no pooled vector, and noise is predicted. Every part has exactly as many parameters in both,
weights are random, both have the same tokenizer and prompts, and each calls its network once a step for both
halves of guidance, which is counted. They take turns, so that a slow minute hits all alike; medians count.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench import machine, stub
from bench.nets import parameters
from bench.turns import commands_in_turns
from noisette.conditioning.tokenizer import Tokenizer
from noisette.core import Eps, IndexTime
from noisette.hub import embedded_models
from noisette.hub.spec import build_codec
from noisette.models import Defaults, Model, ModelSpec
from noisette.models.texts import fitted
from noisette.nets.text import Prompted
from noisette.recipes.scenes import recipe
from noisette.scenes import sample_scene
from noisette.scenes.caption import caption
from noisette.schedules import ScaledLinearVP

STEPS, SCALE, PROMPT = 20, 3.0, "a red cube"
COLD, REPEATS, BATCHES = 7, 9, (1, 16)
GOAL = 5.0
"""Seconds in which a process that has just started is to have its picture on disk."""
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NAME = "scenes"
TWIN, PEER, SCENES = "noisette", "diffusers", f"noisette as {NAME}"
READ = 1024
"""Captions from which the tokenizer learns its words."""

DECLARED = """
from bench import stub
stub.declare()
"""

# What a diffusers user writes to draw a sentence with a saved pipeline and keep the picture.
SCRIPT = f"""
import sys
import torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
seed = torch.Generator().manual_seed(0)
images = pipe("{PROMPT}", num_inference_steps={STEPS}, guidance_scale={SCALE}, generator=seed).images
images[0].save(sys.argv[2])
"""


@dataclass(frozen=True)
class Entrant:
    """A library with its networks: how it draws, changes precision, and saves a model to draw with.

    ``save`` takes a folder and returns the command that makes a picture from nothing but what is in there.
    """

    draw: Callable[[Sequence[str]], Any]
    to: Callable[[torch.dtype], Any]
    save: Callable[[Path], list[str]]
    parts: Mapping[str, nn.Module]

    def sizes(self) -> dict[str, int]:
        """Parameters of each part."""
        return {name: parameters(part) for name, part in self.parts.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.text_to_image", description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--quick", action="store_true", help="one turn, small batches, nothing is written")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    cold, repeats, batches = (1, 1, (1, 2)) if asked.quick else (COLD, asked.repeats, BATCHES)
    captions = [caption(sample_scene(seed), random.Random(seed)) for seed in range(READ)]
    ships = NAME in [model.name for model in embedded_models()]
    twin = random_model(twin_of(recipe.spec), captions)
    scenes = Model.load(NAME) if ships else random_model(recipe.spec, captions)
    entrants = {TWIN: _noisette(twin), PEER: _diffusers(twin), SCENES: _noisette(scenes, ships)}
    result: dict[str, Any] = {"steps": STEPS, "guidance_scale": SCALE, "size": recipe.spec.image_size}
    result |= {"ships": ships, "repeats": repeats, "machine": machine.facts()}
    result["parameters"] = {name: entrant.sizes() for name, entrant in entrants.items()}
    if result["parameters"][TWIN] != result["parameters"][PEER]:
        raise RuntimeError(f"the twins are of different size: {result['parameters']}")
    result["cold"] = _cold(entrants, cold, asked.threads)
    print(*(f"cold, {name}: {row['median']:.2f} s" for name, row in result["cold"].items()), sep="\n")
    result["rows"] = []
    for row in _warm(entrants, [PROMPT, *captions], batches, repeats):
        print(*_told(row), sep="\n", flush=True)
        result["rows"].append(row)
    if not asked.quick:
        machine.write("text_to_image", result)


def twin_of(spec: ModelSpec) -> ModelSpec:
    """The shape nearest to ``spec`` that diffusers can build too, as large in pixels and in latents."""
    net = replace(spec.net, pooled_dim=None, flip_sin_to_cos=True, freq_shift=0.0)
    codec = replace(spec.codec, block_out_channels=(56, 80, 96), patch_size=1)
    noise: dict[str, Any] = {"parameterization": Eps(), "time": IndexTime(1000)}
    noise |= {"schedule": ScaledLinearVP(), "defaults": Defaults()}
    return replace(spec, name="twin", net=net, codec=codec, **noise)


def random_model(spec: ModelSpec, captions: Sequence[str]) -> Model:
    """A model with random weights, even where new ones are zero, that knows the words of the captions."""
    text, texts = fitted(spec.text, [PROMPT, *captions])
    spec = replace(spec, text=text)
    codec: Any = build_codec(spec.codec)
    model = Model.new(spec, codec=codec.eval(), texts=texts)
    for module in model.denoiser.eval().modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.any():
            module.reset_parameters()
    return model


def pipeline(model: Model) -> Any:
    """diffusers' pipeline of the model's shape, with weights of its own and the model's tokenizer."""
    if find_spec("torchvision"):
        stub.torchvision_transforms()
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
    from diffusers.utils import logging
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    texts: Any = model.texts
    words: Tokenizer = texts.tokenizer
    text = asdict(model.spec.text)
    del text["positions"], text["projection_dim"]  # it always has the one and never the other
    ids = {token: i for i, token in enumerate(words.tokens)}
    tokenizer = CLIPTokenizer(vocab=ids, merges=list(words.merges), model_max_length=words.max_length)
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    pipe: Any = StableDiffusionPipeline(
        vae=_autoencoder(model.spec).eval(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text)).eval(),
        tokenizer=tokenizer,
        unet=_unet(model.spec).eval(),
        scheduler=DPMSolverMultistepScheduler(**betas),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    logging.set_verbosity_error()  # it is changed to another precision by design
    return pipe


def _unet(spec: ModelSpec) -> Any:
    from diffusers import UNet2DConditionModel

    net: Any = spec.net
    levels = range(len(net.channels))
    down = tuple(f"{'CrossAttn' * (level in net.attention_levels)}DownBlock2D" for level in levels)
    return UNet2DConditionModel(
        sample_size=spec.shape[1],
        in_channels=net.in_channels,
        out_channels=net.out_channels,
        block_out_channels=net.channels,
        layers_per_block=net.num_res_blocks,
        down_block_types=down,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
        attention_head_dim=tuple(c // net.head_channels for c in net.channels),  # the number of heads
        cross_attention_dim=net.context_dim,
        norm_num_groups=net.norm_groups,
        resnet_time_scale_shift="scale_shift" if net.scale_shift else "default",
        use_linear_projection=True,
    )


def _autoencoder(spec: ModelSpec) -> Any:
    from diffusers import AutoencoderKL

    shape = asdict(spec.codec)
    del shape["patch_size"]
    levels = len(shape["block_out_channels"])
    return AutoencoderKL(
        sample_size=spec.image_size,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **shape,
    )


def _noisette(model: Model, ships: bool = False) -> Entrant:
    net, codec = model.denoiser.net, model.codec
    assert isinstance(net, Prompted) and codec is not None

    def save(folder: Path) -> list[str]:
        program = str(Path(sys.executable).with_name("noisette"))
        named = [] if ships else ["--model", str(model.save(folder / "model"))]
        options = ["--steps", str(STEPS), "--seed", "0", "--overwrite", "-o", str(folder / "picture.png")]
        return [program, "generate", PROMPT, *named, *options]

    return Entrant(
        draw=lambda prompts: (
            model.generate(prompts, num_inference_steps=STEPS, guidance_scale=SCALE, seed=0).images
        ),
        to=lambda dtype: model.to(dtype=dtype),
        save=save,
        parts={"text": net.text, "network": net.net, "encoder": codec.encoder, "decoder": codec.decoder},
    )


def _diffusers(model: Model) -> Entrant:
    pipe = pipeline(model)
    script = (DECLARED if find_spec("torchvision") and stub.torchvision_transforms() else "") + SCRIPT

    def draw(prompts: Sequence[str]) -> Any:
        seed = torch.Generator().manual_seed(0)
        return pipe(list(prompts), num_inference_steps=STEPS, guidance_scale=SCALE, generator=seed).images

    def save(folder: Path) -> list[str]:
        pipe.save_pretrained(folder / "pipeline")
        return [sys.executable, "-c", script, str(folder / "pipeline"), str(folder / "picture.png")]

    parts = {"text": pipe.text_encoder, "network": pipe.unet}
    parts |= {"encoder": pipe.vae.encoder, "decoder": pipe.vae.decoder}
    return Entrant(draw, pipe.to, save, parts)


def _cold(entrants: Mapping[str, Entrant], repeats: int, threads: int) -> dict[str, Any]:
    """Seconds from the start of a process to its picture, in turns after one that fills the file cache."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        commands = {}
        for number, (name, entrant) in enumerate(entrants.items()):
            place = Path(folder) / str(number)
            place.mkdir()
            commands[name] = entrant.save(place)
        return commands_in_turns(commands, repeats, environment)


def _warm(
    entrants: Mapping[str, Entrant], prompts: Sequence[str], batches: Sequence[int], repeats: int
) -> Iterator[dict[str, Any]]:
    """A row for each precision and batch: what every entrant needs, and the twin's rate over the peer's."""
    for precision, dtype in PRECISIONS.items():
        for entrant in entrants.values():
            entrant.to(dtype)
        for batch in batches:
            took: dict[str, list[dict[str, float]]] = {name: [] for name in entrants}
            for turn in range(-1, repeats):
                for name, entrant in entrants.items():
                    spent = _timed(entrant, prompts[:batch])
                    if turn >= 0:  # the first turn warms up
                        took[name].append(spent)
            pairs = zip(took[TWIN], took[PEER], strict=True)
            ratio = statistics.median(theirs["all"] / ours["all"] for ours, theirs in pairs)
            rows = {name: _summed(turns, batch) for name, turns in took.items()}
            yield {"precision": precision, "batch": batch, "ratio": round(ratio, 3), "entrants": rows}


def _timed(entrant: Entrant, prompts: Sequence[str]) -> dict[str, float]:
    """Seconds of one drawing: of "all" and of each part. RuntimeError unless each step is one call."""
    spent: dict[str, float] = defaultdict(float)
    calls, hooks = Counter[str](), []

    def begin(name: str) -> None:
        calls[name] += 1
        spent[name] -= time.perf_counter()

    def end(name: str) -> None:
        spent[name] += time.perf_counter()

    for name, part in entrant.parts.items():
        hooks.append(part.register_forward_pre_hook(lambda *_, name=name: begin(name)))
        hooks.append(part.register_forward_hook(lambda *_, name=name: end(name)))
    start = time.perf_counter()
    entrant.draw(prompts)
    spent["all"] = time.perf_counter() - start
    for hook in hooks:
        hook.remove()
    if calls["network"] != STEPS:
        raise RuntimeError(f"{STEPS} steps took {calls['network']} calls of the network")
    return spent


def _summed(turns: Sequence[Mapping[str, float]], batch: int) -> dict[str, Any]:
    """Images a second, milliseconds of a network call and of what happens once, and every turn's seconds."""
    median = {part: statistics.median(turn[part] for turn in turns) for part in turns[0]}
    rest = statistics.median(turn["all"] - turn["network"] for turn in turns)
    return {
        "images_per_second": round(batch / median["all"], 3),
        "ms_per_call": round(1e3 * median["network"] / STEPS, 2),
        "text_ms": round(1e3 * median["text"], 2),
        "decoder_ms": round(1e3 * median["decoder"], 2),
        "beside_network_ms": round(1e3 * rest, 2),
        "seconds": [round(turn["all"], 4) for turn in turns],
    }


def _told(row: Mapping[str, Any]) -> Iterator[str]:
    yield f"{row['precision']}, batch {row['batch']}: {row['ratio']} times the images/s of {PEER}"
    for name, took in row["entrants"].items():
        words = f"{took['images_per_second']} images/s, {took['ms_per_call']} ms a call of the network"
        yield f"  {name}: {words}, {took['beside_network_ms']} ms beside it"


if __name__ == "__main__":
    main()
