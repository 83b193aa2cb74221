"""WebDataset archives: members that share a stem are one example (image, .txt, .cls, .json).

Hugging Face's webdataset builder either streams, so that no order but the archive's own is exact, or
first writes a second copy of everything to its cache. Here the archive is walked once; a plain .tar is
then read in place, and of a compressed one the encoded images are kept in memory. Nothing is extracted.
"""

from __future__ import annotations

import json
import lzma
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from typing import Any

from noisette.data.folder import inside
from noisette.data.images import SUFFIXES, CorruptImage
from noisette.data.source import Row, Source, one_line, text_in
from noisette.errors import UserError

__all__ = ["TAR_SUFFIXES", "tar_source"]

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_SIDE_BYTES = 1 << 20  # of a caption, label or JSON member
MAX_HELD_BYTES = 4 << 30  # of compressed archives, which are held in memory
log = getLogger(__name__)


@dataclass
class _Example:
    image: Any = None  # bytes, or (archive, offset, size)
    name: str = ""
    side: dict[str, bytes] = field(default_factory=dict[str, bytes])


def tar_source(paths: Sequence[Path], text_field: str | None, label_field: str | None) -> Source:
    """The examples of one or more archives, in their order.

    A label is, in this order: the .cls member (a number or a name), the field "label" (or `label_field`)
    of the .json member, the member's folder where all images lie in two or more folders. A caption is the
    .txt member or a field of the .json member.

    Raises:
        UserError: truncated or damaged, no image in it, a member that cannot be read as what it says it
            is, a caption or label above 1 MiB, compressed images of more than 4 GiB.
    """
    held = 0
    rows: list[Row] = []
    for path in paths:
        examples, held = _walk(path, held)
        rows += [_row(path, e, text_field, label_field) for e in examples if e.image is not None]
    if not rows:
        raise UserError(f"{', '.join(map(str, paths))}: no image ({' '.join(SUFFIXES)}) in the archive")
    folders = {row.name.rpartition("/")[0] for row in rows}
    if len(folders) > 1 and "" not in folders and all(row.label is None for row in rows):
        rows = [row._replace(label=row.name.rpartition("/")[0]) for row in rows]
    return Source(", ".join(map(str, paths)), rows, read_member)


def read_member(row: Row) -> bytes:
    """The encoded image of a row, from memory or from its place in a plain archive."""
    if isinstance(row.place, bytes):
        return row.place
    path, offset, size = row.place
    try:
        # opened per read: no handle is shared between worker processes
        with Path(path).open("rb") as file:
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise CorruptImage(f"cannot be read ({error.strerror or error})") from None


def _walk(path: Path, held: int) -> tuple[list[_Example], int]:
    examples: dict[str, _Example] = {}
    try:
        with path.open("rb") as file:
            packed = file.read(262)[257:262] != b"ustar"
        with tarfile.open(path, "r:*" if packed else "r:") as archive:
            while (member := archive.next()) is not None:
                held += _add(archive, member, path, packed, examples)
                if held > MAX_HELD_BYTES:
                    raise UserError(f"{path}: over 4 GiB of compressed images; unpack it to a .tar")
                archive.members.clear()  # pyright: ignore  # a million of them would be a gigabyte
            _check_end(archive, path, packed)
    except UserError:
        raise
    except (tarfile.TarError, ValueError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise UserError(f"{path}: the archive is truncated or damaged ({one_line(error)})") from None
    return list(examples.values()), held


def _check_end(archive: tarfile.TarFile, path: Path, packed: bool) -> None:
    # tarfile takes a damaged or half header for the end; a whole archive ends with a block of zeros
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(512) != bytes(512):
        raise UserError(f"{path}: the archive is truncated or damaged at byte {archive.offset}")
    while packed and archive.fileobj.read(1 << 20):
        pass  # the compression's checksum is compared at its very end


def _add(
    archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, packed: bool, examples: dict[str, _Example]
) -> int:
    """Take a member into its example; returns how many bytes of image are now held in memory for it."""
    name = member.name.removeprefix("./")
    folder, _, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    if not inside(name) or not member.isfile():
        if not member.isdir():
            log.warning("%s: member %r is passed over: not a plain file below the archive", path, name)
        return 0
    if not stem or not extension:
        return 0
    example = examples.setdefault(f"{folder}/{stem}", _Example())
    extension = extension.lower()
    if f".{extension.rpartition('.')[2]}" in SUFFIXES:
        if example.image is not None:
            return 0
        example.name = name
        if packed or member.issparse():
            example.image = _content(archive, member)
            return len(example.image)
        example.image = (str(path), member.offset_data, member.size)
    elif extension in ("txt", "cls", "json"):
        if member.size > MAX_SIDE_BYTES:
            raise UserError(f"{path}: member {name} holds {member.size} bytes, at most 1 MiB is read")
        example.side[extension] = _content(archive, member)
    return 0


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def _row(path: Path, example: _Example, text_field: str | None, label_field: str | None) -> Row:
    try:
        fields = json.loads(example.side["json"]) if "json" in example.side else {}
        text = example.side["txt"].decode() if "txt" in example.side else None
        label = example.side["cls"].decode().strip() if "cls" in example.side else None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: the text beside {example.name} cannot be read ({one_line(error)})"
        ) from None
    if not isinstance(fields, dict):
        raise UserError(f"{path}: the .json beside {example.name} is not an object")
    if label is None:
        label = fields.get(label_field or "label")
    elif label.lstrip("-").isdecimal():
        label = int(label[:20])
    if isinstance(label, bool) or not isinstance(label, int | str | None):
        raise UserError(f"{path}: label {label!r} of {example.name} is no name and no whole number")
    text = text.strip() if text is not None else text_in(fields, text_field)
    return Row(example.name, label=label, text=text, place=example.image, fields=fields or None)
