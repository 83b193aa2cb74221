"""Data sets of scenes on disk: as many as wanted, by several processes, resumed to the same bytes.

A folder in work holds `export.json`, what was asked, and `.parts`, what is done: for each chunk of scenes
its rows of metadata, written when all of the chunk's files are. At the end the rows are joined, and `.parts`
goes. So a chunk is either done or does not count, and whoever does it writes the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from noisette.errors import UserError
from noisette.files import atomic_write, ensure_writable
from noisette.scenes.crew import share_out
from noisette.scenes.examples import FOLDER, FORMATS, MAPS, Export, examples, orbit

__all__ = ["FORMATS", "MAPS", "Export", "export", "orbit"]

RECORD, METADATA, PARTS = "export.json", "metadata.jsonl", ".parts"


def export(
    job: Export,
    folder: str | os.PathLike[str],
    *,
    workers: int | None = None,
    report: Callable[[int], None] | None = None,
) -> Path:
    """Write a data set for `noisette.data.open_dataset`; stopped at any moment, it goes on when called again.

    imagefolder: `00000/0000000.png`, its maps beside it as `0000000.canny.png`; with views or frames a folder
    per scene, `00000/0000000/000.png`, `000.canny.png`, ... webdataset: the same as members of archives,
    `0000000.png`, with `.txt` (the caption) and `.json` (the row). Clips have `flow.npz`: flow, float16
    [F, 2, H, W], pixels from each frame to the next, 11 bits exact. About 1,000 pictures share a folder or
    an archive.

    metadata.jsonl has a row per scene: file_name, caption, index, scene, camera (intrinsics [3, 3] in pixels,
    extrinsics [4, 4] world to camera, OpenCV's axes), `canny_file_name` and so on for the maps; views or
    frames are a list of the same under that name, and the row's own picture is the first. Numbers of cameras
    are the shortest that give back the float32.

    The bytes depend on the job, and neither on the number of workers nor on interruptions. workers:
    processes of one thread each, by default one per core; each imports the calling script, which must guard
    its main part, as always with spawned processes. report is called with the number of scenes done.

    Raises UserError when the folder holds another export, or anything else, or is being written to; and where
    a scene cannot be made. OSError when the disk refuses.
    """
    folder, report = Path(folder), report or (lambda done: None)
    parts = folder / PARTS
    job.scene(0)
    ensure_writable(folder, overwrite=True)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another name for the folder of the export")
    _check(job, folder)
    if (folder / METADATA).exists():
        shutil.rmtree(parts, ignore_errors=True)
        report(job.count)
        return folder
    parts.mkdir(parents=True, exist_ok=True)
    with _held(parts):
        _note(job, folder, parts)
        todo = [k for k in range(job.chunks) if not _rows(parts, k).exists()]
        done = job.count - sum(len(job.scenes_in(k)) for k in todo)
        share_out(_write_chunk, (job, folder), todo, workers, lambda more: report(done + more))
        _finish(job, folder, parts)
    return folder


def _record(job: Export) -> dict[str, Any]:
    from noisette import __version__

    return {"noisette": __version__, **asdict(job), "maps": list(job.maps)}


def _note(job: Export, folder: Path, parts: Path) -> None:
    if not (folder / RECORD).exists():
        with atomic_write(parts / RECORD) as path:
            path.write_text(json.dumps(_record(job), indent=2) + "\n", encoding="utf-8")
        (parts / RECORD).replace(folder / RECORD)


def _check(job: Export, folder: Path) -> None:
    """Raise UserError unless the folder holds nothing, or this very export."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        found = found if isinstance(found, dict) else {}
    except FileNotFoundError:
        if folder.is_dir() and any(entry.name != PARTS for entry in folder.iterdir()):
            raise UserError(
                f"{folder} is not empty, and holds no export to go on with: choose another"
            ) from None
        return
    except ValueError:
        found = {}
    for name, value in _record(job).items():
        if found.get(name) != value:
            have, want = json.dumps(found.get(name)), json.dumps(value)
            raise UserError(
                f"{folder} holds an export with {name} {have}, not {want}: choose another folder, "
                "or the same arguments to go on with it"
            )


@contextlib.contextmanager
def _held(parts: Path) -> Iterator[None]:
    """Keep other processes out. Raises UserError when one is in."""
    try:
        import fcntl
    except ImportError:  # where files cannot be locked this way, nobody is kept out
        yield
        return
    with (parts / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is writing the export in {parts.parent}: let it finish"
            ) from None
        yield


def _rows(parts: Path, chunk: int) -> Path:
    return parts / f"{chunk:06d}.jsonl"


def _members(parts: Path, chunk: int) -> Path:
    return parts / f"{chunk:06d}.members"


def _write_chunk(job: Export, folder: Path, chunk: int, advance: Callable[[int], None]) -> None:
    """Write the files of a chunk, and then, as the mark that it is done, its rows of metadata."""
    parts = folder / PARTS
    drawn = examples(job, job.scenes_in(chunk), advance)
    rows: list[dict[str, Any]] = []
    if job.format == "webdataset":
        with atomic_write(_members(parts, chunk)) as path, path.open("wb") as file:
            for index, files, row in drawn:
                text = {"txt": row["caption"].encode(), "json": json.dumps(row).encode()}
                file.writelines(_member(job.name(index, key), data) for key, data in [*files, *text.items()])
                rows.append({"shard": job.place(index), **row})
    else:
        written: list[Path] = []
        for index, files, row in drawn:
            written += (
                _put(folder / job.name(index, key), data, parts / f"{chunk:06d}.tmp") for key, data in files
            )
            rows.append(row)
        _flush(written)
    with atomic_write(_rows(parts, chunk)) as path:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _put(path: Path, data: bytes, temporary: Path) -> Path:
    temporary.write_bytes(data)
    try:
        temporary.replace(path)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(path)
    return path


def _flush(paths: Iterable[Path]) -> None:
    # All after the last is written: the first then pays for most of the others.
    for path in paths:
        with path.open("r+b") as file:
            os.fsync(file.fileno())


def _member(name: str, data: bytes) -> bytes:
    """One member of a tar archive, of nobody and from no time."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _finish(job: Export, folder: Path, parts: Path) -> None:
    """Join the archives and, last of all, the metadata."""
    if job.format == "webdataset":
        for first in range(0, job.chunks, FOLDER):
            pieces = [_members(parts, k) for k in range(first, min(first + FOLDER, job.chunks))]
            target = folder / job.place(job.scenes_in(first)[0])
            if not target.exists():
                _join(pieces, parts / "joined.tar", bytes(2 * tarfile.BLOCKSIZE)).replace(target)
            for piece in pieces:
                piece.unlink(missing_ok=True)
    rows = [_rows(parts, k) for k in range(job.chunks)]
    _join(rows, parts / METADATA).replace(folder / METADATA)
    shutil.rmtree(parts, ignore_errors=True)


def _join(pieces: Sequence[Path], path: Path, end: bytes = b"") -> Path:
    with path.open("wb") as joined:
        for piece in pieces:
            with piece.open("rb") as file:
                shutil.copyfileobj(file, joined)
        joined.write(end)
        joined.flush()
        os.fsync(joined.fileno())
    return path
