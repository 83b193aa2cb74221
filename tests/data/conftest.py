"""Tiny images, and the arrays they are made of."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def png() -> Callable[..., bytes]:
    """`png(k)`: the bytes of an 8 x 8 RGB PNG whose pixels are all different for different k."""

    def make(k: int, width: int = 8, height: int = 8) -> bytes:
        pixels = np.random.default_rng(k).integers(0, 256, (height, width, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    return make


@pytest.fixture
def folder(tmp_path: Path, png: Callable[..., bytes]) -> Callable[..., Path]:
    """`folder(n)`: a folder of n such images, 000.png and so on."""

    def make(n: int, name: str = "images") -> Path:
        root = tmp_path / name
        root.mkdir()
        for k in range(n):
            (root / f"{k:03d}.png").write_bytes(png(k))
        return root

    return make
