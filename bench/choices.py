"""The first minutes of a recipe and of its alternatives: `python -m bench.choices [--minutes N] [--quick]`.

The recipe `scenes` with other networks, optimizers and rates, trained side by side on the same latents of the
same scenes in the same order. They take turns of half a minute, so that a slow minute hits all alike, until
each has had its share of time, in which its learning rate climbs and falls to nothing. Loading counts,
measuring does not. What is compared is the loss of the averaged weights on scenes that training never shows,
the same noise for all. A few minutes say who learns fast, not who ends best.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
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

MINUTES, TURN = 8.0, 30.0
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
                    context_dim=192, pooled_dim=192)  # fmt: skip

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
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of training, each")
    parser.add_argument("--codec", default=scenes.codec, help="the model whose autoencoder makes the latents")
    parser.add_argument("--quick", action="store_true", help="a few steps each, nothing is written")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    seconds, turn = (2.0, 1.0) if asked.quick else (60 * asked.minutes, TURN)
    recipes = alternatives(replace(scenes, codec=asked.codec))
    runs = [Run.of(name, recipe, seconds) for name, recipe in recipes.items()]
    task: Any = runs[0].state.task
    held = kept(SceneDataset(64, "test", HELD, length=HELD, scenes=True), codec=task.codec)
    while any(run.spent < seconds for run in runs):
        for run in runs:
            run.go_on(min(turn, seconds - run.spent))
            print(run.told(), flush=True)
    rows = [{**run.row(), "loss": round(held_out_loss(run.state, held), 4)} for run in runs]
    result = {"seconds": seconds, "machine": machine.facts(), "rows": rows}
    if not asked.quick:
        machine.write("choices", result)


@dataclass
class Run:
    """One of the trainings: its state, what is left of its batches, and the time it has had."""

    name: str
    state: TrainState
    updates: Iterator[Any]
    seconds: float
    spent: float = 0.0

    @classmethod
    def of(cls, name: str, recipe: Recipe, seconds: float) -> Run:
        """A run before its first step, and the time it will have."""
        state = begin(recipe, None)
        state.net.train()

        def loss(batch: Batch) -> torch.Tensor:
            images, draws = batch
            for group in state.optimizer.param_groups:
                group["lr"] *= run.left()
            with torch.autocast("cpu", torch.bfloat16):
                return state.task.loss(state.net, images, draws, state.step)

        steps = train(loss, batches(state, CPU), state.optimizer, max_grad_norm=recipe.max_grad_norm)
        run = cls(name, state, steps, seconds)
        return run

    def left(self) -> float:
        """What is left of the learning rate, by the time that is: from 1 to 0 along a cosine."""
        return 0.5 * (1 + math.cos(math.pi * min(1.0, self.spent / self.seconds)))

    def go_on(self, seconds: float) -> None:
        """Train for that long."""
        end = self.spent + seconds
        while self.spent < end:
            start = time.perf_counter()
            next(self.updates)
            self.state.step += 1
            self.state.ema.update(self.state.net)
            self.spent += time.perf_counter() - start

    def row(self) -> dict[str, Any]:
        """What is kept of it."""
        images = self.state.step * self.state.recipe.batch_size
        return {
            "name": self.name,
            "optimizer": self.state.recipe.optimizer,
            "lr": self.state.recipe.lr,
            "parameters": parameters(self.state.net),
            "steps": self.state.step,
            "images_per_second": round(images / self.spent, 1),
        }

    def told(self) -> str:
        """The same in words."""
        row = self.row()
        return f"{self.name}: {row['steps']} steps, {row['images_per_second']} images/s"


@torch.no_grad()
def held_out_loss(state: TrainState, held: Images) -> float:
    """The mean loss of the averaged weights on images that training does not show."""
    losses: list[float] = []
    with state.ema.swapped_into(state.net.eval()), torch.autocast("cpu", torch.bfloat16):
        for first in range(0, len(held), AT_ONCE):
            batch = held.fetch(range(first, min(first + AT_ONCE, len(held))))
            losses.append(float(state.task.loss(state.net, batch, Draws(0, first), 0)))
    return sum(losses) / len(losses)


if __name__ == "__main__":
    main()
