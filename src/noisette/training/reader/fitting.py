"""The training itself: by steps or by the clock, stopped and gone on with at will."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from noisette.pixels import from_uint8
from noisette.scenes.reader.net import Reader
from noisette.training.checkpoint import (
    Checkpoint,
    checkpoint_folders,
    flatten_optimizer,
    load_latest,
    restore_optimizer,
    save,
)
from noisette.training.reader.disturb import VOID_SHARE, disturb, mirrored, voids
from noisette.training.reader.loss import loss
from noisette.training.reader.shards import Pictures
from noisette.training.signals import StopRequest

BATCH, PEAK_RATE, WARM_UP, WEIGHT_DECAY, EMA_DECAY, SEED = 64, 2e-3, 0.05, 1e-2, 0.999, 0
SAVE_EVERY = 180
"""Seconds between checkpoints."""


@dataclass(frozen=True)
class Budget:
    """How long to train: until one of the two is spent. By steps alone, a run is the same every time."""

    steps: int | None = None
    minutes: float | None = None

    def spent(self, step: int, seconds: float) -> float:
        """The part in [0, 1] that is spent."""
        by_steps = step / self.steps if self.steps else 0.0
        by_clock = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_clock))


def rate(spent: float) -> float:
    """The learning rate: up in a line, then down half a cosine to zero."""
    if spent < WARM_UP:
        return PEAK_RATE * max(spent / WARM_UP, 0.02)
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (spent - WARM_UP) / (1 - WARM_UP)))


@torch.no_grad()
def follow(average: Sequence[Tensor], current: Sequence[Tensor], updates: int | Tensor) -> None:
    """Move an average towards what is current, quickly at first: short runs too forget where they began."""
    keep = min(EMA_DECAY, (1 + int(updates)) / (10 + int(updates)))
    for mean, value in zip(average, current, strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - keep)
        else:
            mean.copy_(value)


@dataclass
class Run:
    """Everything that changes while training: what a checkpoint keeps."""

    reader: Reader = field(default_factory=lambda: seeded())
    step: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.reader.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
        self.average = AveragedModel(self.reader, multi_avg_fn=follow, use_buffers=True)
        self.optimizer = torch.optim.AdamW(self.reader.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)

    def save(self, folder: Path) -> None:
        moments, facts = flatten_optimizer(self.optimizer)
        tensors = {
            "reader": self.reader.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": moments,
        }
        save(folder, Checkpoint(self.step, tensors, {"seconds": self.seconds, **facts}))

    def restore(self, folder: Path) -> None:
        """Go on from the newest checkpoint, if there is one."""
        if not checkpoint_folders(folder):
            return
        found = load_latest(folder)
        self.reader.load_state_dict(found.tensors["reader"])
        self.average.load_state_dict(found.tensors["average"])
        restore_optimizer(self.optimizer, found.tensors["optimizer"], found.facts)
        self.step, self.seconds = found.step, found.facts["seconds"]


def seeded() -> Reader:
    torch.manual_seed(SEED)
    return Reader()


def order(count: int, step: int) -> Tensor:
    """The rows of a step's batch: every epoch has an order of its own, and any step can be the next."""
    per_epoch = max(count // BATCH, 1)
    epoch, place = divmod(step, per_epoch)
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(SEED + 1000 + epoch))
    return shuffled[place * BATCH : (place + 1) * BATCH]


def prepared(data: Pictures, step: int) -> tuple[Tensor, Pictures, Tensor]:
    """A step's pictures [B, 3, 64, 64], their truth, and which of them [B] show nothing."""
    rng = torch.Generator().manual_seed(SEED + 7919 * step)
    batch = mirrored(data[order(len(data), step)], rng)
    clean = from_uint8(batch.rgb)
    x, count = disturb(clean, rng), round(VOID_SHARE * len(batch))
    x[:count] = voids(clean[:count], rng)
    return x.contiguous(memory_format=torch.channels_last), batch, torch.arange(len(batch)) < count


def update(run: Run, data: Pictures, spent: float) -> dict[str, float]:
    """One step; returns the parts of the loss."""
    x, batch, void = prepared(data, run.step)
    with torch.autocast("cpu", torch.bfloat16):
        parts = loss(run.reader, x, batch, void)
    for group in run.optimizer.param_groups:
        group["lr"] = rate(spent)
    run.optimizer.zero_grad()
    torch.stack(list(parts.values())).sum().backward()
    torch.nn.utils.clip_grad_norm_(run.reader.parameters(), 5.0)
    run.optimizer.step()
    run.average.update_parameters(run.reader)
    run.step += 1
    return {name: value.item() for name, value in parts.items()}


def train(run: Run, data: Pictures, budget: Budget, folder: Path) -> Iterator[dict[str, float]]:
    """Train until the budget is spent or someone asks to stop, saving now and then and at the end."""
    saved = run.seconds
    with StopRequest() as stop:
        while (spent := budget.spent(run.step, run.seconds)) < 1 and not stop.asked:
            began = time.monotonic()
            parts = update(run, data, spent)
            run.seconds += time.monotonic() - began
            if run.seconds - saved > SAVE_EVERY:
                run.save(folder)
                saved = run.seconds
            yield parts
        run.save(folder)


def fit(data: Pictures, budget: Budget, folder: Path) -> tuple[Reader, Run]:
    """Train under a progress bar; return a reader of the averaged weights, rounded to float16."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    run = Run()
    run.restore(folder)
    text = "step {task.fields[step]} loss {task.fields[loss]:.3f} {task.fields[pace]:.0f} pictures/s"
    left = "{task.fields[left]:.0f} min left"
    columns = (
        TextColumn("training the reader"),
        BarColumn(),
        TextColumn(text),
        TimeElapsedColumn(),
        TextColumn(left),
    )
    mean: dict[str, float] = {}
    with Progress(*columns) as progress, (folder.parent / "log.txt").open("a") as log:
        task = progress.add_task("", total=1.0, step=run.step, loss=math.nan, pace=0.0, left=math.nan)
        began, first = run.seconds, run.step
        for parts in train(run, data, budget, folder):
            mean = {name: 0.98 * mean.get(name, value) + 0.02 * value for name, value in parts.items()}
            spent, took = budget.spent(run.step, run.seconds), run.seconds - began
            progress.update(
                task,
                completed=spent,
                step=run.step,
                loss=sum(mean.values()),
                pace=(run.step - first) * BATCH / max(took, 1e-9),
                left=run.seconds / 60 * (1 / max(spent, 1e-9) - 1),
            )
            if run.step % 100 == 0:
                line = " ".join(f"{name} {value:.4f}" for name, value in mean.items())
                log.write(f"{run.step} {run.seconds:.0f}s {line}\n")
                log.flush()
    return rounded(run.average.module), run


def half(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value


def rounded(reader: torch.nn.Module) -> Reader:
    """A reader of the same weights rounded to float16, as they ship: frozen, in evaluation mode."""
    kept = Reader()
    kept.load_state_dict({name: half(value) for name, value in reader.state_dict().items()})
    return kept.eval().requires_grad_(False)
