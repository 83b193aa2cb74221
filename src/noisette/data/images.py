"""Bytes to pixels and back: decoding that refuses what it should, and fitting to a square."""

from __future__ import annotations

import io
from typing import Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from noisette.data.source import one_line
from noisette.pixels import to_uint8

__all__ = ["MAX_PIXELS", "CorruptImage", "Fit", "decode", "fit_square", "to_pil"]

Fit = Literal["crop", "pad"]
FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_PIXELS = 64_000_000


class CorruptImage(Exception):
    """One image that cannot be used; the message is the reason, in a few words."""


def decode(data: bytes, channels: Literal[1, 3] = 3) -> Image.Image:
    """Decode PNG, JPEG or WebP bytes to an upright "L" (1 channel) or "RGB" (3 channels) image.

    EXIF orientation is applied, transparency is laid over white, 16-bit grey is rounded to 8 bits, and
    of an animation the first frame is taken.

    Raises:
        CorruptImage: not an image, damaged, or an image bomb: above `MAX_PIXELS` (64 million) pixels by
            its header, refused before a pixel is decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise CorruptImage(f"image bomb: {width} x {height} pixels, at most {MAX_PIXELS} allowed")
            return _flatten(ImageOps.exif_transpose(image), channels)
    except (CorruptImage, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise CorruptImage(f"image bomb: more than {MAX_PIXELS} pixels") from None
    except Exception as error:  # decoders meet hostile bytes with struct, index, type and other errors
        reason = one_line(error)
        if "cannot identify" in reason:
            reason = "not a PNG, JPEG or WebP image"
        raise CorruptImage(reason) from None


def _flatten(image: Image.Image, channels: Literal[1, 3]) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit PNG; Pillow's own conversion to "L" clips at 255
        grey = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def fit_square(image: Image.Image, size: int, fit: Fit = "crop") -> Image.Image:
    """Make `image` a `size` x `size` square.

    "crop": the largest centred square, resampled once (bicubic, antialiased) to `size`.
    "pad":  never enlarged and never cropped; shrunk (antialiased) where a side exceeds `size`, then
            centred on zeros, so a 28 x 28 digit gains a border of exactly 2 pixels at size 32.
    """
    if image.size == (size, size):
        return image
    if fit == "crop":
        return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    image = image.copy()
    image.thumbnail((size, size), Image.Resampling.BICUBIC, reducing_gap=None)
    canvas = Image.new(image.mode, (size, size))
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return canvas


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """An "L" or "RGB" image as uint8 [C, H, W]."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


@overload
def to_pil(x: Tensor) -> Image.Image | list[Image.Image]: ...
@overload
def to_pil(x: Tensor, *, batch: Literal[True]) -> list[Image.Image]: ...
def to_pil(x: Tensor, *, batch: bool = False) -> Image.Image | list[Image.Image]:
    """A Pillow image from [C, H, W] in [-1, 1], or a list of them from [B, C, H, W]; C is 1, 3 or 4.

    uint8 input is taken as it is. `batch=True` always returns a list.

    Raises:
        ValueError: another shape.
    """
    if x.ndim == 4:
        return [_one(image) for image in x]
    return [_one(x)] if batch else _one(x)


def _one(x: Tensor) -> Image.Image:
    if x.ndim != 3 or x.shape[0] not in (1, 3, 4):
        raise ValueError(f"an image is [C, H, W] with C of 1, 3 or 4, not {list(x.shape)}")
    pixels = (x if x.dtype == torch.uint8 else to_uint8(x)).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
