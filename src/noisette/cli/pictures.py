"""What the commands that draw pictures share: where pictures go, and how."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from noisette.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

__all__ = ["TABLE", "check_sheet", "is_folder", "metadata", "read_picture", "summary", "write_sheet"]

# 64 megapixels: beyond it a picture of pictures helps nobody, and most programs refuse it.
MOST_PIXELS = 2**26
TABLE = "metadata.jsonl"
OTHER_FORMATS = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".svg", ".pdf")


def is_folder(out: Path) -> bool:
    """Whether pictures go into a folder of that name, or into a PNG. Raises UserError for other formats."""
    if out.is_dir():
        return True
    if out.suffix.lower() in OTHER_FORMATS:
        raise UserError(f"{out}: pictures are written as PNG: take a name that ends in .png, or a folder")
    return out.suffix.lower() != ".png"


def read_picture(path: str | Path, channels: Literal[1, 3] = 3) -> Image:
    """A picture in grey or color, upright. Raises UserError for what is none."""
    from noisette.data.images import CorruptImage, decode

    # A path may come from a stranger's picture, and a device would be read for ever.
    if not Path(path).is_file():
        raise UserError(f"there is no picture {path}")
    try:
        return decode(Path(path).read_bytes(), channels)
    except CorruptImage as error:
        raise UserError(f"{path}: {error}") from None


def check_sheet(out: Path, n: int, width: int, height: int) -> None:
    """Raises UserError for more pictures than one sheet can hold."""
    if n * width * height > MOST_PIXELS:
        raise UserError(f"{n} pictures do not fit into one: give a folder, -o {out.with_suffix('')}/")


def write_sheet(out: Path, images: Sequence[Tensor], columns: int, settings: Mapping[str, Any]) -> None:
    """One PNG of batches of images [N, C, H, W] in [-1, 1], with their settings."""
    import torch

    from noisette.data.images import to_pil
    from noisette.hub.png import write_png
    from noisette.training.samples import tile

    image = to_pil(tile(torch.cat(list(images)), columns))
    write_png(out, image, settings)  # pyright: ignore[reportArgumentType]


@contextmanager
def metadata(folder: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Write the metadata.jsonl that makes a folder a data set: call what it gives with each row."""
    from noisette.files import atomic_write

    with atomic_write(folder / TABLE) as table, table.open("w", encoding="utf-8") as lines:
        yield lambda row: print(json.dumps(row), file=lines)


def summary(out: object, seeds: Sequence[int], spent: float) -> str:
    """What a person reads when pictures are done."""
    shown = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    return f"{out}: {len(seeds)} picture{'s' * (len(seeds) > 1)}, {shown}, {spent:.1f} s"
