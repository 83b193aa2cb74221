"""Where pictures go: into files, or onto one sheet; into a folder see `noisette.cli.gathering`."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisette.cli.drawing import Batch, Job, Picture
from noisette.cli.pictures import check_sheet, summary, write_sheet
from noisette.files import ensure_writable

if TYPE_CHECKING:
    from noisette.models import Output

__all__ = ["Files", "Sheet", "Target", "pictures_of"]

LONGEST_NAME = 80
"""Bytes of a prompt that make the name of a file."""


def pictures_of(prompts: Sequence[str], seeds: Sequence[int]) -> list[Picture]:
    """``len(seeds)`` pictures of each prompt: the seeds of the first, and on from there."""
    if len(prompts) == 1:
        return [Picture(k, prompts[0], seed) for k, seed in enumerate(seeds)]
    n = len(seeds)
    every = enumerate(prompt for prompt in prompts for _ in range(n))
    return [Picture(number, prompt, seeds[0] + number) for number, prompt in every]


def slug(prompt: str) -> str:
    """A prompt as the beginning of a file's name.

    >>> slug("A small, red cube; at night!")
    'a-small-red-cube-at-night'
    """
    words = "-".join(re.findall(r"[^\W_]+", prompt.lower()))
    return words.encode()[:LONGEST_NAME].decode(errors="ignore").strip("-") or "picture"


def _unused(stem: str, taken: Collection[Path] = ()) -> Path:
    """A PNG of the current folder that is not there yet."""
    paths = (Path(f"{stem}{ending}.png") for ending in chain([""], (f"-{k}" for k in count(2))))
    return next(path for path in paths if path not in taken and not os.path.lexists(path))


def preview_of(out: Path) -> Path:
    """The file that shows how it is going."""
    out = out.absolute()
    return out.with_name(f"{out.stem if out.suffix.lower() == '.png' else out.name}.preview.png")


@dataclass(frozen=True)
class Target:
    """Pictures that are to be made, ``n`` of each prompt, and the name that a person gave them."""

    out: Path
    pictures: Sequence[Picture]
    n: int
    overwrite: bool
    preview: bool

    @property
    def preview_path(self) -> Path | None:
        """Where to show how it is going; None for nowhere."""
        return preview_of(self.out) if self.preview else None

    def check_preview(self) -> None:
        """Raises UserError if there is a file in the place of the preview."""
        if self.preview:
            ensure_writable(preview_of(self.out), overwrite=self.overwrite)


@dataclass(frozen=True)
class Files(Target):
    """A PNG for each picture."""

    paths: tuple[Path, ...] = ()

    @classmethod
    def named(cls, out: Path | None, pictures: Sequence[Picture], **options: Any) -> Files:
        """``out`` itself for a single picture, else out-0.png and so on; or new names by prompt and seed."""
        paths: list[Path] = []
        for k, picture in enumerate(pictures):
            if out is None:
                paths.append(_unused(f"{slug(picture.prompt)}-{picture.seed}", paths))
            else:
                number = f"{k:0{len(str(len(pictures) - 1))}d}"
                paths.append(out if len(pictures) == 1 else out.with_name(f"{out.stem}-{number}{out.suffix}"))
        return cls(out or paths[0], pictures, **options, paths=tuple(paths))

    def check(self) -> None:
        """Raises UserError where a file cannot be written."""
        for path in self.paths:
            ensure_writable(path, overwrite=self.overwrite)
        self.check_preview()

    def draw(self, job: Job) -> str:
        """Draw and write the pictures, a batch at a time, and say so."""
        from noisette.hub.png import write_png

        start = time.perf_counter()
        for batch, output in job.draw(job.batches(self.pictures, self.n), "pil", self.preview_path):
            for row in batch.wanted:
                settings = {**job.settings_of(batch, row), **output.settings_of(row)}
                write_png(self.paths[batch.pictures[row].number], output.images[row], settings)
        first, last = self.paths[0], self.paths[-1]
        shown = first if len(self.paths) == 1 else f"{first} to {last}"
        return summary(shown, [picture.seed for picture in self.pictures], time.perf_counter() - start)


@dataclass(frozen=True)
class Sheet(Target):
    """All pictures in one PNG."""

    @classmethod
    def named(cls, out: Path | None, pictures: Sequence[Picture], **options: Any) -> Sheet:
        """``out``, or a new name by prompt and seed."""
        first = pictures[0]
        return cls(out or _unused(f"{slug(first.prompt)}-{first.seed}-sheet"), pictures, **options)

    def check(self) -> None:
        """Raises UserError where the file cannot be written."""
        ensure_writable(self.out, overwrite=self.overwrite)
        self.check_preview()

    def draw(self, job: Job) -> str:
        """Draw the pictures and write the sheet; an interruption leaves one of those that are done."""
        start = time.perf_counter()
        asked = job.request
        check_sheet(self.out, len(self.pictures), asked.width or 0, asked.height or 0)
        columns = asked.columns or math.isqrt(len(self.pictures) - 1) + 1
        done: list[tuple[Batch, Output]] = []
        try:
            done.extend(job.draw(job.batches(self.pictures, self.n), "torch", self.preview_path))
        finally:
            if done:
                self._write(job, done, columns)
        return summary(self.out, [picture.seed for picture in self.pictures], time.perf_counter() - start)

    def _write(self, job: Job, done: Sequence[tuple[Batch, Output]], columns: int) -> None:
        pictures = [batch.pictures[row] for batch, _ in done for row in batch.wanted]
        settings = {**job.sheet_settings(pictures, columns), **done[0][1].settings}
        images = [output.images[list(batch.wanted)] for batch, output in done]
        write_sheet(self.out, images, columns, settings)
