"""Figures of few calls: students beside their teacher, and pictures that agree with what is known."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from sheets import sheet
from torch import Tensor

from noisette.conditioning import label_cond
from noisette.core import last, prior, sample
from noisette.edit import enlarged, inpainted, projected
from noisette.models import Model
from noisette.solvers import DDIM, NoiseStreams

LABELS = list(range(10))


def halvings(model: Model, run: Path) -> None:
    """A teacher in 32 steps and in fewer, and under it each of its students in as many."""
    rows = [("teacher, 32 steps", _images(model, 32))]
    for folder in sorted((run / "halvings").iterdir(), key=lambda path: -int(path.name)):
        steps = int(folder.name)
        rows.append((f"teacher, {steps} steps", _images(model, steps)))
        rows.append((f"student, {steps} steps", _images(Model.load(folder), steps)))
    sheet(rows, "halvings.png")


def _images(model: Model, steps: int) -> Tensor:
    options = {"solver": "ddim", "grid": "trailing", "output_type": "torch"}
    return model.generate(label=LABELS, seed=0, num_inference_steps=steps, **options).images  # type: ignore


def projection(model: Model, name: str) -> None:
    """Digits from the half that is known of them, and from sixteen numbers, by the diffusion model itself."""
    known = _images(model, 20)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    small = F.avg_pool2d(known, 8)
    levels = model.levels(50, "trailing")
    noise = NoiseStreams(range(100, 110))
    x = prior(noise.initial(model.spec.shape), levels[0])
    rows = [("a picture", known), ("what is known", torch.where(mask > 0.5, 0.0, known))]
    for title, project in (("drawn", inpainted(known, mask)), ("drawn again", inpainted(known, mask))):
        rows.append((title, _agreeing(model, project, x, levels, noise)))
    rows.append(("4 x 4 numbers", small.repeat_interleave(8, 2).repeat_interleave(8, 3)))
    rows.append(("drawn", _agreeing(model, enlarged(small, 8), x, levels, noise)))
    sheet(rows, "projection.png")


def _agreeing(model: Model, project, x: Tensor, levels, noise: NoiseStreams) -> Tensor:  # type: ignore
    denoiser = projected(model.guided(2.0), project)
    cond = label_cond(LABELS, "cpu")
    return last(sample(denoiser, x, levels, DDIM(1.0), cond=cond, noise=noise))
