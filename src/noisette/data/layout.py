"""Which layout a path has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

from noisette.data.folder import METADATA, folder_source, metadata_source
from noisette.data.idx import idx_source, idx_splits
from noisette.data.images import SUFFIXES
from noisette.data.saved import is_saved, saved_source
from noisette.data.source import Source
from noisette.data.tar import TAR_SUFFIXES, tar_source
from noisette.errors import UserError

__all__ = ["find_source"]

T = TypeVar("T")
SPLITS = {name: name for name in ("train", "test", "validation")}
SPLITS |= {"training": "train", "val": "validation", "valid": "validation"}


def find_source(
    path: str | Path, split: str | None, text_field: str | None, label_field: str | None
) -> Source:
    """Recognise the layout at `path` and list its rows; see `noisette.data.open_dataset`."""
    path = Path(path).expanduser()
    if path.is_file():
        return _file_source(path, split, text_field, label_field)
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    try:
        return _folder(path, split, text_field, label_field)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _file_source(path: Path, split: str | None, text_field: str | None, label_field: str | None) -> Source:
    if split is not None:
        raise UserError(f"{path}: is one file and has no splits; leave split={split!r} out")
    if path.name.lower().endswith(TAR_SUFFIXES):
        return tar_source([path], text_field, label_field)
    if "idx" in path.name or "ubyte" in path.name:
        return idx_source(path)
    if path.name == METADATA:
        return metadata_source(path.parent, text_field, label_field)
    raise UserError(f"{path}: not a data set; give a folder, a .tar, a .tar.gz or an IDX file")


def _folder(root: Path, split: str | None, text_field: str | None, label_field: str | None) -> Source:
    if is_saved(root):
        return saved_source(root, split, text_field, label_field)
    if idx := idx_splits(root):
        return idx_source(_choose(root, split, idx))
    names = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))
    archives = [root / name for name in names if name.lower().endswith(TAR_SUFFIXES)]
    if archives:
        return _archives(root, archives, split, text_field, label_field)
    folders = {SPLITS[name]: root / name for name in names if name in SPLITS and (root / name).is_dir()}
    # classes may happen to be called "train" or "test"; a split has only other splits beside it
    beside = [n for n in names if n not in SPLITS and ((root / n).is_dir() or n.lower().endswith(SUFFIXES))]
    if split is not None or ("train" in folders and not beside and METADATA not in names):
        return _folder(_choose(root, split, folders), None, text_field, label_field)
    if METADATA in names:
        return metadata_source(root, text_field, label_field)
    return folder_source(root)


def _archives(
    root: Path, archives: list[Path], split: str | None, text_field: str | None, label_field: str | None
) -> Source:
    by_split: dict[str, list[Path]] = {}
    for path in archives:
        word = re.match(r"[a-z]*", path.name.lower())
        by_split.setdefault(SPLITS.get(word[0], "") if word else "", []).append(path)
    if split is None and "train" not in by_split:
        return tar_source(archives, text_field, label_field)
    return tar_source(_choose(root, split, by_split), text_field, label_field)


def _choose(root: Path, split: str | None, splits: dict[str, T]) -> T:
    name = split or "train"
    name = SPLITS.get(name, name)
    if name not in splits:
        known = ", ".join(sorted(filter(None, splits))) or "none"
        raise UserError(f"{root}: no split {name!r}; found {known}")
    return splits[name]
