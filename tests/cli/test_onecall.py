"""The commands of a model that draws in one call."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from noisette.cli import main
from noisette.hub import read_settings
from noisette.hub.generator import GeneratorSpec
from noisette.models import Generator
from noisette.nets.adversarial import ResGeneratorConfig
from noisette.nets.flow import GlowConfig

DIGITS = tuple("0123456789")
Typed = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """A command line in a folder with a GAN of digits, a flow of two classes of 8 x 8, and such images."""
    monkeypatch.chdir(tmp_path)
    for name, net, labels in (
        ("gan", ResGeneratorConfig(32, 1, 4, (4, 4), norm_groups=4), DIGITS),
        ("flow", GlowConfig(image_size=8, steps=1, widths=(4,), num_classes=2), ("dark", "light")),
    ):
        spec = GeneratorSpec(name, net, labels)
        Generator(spec, spec.build()).save(name if name == "gan" else "run/model")
    random = np.random.default_rng(0)
    for k, name in enumerate(("dark", "light")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(6):
            pixels = random.integers(0, 128, (8, 8), dtype=np.uint8) + 128 * k
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / name / f"{i}.png")

    def run(line: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(shlex.split(line))
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_sheet_and_a_folder_hold_the_same_pictures(typed: Typed) -> None:
    code, out, _ = typed("sample gan -o sheet.png -n 20 --seed 3")
    assert code == 0 and "20 pictures, seeds 3 to 22" in out
    settings = read_settings("sheet.png")
    assert settings["labels"] == [*range(10)] * 2 and settings["columns"] == 10
    assert settings["temperature"] == 1.0 and "num_inference_steps" not in settings
    assert Image.open("sheet.png").size == (10 * 34 - 2, 2 * 34 - 2)
    assert typed("sample gan -o folder -n 2 --label 7 --seed 10 --batch-size 1")[0] == 0
    rows = [json.loads(line) for line in Path("folder/metadata.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["label"]) for row in rows] == [(10, "7"), (11, "7")]
    sheet = np.asarray(Image.open("sheet.png"), dtype=int)
    alone = np.asarray(Image.open("folder/000000.png"), dtype=int)
    assert np.abs(sheet[:32, 7 * 34 : 7 * 34 + 32] - alone).max() <= 1


def test_the_folder_of_a_run_is_a_model_and_temperature_is_heard(typed: Typed) -> None:
    for name, heat in (("a", 0), ("b", 0), ("c", 1)):
        assert (
            typed(f"sample run -o {name}.png -n 1 --seed {heat} --label light --temperature {heat}")[0] == 0
        )
    a, b, c = (np.asarray(Image.open(f"{name}.png")) for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_digits_are_judged(typed: Typed) -> None:
    assert typed("evaluate gan -n 20 --json found.json")[0] == 0
    found = json.loads(Path("found.json").read_text())
    assert found["pictures"] == 20 and found["frechet_to_60000"] > 10 and "num_inference_steps" not in found


def test_a_flow_says_how_likely_images_are(typed: Typed) -> None:
    code, out, _ = typed("evaluate run --data images --bits-per-dim --json found.json")
    found = json.loads(Path("found.json").read_text())
    assert code == 0 and "bits per dim" in out and found["bits_images"] == 12
    # New, it turns and scales nothing: N(0, I) over pixels uniform in half of [-1/2, 1/2).
    assert found["bits_per_dim"] == pytest.approx(8 + (np.log(2 * np.pi) + 1 / 12) / 2 / np.log(2), abs=0.02)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("sample gan -o x.png --steps 3 --solver ddim", "in one call of its network: leave --steps"),
        ("sample gan -o x.png --guidance-scale 2", "leave --guidance-scale out"),
        ("sample gan -o x.png --size 64", "leave --size out"),
        ("sample digits -o x.png --temperature 0.5", "digits is a diffusion model: leave --temperature out"),
        ("evaluate gan --steps 3 --guidance-scale 2", "leave --steps, --guidance-scale out"),
        ("evaluate gan --data images --bits-per-dim", "0, 1, 2"),
        ("sample gan -o x.png --label 11", "knows no label '11'"),
        ("sample nowhere -o x.png", "there is no model 'nowhere'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_in_one_line(typed: Typed, line: str, told: str) -> None:
    code, _, err = typed(line)
    assert code == 2 and told in err and len(err.strip().splitlines()) == 1
    assert not Path("x.png").exists()
