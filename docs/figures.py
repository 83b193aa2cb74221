"""Render every figure of the documentation, and the few numbers in it that were measured.

`python docs/figures.py` draws all of them from fixed seeds into docs/images, measures the numbers into
docs/measured.json and puts them into the pages. `python docs/figures.py cfg ddim` does those two alone, and
`--model FOLDER` and `--scenes FOLDER` take other models than those that ship. What depends on the reader of
scenes, its figures and the benchmark of scenes is `python docs/figures.py reader recorded`; on the model
`scenes`, `python docs/figures.py prompts panorama guidance_scales autoencoder sizes recorded` and, with
what is done to checkpoints, `lora deepcache deepcache_marks`. The figure `emoji` is drawn only where
`--emoji RUN` names a run of that recipe. `python docs/figures.py parity` makes the table of parity from
docs/parity.json, which `NOISETTE_PARITY=docs/parity.json pytest tests/models/test_parity.py` writes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

# Before torch is loaded: threads that spin while they wait make a busy machine a hundred times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import charts  # this one and the next five are the files beside this one
import checkpoints
import parity
import sentences
import students
import torch
from PIL import Image
from sheets import IMAGES, SCALE, sheet
from torch import Tensor

from noisette.cli import main as noisette
from noisette.conditioning import label_cond
from noisette.core import with_attention
from noisette.edit import lerp, slerp
from noisette.hub import find_model
from noisette.metrics import Judge, accuracy
from noisette.metrics.judge import WEIGHTS
from noisette.models import Model
from noisette.scenes import reader as scenes_reader
from noisette.scenes import render, render_video, render_views, sample_scene
from noisette.scenes.export import orbit
from noisette.scenes.maps import control_maps
from noisette.scenes.parse import parse
from noisette.solvers import DDPM, NoiseStreams

DOCS = Path(__file__).resolve().parent
MEASURED = DOCS / "measured.json"
READER_CARD = DOCS.parent / "src/noisette/scenes/weights/scenes-reader.json"
SCENES_BENCH = DOCS.parent / "bench/results/scenes.json"


def drawn(model: Model, **options: Any) -> Tensor:
    """One picture of each digit, from seeds 0 to 9 unless told otherwise."""
    return model.generate(**{"seed": 0, "output_type": "torch", **options}).images


def digits(model: Model, name: str) -> None:
    """What `noisette sample` writes, four of each digit; enlarged without smoothing."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "digits.png"
        asked = "--steps 20 --solver dpmpp-2m --guidance-scale 2 --seed 0"
        noisette(["sample", name, "-n", "40", *asked.split(), "-o", str(out)])
        with Image.open(out) as image:
            size = image.width * SCALE, image.height * SCALE
            image.resize(size, Image.Resampling.NEAREST).save(IMAGES / "digits.png", optimize=True)


def forward(model: Model, name: str) -> None:
    """A picture on its way to noise, and what the network makes of each of its noisy versions."""
    times = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0], dtype=torch.float64)
    x0 = drawn(model, label=3)
    level = model.schedule(times).per_sample(x0)
    noise = NoiseStreams([5])(x0)
    x = level.diffuse(x0.expand(len(times), -1, -1, -1), noise)
    with torch.no_grad():
        seen = model.denoiser(x, level, label_cond([3] * len(times)))
    sheet([("x, t = 0 to 1", x), ("predicted x0", seen.x0), ("predicted noise", seen.eps / 2)], "forward.png")


def ddpm(model: Model, name: str) -> None:
    """Ancestral sampling at several numbers of steps."""
    runs = [("large", 20), ("large", 100), ("large", 1000), ("small", 20), ("small", 100)]
    rows = [
        (f"{v}, {n} steps", drawn(model, num_inference_steps=n, solver=DDPM(v), guidance_scale=1.0))  # type: ignore
        for v, n in runs
    ]
    sheet(rows, "ddpm.png")


def ddim(model: Model, name: str) -> None:
    """The same noise under several numbers of steps."""
    steps = (5, 10, 20, 50, 100)
    options = {"solver": "ddim", "guidance_scale": 1.0}
    sheet([(f"{n} steps", drawn(model, num_inference_steps=n, **options)) for n in steps], "ddim.png")


def interpolation(model: Model, name: str) -> None:
    """From one noise to another, on the sphere and on the line."""
    a, b = NoiseStreams([11])(torch.empty(1, 1, 32, 32)), NoiseStreams([23])(torch.empty(1, 1, 32, 32))
    places = torch.linspace(0, 1, 10)
    rows = []
    for label, path in (("slerp", slerp), ("lerp", lerp)):
        latents = path(a.expand(10, -1, -1, -1), b.expand(10, -1, -1, -1), places)
        options = {"label": [8] * 10, "latents": latents, "num_inference_steps": 50, "solver": "ddim"}
        rows.append((label, drawn(model, guidance_scale=1.0, **options)))
    sheet(rows, "interpolation.png")


