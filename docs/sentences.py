"""The figures and numbers of `scenes`, the text-to-image model that ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from sheets import beside, keep, laid_out, sheet  # the file beside this one
from torch import Tensor

from noisette.hub import find_model
from noisette.models import Model
from noisette.models.texts import LearnedTexts
from noisette.nets.text import Prompted
from noisette.scenes.quiz import quiz, true_pictures

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "src/noisette/hub/embedded/scenes/figures.json"
"""What `noisette evaluate scenes -n 1000 --json` wrote."""
BENCH = ROOT / "bench/results/text_to_image.json"
EMOJI = ROOT / "bench/results/emoji.json"
"""What `noisette evaluate runs/emoji --data emoji/ --json` wrote of a run of the recipe `emoji`."""

CAPTIONS = (
    "a small red cube left of a shiny blue sphere, at night",
    "a pencil sketch of a green cone and a large purple torus",
    "a watercolor of a large yellow torus behind a pink cylinder",
    "a waving orange figure on a checkered floor, at sunset",
    "a striped white sphere on top of a brown cube",
    "a cartoon of a purple capsule and a cyan cone, by day",
    "a large blue cube right of a green cone, at night",
    "a photo of a sitting pink figure in front of a green cube",
)
WIDE = (
    "a red cube, a green cone and a blue sphere on a wooden floor",
    "a watercolor of a purple ball in front of a brown box, at sunset",
)
SCALES = (1, 2, 3, 5, 7.5)
NAMES = (
    "grinning face with smiling eyes",
    "woman astronaut: dark skin tone",
    "red apple",
    "thumbs up: medium skin tone",
    "cat face with wry smile",
    "rocket",
    "sailboat",
    "sunrise over mountains",
    "green heart",
    "purple apple",  # there is none of these three
    "sad robot",
    "blue cat",
)


def drawn(model: Model, prompt: str, **options: Any) -> Tensor:
    """Pictures of a sentence, from seed 0 on."""
    return model.generate(prompt, seed=0, output_type="torch", **options).images


def prompts(model: Model) -> None:
    """Eight sentences, four seeds of each, in two columns."""
    rows = [(f'"{text}"', drawn(model, text, num_images_per_prompt=4)) for text in CAPTIONS]
    keep(beside(laid_out(rows[::2]), laid_out(rows[1::2])), "prompts.png")


def panorama(model: Model) -> None:
    """Pictures three times as wide as any that training showed."""
    options = {"width": 192, "height": 64, "num_images_per_prompt": 2}
    sheet([(f'"{text}"', drawn(model, text, **options)) for text in WIDE], "panorama.png")


def guidance_scales(model: Model) -> None:
    """The same noise under growing guidance, and at the model's own."""
    ways = [(f"scale {s:g}", {"guidance_scale": s, "guidance_rescale": 0.0}) for s in SCALES]
    own = model.spec.defaults
    ways.append((f"scale {own.guidance_scale:g}, rescaled by {own.guidance_rescale:g}", {}))
    eight = {"prompt": CAPTIONS[0], "num_images_per_prompt": 8}
    sheet([(name, drawn(model, **eight, **way)) for name, way in ways], "guidance-scales.png")


def autoencoder(model: Model) -> None:
    """True pictures, their latents, and what the decoder makes of these."""
    true = true_pictures(quiz("test", 8), model.spec.image_size)
    latents = model.encode(true)
    rebuilt = model.decode(latents).clamp(-1, 1)
    colors = F.interpolate(latents[:, :3] / 3, scale_factor=model.spec.factor, mode="nearest")
    rows = [
        ("true pictures", true),
        ("their latents, three of the channels as red, green and blue", colors.clamp(-1, 1)),
        ("rebuilt", rebuilt),
        ("rebuilt less true, four times as strong; grey is none", (4 * (rebuilt - true)).clamp(-1, 1)),
    ]
    sheet(rows, "autoencoder.png")


