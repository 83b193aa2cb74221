from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from noisette.errors import UserError
from noisette.nets.tiling import tiled


def counted(function):
    sizes: list[tuple[int, ...]] = []

    def call(x: Tensor) -> Tensor:
        sizes.append(tuple(x.shape[2:]))
        return function(x)

    return call, sizes


def same() -> nn.Module:
    """Scale 1, looking 3 pixels around."""
    convs = [nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 5, padding=2)]
    return nn.Sequential(*convs).double().requires_grad_(False)


def encoder() -> nn.Module:
    """Scale 1/4, looking at most 9 pixels around."""
    halve = [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(4, 4, 3, stride=2), nn.Tanh()]
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), *halve, *halve).double().requires_grad_(False)


def decoder() -> nn.Module:
    """Scale 4, looking 2 pixels around."""
    double = [nn.Upsample(scale_factor=2), nn.Conv2d(2, 2, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*double, *double).double().requires_grad_(False)


@settings(max_examples=60)
@given(
    height=st.integers(1, 90), width=st.integers(1, 90), tile=st.integers(16, 40), overlap=st.integers(12, 15)
)
def test_equals_the_whole_for_a_local_function_of_the_same_size(height, width, tile, overlap):
    function, x = same(), torch.randn(1, 2, height, width, dtype=torch.float64)
    call, sizes = counted(function)
    torch.testing.assert_close(tiled(call, x, tile=tile, overlap=overlap), function(x), rtol=0, atol=1e-12)
    assert set(sizes) == {(min(tile, height), min(tile, width))}
    per_side = [max(1, -(-(side - overlap) // (tile - overlap))) for side in (height, width)]
    assert len(sizes) == per_side[0] * per_side[1]


@settings(max_examples=20)
@given(height=st.integers(1, 40), width=st.integers(1, 40), tile=st.integers(12, 20))
def test_equals_the_whole_where_a_function_shrinks(height, width, tile):
    function, x = encoder(), torch.randn(2, 2, 4 * height, 4 * width, dtype=torch.float64)
    found = tiled(function, x, tile=4 * tile, overlap=40)
    torch.testing.assert_close(found, function(x), rtol=0, atol=1e-12)


@settings(max_examples=20)
@given(height=st.integers(1, 40), width=st.integers(1, 40), tile=st.integers(9, 20), overlap=st.just(8))
def test_equals_the_whole_where_a_function_grows(height, width, tile, overlap):
    function, x = decoder(), torch.randn(1, 2, height, width, dtype=torch.float64)
    found = tiled(function, x, tile=tile, overlap=overlap)
    torch.testing.assert_close(found, function(x), rtol=0, atol=1e-12)


def test_single_precision_agrees_too_and_half_keeps_its_dtype():
    function, x = same().float(), torch.randn(1, 2, 50, 61)
    found = tiled(function, x, tile=24, overlap=14)
    torch.testing.assert_close(found, function(x), rtol=0, atol=1e-6)
    half = tiled(lambda part: part.half(), x, tile=24, overlap=7)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half, x.half(), rtol=0, atol=0)


def test_where_tiles_disagree_they_are_blended_in_a_line():
    levels = iter([0.0, 1.0])
    blend = tiled(
        lambda part: torch.full_like(part, next(levels)), torch.zeros(1, 1, 4, 24), tile=16, overlap=8
    )
    ramp = [0.0] * 10 + [0.125, 0.375, 0.625, 0.875] + [1.0] * 10
    assert blend[0, 0, 2].tolist() == pytest.approx(ramp)


def test_without_overlap_tiles_are_laid_side_by_side():
    x = torch.randn(1, 3, 20, 12)
    assert torch.equal(tiled(lambda part: part * 2, x, tile=4, overlap=0), x * 2)


def test_gradients_pass():
    x = torch.randn(1, 2, 40, 30, dtype=torch.float64, requires_grad=True)
    function, weight = same(), torch.randn(1, 3, 40, 30, dtype=torch.float64)
    whole, parts = (
        torch.autograd.grad((weight * out).sum(), x)[0]
        for out in (function(x), tiled(function, x, tile=20, overlap=13))
    )
    torch.testing.assert_close(parts, whole)


def test_sizes_that_do_not_fit_are_told():
    x = torch.zeros(1, 1, 32, 32)
    with pytest.raises(UserError, match="overlap 8 must be"):
        tiled(F.relu, x, tile=8, overlap=8)
    shrink = nn.AvgPool2d(4)
    with pytest.raises(UserError, match="multiples of 4"):
        tiled(shrink, x, tile=16, overlap=6)
    with pytest.raises(UserError, match="side 30"):
        tiled(shrink, torch.zeros(1, 1, 30, 16), tile=16, overlap=8)
