from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from noisette.errors import UserError
from noisette.hub.png import a1111, parse_a1111, pictures, read_settings, recover_settings, write_png

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
in_one_folder = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@in_one_folder
@given(
    st.dictionaries(st.text(max_size=10) | st.sampled_from(("prompt", "seed", "solver")), JSON, max_size=6)
)
def test_settings_come_back_as_they_were(tmp_path: Path, found: dict[str, Any]) -> None:
    path = write_png(tmp_path / "a.png", Image.new("L", (2, 3)), found)
    assert read_settings(path) == found


@in_one_folder
@given(st.binary(max_size=300), st.integers(0, 300))
def test_a_damaged_picture_gives_settings_or_a_user_error(tmp_path: Path, noise: bytes, at: int) -> None:
    path = write_png(tmp_path / "a.png", Image.new("L", (4, 4)), {"seed": 3})
    data = path.read_bytes()
    path.write_bytes(data[:at] + noise + data[at + len(noise) :])
    try:
        assert isinstance(read_settings(path), dict)
    except UserError as error:
        assert "\n" not in str(error)


def test_the_parameters_chunk_is_what_other_tools_read(tmp_path: Path) -> None:
    asked = {"prompt": "7", "num_inference_steps": 20, "solver": "ddim", "guidance_scale": 2.0, "seed": 5,
             "size": "32x32", "model": "digits", "eta": None}  # fmt: skip
    write_png(tmp_path / "a.png", Image.new("L", (2, 2)), asked)
    with Image.open(tmp_path / "a.png") as image:
        assert image.text["parameters"] == (
            "7\nSteps: 20, Sampler: ddim, CFG scale: 2.0, Seed: 5, Size: 32x32, Model: digits"
        )
        assert json.loads(image.text["noisette"]) == asked
    assert a1111({"prompt": "\ud800"}).startswith("?")


LINE = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\n"), max_size=30)


@given(
    LINE.filter(lambda line: not line.startswith("Negative prompt:")),
    LINE,
    st.integers(1, 999),
    st.sampled_from(("ddim", "dpmpp-2m", "euler-ancestral")),
    st.floats(-99, 99),
    st.integers(0, 2**63),
    LINE.filter(lambda line: line == line.strip() and line),
)
def test_the_parameters_chunk_comes_back(
    prompt: str, negative: str, steps: int, solver: str, scale: float, seed: int, model: str
) -> None:
    asked = {"prompt": prompt, "negative_prompt": negative, "num_inference_steps": steps,
             "solver": solver, "grid": "karras", "guidance_scale": scale, "seed": seed,
             "size": "64x32", "model": model}  # fmt: skip
    assert parse_a1111(a1111(asked)) == (asked, ())


@given(st.text(), st.text(st.sampled_from('StepsSeed: 0123,"\\xCFG nan-'), max_size=60))
def test_any_text_is_some_prompt(text: str, last: str) -> None:
    settings, foreign = parse_a1111(f"{text}\n{last}")
    assert isinstance(settings["prompt"], str) and all(isinstance(one, str) for one in foreign)
    assert parse_a1111(text.replace(":", ""))[0]["prompt"] == text.replace(":", "")


@pytest.mark.parametrize(
    ("sampler", "understood"),
    [
        ("Euler a", {"solver": "euler-ancestral"}),
        ("DPM++ 2M Karras", {"solver": "dpmpp-2m", "grid": "karras"}),
        ("DPM++ SDE", {"solver": "dpmpp-sde"}),
        ("DPM++ 2M, Schedule type: Karras", {"solver": "dpmpp-2m", "grid": "karras"}),
        ("DPM++ 2M, Schedule type: Automatic", {"solver": "dpmpp-2m"}),
        ("dpmpp-3m", {"solver": "dpmpp-3m"}),
    ],
)
def test_samplers_of_other_tools(sampler: str, understood: dict[str, str]) -> None:
    assert parse_a1111(f"a\nSteps: 9, Sampler: {sampler}") == (
        {"prompt": "a", "negative_prompt": "", "num_inference_steps": 9, **understood}, ())  # fmt: skip


def test_what_other_tools_say_and_we_do_not() -> None:
    text = (
        "a, b: c\nsecond line\nNegative prompt: x\ny: z\nSteps: 9, Sampler: DPM adaptive, Seed: -, Size: 1,"
    )
    text += ' Schedule type: Turbo, ENSD: 31337, Lora hashes: "a: b, c: d", Version: v1.9.0'
    assert parse_a1111(text) == (
        {"prompt": "a, b: c\nsecond line", "negative_prompt": "x\ny: z", "num_inference_steps": 9},
        ("Sampler DPM adaptive", "Seed -", "Size 1", "Schedule type Turbo", "ENSD 31337",
         "Lora hashes a: b, c: d", "Version v1.9.0"),
    )  # fmt: skip
    assert parse_a1111("a cat: sitting, seen: from afar")[0]["prompt"] == "a cat: sitting, seen: from afar"


def test_ours_goes_before_theirs(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", Image.new("L", (2, 2)), {"prompt": "x", "num_inference_steps": 3})
    assert recover_settings(path) == ({"prompt": "x", "num_inference_steps": 3}, None)


def test_pictures_without_settings_and_other_files_are_refused(tmp_path: Path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "plain.png")
    Image.new("L", (2, 2)).save(tmp_path / "photo.jpg")
    for name, message in (
        ("plain.png", "carries no noisette settings"),
        ("photo.jpg", "not a readable PNG"),
        ("none.png", "there is no picture"),
    ):
        with pytest.raises(UserError, match=message):
            read_settings(tmp_path / name)


def test_pixels_are_rounded_not_cut() -> None:
    levels = torch.arange(256.0).reshape(1, 1, 16, 16) / 127.5 - 1
    for shift in (-0.4, 0.0, 0.4):
        moved = levels + shift / 127.5
        assert torch.equal(pictures(moved, "uint8").flatten(), torch.arange(256, dtype=torch.uint8))
        assert np.array_equal(np.asarray(pictures(moved, "pil")[0]).ravel(), np.arange(256))


def test_every_form_of_output() -> None:
    images = torch.linspace(-1.2, 1.2, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert torch.equal(pictures(images, "torch"), images)
    assert pictures(images, "numpy").shape == (2, 4, 5, 3)
    assert pictures(images, "numpy").min() == 0 and pictures(images, "numpy").max() == 1
    assert [(one.mode, one.size) for one in pictures(images)] == [("RGB", (5, 4))] * 2
    for bad, kind, message in (
        (images * torch.nan, "pil", "NaN"),
        (images[:, :2], "pil", "2 channels"),
        (images, "jpeg", "output_type 'jpeg' is not one of pil, numpy, torch, uint8"),
    ):
        with pytest.raises(UserError, match=message):
            pictures(bad, kind)  # pyright: ignore[reportArgumentType]
