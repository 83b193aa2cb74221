"""What a person sees of a training run: a progress bar or plain lines, TensorBoard, and sample grids."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

__all__ = ["Reporter", "pace", "working"]

PLAIN_SECONDS = 30.0
SCALARS_EVERY = 10
SMOOTHING = 0.98


class Reporter:
    """Progress on the terminal, scalars and pictures in ``out``; silent with ``visible=False``.

    The loss shown is a running average over about 50 steps, the speed one over the last 50.
    """

    def __init__(
        self, out: Path, start: int, total: int, images_per_step: int, *, visible: bool = True
    ) -> None:
        self.out, self.total, self.images_per_step = out, total, images_per_step
        self.visible = visible
        self._loss, self._weight = 0.0, 0.0
        self._times: deque[float] = deque([time.monotonic()], maxlen=51)
        self._spoken = time.monotonic()
        self._start = start
        self._bar: Any = None
        self._writer: Any = None

    def __enter__(self) -> Reporter:
        if self.visible:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.out / "logs"), purge_step=self._start + 1)
            if sys.stderr.isatty():
                self._bar = _bar(self._start, self.total)
                self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._writer is not None:
            self._writer.close()

    def step(self, step: int, loss: float, grad_norm: float, lr: float) -> None:
        """Tell of update ``step`` (from 1)."""
        self._loss = SMOOTHING * self._loss + (1 - SMOOTHING) * loss
        self._weight = SMOOTHING * self._weight + 1 - SMOOTHING
        self._times.append(time.monotonic())
        if not self.visible:
            return
        if step % SCALARS_EVERY == 0 or step == self.total:
            scalars = {"loss": loss, "grad_norm": grad_norm, "lr": lr, "images_per_second": self.speed}
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)
        line = f"loss {self.loss:.4f}  {self.speed:.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, facts=line)
        elif step == self.total or self._times[-1] - self._spoken >= PLAIN_SECONDS:
            self._spoken = self._times[-1]
            left = pace((self.total - step) * self.images_per_step / max(self.speed, 1e-9))
            self.say(f"step {step}/{self.total}  {line}  {left} left")

    def pictures(self, step: int, grid: Tensor) -> Path:
        """Keep a grid [C, H, W] in [-1, 1] as ``samples/step-XXXXXXXX.png`` and in TensorBoard."""
        from noisette.data import to_pil
        from noisette.files import atomic_write
        from noisette.pixels import to_uint8

        path = self.out / "samples" / f"step-{step:08d}.png"
        with atomic_write(path) as temporary:
            to_pil(grid[None], batch=True)[0].save(temporary)
        self._writer.add_image("samples", to_uint8(grid), step)
        self._times.clear()  # drawing is no training time
        self._times.append(time.monotonic())
        return path

    def say(self, message: str) -> None:
        """A line for the person, above the bar if there is one."""
        if self.visible:
            (self._bar.console.print if self._bar is not None else _plain)(message)

    @property
    def loss(self) -> float:
        return self._loss / self._weight if self._weight else math.nan

    @property
    def speed(self) -> float:
        """Images a second."""
        spent = self._times[-1] - self._times[0]
        return (len(self._times) - 1) * self.images_per_step / spent if spent > 0 else 0.0


@contextmanager
def working(what: str) -> Generator[Callable[[int, int], None]]:
    """Tell how far a preparation is: ``advance(done, total)`` moves a bar, or says a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console, spoken = Console(stderr=True), time.monotonic()
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    task = None

    def advance(done: int, total: int) -> None:
        nonlocal spoken, task
        if task is None:
            bar.start()
            task = bar.add_task("", total=total)
        bar.update(task, completed=done)
        if not console.is_terminal and time.monotonic() - spoken >= PLAIN_SECONDS:
            spoken = time.monotonic()
            _plain(f"{what}: {done}/{total}")

    try:
        yield advance
    finally:
        bar.stop()


def pace(seconds: float) -> str:
    """A duration in words for people: ``75 s``, ``12 min``, ``3 h 20 min``.

    >>> pace(75), pace(700), pace(12000)
    ('75 s', '12 min', '3 h 20 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _plain(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _bar(start: int, total: int) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    bar.add_task("", total=total, completed=start, facts="")
    return bar
