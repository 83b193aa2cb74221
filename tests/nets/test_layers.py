from __future__ import annotations

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from noisette.nets.layers import Downsample, ResBlock, Upsample, double, halve, run

RENAMED = {"time_emb_proj": "emb", "conv_shortcut": "skip"}


def renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {".".join(RENAMED.get(part, part) for part in key.split(".")): w for key, w in weights.items()}


@pytest.mark.parametrize("out_channels", [16, 32])
@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("resample", [None, halve, double])
def test_res_block_equals_diffusers(out_channels, scale_shift, resample):
    theirs = ResnetBlock2D(
        in_channels=16,
        out_channels=out_channels,
        temb_channels=24,
        groups=8,
        eps=1e-5,
        time_embedding_norm="scale_shift" if scale_shift else "default",
        up=resample is double,
        down=resample is halve,
    ).double()
    ours = ResBlock(
        16, out_channels, 24, groups=8, eps=1e-5, scale_shift=scale_shift, resample=resample
    ).double()
    ours.load_state_dict(renamed(theirs.state_dict()))
    x, emb = torch.randn(2, 16, 8, 6, dtype=torch.float64), torch.randn(2, 24, dtype=torch.float64)
    torch.testing.assert_close(ours(x, nn.functional.silu(emb)), theirs(x, emb), rtol=1e-10, atol=1e-10)


def test_a_new_res_block_is_the_identity():
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(ResBlock(16, 16, 8, groups=4)(x, torch.randn(2, 8)), x)


def test_upsample_repeats_each_pixel():
    x = torch.randn(2, 3, 4, 5)
    expected = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(double(x), expected)
    up = Upsample(3)
    torch.testing.assert_close(up(x), up.conv(expected))
    torch.testing.assert_close(halve(expected), x)


@pytest.mark.parametrize(("asymmetric", "rows"), [(False, [-1, 0, 1]), (True, [0, 1, 2])])
def test_downsample_reads_the_right_pixels(asymmetric, rows):
    """Output (0, 0) reads rows -1..1 with even padding, 0..2 when only the far side is padded."""
    x = torch.randn(1, 2, 6, 6)
    down = Downsample(2, asymmetric)
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    window = padded[:, :, rows[0] + 1 : rows[-1] + 2, rows[0] + 1 : rows[-1] + 2]
    expected = (down.conv.weight * window).sum((1, 2, 3)) + down.conv.bias
    got = down(x)
    assert got.shape == (1, 2, 3, 3)
    torch.testing.assert_close(got[0, :, 0, 0], expected)


def test_recompute_runs_the_block_again_in_backward_only_when_gradients_are_wanted():
    calls = []

    class Counted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return x.exp()

    run(Counted(), torch.ones(1, requires_grad=True), recompute=True).backward()
    assert len(calls) == 2
    with torch.no_grad():
        run(Counted(), torch.ones(1), recompute=True)
    assert len(calls) == 3
