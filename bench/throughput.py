"""Training and sampling images a second: `python -m bench.throughput [--threads N] [--quick]`.

Three groups. In "own", each library trains its own U-Net of (within 5 %) equally many parameters by its
own loop. In the two others one network, noisette's and then diffusers', goes into every loop, which leaves
the software as the only difference. All take the same batch, steps, images, threads and float32, in one
process, in turns (A B C D A B C D ...), so that a slow minute hits all alike; medians count.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from bench import hf, lucidrains, machine, nets, ours, smalldiff
from bench.data import data_folder, digits, png_folder, work_folder
from noisette.data import ImageDataset, open_dataset

BATCH, UPDATES, DRAWN, STEPS = 64, 5, 64, 20
NOISETTE, LUCIDRAINS, SMALL, HF = "noisette", "denoising-diffusion-pytorch", "smalldiffusion", "diffusers"


@dataclass
class Entrant:
    """One library with one network: a turn of training, a turn of drawing."""

    name: str
    parameters: int
    updates: Iterator[None]
    draw: Callable[[], Tensor]

    def train(self) -> None:
        for _ in range(UPDATES):
            next(self.updates)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.throughput", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the MNIST files")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--quick", action="store_true", help="one repeat of the first group, nothing is written"
    )
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    data = data_folder(asked.data)
    images, _ = digits(data, "train")
    pngs = png_folder(images, work_folder() / "mnist-png")
    dataset = open_dataset(data, size=32, channels=1, fit="pad")
    result: dict[str, Any] = machine.read("throughput") or {"groups": {}}
    for name, entrants in groups(images, dataset, pngs):
        AcceleratorState._reset_state()  # the bf16 row of the group before would hold for all that follow
        measured = measure(entrants(), 1 if asked.quick else asked.repeats)
        print(name, *(f"\n  {row}" for row in measured), flush=True)
        if asked.quick:
            return
        result["groups"][name] = measured
        result |= {"machine": machine.facts(), "batch": BATCH, "drawn": DRAWN, "steps": STEPS}
        result["repeats"] = asked.repeats
        machine.write("throughput", result)


def groups(
    images: Tensor, dataset: ImageDataset, pngs: Path
) -> Iterator[tuple[str, Callable[[], list[Entrant]]]]:
    """The name of each group, and how to make its entrants: one group is in memory at a time."""
    target = nets.parameters(ours.recipe(BATCH).spec.build())
    yield "own", lambda: [*_own(target, images, dataset, pngs)]
    plain = ours.plain_recipe(BATCH)
    yield "noisette's network", lambda: [*_same(lambda: nets.Ours(plain.spec.build()), images, dataset, pngs)]
    yield (
        "diffusers' network",
        lambda: [*_same(lambda: nets.Diffusers(hf.equal_net(target)), images, dataset, pngs)],
    )


def _own(target: int, images: Tensor, dataset: ImageDataset, pngs: Path) -> Iterator[Entrant]:
    yield _lucidrains(lucidrains.equal_net(target), pngs)
    yield _smalldiffusion(smalldiff.equal_net(target), images)
    yield _diffusers(hf.equal_net(target), images)
    yield _ours(NOISETTE, ours.Loop(ours.recipe(BATCH), dataset))
    yield _ours(f"{NOISETTE} bf16", ours.Loop(ours.recipe(BATCH, "bf16"), dataset))


def _same(
    make: Callable[[], nn.Module], images: Tensor, dataset: ImageDataset, pngs: Path
) -> Iterator[Entrant]:
    plain = make()
    yield _lucidrains(copy.deepcopy(plain), pngs)
    yield _smalldiffusion(copy.deepcopy(plain), images)
    yield _diffusers(copy.deepcopy(plain), images)
    yield _ours(NOISETTE, ours.Loop(ours.plain_recipe(BATCH), dataset, plain))


def _lucidrains(net: nn.Module, pngs: Path) -> Entrant:
    loop = lucidrains.Loop(net, pngs, work_folder() / "trainer", batch_size=BATCH)
    return Entrant(LUCIDRAINS, loop.parameters, loop.updates(), lambda: loop.sample(DRAWN, STEPS))


def _smalldiffusion(net: nn.Module, images: Tensor) -> Entrant:
    loop = smalldiff.Loop(net, images, batch_size=BATCH)
    return Entrant(SMALL, loop.parameters, loop.updates(), lambda: loop.sample(DRAWN, STEPS, average=False))


def _diffusers(net: nn.Module, images: Tensor) -> Entrant:
    loop = hf.Loop(net, images, batch_size=BATCH)
    return Entrant(
        HF, loop.parameters, loop.updates(), lambda: loop.sample(DRAWN, STEPS, average=False, ddim=True)
    )


def _ours(name: str, loop: ours.Loop) -> Entrant:
    return Entrant(name, loop.parameters, loop.updates(), lambda: loop.sample(DRAWN, STEPS))


def measure(entrants: list[Entrant], repeats: int) -> list[dict[str, Any]]:
    """Seconds of every turn, and the images a second of the median one, for each entrant."""
    rows = [{"name": e.name, "parameters": e.parameters} for e in entrants]
    for task, images in (("train", BATCH * UPDATES), ("sample", DRAWN)):
        turns: list[list[float]] = [[] for _ in entrants]
        for turn in range(-1, repeats):
            for entrant, seconds in zip(entrants, turns, strict=True):
                start = time.perf_counter()
                entrant.train() if task == "train" else entrant.draw()
                if turn >= 0:  # the first turn warms up
                    seconds.append(time.perf_counter() - start)
        for row, seconds in zip(rows, turns, strict=True):
            row[f"{task}_seconds"] = [round(s, 4) for s in seconds]
            row[f"{task}_images_per_second"] = round(images / statistics.median(seconds), 2)
    return rows


if __name__ == "__main__":
    main()
