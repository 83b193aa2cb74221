"""Convolutional parts shared by the networks: residual blocks and changes of resolution."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from noisette.core.attention import attention_lanes, running_lanes

M = TypeVar("M", bound=nn.Module)


def zero(module: M) -> M:
    """Set every parameter of `module` to zero and return it: a new residual branch then changes nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def run(block: nn.Module, *args: object, recompute: bool) -> Tensor:
    """Call `block(*args)`; with `recompute`, drop its activations and compute them again in backward."""
    if recompute and torch.is_grad_enabled():
        lanes = running_lanes()  # backward runs after the call is over, when its attention rules are gone
        return checkpoint(
            block, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), attention_lanes(lanes))
        )
    return block(*args)


def halve(x: Tensor) -> Tensor:
    """Average 2x2 pixels: [B, C, H, W] -> [B, C, H/2, W/2]."""
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    """Repeat each pixel 2x2 times: [B, C, H, W] -> [B, C, 2H, 2W]."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Downsample(nn.Module):
    """Halve the resolution by a strided 3x3 convolution.

    `asymmetric` pads only the bottom and the right, as the weights of the first DDPM release expect.
    """

    def __init__(self, channels: int, asymmetric: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)
        self.asymmetric = asymmetric

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Upsample(nn.Module):
    """Double the resolution, or bring it to a `size` (H, W): nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return self.conv(double(x) if size is None else F.interpolate(x, size, mode="nearest"))


class ResBlock(nn.Module):
    """Residual block whose second normalisation sees the noise level (and the class).

    `h = conv1(silu(norm1(x)))`; the projected embedding enters either by addition, `norm2(h + e)`, or as an
    adaptive group norm, `norm2(h) * (1 + scale) + shift`; the result is `skip(x) + conv2(silu(.))`.

    x: [B, in_channels, H, W]; emb: [B, emb_dim], ALREADY through silu (once for the whole network).
    `resample` (`halve` or `double`) changes the resolution inside the block, BigGAN style.
    Source: arXiv:2006.11239, App. B (additive); arXiv:2105.05233, Sec. 3 (adaptive group norm, resampling).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_dim: int,
        *,
        groups: int = 32,
        eps: float = 1e-5,
        dropout: float = 0.0,
        scale_shift: bool = False,
        resample: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = resample
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.emb = nn.Linear(emb_dim, 2 * out_channels if scale_shift else out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        e = self.emb(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + e)
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))
