from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from noisette.errors import UserError
from noisette.metrics import Judge, Statistics, accuracy, collect, digits_reference, frechet_distance
from noisette.metrics.judge import WEIGHTS
from noisette.training.judge import digits


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


@pytest.fixture(scope="module")
def held_out(real_data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    return digits(real_data / "mnist", "test")


def test_reads_real_digits(judge: Judge, held_out: tuple[torch.Tensor, torch.Tensor]):
    images, labels = held_out
    assert accuracy(judge, images, labels) >= 0.99


def test_reads_disturbed_digits(judge: Judge, held_out: tuple[torch.Tensor, torch.Tensor]):
    images, labels = (part[:2000] for part in held_out)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    assert accuracy(judge, images.roll((2, -2), (2, 3)), labels) >= 0.98
    assert accuracy(judge, (images + 0.25 * noise).clamp(-1, 1), labels) >= 0.97
    assert accuracy(judge, F.avg_pool2d(images, 3, 1, 1), labels) >= 0.97


def test_the_reference_is_that_of_real_digits(judge: Judge, held_out: tuple[torch.Tensor, torch.Tensor]):
    images, _ = held_out
    reference = digits_reference()
    assert reference.count == 60_000
    assert reference.covariance.shape == (64, 64)
    rows = collect(judge.features, images)
    floor = frechet_distance(reference, Statistics.of(rows))
    blurred = frechet_distance(
        reference, Statistics.of(collect(judge.features, F.avg_pool2d(images[:2000], 3, 1, 1)))
    )
    one_class_less = frechet_distance(reference, Statistics.of(rows[held_out[1] != 3]))
    assert floor < 0.02 * reference.covariance.trace()
    assert blurred > 5 * floor
    assert one_class_less > 5 * floor


def test_reads_its_own_output_as_features_then_a_linear_layer(judge: Judge):
    x = torch.rand(5, 1, 32, 32) * 2 - 1
    features = judge.features(x)
    assert features.shape == (5, 64)
    assert torch.equal(judge(x), judge.head(features))
    assert judge(x).shape == (5, 10)


def test_is_frozen_deterministic_and_blind_to_the_rest_of_the_batch(judge: Judge):
    x = torch.rand(4, 1, 32, 32) * 2 - 1
    assert not judge.training
    assert not any(weight.requires_grad for weight in judge.parameters())
    assert torch.equal(judge(x), Judge.load()(x))
    alone = torch.cat([judge(image[None]) for image in x])
    torch.testing.assert_close(judge(x), alone, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_image(judge: Judge):
    x = torch.zeros(1, 1, 32, 32, requires_grad=True)
    judge(x)[0, 3].backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_what_ships_is_small():
    sizes = {file.name: len(file.read_bytes()) for file in WEIGHTS.iterdir()}
    assert sizes["digits-judge.safetensors"] < 400_000
    assert sizes["digits-reference.safetensors"] < 50_000
    assert "digits-judge.md" in sizes


def test_accuracy_counts(judge: Judge):
    images = torch.rand(6, 1, 32, 32) * 2 - 1
    read = collect(judge, images).argmax(1)
    wrong = read.clone()
    wrong[:2] = (wrong[:2] + 1) % 10
    assert accuracy(judge, images, read) == 1
    assert accuracy(judge, images, wrong) == pytest.approx(4 / 6)


def test_wrong_inputs_are_told(judge: Judge):
    with pytest.raises(UserError, match=r"\[B, 1, 32, 32\]"):
        judge(torch.zeros(2, 1, 28, 28))
    with pytest.raises(UserError, match="6 images need as many labels"):
        accuracy(judge, torch.zeros(6, 1, 32, 32), torch.zeros(5))
