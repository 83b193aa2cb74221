"""Folders of images: flat, by class, with metadata.jsonl, with same-stem captions.

Hugging Face's imagefolder builder was measured and left aside: it sends a file called test_1.png to
another split than its neighbours, drops images without a metadata row and passes on rows without an
image in silence, names neither file nor line of a malformed row, knows no caption files, and needs
minutes to list a million files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from noisette.data.images import SUFFIXES, CorruptImage
from noisette.data.source import Row, Source, one_line, text_in
from noisette.errors import UserError

__all__ = ["folder_source", "metadata_source", "parse_metadata"]

METADATA = "metadata.jsonl"


def read_file(root: str, row: Row) -> bytes:
    """The bytes of a row's file; one that is missing or unreadable counts as a corrupt image."""
    try:
        return Path(root, row.name).read_bytes()
    except OSError as error:
        raise CorruptImage(f"cannot be read ({error.strerror or error})") from None


def inside(name: str) -> bool:
    """Whether a relative name stays below the folder that it is relative to."""
    path = PurePosixPath(name)
    return bool(name) and "\0" not in name and not path.is_absolute() and ".." not in path.parts


def parse_metadata(data: bytes, path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metadata.jsonl: one JSON object a line with at least `file_name`; blank lines pass.

    Raises:
        UserError: bytes that are not UTF-8, a malformed line, a `file_name` that is missing or leads
            out of the folder; the line is named.
    """
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not a JSON object ({one_line(error)})") from None
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise UserError(f"{path}, line {number}: needs an object with a string file_name")
        if not inside(row["file_name"]):
            raise UserError(f"{path}, line {number}: file_name {row['file_name']!r} leads out of the folder")
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: lists no image")
    return rows


def metadata_source(root: Path, text_field: str | None, label_field: str | None) -> Source:
    """The images that `root`/metadata.jsonl lists, in its order; images it does not list are not used.

    Raises:
        UserError: see `parse_metadata`; a chosen field that no row has; a label that is no name or number.
    """
    path = root / METADATA
    rows: list[Row] = []
    parsed = parse_metadata(path.read_bytes(), path)
    for chosen in (text_field, label_field):
        if chosen is not None and not any(chosen in fields for fields in parsed):
            known = ", ".join(sorted(set().union(*parsed[:100])))
            raise UserError(f"{path}: no row has the field {chosen!r}; there are {known}")
    for fields in parsed:
        label = fields.get(label_field or "label")
        if isinstance(label, bool) or not isinstance(label, int | str | None):
            name = fields["file_name"]
            raise UserError(f"{path}: label {label!r} of {name} is no name and no whole number")
        text = text_in(fields, text_field)
        rows.append(Row(fields["file_name"], label=label, text=text, fields=fields))
    return Source(str(root), rows, partial(read_file, str(root)))


def folder_source(root: Path) -> Source:
    """Every image below `root`, sorted by path; a same-stem .txt file is its caption.

    Where all images lie in two or more subfolders, the subfolders' sorted names are the classes.

    Raises:
        UserError: no image at all.
    """
    rows = [Row(name, text=caption) for name, caption in _images(root)]
    if not rows:
        raise UserError(f"{root}: no images found ({' '.join(SUFFIXES)}, .tar, .tar.gz, IDX or {METADATA})")
    classes = sorted({row.name.partition("/")[0] if "/" in row.name else "" for row in rows})
    if len(classes) > 1 and classes[0]:
        rows = [row._replace(label=row.name.partition("/")[0]) for row in rows]
    return Source(str(root), rows, partial(read_file, str(root)))


def _images(root: Path) -> Iterator[tuple[str, Path | None]]:
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        there = set(files)
        prefix = Path(folder).relative_to(root).as_posix() + "/" if folder != str(root) else ""
        for file in sorted(files):
            stem, suffix = os.path.splitext(file)  # noqa: PTH122  a Path per file is slow at a million
            if suffix.lower() in SUFFIXES and not file.startswith("."):
                caption = Path(folder, stem + ".txt") if stem + ".txt" in there else None
                yield prefix + file, caption
