"""What every layout is read into: named rows, and one function that fetches the pixels of a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noisette.errors import UserError

__all__ = ["MAX_CLASSES", "Row", "Source", "label_ids", "one_line", "text_in"]

MAX_CLASSES = 1_000_000
TEXT_FIELDS = ("text", "caption", "prompt")
NO_FIELDS: Mapping[str, Any] = MappingProxyType({})


def one_line(error: BaseException) -> str:
    """What a foreign error says, in its first line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


class Row(NamedTuple):
    """One example before decoding. A `Path` as text is a caption file that is read when it is wanted."""

    name: str
    label: int | str | None = None
    text: str | Path | None = None
    place: Any = None
    fields: dict[str, Any] | None = None


@dataclass(frozen=True)
class Source:
    """The rows of a data set and `read(row)`, the encoded bytes of its image.

    `pixels` [N, H, W] is set where the layout stores bare pixels, and `read` is then unused; `labels`
    where the layout itself fixes the order of the class names.
    """

    origin: str
    rows: Sequence[Row]
    read: Callable[[Row], bytes] = field(repr=False)
    labels: tuple[str, ...] | None = None
    pixels: NDArray[np.uint8] | None = field(default=None, repr=False)


def text_in(fields: Mapping[str, Any], text_field: str | None) -> str | None:
    """The caption among `fields`: `text_field` where given, else the first of text, caption, prompt."""
    names = TEXT_FIELDS if text_field is None else (text_field,)
    return next((str(fields[name]) for name in names if fields.get(name) is not None), None)


def label_ids(source: Source, labels: Sequence[str] | None) -> tuple[Tensor, tuple[str, ...]] | None:
    """Class numbers [N] (int64, -1 where a row has none) and class names, or None without any label.

    Names given by the caller or fixed by the layout set the order; otherwise names are sorted, and plain
    numbers stand for themselves.

    Raises:
        UserError: a label outside `labels`, a negative or absurd number, numbers mixed with names.
    """
    found = {row.label for row in source.rows} - {None}
    if not found:
        if labels is not None:
            raise UserError(f"{source.origin}: labels were given, but the images have none")
        return None
    names = tuple(labels) if labels is not None else source.labels
    numbers = [label for label in found if isinstance(label, int)]
    words = [label for label in found if isinstance(label, str)]
    if numbers and words:
        raise UserError(f"{source.origin}: labels mix numbers and names ({numbers[0]}, {words[0]!r})")
    if names is None:
        if numbers and not 0 <= max(numbers) < MAX_CLASSES:
            raise UserError(f"{source.origin}: label {max(numbers)} is not in 0..{MAX_CLASSES - 1}")
        names = tuple(sorted(words)) if words else tuple(map(str, range(max(numbers) + 1)))
    if len(set(names)) != len(names):
        raise UserError(f"{source.origin}: a class is named twice in labels={names}")
    index: dict[int | str | None, int] = {name: i for i, name in enumerate(names)}
    index |= {i: i for i in range(len(names))} | {None: -1}
    for row in source.rows:
        if row.label not in index:
            known = f"the {len(names)} classes " + ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
            raise UserError(f"{source.origin}: label {row.label!r} of {row.name} is none of {known}")
    return torch.tensor([index[row.label] for row in source.rows]), names
