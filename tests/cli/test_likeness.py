"""``noisette evaluate --data``: the numbers tell new pictures, copies and bad pictures apart."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from noisette.cli import main
from noisette.cli.likeness import likeness_figures
from noisette.core import IndexTime, V
from noisette.errors import UserError
from noisette.models import Model, ModelSpec
from noisette.models.model import Output
from noisette.nets import UNetConfig
from noisette.pixels import to_uint8
from noisette.scenes.dataset import SceneDataset
from noisette.schedules import CosineVP
from noisette.training.kept import KeptImages

COUNT, N = 320, 100


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    return SceneDataset(16, samples=1).fetch(range(COUNT + N))["image"]


@pytest.fixture
def data(scenes: Tensor) -> KeptImages:
    texts = [f"scene {k}" for k in range(COUNT)]
    return KeptImages("pictures", to_uint8(scenes[:COUNT]), {"text": texts}, None, "pictures")


class Painter:
    """A model that answers prompts with pictures it has at hand, and remembers what it was asked."""

    def __init__(self, pictures: Tensor) -> None:
        self.pictures, self.asked = pictures, list[str]()
        self.spec = SimpleNamespace(name="painter", text="reads", labels=None)

    def generate(self, prompt: list[str], *, seed: int, output_type: str, **options: Any) -> Output:
        first = len(self.asked)
        self.asked += prompt
        settings = {"num_inference_steps": 1, "solver": "eye", "grid": "none", "guidance_scale": 1.0}
        images = self.pictures[first : first + len(prompt)]
        return Output(images, tuple(range(len(prompt))), None, {**settings, "guidance_rescale": 0.0})


def figures_of(pictures: Tensor, data: Any, n: int = N) -> dict[str, Any]:
    painter: Any = Painter(pictures)
    found = likeness_figures(painter, data, n, 0, {})
    assert len(set(painter.asked)) == n and set(painter.asked) <= set(data.told["text"])
    return found


def test_new_pictures_of_the_same_kind_are_as_far_as_real_ones_and_no_copies(
    scenes: Tensor, data: KeptImages
) -> None:
    found = figures_of(scenes[COUNT:], data)
    assert found["frechet"] == pytest.approx(found["real_frechet"], rel=0.25)
    assert found["copies_in_pixels"] <= found["real_copies_in_pixels"] + 3
    assert (found["pictures"], found["held_against"]) == (N, COUNT)


def test_copies_are_counted_with_the_images_they_copy(scenes: Tensor, data: KeptImages) -> None:
    noisy = scenes[40:50].repeat(10, 1, 1, 1) + 0.01 * torch.randn(N, 3, 16, 16)
    found = figures_of(noisy.clamp(-1, 1), data)
    for space in ("pixels", "features"):
        assert found[f"copies_in_{space}"] == N
        assert found[f"images_copied_in_{space}"] == 10
        assert found[f"real_copies_in_{space}"] < N / 2
    assert found["frechet"] > found["real_frechet"]  # ten pictures are no world


def test_worse_pictures_are_farther(scenes: Tensor, data: KeptImages) -> None:
    fine = scenes[COUNT:]
    blurred = torch.nn.functional.avg_pool2d(fine, 3, 1, 1, count_include_pad=False)
    assert figures_of(blurred, data)["frechet"] > 2 * figures_of(fine, data)["frechet"]


def test_too_few_real_pictures_are_told(scenes: Tensor, data: KeptImages) -> None:
    with pytest.raises(UserError, match="n others, of 320: take -n from 100 to 160"):
        likeness_figures(Painter(scenes), data, 161, 0, {})  # pyright: ignore[reportArgumentType]
    few = KeptImages("few", data.images[:40], {}, None, "few")
    with pytest.raises(UserError, match=r"few: n pictures .* of 40: at least 200 are needed"):
        likeness_figures(Painter(scenes), few, None, 0, {})  # pyright: ignore[reportArgumentType]
    silent = KeptImages("silent", data.images, {}, None, "silent")
    with pytest.raises(UserError, match="these images have none"):
        likeness_figures(Painter(scenes), silent, N, 0, {})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("labels", [None, ("ant", "bee")])
def test_any_model_is_compared_with_a_folder(
    labels: tuple[str, ...] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    net = UNetConfig(1, 1, model_channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(),
                     norm_groups=4, num_classes=labels and len(labels))  # fmt: skip
    Model.new(ModelSpec("tiny", net, CosineVP(steps=100), V(), IndexTime(100), 16, 1, labels)).save("tiny")
    rng = np.random.default_rng(0)
    for k in range(204):
        folder = Path("data") / ("ant", "bee")[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(folder / f"{k}.png")
    assert main(["evaluate", "tiny", "--data", "data", "--steps", "1", "--json", "found.json"]) == 0
    found = json.loads(Path("found.json").read_text())
    assert (found["pictures"], found["held_against"], found["num_inference_steps"]) == (102, 204, 1)
    assert found["frechet"] > found["real_frechet"]  # it has learned nothing
    assert "real frechet" in capsys.readouterr().out
