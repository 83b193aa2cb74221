from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed, get_timestep_embedding
from hypothesis import given
from hypothesis import strategies as st

from noisette.errors import UserError
from noisette.nets.embedding import FourierFeatures, LabelEmbedding, TimeEmbedding, position_2d, sinusoidal


@given(
    time=st.floats(0, 1000), half=st.integers(2, 32), flip=st.booleans(), shift=st.sampled_from([0.0, 1.0])
)
def test_sinusoidal_is_its_closed_form_in_both_dialects_trap_19(time, half, flip, shift):
    got = sinusoidal(torch.tensor([time]), 2 * half, flip=flip, shift=shift)[0]
    for j in range(half):
        angle = time * 10000 ** (-j / (half - shift))
        sine, cosine = (got[half + j], got[j]) if flip else (got[j], got[half + j])
        # float32 angles near 1000 are exact to 1e-4
        assert sine.item() == pytest.approx(math.sin(angle), abs=2e-4)
        assert cosine.item() == pytest.approx(math.cos(angle), abs=2e-4)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("dim", [32, 33])
def test_sinusoidal_equals_diffusers(flip, shift, dim):
    time = torch.tensor([0.0, 1.0, 37.0, 981.0, 999.0])
    theirs = get_timestep_embedding(time, dim, flip_sin_to_cos=flip, downscale_freq_shift=shift)
    torch.testing.assert_close(sinusoidal(time, dim, flip=flip, shift=shift), theirs, rtol=0, atol=0)


def test_fourier_features_have_a_gaussian_kernel():
    """E[phi(s) . phi(t)] / (dim / 2) = exp(-2 pi^2 scale^2 (s - t)^2)."""
    features = FourierFeatures(20000, scale=0.5)
    time = torch.tensor([0.1, 0.3, 0.8])
    got = features(time) @ features(time).T / 10000
    gap = time[:, None] - time[None]
    torch.testing.assert_close(got, torch.exp(-2 * math.pi**2 * 0.25 * gap**2), rtol=0, atol=0.04)


def test_half_precision_does_not_move_fourier_frequencies():
    features = FourierFeatures(64)
    time = torch.tensor([0.123, -1.5])
    before = features(time)
    torch.testing.assert_close(features.to(torch.bfloat16)(time), before, rtol=0, atol=0)
    torch.testing.assert_close(features.to(torch.float16)(time), before, rtol=0, atol=0)


def test_time_embedding_is_float32_inside_a_half_precision_network():
    """Index 999 is not a bfloat16 number; the waves must not be taken of 1000."""
    embed = TimeEmbedding("sinusoidal", 32, 64, flip=False, shift=1.0, fourier_scale=1.0).to(torch.bfloat16)
    one, other = embed(torch.tensor([997.0, 999.0]))
    assert one.dtype == torch.bfloat16
    assert not torch.equal(one, other)


def test_no_label_is_the_last_row():
    embed = LabelEmbedding(10, 8)
    rows = embed(torch.tensor([-1, 0, 9]))
    torch.testing.assert_close(rows, embed.table.weight[[10, 0, 9]], rtol=0, atol=0)


@pytest.mark.parametrize("label", [-2, 10])
def test_a_label_out_of_range_is_named(label):
    with pytest.raises(UserError, match=f"label {label} is out of range.*0 to 9"):
        LabelEmbedding(10, 8)(torch.tensor([0, label]))


@pytest.mark.parametrize("size", [1, 4, 7])
def test_position_2d_equals_diffusers(size):
    theirs = get_2d_sincos_pos_embed(24, size, base_size=size, output_type="pt")
    torch.testing.assert_close(position_2d(size, size, 24), theirs.float(), rtol=0, atol=1e-5)


def test_position_2d_of_an_oblong_grid_is_its_closed_form():
    got = position_2d(3, 5, 8).view(3, 5, 8)
    for row in range(3):
        for column in range(5):
            waves = [f(p * w) for p in (column, row) for f in (math.sin, math.cos) for w in (1.0, 0.01)]
            assert got[row, column].tolist() == pytest.approx(waves, abs=1e-6)
