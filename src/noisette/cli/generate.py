"""``noisette generate``: pictures from sentences."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noisette.cli.drawing import Job
from noisette.cli.gathering import Gathering, processes
from noisette.cli.pictures import is_folder, read_picture
from noisette.cli.prompts import check_words, known_words, note, read_prompts, tell_cut
from noisette.cli.request import MOST_AT_ONCE, Request, restored
from noisette.cli.targets import Files, Sheet, pictures_of
from noisette.cli.terminal import device_named, load_on
from noisette.cli.weights import dtype_named, fused, weights_hash
from noisette.errors import UserError

if TYPE_CHECKING:
    from noisette.models import Model

EPILOG = """\b
Examples:
  noisette generate "a small red cube left of a shiny blue sphere, at night" -o cube.png
  noisette generate "a pencil sketch of a green cone" -n 16 --grid --seed 0 -o sheet.png
  noisette generate --from cube.png --guidance-scale 3 -o weaker.png
  noisette generate --prompts prompts.txt -n 4 -o pictures/
  noisette generate "a fox in ink" --model sd15.safetensors --lora ink.safetensors:0.8 --precision fp16
  noisette generate "a fox in snow" --model owner/name --image fox.png --strength 0.6
  torchrun --nproc-per-node 4 -m noisette generate --prompts prompts.txt -o pictures/
"""

DEFAULT_MODEL = "scenes"

Prompt = Annotated[str | None, typer.Argument(help="What to draw.", show_default=False)]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="A PNG, numbered if there are more; or a folder with a metadata.jsonl, which the same command "
        "goes on with after an interruption. Default: a new name made of prompt and seed.",
    ),
]
Count = Annotated[
    int | None, typer.Option("-n", min=1, max=1_000_000, help="Pictures of each prompt. Default: 1.")
]
Steps = Annotated[int | None, typer.Option("--steps", help="Steps of the solver.")]
Scale = Annotated[float | None, typer.Option(help="How strongly the prompt guides; 1 is off.")]
Rescale = Annotated[float | None, typer.Option(help="Against washed out colors of strong guidance, 0 to 1.")]
Negative = Annotated[str | None, typer.Option("--negative", help="What to keep away from.")]
Seed = Annotated[
    int | None, typer.Option(help="Picture k is drawn from seed + k. Default: a fresh one; 0 for --prompts.")
]
Side = Annotated[int | None, typer.Option(min=1, max=2**20, help="In pixels, if not the model's own.")]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="One that ships, a folder of noisette's or diffusers', the folder of a run, a single file "
        "(.safetensors, .ckpt), or owner/name on the Hugging Face Hub. Default: scenes.",
    ),
]
Variant = Annotated[str | None, typer.Option(help="Which weights of a diffusers folder to take, as fp16.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on the Hub.")]
Loras = Annotated[
    list[str] | None,
    typer.Option("--lora", metavar="FILE[:WEIGHT]", help="Add a LoRA to the weights; again for more."),
]
ClipSkip = Annotated[int | None, typer.Option(min=0, help="Read CLIP so many layers before its last.")]
Image = Annotated[str | None, typer.Option(metavar="FILE", help="A picture to begin with, in its size.")]
Mask = Annotated[
    str | None, typer.Option(metavar="FILE", help="Where white, --image is drawn anew; where black, kept.")
]
Strength = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="How much of --image is to change. Default: 0.8, with --mask 1."),
]
CacheEvery = Annotated[
    int | None,
    typer.Option(min=1, help="Run the deep part of the U-Net each so many steps: faster, not the same."),
]
Offload = Annotated[
    bool, typer.Option("--offload", help="Keep the weights off the GPU, but for those at work: slow, small.")
]
SolverName = Annotated[str | None, typer.Option("--solver", help="Such as dpmpp-2m, ddim, heun, unipc.")]
SheetGrid = Annotated[
    bool | None,
    typer.Option(
        "--grid/--no-grid",
        help="All pictures on one sheet, near square. (--grid of sample is --spacing here.)",
    ),
]
Spacing = Annotated[str | None, typer.Option("--spacing", help="How the steps are spaced, such as trailing.")]
Eta = Annotated[float | None, typer.Option(help="Noise of ddim: 0 none, 1 as ddpm.")]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_AT_ONCE,
        help="Pictures drawn at a time; with --prompts, more than -n takes several prompts at once.",
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; default auto: a GPU if there is one.")]
Precision = Annotated[str | None, typer.Option(help="Of the networks: fp32, bf16 or fp16.")]
Compile = Annotated[bool | None, typer.Option("--compile/--no-compile", help="Slow once, then faster.")]
From = Annotated[
    Path | None,
    typer.Option("--from", help="Draw this picture again: its settings, but for those you give besides."),
]
Prompts = Annotated[
    Path | None,
    typer.Option("--prompts", help="A file, one prompt a line (# begins a comment), for a folder -o."),
]
Preview = Annotated[
    bool,
    typer.Option("--preview", help="While drawing, OUT.preview.png shows the first picture every 5th step."),
]
Anyway = Annotated[bool, typer.Option("--anyway", help="Draw even if the model does not know some words.")]
Words = Annotated[bool, typer.Option("--words", help="List the words the model knows, and draw nothing.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def generate(
    prompt: Prompt = None,
    out: Out = None,
    n: Count = None,
    num_inference_steps: Steps = None,
    guidance_scale: Scale = None,
    guidance_rescale: Rescale = None,
    negative_prompt: Negative = None,
    seed: Seed = None,
    width: Side = None,
    height: Side = None,
    model: ModelName = None,
    variant: Variant = None,
    revision: Revision = None,
    lora: Loras = None,
    image: Image = None,
    strength: Strength = None,
    mask: Mask = None,
    clip_skip: ClipSkip = None,
    solver: SolverName = None,
    grid: Spacing = None,
    eta: Eta = None,
    sheet: SheetGrid = None,
    picture: From = None,
    prompts: Prompts = None,
    batch_size: BatchSize = None,
    device: Device = None,
    precision: Precision = None,
    compile: Compile = None,
    cache_every: CacheEvery = None,
    offload: Offload = False,
    preview: Preview = False,
    anyway: Anyway = False,
    words: Words = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw what a sentence says. PNGs carry all their settings: --from draws one again."""
    # Of a picture's LoRAs nothing is left by --lora "".
    options = {**locals(), "lora": tuple(filter(None, lora)) if lora else None}
    if words:
        print(known_words(load_on(model or DEFAULT_MODEL, "cpu", variant=variant, revision=revision)))
        return
    asked = {field.name: options[field.name] for field in fields(Request) if field.name in options}
    texts = _texts(prompt, prompts, picture)
    fresh = secrets.randbelow(2**32) if prompts is None else 0
    request = _request(picture, asked).changed(asked, n=n, seed=seed, fresh=fresh)
    request.check()
    target = _target(out, request, texts, sheet, preview, overwrite)
    job = _job(request, offload)
    told = [*dict.fromkeys(item.prompt for item in target.pictures), job.request.negative_prompt]
    if not anyway:
        check_words(job.model, [text for text in told if text not in request.accepted])
    tell_cut(job.model, told)
    print(target.draw(job))


