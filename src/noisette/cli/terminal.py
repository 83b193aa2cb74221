"""What the commands share: a progress bar, and where to compute."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from noisette.errors import UserError

if TYPE_CHECKING:
    from noisette.models import Model


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, nothing elsewhere: call what it gives after each of ``total`` steps."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def load_on(name: str, device: str, **options: Any) -> Model:
    """The model on a device: see `device_named`; ``options`` are those of `noisette.load`."""
    from noisette.models import load

    place = device_named(device)
    return load(name, **options).to(place)


def device_named(name: str) -> str:
    """The device of that name; "auto" is a GPU if there is one. Raises UserError for one there is not."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"there is no device {name!r} here: {str(error).splitlines()[0]}") from None
    return name
