from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from noisette.data import to_pil
from noisette.data.images import CorruptImage, decode, fit_square, to_array
from noisette.pixels import from_uint8, to_uint8


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_every_level_survives_the_round_trip() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    x = from_uint8(levels)
    assert x.dtype == torch.float32
    assert (x[0], x[255]) == (-1.0, 1.0)
    assert torch.equal(to_uint8(x), levels)
    assert torch.equal(to_uint8(x.double()), levels)


def test_storing_rounds_and_clips() -> None:  # trap 24
    step = 2 / 255
    x = torch.tensor([-1.5, -1.0, -1.0 + 0.49 * step, -1.0 + 0.51 * step, 1.0 - 0.49 * step, 1.0, 7.0])
    assert to_uint8(x).tolist() == [0, 0, 0, 1, 255, 255, 255]
    assert to_uint8(torch.tensor([float("inf"), -float("inf")])).tolist() == [255, 0]
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.tensor([float("nan")]))


def test_to_pil_keeps_pixels_and_batches() -> None:
    pixels = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    images = to_pil(from_uint8(pixels))
    assert isinstance(images, list)
    assert [image.size for image in images] == [(7, 5)] * 2
    assert torch.equal(torch.from_numpy(to_array(images[1]).copy()), pixels[1])
    grey = to_pil(from_uint8(pixels[0, :1]))
    assert isinstance(grey, Image.Image)
    assert grey.mode == "L"
    with pytest.raises(ValueError, match=r"\[2, 5, 7\]"):
        to_pil(torch.zeros(2, 5, 7))


def test_transparency_is_laid_over_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0] = 200
    rgba[0, :, 3] = (0, 51, 255)
    out = np.asarray(decode(encoded(Image.fromarray(rgba)), 3))[0]
    assert out[0].tolist() == [255, 255, 255]
    assert out[1].tolist() == [244, 204, 204]  # 0.2 of the colour, 0.8 of white
    assert out[2].tolist() == [200, 0, 0]


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    out = np.asarray(decode(encoded(image, transparency=0), 3))[0]
    assert out.tolist() == [[255, 255, 255], [40, 50, 60]]


def test_exif_orientation_is_applied() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying; shown turned by 90 degrees clockwise
    out = decode(encoded(Image.fromarray(pixels), exif=exif), 3)
    assert np.array_equal(np.asarray(out), np.rot90(pixels, -1))


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    image = Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16))
    assert np.asarray(decode(encoded(image), 1)).tolist() == [[0, 100, 255]]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_other_formats(kind: str) -> None:
    out = decode(encoded(Image.new("RGB", (9, 5), (200, 30, 60)), kind, quality=95), 3)
    assert np.abs(np.asarray(out).astype(int) - (200, 30, 60)).max() <= 4
    assert decode(encoded(Image.new("RGB", (9, 5), (255, 255, 255)), kind), 1).mode == "L"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("side", [9_000, 50_000])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))
    with pytest.raises(CorruptImage, match="image bomb"):
        decode(bomb + chunk(b"IEND", b""))


def test_truncated_and_foreign_bytes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "WEBP"):
        whole = encoded(Image.fromarray(noise), kind)
        with pytest.raises(CorruptImage):
            decode(whole[: len(whole) // 2])
    with pytest.raises(CorruptImage, match="not a PNG"):
        decode(b"")
    with pytest.raises(CorruptImage, match="not a PNG"):
        decode(encoded(Image.new("RGB", (2, 2)), "GIF"))


@given(st.integers(0, 2**32 - 1), st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_flipped_bytes_decode_or_are_corrupt(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(encoded(Image.new("RGB", (16, 16), (1, 2, 3)), kind))
    for position in rng.integers(0, len(data), 6):
        data[position] = rng.integers(256)
    try:
        decode(bytes(data), 3)
    except CorruptImage as error:
        assert "\n" not in str(error)


def test_crop_takes_the_centre_and_antialiases() -> None:
    image = np.zeros((4, 10), np.uint8)
    image[:, 3:7] = np.arange(16).reshape(4, 4) * 10
    assert np.array_equal(np.asarray(fit_square(Image.fromarray(image), 4)), image[:, 3:7])
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    small = np.asarray(fit_square(Image.fromarray(stripes), 8))[:, 1:-1]
    assert abs(small.astype(float) - 127.5).max() < 20  # without antialiasing: all 0 or all 255


def test_pad_adds_zeros_and_never_resamples() -> None:
    digit = np.random.default_rng(0).integers(1, 256, (28, 28), dtype=np.uint8)
    out = np.asarray(fit_square(Image.fromarray(digit), 32, "pad"))
    assert np.array_equal(out, np.pad(digit, 2))
    wide = np.asarray(fit_square(Image.new("L", (64, 16), 9), 32, "pad"))
    assert (wide[12:20] == 9).all()
    assert wide.sum() == 8 * 32 * 9


def test_an_extreme_shape_is_fitted_without_blowing_up() -> None:
    assert fit_square(Image.new("L", (50_000, 1)), 64).size == (64, 64)
    assert fit_square(Image.new("L", (50_000, 1)), 64, "pad").size == (64, 64)
