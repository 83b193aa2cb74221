"""The first minutes of a recipe and of its alternatives: `python -m bench.choices [--minutes N] [--quick]`.

The recipe `scenes` with other networks, optimizers and rates, trained on the same latents of the same
scenes in the same order. They run at the same time, each in a process with an equal share of the cores, so
that a slow minute hits all alike, until each has had its time, in which its learning rate climbs and falls
to nothing. Loading counts, measuring does not. What is compared is the loss of the averaged weights on
scenes that training never shows, the same noise for all. A few minutes say who learns fast, not who ends
best.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import torch

from bench import machine
from bench.nets import parameters
from noisette.core import train
from noisette.data import Images
from noisette.nets import DiTConfig
from noisette.recipes.scenes import recipe as scenes
from noisette.scenes.dataset import SceneDataset
from noisette.training import Recipe, ScenesWorld
from noisette.training.draws import Draws
from noisette.training.kept import kept
from noisette.training.setup import Batch, batches, begin
from noisette.training.state import TrainState

MINUTES, TOLD = 20.0, 60.0
HELD, AT_ONCE = 512, 64
WORLD = 16_384
"""Scenes, of which a few minutes see about each once."""
CPU = torch.device("cpu")


def alternatives(base: Recipe) -> dict[str, Recipe]:
    """What is compared: the recipe as it is first."""
    short = replace(base, decay="constant", warmup=100, ema=0.995, checkpoint_every=0, sample_every=0)
    short = replace(short, world=ScenesWorld(WORLD))
    unet = base.spec.net
    dit = DiTConfig(in_channels=8, out_channels=8, patch_size=2, dim=256, depth=8, num_heads=8,
                    context_dim=unet.context_dim, pooled_dim=unet.pooled_dim)  # fmt: skip

    def with_net(net: Any) -> Recipe:
        return replace(short, spec=replace(short.spec, net=net))

    return {
        "scenes": short,
        "AdamW": replace(short, optimizer="adamw", lr=1e-3),
        "DiT": with_net(dit),
        "64 channels": with_net(replace(unet, model_channels=64)),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.choices", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of training")
    parser.add_argument("--codec", default=scenes.codec, help="the model whose autoencoder makes the latents")
    parser.add_argument("--quick", action="store_true", help="a few steps each, nothing is written")
    asked = parser.parse_args(arguments)
    seconds = 2.0 if asked.quick else 60 * asked.minutes
    recipes = alternatives(replace(scenes, codec=asked.codec))
    held = _held(begin(recipes["scenes"], None))  # once, before all look for the same latents at once
    threads = max(1, len(os.sched_getaffinity(0)) // len(recipes))
    with ProcessPoolExecutor(len(recipes), get_context("spawn")) as crew:
        waiting = [
            crew.submit(trained, name, recipe, held, seconds, threads) for name, recipe in recipes.items()
        ]
        rows = [one.result() for one in waiting]
    result = {"seconds": seconds, "threads_each": threads, "machine": machine.facts(), "rows": rows}
    if not asked.quick:
        machine.write("choices", result)


def _held(state: TrainState) -> Images:
    task: Any = state.task
    return kept(SceneDataset(64, "test", HELD, length=HELD, scenes=True), codec=task.codec)


def trained(name: str, recipe: Recipe, held: Images, seconds: float, threads: int) -> dict[str, Any]:
    """What is kept of a training of so many seconds."""
    torch.set_num_threads(threads)
    state = begin(replace(recipe, num_workers=0), None)
    state.net.train()
    start = time.perf_counter()

    def left() -> float:
        """What is left of the learning rate, by the time that is: from 1 to 0 along a cosine."""
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (time.perf_counter() - start) / seconds)))

    def loss(batch: Batch) -> torch.Tensor:
        images, draws = batch
        for group in state.optimizer.param_groups:
            group["lr"] *= left()
        with torch.autocast("cpu", torch.bfloat16):
            return state.task.loss(state.net, images, draws, state.step)

    told = 0.0
    for _ in train(loss, batches(state, CPU), state.optimizer, max_grad_norm=recipe.max_grad_norm):
        state.step += 1
        state.ema.update(state.net)
        spent = time.perf_counter() - start
        if spent > told + TOLD:
            told = spent
            print(
                f"{name}: {state.step} steps, {state.step * recipe.batch_size / spent:.1f} images/s",
                flush=True,
            )
        if spent >= seconds:
            break
    return {
        "name": name,
        "optimizer": recipe.optimizer,
        "lr": recipe.lr,
        "parameters": parameters(state.net),
        "steps": state.step,
        "images_per_second": round(state.step * recipe.batch_size / spent, 1),
        "loss": round(held_out_loss(state, held), 4),
    }


@torch.no_grad()
def held_out_loss(state: TrainState, held: Images) -> float:
    """The mean loss of the averaged weights on images that training does not show."""
    losses: list[float] = []
    with state.ema.swapped_into(state.net.eval()), torch.autocast("cpu", torch.bfloat16):
        for first in range(0, HELD, AT_ONCE):  # kept scenes have no end: this is one turn of them
            batch = held.fetch(range(first, min(first + AT_ONCE, HELD)))
            losses.append(float(state.task.loss(state.net, batch, Draws(0, first), 0)))
    return sum(losses) / len(losses)


if __name__ == "__main__":
    main()
