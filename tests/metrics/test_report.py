from __future__ import annotations

import pytest
import torch

from noisette.metrics import compare, evaluate


def flat(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)


def images(n: int, spread: float, seed: int) -> torch.Tensor:
    return torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(seed)) * spread


def test_counts_are_made_equal_and_told():  # trap 29
    report = evaluate(flat, images(900, 0.2, 0), images(300, 0.2, 1))
    assert (report["n"], report["n_real"], report["n_fake"]) == (300, 900, 300)
    assert set(report) == {"frechet", "kid", "kid_std", "precision", "recall", "n", "n_real", "n_fake"}


def test_the_cut_is_a_random_subset_not_the_head():
    classes = torch.cat([images(300, 0.01, 0) - 0.5, images(300, 0.01, 1) + 0.5])  # sorted by class
    fake = classes[::2]
    assert evaluate(flat, classes, fake)["frechet"] < 0.05  # the head alone would be 1 away in the mean
    assert evaluate(flat, classes, fake)["recall"] > 0.9


def test_worse_images_measure_worse():
    real = images(400, 0.2, 0)
    good, bad = (evaluate(flat, real, images(400, spread, 1)) for spread in (0.2, 0.5))
    assert good["frechet"] < 0.02 < bad["frechet"]
    assert good["kid"] < 1e-3 < bad["kid"]
    assert good["precision"] > 0.9 > 0.7 > bad["precision"]


def test_rounding_is_part_of_the_protocol():  # trap 24
    levels = torch.randint(0, 256, (200, 1, 2, 2), generator=torch.Generator().manual_seed(0))
    exact = levels / 127.5 - 1
    almost = exact + 0.4 / 127.5 * torch.sign(images(200, 1, 1))  # under half a level away
    assert compare(flat(exact), flat(almost))["frechet"] > 1e-7
    assert evaluate(flat, exact, almost)["frechet"] == pytest.approx(0, abs=1e-12)


def test_is_repeatable_and_takes_batches_or_features():
    real, fake = images(50, 0.2, 0), images(40, 0.3, 1)
    first = evaluate(flat, real, fake)
    assert evaluate(flat, real.split(7), iter(fake.split(9))) == pytest.approx(first)
    assert evaluate(flat, real, fake) == first
    assert compare(flat(real), flat(fake))["n"] == 40