def few_steps(model: Model, name: str) -> None:
    """Solvers where steps are few."""
    rows = []
    for n in (4, 8):
        for solver in ("ddim", "plms", "dpmpp-2m", "unipc"):
            options = {"num_inference_steps": n, "solver": solver}
            rows.append((f"{solver}, {n} steps", drawn(model, guidance_scale=1.0, **options)))
    sheet(rows, "few-steps.png")


def cfg(model: Model, name: str) -> None:
    """The same noise under growing guidance."""
    options = {"num_inference_steps": 20}
    sheet([(f"scale {w:g}", drawn(model, guidance_scale=w, **options)) for w in (0, 1, 2, 4, 8)], "cfg.png")


def attention(model: Model, name: str) -> None:
    """Where the middle of a digit looks, by the attention of the U-Net at half of its own resolution."""
    x0 = drawn(model)
    level = model.schedule(0.25)
    x = level.diffuse(x0, NoiseStreams(range(10))(x0))
    seen: dict[str, Tensor] = {}

    def record(call: Any, proceed: Callable[..., Tensor]) -> Tensor:
        seen[call.site] = call.probabilities().mean(1)
        return proceed(call)

    with torch.no_grad():
        with_attention(model.denoiser, record, "up.*.self")(x, level, label_cond(range(10)))
    maps = seen[min(seen)]
    side = round(maps.shape[-1] ** 0.5)
    here = maps[:, side * (side // 2) + side // 2].reshape(-1, 1, side, side)
    here = torch.nn.functional.interpolate(here / here.amax((2, 3), keepdim=True), 32)
    sheet([("noisy digit", x), ("where it looks", here * 2 - 1)], "attention.png")


ONE_TEXT = "a small red cube left of a shiny blue sphere"
COMPANY = (
    "a photo of a large waving orange figure behind a small striped green cube and a small shiny red sphere, "
    "by day on a plain gray floor"
)
FILM = "a large striped red torus rolls right behind a walking green figure, by day"


def scenes(model: Model, name: str) -> None:
    """The world of scenes: by number, from a text, with its maps, in time and from all sides."""
    options = {"size": 96, "samples": 9}

    def asked(text: str, seed: int) -> Any:
        return sample_scene(seed, **{**vars(parse(text)), "count": len(parse(text).objects)})

    company = asked(COMPANY, 4)
    truth = render([company], **options)
    maps = control_maps(truth)
    titles = ", ".join(name.replace("_", " ") for name in ("picture", *maps))
    around = render_views(company, orbit(company.camera, 8), **options).rgb
    rows = [
        ("sample_scene(0) to sample_scene(7)", render([sample_scene(k) for k in range(8)], **options).rgb),
        (f'"{ONE_TEXT}", seeds 0 to 7', render([asked(ONE_TEXT, k) for k in range(8)], **options).rgb),
        (titles, torch.cat([truth.rgb, *(2 * hint - 1 for hint in maps.values())])),
        ("the same scene from eight cameras", around),
        (f'"{FILM}", four frames a second', render_video(asked(FILM, 1), 8, 4, **options).rgb),
    ]
    sheet(rows, "scenes.png", scale=1)


def reader(model: Model, name: str) -> None:
    """Pictures of held-out combinations, and the masks that the reader sees, each in its mean color."""
    pictures = render([sample_scene(seed, split="novel") for seed in range(8)], 96, samples=9).rgb
    seen = torch.full_like(pictures, -0.9)
    for shown, picture, reading in zip(seen, pictures, scenes_reader.read(pictures), strict=True):
        for thing in reading.objects:
            shown[:, thing.mask] = picture[:, thing.mask].mean(1, keepdim=True)
    sheet([("pictures", pictures), ("the objects that the reader sees", seen)], "reader.png", scale=1)


PICTURES = {
    f.__name__: f
    for f in (
        digits,
        forward,
        ddpm,
        ddim,
        interpolation,
        few_steps,
        cfg,
        attention,
        scenes,
        reader,
        students.projection,
    )
}


def recorded(model: Model, name: str) -> dict[str, str]:
    """Numbers that training, evaluation and benchmarks left, as the pages print them."""
    sources = {
        READER_CARD: reader_numbers,
        SCENES_BENCH: bench_numbers,
        sentences.FIGURES: sentences.marks,
        sentences.BENCH: sentences.speed,
        sentences.EMOJI: sentences.likeness,
    }
    return {k: v for path, read in sources.items() if path.exists() for k, v in read(path).items()}


def reader_numbers(card: Path) -> dict[str, str]:
    """Every share of every exam, what is read where nothing is, under noise, and the scale of distances."""
    found = json.loads(card.read_text(encoding="utf-8"))
    exams = {"test": "test", "novel": "novel", "test, 128 px": "large"}
    numbers = {
        f"reader_{short}_{name.replace(' ', '_')}": f"{share:.1%}"
        for title, short in exams.items()
        for name, share in found["exams"][title]["shares"].items()
    }
    numbers |= {f"reader_noise_{k}".replace(".", "_"): f"{share:.1%}" for k, share in found["noise"].items()}
    numbers |= {f"reader_frechet_{k}": f"{found['frechet'][k]:.2f}" for k in ("floor", "novel", "trace")}
    numbers |= {f"reader_count_{k}": f"{n:,}" for k, n in _counts(found).items()}
    return numbers | {"reader_silence": f"{found['silence']:.1%}", "reader_scenes": f"{found['scenes']:,}"}


def _counts(found: dict[str, Any]) -> dict[str, int]:
    counts = found["exams"]["test"]["counts"]
    return {k: counts[k] for k in ("found", "relation", "count")} | {"half": found["frechet"]["half"]}


def bench_numbers(path: Path) -> dict[str, str]:
    """How fast scenes are drawn."""
    found = json.loads(path.read_text(encoding="utf-8"))
    gpu = found["gpu"]
    return {
        "scenes_one": f"{found['one']['pictures_per_second']:.0f}",
        "scenes_many": f"{found['many']['pictures_per_second']:.0f}",
        "scenes_processes": str(found["processes"]),
        "scenes_gpu": f"{gpu['whole']['pictures_per_second']:,.0f}" if gpu else "not measured",
    }


def measure(model: Model, name: str) -> dict[str, str]:
    """The numbers that the pages quote of the digits model and the solvers, as they are printed."""
    labels = torch.arange(1000) % 10
    images = drawn(model, label=labels.tolist(), num_inference_steps=20, guidance_scale=2.0)
    parameters = sum(p.numel() for p in model.denoiser.net.parameters())
    weights = find_model(name) / "model.safetensors"
    card = (WEIGHTS / "digits-judge.md").read_text(encoding="utf-8")
    judge = re.findall(r"accuracy, .* \| ([\d.]+%)", card)
    return {
        "parameters": f"{parameters / 1e6:.1f} million",
        "megabytes": f"{weights.stat().st_size / 1e6:.1f} MB",
        "judge": judge[0],
        "judge_disturbed": judge[1],
        "accuracy": f"{accuracy(Judge.load(), images, labels):.1%}",
        **{f"order_{key}": f"{value:.2f}" for key, value in charts.slopes().items()},
    }


NUMBERS = {"numbers": measure, "recorded": recorded}
charts.CHARTS |= checkpoints.CHARTS


def note(numbers: dict[str, str]) -> None:
    """Put numbers among those that were measured before."""
    before = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    MEASURED.write_text(json.dumps(before | numbers, indent=1) + "\n", encoding="utf-8")


def fill(measured: dict[str, str]) -> None:
    """Put the numbers between their marks: ``<!--=accuracy-->...<!--/-->``."""
    for page in (DOCS.parent / "README.md", *DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        mark = re.compile(r"(<!--=(\w+)-->).*?(<!--/-->)")
        new = mark.sub(lambda m: f"{m[1]}{measured[m[2]]}{m[3]}", text)
        if new != text:
            page.write_text(new, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="these figures or numbers; default: all")
    parser.add_argument("--model", default="digits", help="a model of digits (default: the one that ships)")
    parser.add_argument("--scenes", default="scenes", help="a model of scenes (default: the one that ships)")
    parser.add_argument("--emoji", help="a model of emoji, none of which ships: draws that figure")
    parser.add_argument("--students", help="a run of `noisette distill progressive digits`: draws `halvings`")
    options = parser.parse_args()
    known = (*charts.CHARTS, *PICTURES, *sentences.PICTURES, *checkpoints.PICTURES)
    known += (*NUMBERS, "sizes", "parity")
    known += ("emoji",) * (options.emoji is not None) + ("halvings",) * (options.students is not None)
    for wrong in set(options.names) - set(known):
        parser.error(f"there is no figure {wrong!r}: {', '.join(known)}")
    IMAGES.mkdir(exist_ok=True)
    model, scenes_model = Model.load(options.model), cache(lambda: Model.load(options.scenes))
    for name in options.names or known:
        start = time.perf_counter()
        if name in NUMBERS:
            note(NUMBERS[name](model, options.model))
        elif name in PICTURES:
            PICTURES[name](model, options.model)
        elif name in sentences.PICTURES:
            sentences.PICTURES[name](scenes_model())
        elif name in checkpoints.PICTURES:
            note(checkpoints.PICTURES[name](scenes_model()))
        elif name == "parity":
            parity.write()
            note(parity.numbers())
        elif name == "emoji":
            sentences.emoji(Model.load(options.emoji))
        elif name == "halvings":
            students.halvings(model, Path(options.students))
        elif name == "sizes":
            note(sentences.measure(scenes_model(), options.scenes))
        else:
            charts.save(name, IMAGES)
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    if MEASURED.exists():
        fill(json.loads(MEASURED.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
