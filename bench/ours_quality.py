"""noisette's side of `bench.quality`: the recipe `digits` as it is, for the steps that fit into the time."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import machine, nets, ours
from bench.data import digits as mnist
from noisette.core import TrainStep
from noisette.data import open_dataset
from noisette.files import atomic_write
from noisette.models import Model
from noisette.recipes import digits
from noisette.training import fit

# The learning rate falls to zero at the last step, so the number of steps is fixed beforehand: from the
# pace of a short trial, with room for the pictures and checkpoints of the run itself.
TRIAL_UPDATES, ROOM = 40, 0.95
# The last file of digits is filled up, so a few more labels are needed than digits are counted.
SPARE = 250


def train(out: Path, data: Path, *, minutes: float) -> None:
    """`noisette.training.fit` with as many steps as fit; when the time is up before them, it stops there.

    Everything `fit` does counts, its checkpoints and pictures too; finding the pace does not.
    """
    out.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(data, size=32, channels=1, fit="pad")
    log = _log(out) or {
        "name": "noisette",
        "small": False,
        "steps": steps_that_fit(dataset, minutes),
        "spent": {},
    }
    recipe = replace(digits.recipe, steps=log["steps"], checkpoint_every=200)
    run = out / "run"
    resume = (run / "checkpoints").is_dir()
    earlier = _seconds_at(log, run) if resume else 0.0
    log |= {"minutes": minutes, "parameters": nets.parameters(recipe.spec.build())}
    log |= {"batch_size": recipe.batch_size, "machine": machine.facts()}
    _write(out, log)
    start = time.perf_counter()

    def watch(step: TrainStep) -> None:
        spent = earlier + time.perf_counter() - start
        log.update(updates=step.index, seconds=spent)
        if step.index % recipe.checkpoint_every == 0:
            log["spent"][str(step.index)] = spent
            _write(out, log)
        if spent >= minutes * 60:
            signal.raise_signal(signal.SIGTERM)

    result = fit(recipe, dataset, run, resume=resume, overwrite=True, on_step=watch)
    log.update(seconds=earlier + time.perf_counter() - start)
    result.model.save(out / "model", overwrite=True)
    _write(out, log)


def steps_that_fit(dataset: Any, minutes: float) -> int:
    """How many updates the recipe makes in so many minutes here, judged from a short trial."""
    updates = ours.Loop(digits.recipe, dataset).updates()
    for _ in range(5):
        next(updates)
    start = time.perf_counter()
    for _ in range(TRIAL_UPDATES):
        next(updates)
    pace = (time.perf_counter() - start) / TRIAL_UPDATES
    return max(1, int(ROOM * minutes * 60 / pace))


def kinds(run: Path, data: Path, count: int) -> dict[str, Callable[[int, int], Tensor]]:
    """How the model is asked to draw: as it does by default, and with guidance off.

    Labels are those of real digits, drawn at random from the training set.
    """
    model, labels = Model.load(run / "model"), asked_labels(data, count + SPARE).tolist()

    def drawer(**settings: Any) -> Callable[[int, int], Tensor]:
        return lambda first, number: (
            model.generate(
                label=labels[first : first + number],
                seed=1_000_000 + first,
                output_type="torch",
                **settings,
            ).images
        )

    return {"default": drawer(), "unguided": drawer(guidance_scale=1.0)}


def asked_labels(data: Path, count: int) -> Tensor:
    """The labels to draw, [count], as often as among real digits."""
    _, labels = mnist(data, "train")
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(7))[:count]]


def _seconds_at(log: dict[str, Any], run: Path) -> float:
    """What was spent up to the checkpoint that `fit` will go on from."""
    last = max(int(folder.name.removeprefix("step-")) for folder in (run / "checkpoints").glob("step-*"))
    return log["spent"].get(str(last), log.get("seconds", 0.0))


def _log(out: Path) -> dict[str, Any] | None:
    path = out / "train.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _write(out: Path, log: dict[str, Any]) -> None:
    with atomic_write(out / "train.json") as path:
        path.write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
