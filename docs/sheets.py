"""Sheets of small pictures with words above their rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from noisette.data import to_pil

IMAGES = Path(__file__).resolve().parent / "images"
GREY = 136
GAP, LINE, SCALE = 2, 24, 2

Row = tuple[str, Tensor]


def laid_out(rows: Sequence[Row], scale: int = SCALE) -> Image.Image:
    """Rows of images [N, C, H, W] in [-1, 1], each with its name above it, enlarged, on nothing."""
    sides = [(images.shape[-1] * scale, images.shape[-2] * scale) for _, images in rows]
    width = max(len(images) * (wide + GAP) - GAP for (_, images), (wide, _) in zip(rows, sides, strict=True))
    channels = rows[0][1].shape[1]
    size = width, sum(tall + LINE for _, tall in sides)
    picture = Image.new("LA" if channels == 1 else "RGBA", size, (0,) * (channels + 1))
    draw, font, top = ImageDraw.Draw(picture), ImageFont.load_default(15), 0
    for (label, images), (wide, tall) in zip(rows, sides, strict=True):
        draw.text((1, top + LINE // 2), label, (*[GREY] * channels, 255), font, anchor="lm")
        for k, image in enumerate(to_pil(images, batch=True)):
            picture.paste(
                image.resize((wide, tall), Image.Resampling.NEAREST), (k * (wide + GAP), top + LINE)
            )
        top += tall + LINE
    return picture


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two sheets next to each other."""
    size = left.width + LINE + right.width, max(left.height, right.height)
    picture = Image.new(left.mode, size, (0,) * len(left.getbands()))
    picture.paste(left, (0, 0))
    picture.paste(right, (left.width + LINE, 0))
    return picture


def keep(picture: Image.Image, name: str) -> None:
    """Write a sheet among the images of the documentation."""
    picture.save(IMAGES / name, optimize=True)


def sheet(rows: Sequence[Row], name: str, scale: int = SCALE) -> None:
    """Lay rows out and keep them."""
    keep(laid_out(rows, scale), name)
