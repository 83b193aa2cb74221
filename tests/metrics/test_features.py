from __future__ import annotations

import pytest
import torch

from noisette.errors import UserError
from noisette.metrics import collect, quantize


def test_quantize_rounds_to_the_nearest_of_256_levels():  # trap 24
    levels = torch.arange(256.0)
    exact = levels / 127.5 - 1
    for offset in (-0.49, -0.2, 0.0, 0.2, 0.49):
        rounded = quantize((levels + offset) / 127.5 - 1)
        assert torch.allclose(rounded, exact, atol=1e-6)


def test_quantize_clips_and_keeps_eight_bit_images_as_they_are():
    assert quantize(torch.tensor([-3.0, 1.7, -1.001, 1.001])).tolist() == [-1, 1, -1, 1]
    exact = torch.arange(256.0) / 127.5 - 1
    assert torch.equal(quantize(exact), exact)
    assert torch.equal(quantize(quantize(exact)), exact)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_images_are_refused(bad: float):
    with pytest.raises(UserError, match="NaN or infinity"):
        quantize(torch.tensor([[0.0, bad]]))


def test_collect_rounds_batches_and_keeps_order():
    seen: list[int] = []

    def features(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return x.flatten(1)

    images = torch.linspace(-1.2, 1.2, 600 * 4).reshape(600, 1, 2, 2)
    whole = collect(features, images)
    assert seen == [256, 256, 88]
    assert torch.equal(whole, quantize(images).flatten(1))
    assert torch.equal(collect(features, iter([images[:7], images[7:]])), whole)


def test_collect_tells_what_is_wrong():
    with pytest.raises(UserError, match="no images"):
        collect(lambda x: x.flatten(1), [])
    with pytest.raises(UserError, match=r"must return \[B, D\]"):
        collect(lambda x: x, torch.zeros(2, 1, 4, 4))
