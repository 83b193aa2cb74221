"""Measurements one at a time, each kept on disk as soon as it is made, so that a long page can go on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from noisette.errors import UserError
from noisette.files import atomic_write, ensure_writable
from noisette.hub.records import parse_json

Settings: TypeAlias = Mapping[str, Any]
Tick: TypeAlias = Callable[[int], None]


@dataclass(frozen=True)
class Cell:
    """One measurement: the settings that decide its outcome, its cost, and how it is made.

    ``cost`` counts network calls, one for each image; ``measure`` reports them as they pass, and returns
    JSON values.
    """

    settings: Settings
    cost: int
    measure: Callable[[Tick], dict[str, Any]]


class Store:
    """The results in one JSON file, found by their settings; written whole and atomically at each `put`.

    Results under other settings in the same file are kept. Raises UserError when the file is not of this
    page, or cannot be written.
    """

    def __init__(self, path: Path, page: str) -> None:
        self.path, self.page = path, page
        self._results: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._read()
        else:
            ensure_writable(path)

    def __contains__(self, settings: Settings) -> bool:
        return _key(settings) in self._results

    def __getitem__(self, settings: Settings) -> dict[str, Any]:
        """What was measured under these settings, and how many ``seconds`` it took."""
        return self._results[_key(settings)]

    def put(self, settings: Settings, result: Mapping[str, Any]) -> None:
        """Keep a result, in memory and on disk."""
        self._results[_key(settings)] = dict(result)
        cells = [{"settings": json.loads(key), "result": value} for key, value in self._results.items()]
        text = json.dumps({"page": self.page, "cells": cells}, indent=1, allow_nan=False)
        with atomic_write(self.path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def _read(self) -> None:
        record = parse_json(self.path.read_bytes(), str(self.path))
        try:
            if record["page"] != self.page:
                raise KeyError
            self._results = {_key(cell["settings"]): dict(cell["result"]) for cell in record["cells"]}
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{self.path} does not hold results of the page {self.page!r}: choose another folder"
            ) from None


def complete(cells: Sequence[Cell], store: Store) -> None:
    """Measure what the store lacks of the cells, under a progress bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    missing = [cell for cell in cells if cell.settings not in store]
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=sum(cell.cost for cell in missing))
        for count, cell in enumerate(missing, 1):
            progress.update(task, description=f"{cell.settings['what']} ({count} of {len(missing)})")
            start = time.perf_counter()
            result = cell.measure(lambda n: progress.advance(task, n))
            seconds = time.perf_counter() - start
            store.put(cell.settings, {**result, "seconds": round(seconds, 3)})
            if not console.is_terminal:
                console.print(f"{count} of {len(missing)}  {cell.settings['what']}  {seconds:.1f} s")


def _key(settings: Settings) -> str:
    return json.dumps(settings, sort_keys=True, allow_nan=False)


def digest(tensors: Sequence[Tensor]) -> str:
    """Twelve letters that change with any bit of the tensors."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:12]
