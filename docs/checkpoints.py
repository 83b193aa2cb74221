"""The figures and numbers of what is done to checkpoints: LoRA, kept features, prompts cut into windows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from charts import BLUE, BROWN, GREEN, GREY  # these two are files beside this one
from sheets import sheet
from torch import Tensor

from noisette.adapters.lora import attach, detach, fresh, set_adapters
from noisette.conditioning.tokenizer import Tokenizer
from noisette.conditioning.weighting import windows
from noisette.core.objective import denoising_error
from noisette.hub.configs import unet_config
from noisette.hub.known import clip_tokenizer, known
from noisette.models import Model
from noisette.nets import UNet
from noisette.nets.text import Prompted
from noisette.scenes import render, sample_scene
from noisette.scenes.quiz import mark, quiz
from noisette.scenes.reader import read

STYLE, RANK, LEARNED_FROM, LORA_STEPS = "cartoon", 4, 128, 150
PLAIN = (
    "a red cube",
    "a green cone and a blue sphere",
    "a large yellow torus",
    "a pink figure",
    "a white ball",
)
CAPTION = "a small red cube left of a shiny blue sphere, at night"
LONG = (
    "a (red fox:1.3) in a snowy forest at dawn, low sun behind the trees, long blue shadows, frost on every "
    "branch, breath that can be seen, tracks that lead back into the dark, fine detail in the fur, "
    "soft light, a painting in oil on canvas, thick strokes, warm and cold colors side by side, "
    "(calm:0.7), quiet, wide format, seen from below, by a patient hand"
)


def lora(model: Model) -> dict[str, str]:
    """A style learned by a LoRA from captions that do not name it, at growing weight; then taken off."""
    net = model.denoiser.net
    assert isinstance(net, Prompted)
    torch.manual_seed(0)
    net.requires_grad_(False)
    attach(net.net, fresh(net.net, RANK), trainable=True)
    learned = [p for p in net.parameters() if p.requires_grad]
    start = time.perf_counter()
    _learn(model, learned)
    took = time.perf_counter() - start
    rows, shares = [], {}
    for weight in (0.0, 0.5, 1.0, 1.5):
        set_adapters(net.net, {"default": weight})
        pictures = model.generate(list(PLAIN), num_images_per_prompt=8, seed=0, output_type="torch").images
        styles = Counter(reading.style for reading in read(pictures))
        shares[f"lora_{weight:g}".replace(".", "_")] = f"{styles[STYLE] / len(pictures):.0%}"
        rows.append((f"weight {weight:g}", pictures[4:12]))
    sheet(rows, "lora.png")
    detach(net.net)
    size = sum(p.numel() for p in learned)
    whole = sum(p.numel() for p in net.net.parameters())
    sizes = {
        "lora_values": f"{size:,}",
        "lora_part": f"{size / whole:.2%}",
        "lora_minutes": f"{took / 60:.1f}",
    }
    return shares | sizes


def _learn(model: Model, learned: list[torch.nn.Parameter]) -> None:
    """Denoise scenes of one style, told what is in them and not how they are drawn."""
    scenes = [sample_scene(seed, style=STYLE, count=1 + seed % 2) for seed in range(LEARNED_FROM)]
    latents = model.encode(render(scenes, 64).rgb)
    told = [" and ".join(f"a {one.color} {one.shape}" for one in scene.objects) for scene in scenes]
    conds = model.cond(told)
    optimizer, random = (
        torch.optim.AdamW(learned, lr=2e-3, weight_decay=0.0),
        torch.Generator().manual_seed(0),
    )
    for _ in range(LORA_STEPS):
        chosen = torch.randint(len(latents), (8,), generator=random)
        times = torch.rand(8, generator=random, dtype=torch.float64)
        x0, eps = latents[chosen], torch.randn(8, *latents.shape[1:], generator=random)
        level, cond = model.schedule(times).per_sample(x0), {k: v[chosen] for k, v in conds.items()}
        loss = denoising_error(model.denoiser, x0, level, eps, cond, "flow").mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def deepcache(model: Model) -> dict[str, str]:
    """The same noise with deep features kept for longer, in 20 and 40 steps; and what that is worth."""
    ways = ((20, 1), (20, 2), (20, 3), (40, 3))
    rows, numbers = [], _shares()
    for steps, every in ways:
        name = f"{steps} steps, whole at each {('', '', 'second', 'third')[every]}".rstrip()
        rows.append((f"{name} step" if every > 1 else f"{steps} whole steps", _drawn(model, steps, every)))
    sheet(rows, "deepcache.png")
    return numbers


def _drawn(model: Model, steps: int, every: int) -> Tensor:
    drawer = model if every == 1 else model.cached(every)
    options = {"num_images_per_prompt": 8, "seed": 0, "output_type": "torch"}
    return drawer.generate(CAPTION, num_inference_steps=steps, **options).images


def deepcache_marks(model: Model, total: int = 200, size: int = 20) -> dict[str, str]:
    """How many pictures the reader finds right, and the time they took over that of whole steps."""
    questions, numbers, whole = quiz("test", total), {}, 0.0
    for steps, every in ((20, 1), (20, 2), (20, 3), (40, 3)):
        start, drawn = time.process_time(), []
        for first in range(0, total, size):
            drawer = model if every == 1 else model.cached(every)
            texts = [question.text for question in questions[first : first + size]]
            options = {"seed": first, "output_type": "torch", "num_inference_steps": steps}
            drawn.append(drawer.generate(texts, **options).images)
        took = time.process_time() - start
        whole, marks = whole or took, mark(torch.cat(drawn), questions)
        key = f"deepcache_{steps}_{every}"
        numbers[f"{key}_speed"] = f"{whole / took:.2f}"
        numbers |= {f"{key}_{name.replace(' ', '_')}": f"{one.share:.0%}" for name, one in marks.items()}
    return numbers


def _shares() -> dict[str, str]:
    """What a shallow call costs of a whole one, in FLOPs of Stable Diffusion 1.5's U-Net."""
    with torch.device("meta"):
        net = UNet(unet_config(known("sd1").configs["unet"]))
    numbers: dict[str, str] = {}
    for side in (32, 64):
        x, time_ = torch.empty(1, 4, side, side, device="meta"), torch.empty(1, device="meta")
        cond = {"tokens": torch.empty(1, 77, 768, device="meta")}
        whole = _flops(lambda: net(x, time_, cond))  # noqa: B023  called at once, here and below
        for branch in (0, 1, 2):
            with torch.no_grad():
                deep = net.through(x, time_, cond, branch=branch)[1]
            share = _flops(lambda: net.through(x, time_, cond, branch=branch, deep=deep)) / whole  # noqa: B023
            key = f"deepcache_{side}_branch_{branch}"
            numbers[key] = f"{share:.1%}"
            for every in (2, 3, 5):
                numbers[f"{key}_every_{every}"] = f"{every / (1 + (every - 1) * share):.2f}"
    return numbers


