"""Writing files so that a reader finds the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from noisette.errors import UserError

__all__ = ["atomic_write", "cache_folder", "ensure_writable"]


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the path of a temporary file beside `path`, which becomes `path` when the block ends well.

    The block writes to the temporary file by its name, with any library. Then its bytes are flushed to the
    disk, it is renamed over `path`, and the folder is flushed, so that `path` holds the old bytes or the
    new ones even if the machine stops in between. When the block raises, `path` is left as it was and the
    temporary file is removed.

    The temporary name ends as `path` does, for libraries that choose the format by the suffix. Missing
    folders are made, a symbolic link is followed, and an existing file keeps its permissions. Whether
    something may be replaced at all is for `ensure_writable` to say.

    Raises UserError when `path` is a folder or a device; OSError when the disk refuses.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise UserError(f"{path} is not a file and cannot be replaced by one: choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}-{secrets.token_hex(4)}{target.suffix}")
    try:
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE((target if target.exists() else temporary).stat().st_mode)
        yield temporary
        temporary.chmod(mode)  # some writers put a file of their own, for their owner alone, in its place
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(target.parent)


def ensure_writable(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Return `path` if it may be written, be it a file or a folder: call it before the work, not after.

    Nothing there yet, an empty folder, or `overwrite=True` will do. Nothing is made or removed.

    Raises UserError when something is there and `overwrite` is not set, and when no file can be made in
    the nearest folder above it.
    """
    path = Path(path)
    if not overwrite and os.path.lexists(path) and not _is_empty_folder(path):
        raise UserError(f"{path} exists already: choose another name, or add --overwrite (overwrite=True)")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UserError(f"{path} cannot be written: {above} is a file, not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: no permission to write in {above}")
    return path


def cache_folder() -> Path:
    """Where noisette keeps what can be made again: $NOISETTE_CACHE, or its folder in the user's cache."""
    own = os.environ.get("NOISETTE_CACHE")
    return Path(own or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "noisette")


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _flush_folder(folder: Path) -> None:
    # Some file systems cannot flush a folder; the rename has happened all the same.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
