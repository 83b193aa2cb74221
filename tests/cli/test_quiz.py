"""``noisette evaluate`` of text-to-image models and autoencoders: the table tells the good from the bad."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from noisette.cli import main
from noisette.cli.quiz import rebuilt_figures, scenes_figures
from noisette.errors import UserError
from noisette.models import Autoencoder, AutoencoderSpec
from noisette.models.model import Output
from noisette.nets.vae import AutoencoderKL, AutoencoderKLConfig
from noisette.scenes.quiz import quiz, true_pictures

COUNT = 12


class Painter:
    """A model that draws what its captions were told of, or the scenes of other captions."""

    codec = None
    spec = SimpleNamespace(name="painter", image_size=64)

    def __init__(self, *, knows: bool = True, draws: str = "what is asked") -> None:
        self.texts = SimpleNamespace(unknown=lambda text: {} if knows else {"cube": []})
        questions = [*quiz("test", COUNT), *quiz("novel", COUNT)]
        pictures = true_pictures(questions)
        if draws == "something else":
            pictures = pictures.roll(1, 0)
        self.pictures = {q.text: picture for q, picture in zip(questions, pictures, strict=True)}

    def generate(self, prompt: list[str], *, seed: int, output_type: str, **options: Any) -> Output:
        settings = {"num_inference_steps": 1, "solver": "eye", "grid": "none", "guidance_scale": 1.0}
        images = torch.stack([self.pictures[one] for one in prompt])
        return Output(images, tuple(range(len(prompt))), None, {**settings, "guidance_rescale": 0.0})


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def figures_of(**options: Any) -> dict[str, Any]:
    return scenes_figures(Painter(**options), COUNT, 0, {})  # pyright: ignore[reportArgumentType]


def test_a_model_that_draws_the_truth_reaches_the_ceiling() -> None:
    figures = figures_of()
    for split in ("test", "novel"):
        for marks in figures[split].values():
            assert marks["right"] == marks["ceiling"] >= 0.5
            assert marks["of_ceiling"] == 1.0
    assert abs(figures["frechet"]) < 1e-3 < figures["frechet_floor"]


def test_a_model_that_draws_other_scenes_fails() -> None:
    right, wrong = figures_of(), figures_of(draws="something else")
    assert wrong["test"]["everything"]["right"] <= 1 / COUNT < right["test"]["everything"]["right"]
    assert wrong["novel"]["two objects"]["right"] == 0.0


def test_a_model_that_knows_no_words_of_scenes_is_told_so() -> None:
    with pytest.raises(UserError, match="painter does not know the words of scenes"):
        figures_of(knows=False)


def test_blur_costs_marks_and_decibels() -> None:
    def blur(images: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(images, 8), scale_factor=8)

    same, blurred = (rebuilt_figures(f, COUNT, 64) for f in (lambda x: x + 0.001, blur))
    assert same["psnr"] > 60 > 30 > blurred["psnr"]
    assert same["ssim"] > 0.999 > blurred["ssim"]
    assert same["marks"]["everything"]["of_ceiling"] == 1.0 > blurred["marks"]["everything"]["of_ceiling"]


def test_an_autoencoder_is_evaluated_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    config = AutoencoderKLConfig(block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, patch_size=4)
    config = replace(config, mid_block_add_attention=False)
    Autoencoder(AutoencoderSpec("small", config, 64), AutoencoderKL(config).eval()).save(tmp_path / "small")
    file = tmp_path / "figures.json"
    assert main(["evaluate", str(tmp_path / "small"), "-n", "4", "--json", str(file)]) == 0
    assert "PSNR" in capsys.readouterr().out
    assert '"psnr"' in file.read_text()
    assert main(["evaluate", str(tmp_path / "small"), "--steps", "9", "--data", str(tmp_path)]) == 2
    assert "is an autoencoder, which rebuilds scenes: leave --data, --steps out" in told(capsys)