def _flops(call: Callable[[], Any]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops()


PICTURES = {f.__name__: f for f in (lora, deepcache, deepcache_marks)}


def prompt_windows(plt: Any) -> Any:
    """A long prompt as CLIP reads it: windows of 77 tokens, words that weigh more or less, and padding."""
    tokenizer = clip_tokenizer()
    ids, weights, mask = (part[0] for part in windows(tokenizer, LONG))
    figure, axes = plt.subplots(figsize=(7.6, 1.0 + 0.55 * len(ids)))
    for row in range(len(ids)):
        for place in range(ids.shape[1]):
            kind, height = _kind(tokenizer, int(ids[row, place]), bool(mask[row, place]))
            weight = float(weights[row, place])
            color = BROWN if weight > 1 else BLUE if weight < 1 else kind
            axes.add_patch(plt.Rectangle((place, row + 0.5 - height / 2), 0.8, height, color=color, lw=0))
    for color, label in ((GREY, "a word"), (BROWN, "of weight 1.3"), (BLUE, "of weight 0.7")):
        axes.plot([], [], "s", color=color, label=label)
    for color, label in ((GREEN, "begin or end"), ("#88888855", "padding")):
        axes.plot([], [], "s", color=color, label=label)
    axes.set(xlim=(-0.5, ids.shape[1]), ylim=(len(ids), 0), xlabel="place in the window", yticks=[])
    axes.set_yticks([row + 0.5 for row in range(len(ids))], [f"window {row + 1}" for row in range(len(ids))])
    axes.spines[:].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.45), ncols=5, fontsize=9)
    return figure


def _kind(tokenizer: Tokenizer, token: int, used: bool) -> tuple[str, float]:
    """The color of a token and how tall it is drawn; commas are short."""
    if not used:
        return "#88888855", 0.3
    if token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return GREEN, 0.8
    return GREY, 0.25 if token in tokenizer.encode(",") else 0.6


CHARTS: dict[str, Callable[[Any], Any]] = {"prompt-windows": prompt_windows}
