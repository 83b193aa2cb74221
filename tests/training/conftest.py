"""A tiny recipe and tiny images: a run of ten steps takes a blink."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from noisette.core import IndexTime, V
from noisette.models import ModelSpec
from noisette.nets import UNetConfig
from noisette.schedules import CosineVP
from noisette.training import Recipe, Rows, Simple

TINY = UNetConfig(
    in_channels=1,
    out_channels=1,
    model_channels=8,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_levels=(),
    norm_groups=4,
    num_classes=2,
    dropout=0.1,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, here and in the processes that a test starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is kept on disk goes with the test; images are made by this process alone."""
    monkeypatch.setenv("NOISETTE_CACHE", str(tmp_path / "cache"))
    for module in ("setup", "denoising"):
        monkeypatch.setattr(f"noisette.training.{module}.cores", lambda: 0)
    return tmp_path / "cache"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of 8 x 8 pictures, 12 each."""
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for i in range(12):
            Image.fromarray(rng.integers(low, low + 128, (8, 8), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def tiny() -> Callable[..., Recipe]:
    """A recipe for those pictures: `tiny(steps=..., net={...}, spec={...})`, other fields as given."""

    def make(net: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **changes: Any) -> Recipe:
        fields: dict[str, Any] = {
            "name": "tiny",
            "net": replace(TINY, **(net or {})),
            "schedule": CosineVP(100),
            "parameterization": V(),
            "time": IndexTime(100),
            "image_size": 8,
            "channels": 1,
            "labels": ("dark", "light"),
        }
        recipe = Recipe(
            spec=ModelSpec(**{**fields, **(spec or {})}),
            objective=Simple(times=Rows(100)),
            steps=20,
            batch_size=8,
            warmup=4,
            decay="cosine",
            ema=0.99,
            flip=True,
            precision="fp32",
            sample_every=0,
            checkpoint_every=0,
        )
        return replace(recipe, **changes)

    return make