def _texts(prompt: str | None, prompts: Path | None, picture: Path | None) -> list[str] | None:
    """The prompts of a file, None where there is a single one."""
    if prompts is not None and prompt is not None:
        raise UserError("--prompts brings prompts of its own: leave the other one out")
    if prompts is not None:
        return read_prompts(prompts)
    if prompt is None and picture is None:
        raise UserError('say what to draw, such as noisette generate "a red cube on a wooden floor"')
    return None


def _request(picture: Path | None, asked: Mapping[str, Any]) -> Request:
    if picture is None:
        return Request()
    request, line = restored(picture, [name for name, value in asked.items() if value is not None])
    if line:
        note(line)
    return request


def _target(
    out: Path | None,
    request: Request,
    texts: list[str] | None,
    sheet: bool | None,
    preview: bool,
    overwrite: bool,
) -> Files | Sheet | Gathering:
    """Where the pictures go; raises UserError, before anything is drawn, where they cannot."""
    _, processes_there = processes()
    pictures = pictures_of([request.prompt or ""] if texts is None else texts, request.seeds)
    options = {"pictures": pictures, "n": len(request.seeds), "overwrite": overwrite, "preview": preview}
    folder = out is not None and is_folder(out)
    if texts is not None and not folder:
        raise UserError("--prompts fills a folder: name one, -o pictures/")
    if folder and sheet:
        raise UserError("--grid makes one PNG: give it a name that ends in .png")
    if out is not None and folder:
        target = Gathering(out, **options)
    elif processes_there > 1:
        raise UserError("several processes share a folder of pictures: name one, -o pictures/")
    elif sheet or (sheet is None and request.columns is not None):
        target = Sheet.named(out, **options)
    else:
        target = Files.named(out, **options)
    target.check()
    return target


def _device(request: Request) -> str:
    """Where to draw: torchrun's processes have a GPU each, as far as there are several."""
    import torch

    device, rank = request.device or "auto", os.environ.get("LOCAL_RANK", "")
    if device == "auto" and rank.isdecimal() and torch.cuda.device_count() > 1:
        return f"cuda:{int(rank) % torch.cuda.device_count()}"
    return device


def _job(request: Request, offload: bool) -> Job:
    """The model where it is to run, and the request with nothing left open."""
    name = request.model or DEFAULT_MODEL
    image = None if request.image is None else read_picture(request.image)
    mask = None if request.mask is None else read_picture(request.mask, 1)
    model = _model(name, request, offload)
    if model.texts is None:
        raise UserError(f"{name} takes no prompt: noisette sample draws its pictures")
    digest = weights_hash(name, request.variant, request.revision, request.lora)
    if request.model_hash not in (None, digest):
        note(f"the weights of {name} are others than those that drew the picture: so it will be another one")
    filled = replace(request, model=name, model_hash=digest).filled(model, image)
    return Job(model, filled, image, mask)


def _model(name: str, request: Request, offload: bool) -> Model:
    """The model in the precision that is asked for, with its LoRAs, ready to draw."""
    device = device_named(_device(request))
    if offload and device == "cpu":
        raise UserError("--offload spares the memory of a GPU, and there is none here: leave it out")
    if offload and request.compile:
        raise UserError("--compile and --offload do not go together: leave one of them out")
    told = {"variant": request.variant, "revision": request.revision}
    place = "cpu" if offload else device
    model = load_on(name, place, dtype=dtype_named(request.precision), **told)
    model = fused(model, request.lora)
    if offload:
        model = model.offloaded(device)
    return model.compiled() if request.compile else model
