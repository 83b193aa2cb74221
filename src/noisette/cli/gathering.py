"""A folder of pictures that grows: by several processes, and over interruptions."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from noisette.cli.drawing import Batch, Job, Picture
from noisette.cli.pictures import TABLE, metadata
from noisette.cli.prompts import note
from noisette.cli.targets import Target
from noisette.errors import UserError
from noisette.files import ensure_writable

__all__ = ["Gathering", "processes"]


Row: TypeAlias = Mapping[str, Any]


def processes() -> tuple[int, int]:
    """Which process this is, and of how many: torchrun says so in RANK and WORLD_SIZE."""
    try:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        rank, world = 0, 0
    if not 0 <= rank < world:
        raise UserError("RANK and WORLD_SIZE must be whole numbers, as torchrun sets them")
    return rank, world


@dataclass(frozen=True)
class Gathering(Target):
    """The pictures of a run in a folder, each whole or not there, and a metadata.jsonl at the end."""

    def path(self, picture: Picture) -> Path:
        """The file of a picture."""
        return self.out / f"{picture.number:06d}.png"

    def check(self) -> None:
        """Raises UserError where the folder holds anything but a part of such a run."""
        ours = {self.path(picture).name for picture in self.pictures} | {TABLE}
        there = {path.name for path in self.out.iterdir()} if self.out.is_dir() else set()
        # What begins with a dot was left by a write that never ended.
        begun = self.out.is_dir() and (bool(there & ours) or all(name.startswith(".") for name in there))
        ensure_writable(self.out, overwrite=self.overwrite or begun)
        self.check_preview()

    def draw(self, job: Job) -> str:
        """Draw and write what is missing of this process's share, and say so."""
        from noisette.hub.png import write_png

        start, (rank, world) = time.perf_counter(), processes()
        rows = self.rows(job.request.negative_prompt)
        batches = [batch for batch in job.batches(self.pictures, self.n) if batch.share % world == rank]
        missing = list(self.missing(job, batches, rows))
        drawn = 0
        try:
            for batch, output in job.draw(missing, "pil", self.preview_path if rank == 0 else None):
                for row in batch.wanted:
                    settings = {**job.settings_of(batch, row), **output.settings_of(row)}
                    write_png(self.path(batch.pictures[row]), output.images[row], settings)
                    drawn += 1
        except KeyboardInterrupt:
            seed = self.pictures[0].seed
            note(f"{self.out}: {drawn} pictures were drawn; the same command goes on, with --seed {seed}")
            raise
        lacking = self.finish(rows)
        there = sum(len(batch.wanted) for batch in batches) - drawn
        said = f"{self.out}: {drawn} picture{'s' * (drawn != 1)}, {time.perf_counter() - start:.1f} s"
        said += f"; {there} were there" * (there > 0)
        return said + f"; {lacking} are left to other processes" * (lacking > 0)

    def missing(self, job: Job, batches: Sequence[Batch], rows: Sequence[Row]) -> Iterator[Batch]:
        """What is still to be drawn. Raises UserError for a picture that is there and is another one."""
        if self.overwrite:
            yield from batches
            return
        self._check_table(rows)
        for batch in batches:
            wanted = tuple(row for row in batch.wanted if not self._done(job, batch, row))
            if wanted:
                yield replace(batch, wanted=wanted)

    def _done(self, job: Job, batch: Batch, row: int) -> bool:
        from noisette.hub.png import read_settings

        path = self.path(batch.pictures[row])
        if not path.exists():
            return False
        found, known = read_settings(path), job.settings_of(batch, row)
        other = next((name for name in known if found.get(name) != known[name]), None)
        if other is not None:
            raise UserError(
                f"{path} exists and was drawn with {other} {found.get(other)!r:.60}, "
                f"not {known[other]!r:.60}: choose another folder, or add --overwrite"
            )
        return True

    def _check_table(self, rows: Sequence[Row]) -> None:
        path = self.out / TABLE
        if not path.exists():
            return
        lines = path.read_bytes().splitlines()
        # The table of a shorter list of prompts is one that ours goes on with.
        if lines != [json.dumps(row).encode() for row in rows][: len(lines)]:
            raise UserError(f"{path} lists other pictures: choose another folder, or add --overwrite")

    def rows(self, negative_prompt: str) -> list[Row]:
        """What metadata.jsonl says of each picture; readers of data sets take "text" for a caption."""
        return [
            {
                "file_name": self.path(picture).name,
                "text": picture.prompt,
                "negative_prompt": negative_prompt,
                "seed": picture.seed,
            }
            for picture in self.pictures
        ]

    def finish(self, rows: Sequence[Row]) -> int:
        """Write the table if all pictures are there, and return how many are not.

        The process that ends last sees them all; should two see them, they write the same.
        """
        lacking = sum(not self.path(picture).exists() for picture in self.pictures)
        if not lacking:
            with metadata(self.out) as add:
                for row in rows:
                    add(row)
        return lacking
