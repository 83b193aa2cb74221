"""What a network is told besides the noisy image: noise level, class, tokens, images, position."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisette.errors import UserError

TIME_EMBEDDINGS = ("sinusoidal", "fourier")


def check_time_embedding(kind: str) -> None:
    """Raise UserError unless `kind` is one that `TimeEmbedding` knows."""
    if kind not in TIME_EMBEDDINGS:
        raise UserError(f"time_embedding {kind!r} is not one of {', '.join(TIME_EMBEDDINGS)}")


def sinusoidal(
    time: Tensor, dim: int, *, flip: bool = False, shift: float = 1.0, max_period: float = 10000.0
) -> Tensor:
    """Sines and cosines of the time at geometric frequencies.

    `f_j = max_period^(-j / (dim/2 - shift))`; `[sin(t f), cos(t f)]`, or `[cos, sin]` with `flip`.
    Two dialects load each other's weights and then sample garbage: DDPM is flip=False, shift=1; Stable
    Diffusion, guided-diffusion and DiT are flip=True, shift=0. An odd `dim` is padded by one zero.

    time: [B], any real; returns float32 [B, dim]. Source: arXiv:1706.03762, Sec. 3.5.
    """
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=time.device)
    angle = time.float()[:, None] * torch.exp(-math.log(max_period) * index / (half - shift))
    waves = (angle.cos(), angle.sin()) if flip else (angle.sin(), angle.cos())
    return F.pad(torch.cat(waves, dim=-1), (0, dim % 2))


class FourierFeatures(nn.Module):
    """Random Fourier features `[sin(2 pi f t), cos(2 pi f t)]`, `f ~ N(0, scale^2)` fixed for life.

    time: [B]; returns float32 [B, dim], `dim` even. Source: arXiv:2006.10739; arXiv:2011.13456, App. C.
    """

    frequencies: Tensor

    def __init__(self, dim: int, scale: float = 16.0) -> None:
        super().__init__()
        # Drawn on the bfloat16 grid: casting the network to half precision must not move a frequency.
        drawn = (torch.randn(dim // 2) * scale).to(torch.bfloat16).float()
        self.register_buffer("frequencies", drawn)

    def forward(self, time: Tensor) -> Tensor:
        angle = 2 * math.pi * time.float()[:, None] * self.frequencies.float()
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class TimeEmbedding(nn.Module):
    """The noise level as a feature vector: waves, then `linear, silu, linear`; time [B] -> [B, dim].

    What else is `told` [B, told] is added to the waves by a matrix that begins at zero.
    """

    def __init__(
        self,
        kind: str,
        waves: int,
        dim: int,
        *,
        flip: bool,
        shift: float,
        fourier_scale: float,
        told: int | None = None,
    ) -> None:
        super().__init__()
        self.waves, self.flip, self.shift = waves, flip, shift
        self.fourier = FourierFeatures(waves, fourier_scale) if kind == "fourier" else None
        self.told = None if told is None else nn.Linear(told, waves, bias=False)
        if self.told is not None:
            nn.init.zeros_(self.told.weight)
        self.linear1 = nn.Linear(waves, dim)
        self.linear2 = nn.Linear(dim, dim)

    def forward(self, time: Tensor, told: Tensor | None = None) -> Tensor:
        if self.fourier is not None:
            features = self.fourier(time)
        else:
            features = sinusoidal(time, self.waves, flip=self.flip, shift=self.shift)
        if self.told is not None and told is not None:
            features = features + self.told(told.to(self.told.weight.dtype))
        return self.linear2(F.silu(self.linear1(features.to(self.linear1.weight.dtype))))


class LabelEmbedding(nn.Module):
    """One learned row per class and one more, the last, for "no label".

    label: LongTensor [B], -1 (no label) or 0 <= label < num_classes; returns [B, dim].
    Raises UserError for a label out of range where looking is free of a device wait (on the CPU).
    """

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, dim)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, label: Tensor) -> Tensor:
        if label.device.type == "cpu" and not torch.compiler.is_compiling():
            bad = label[(label < -1) | (label >= self.num_classes)]
            if bad.numel():
                raise UserError(
                    f"label {int(bad[0])} is out of range: this network knows 0 to {self.num_classes - 1}, "
                    "and -1 for no label"
                )
        return self.table(torch.where(label < 0, self.num_classes, label))


def label_of(cond: Mapping[str, Any], batch: int) -> Tensor:
    """`cond["label"]`, LongTensor [B]; UserError if it is missing or of another batch size."""
    label = cond.get("label")
    if label is None:
        raise UserError("this network needs cond['label'], a LongTensor [B]; -1 means unconditional")
    if label.shape != (batch,):
        raise UserError(f"cond['label'] has shape {list(label.shape)}, but the batch needs [{batch}]")
    return label


def tokens_of(
    cond: Mapping[str, Any], context_dim: int | None, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """`cond["tokens"]` [B, L, context_dim] and `cond["token_mask"]` (bool [B, L] or None, False hides).

    Both are None for a network without cross-attention (`context_dim` None).
    """
    if context_dim is None:
        return None, None
    tokens = cond.get("tokens")
    if tokens is None:
        raise UserError(f"this network needs cond['tokens'], a tensor [B, L, {context_dim}]")
    if tokens.shape[-1] != context_dim:
        raise UserError(f"cond['tokens'] is {tokens.shape[-1]} wide, but this network reads {context_dim}")
    return tokens.to(dtype), cond.get("token_mask")


def pooled_of(cond: Mapping[str, Any], batch: int, dim: int, dtype: torch.dtype) -> Tensor:
    """`cond["pooled"]` [B, dim], one vector for the whole text; UserError if missing or of another width."""
    pooled = cond.get("pooled")
    if pooled is None or list(pooled.shape) != [batch, dim]:
        found = "nothing" if pooled is None else list(pooled.shape)
        raise UserError(f"this network needs cond['pooled'] of shape {[batch, dim]}, and got {found}")
    return pooled.to(dtype)


def sizes_of(cond: Mapping[str, Any], batch: int, count: int, waves: int) -> Tensor:
    """`cond["sizes"]` [B, count], each number in its waves: [B, count * waves]. Source: arXiv:2307.01952."""
    sizes = cond.get("sizes")
    if sizes is None or list(sizes.shape) != [batch, count]:
        found = "nothing" if sizes is None else list(sizes.shape)
        raise UserError(f"this network needs cond['sizes'] of shape {[batch, count]}, and got {found}")
    return sinusoidal(sizes.flatten(), waves, flip=True, shift=0.0).unflatten(0, (batch, count)).flatten(1)


def guidance_waves(cond: Mapping[str, Any], batch: int, dim: int, device: torch.device) -> Tensor:
    """`cond["guidance_scale"]` (a number, or [B]; 1 where nothing is said) in `dim` waves: [B, dim].

    The waves are of `1000 (scale - 1)`: the paper's omega is 0 where guidance is off.
    Source: arXiv:2310.04378, Appendix F; arXiv:2210.03142, Section 3.
    """
    scale = torch.as_tensor(cond.get("guidance_scale", 1.0), dtype=torch.float32, device=device)
    if scale.ndim > 1 or (scale.ndim == 1 and len(scale) != batch):
        raise UserError(f"cond['guidance_scale'] is a number or [{batch}] of them, not {list(scale.shape)}")
    return sinusoidal(1000 * (scale.expand(batch) - 1), dim)


def concatenated(x: Tensor, cond: Mapping[str, Any], in_channels: int, concat_channels: int) -> Tensor:
    """x [B, in_channels, H, W] with `cond["concat"]` [B, concat_channels, H, W] behind it, if one is due."""
    if x.shape[1] != in_channels:
        raise UserError(f"the image has {x.shape[1]} channels, but this network takes {in_channels}")
    if not concat_channels:
        return x
    extra = cond.get("concat")
    wanted = [x.shape[0], concat_channels, *x.shape[2:]]
    if extra is None or list(extra.shape) != wanted:
        found = "nothing" if extra is None else list(extra.shape)
        raise UserError(f"this network needs cond['concat'] of shape {wanted}, and got {found}")
    return torch.cat([x, extra.to(x.dtype)], dim=1)


def position_2d(height: int, width: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Fixed sine-cosine positions of a grid, float32 [H*W, dim], `dim` divisible by 4.

    The first half of the vector encodes the column, the second the row, each as `[sin(p f), cos(p f)]` with
    `f_j = 10000^(-j / (dim/4))`. Source: arXiv:2212.09748, Sec. 3.2 (the frequency-based ViT embedding).
    """
    column = sinusoidal(torch.arange(width, device=device), dim // 2, shift=0.0)
    row = sinusoidal(torch.arange(height, device=device), dim // 2, shift=0.0)
    columns = column[None, :, :].expand(height, -1, -1)
    rows = row[:, None, :].expand(-1, width, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1)