def emoji(model: Model) -> None:
    """Four pictures each of names that training showed, and of some that there are not."""
    rows = [(name, drawn(model, name, num_images_per_prompt=4)) for name in NAMES]
    columns = [laid_out(rows[k::3]) for k in range(3)]
    keep(beside(beside(columns[0], columns[1]), columns[2]), "emoji.png")


PICTURES = {f.__name__: f for f in (prompts, panorama, guidance_scales, autoencoder)}


def measure(model: Model, name: str) -> dict[str, str]:
    """How large the model is, what it draws with, and how many words it knows."""
    net, codec = model.denoiser.net, model.codec
    assert isinstance(net, Prompted) and codec is not None and isinstance(model.texts, LearnedTexts)
    parts = {"net": net.net, "text": net.text, "codec": codec}
    counts = {part: sum(p.numel() for p in module.parameters()) for part, module in parts.items()}
    size = sum(path.stat().st_size for path in find_model(name).glob("*.safetensors"))
    defaults = model.spec.defaults
    return {
        "t2i_parameters": f"{sum(counts.values()) / 1e6:.1f} million",
        **{f"t2i_parameters_{part}": f"{count / 1e6:.1f} million" for part, count in counts.items()},
        "t2i_megabytes": f"{size / 1e6:.0f} MB",
        "t2i_words": str(len(model.texts.tokenizer.words)),
        "t2i_tokens": str(model.texts.tokenizer.vocab_size),
        "t2i_default_steps": str(defaults.steps),
        "t2i_default_scale": f"{defaults.guidance_scale:g}",
        "t2i_default_rescale": f"{defaults.guidance_rescale:g}",
    }


def marks(path: Path) -> dict[str, str]:
    """The marks of the reader, the distances, and what the autoencoder loses."""
    found = json.loads(path.read_text(encoding="utf-8"))
    codec = found["autoencoder"]
    tables = {"test": found["test"], "novel": found["novel"], "rebuilt": codec["marks"]}
    numbers = {
        f"t2i_{table}_{kind.replace(' ', '_')}{ending}": f"{mark[column]:.1%}"
        for table, kinds in tables.items()
        for kind, mark in kinds.items()
        for ending, column in (("", "right"), ("_ceiling", "ceiling"), ("_of_ceiling", "of_ceiling"))
    }
    counts = {
        f"t2i_count_{kind.replace(' ', '_')}": f"{mark['count']:,}" for kind, mark in found["test"].items()
    }
    distances = {name: f"{found[name]:.2f}" for name in ("frechet", "frechet_floor")}
    return (
        numbers
        | counts
        | {f"t2i_{name}": value for name, value in distances.items()}
        | {
            "t2i_pictures": f"{found['pictures']:,}",
            "t2i_steps": str(found["num_inference_steps"]),
            "t2i_scale": f"{found['guidance_scale']:g}",
            "t2i_rescale": f"{found['guidance_rescale']:g}",
            "t2i_rebuilt_psnr": f"{codec['psnr']:.1f} dB",
            "t2i_rebuilt_ssim": f"{codec['ssim']:.3f}",
            "t2i_rebuilt_frechet": f"{codec['frechet']:.2f}",
        }
    )


def speed(path: Path) -> dict[str, str]:
    """How long the first picture takes, and the others."""
    found = json.loads(path.read_text(encoding="utf-8"))
    name = "noisette as scenes"
    rates = {
        row["batch"]: row["entrants"][name]["images_per_second"]
        for row in found["rows"]
        if row["precision"] == "float32"
    }
    return {"t2i_cold": f"{found['cold'][name]['median']:.1f} s", "t2i_rate": f"{max(rates.values()):.1f}"}


def likeness(path: Path) -> dict[str, str]:
    """What pictures of emoji are worth beside real ones, and how many are copies."""
    found = json.loads(path.read_text(encoding="utf-8"))
    numbers = {key: value for key, value in found.items() if isinstance(value, int | float)}
    return {f"emoji_{k}": f"{v:.3g}" if isinstance(v, float) else f"{v:,}" for k, v in numbers.items()}
