"""What the models that ship can do."""

from __future__ import annotations

import pytest
import torch

import noisette
from noisette.models import Model
from noisette.scenes.parse import parse
from noisette.scenes.quiz import answers, quiz
from noisette.scenes.reader import read, score


@pytest.fixture(scope="module")
def scenes() -> Model:
    return noisette.load("scenes")


def test_scenes_draws_what_captions_ask(scenes: Model) -> None:
    questions = quiz("test", 16)
    drawn = scenes.generate([question.text for question in questions], seed=0, output_type="torch").images
    assert sum(answer.right for answer in answers(drawn, questions)) >= 12


@pytest.mark.parametrize("side", ["left", "right"])
def test_scenes_knows_left_from_right(scenes: Model, side: str) -> None:
    prompt = f"a red cube {side} of a blue sphere"
    drawn = scenes.generate(prompt, num_images_per_prompt=6, seed=0, output_type="torch").images
    assert sum(found.all for found in score(drawn, parse(prompt))) >= 5


def test_scenes_draws_panoramas_alike_from_end_to_end(scenes: Model) -> None:
    prompt = "a pencil sketch of a red cube and a blue sphere, at night"
    wide = scenes.generate(prompt, width=192, num_images_per_prompt=2, seed=0, output_type="torch").images
    seen = read(torch.cat(wide.split(64, dim=-1)))
    assert sum((one.style, one.light) == ("sketch", "night") for one in seen) >= 5
