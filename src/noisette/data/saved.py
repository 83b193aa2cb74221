"""Data sets saved by Hugging Face `datasets` (`save_to_disk`): memory-mapped where they lie."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from noisette.data.images import CorruptImage
from noisette.data.source import TEXT_FIELDS, Row, Source, one_line
from noisette.errors import UserError

__all__ = ["is_saved", "saved_source"]


def is_saved(folder: Path) -> bool:
    """Whether `folder` was written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def saved_source(folder: Path, split: str | None, text_field: str | None, label_field: str | None) -> Source:
    """The rows of a saved data set; a ClassLabel column fixes the order of the class names.

    Raises:
        UserError: damaged, no such split, no image column, or a chosen column that is not there.
    """
    import datasets

    try:
        table: Any = datasets.load_from_disk(str(folder))
    except Exception as error:  # arrow, json and fsspec each bring errors of their own
        raise UserError(f"{folder}: not a readable saved data set ({one_line(error)})") from None
    if isinstance(table, datasets.DatasetDict):
        split = split or "train"
        if split not in table:
            raise UserError(f"{folder}: no split {split!r}; there are {', '.join(map(str, table))}")
        table = table[split]
    features = table.features
    image = next((name for name, f in features.items() if isinstance(f, datasets.Image)), None)
    if image is None:
        raise UserError(f"{folder}: no image column among {', '.join(features)}")
    for chosen in (text_field, label_field):
        if chosen is not None and chosen not in features:
            raise UserError(f"{folder}: no column {chosen!r}; there are {', '.join(features)}")
    classes = next((name for name, f in features.items() if isinstance(f, datasets.ClassLabel)), "label")
    label_field = label_field or classes
    text_field = text_field or next((name for name in TEXT_FIELDS if name in features), None)
    table = table.cast_column(image, datasets.Image(decode=False))
    count = len(table)
    found = table[label_field][:] if label_field in features else [None] * count
    texts = table[text_field][:] if text_field else [None] * count
    rows = [Row(f"row {i}", label=found[i], text=texts[i], place=i) for i in range(count)]
    names = getattr(features.get(label_field), "names", None)
    return Source(str(folder), rows, partial(_read, table, image), labels=tuple(names) if names else None)


def _read(table: Any, column: str, row: Row) -> bytes:
    cell = table[row.place][column]
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise CorruptImage("empty")
    try:
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
    except OSError as error:
        raise CorruptImage(f"cannot be read ({error.strerror or error})") from None
