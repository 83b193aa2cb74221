"""The diffusion transformer: adaLN-zero blocks over image patches, optionally reading tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from noisette.errors import UserError
from noisette.nets.attention import Attention, to_sequence
from noisette.nets.embedding import (
    LabelEmbedding,
    TimeEmbedding,
    check_time_embedding,
    concatenated,
    label_of,
    pooled_of,
    position_2d,
    tokens_of,
)
from noisette.nets.layers import run, zero


@dataclass(frozen=True)
class DiTConfig:
    """Shape of a diffusion transformer; JSON-serialisable (`dataclasses.asdict`).

    `dim` wide (divisible by 4 and by `num_heads`), `depth` blocks, patches of `patch_size` pixels. The other
    fields mean what they mean in `UNetConfig`; the time dialect is DiT's (cos first, shift 0).
    `own_embeddings` gives every block embeddings of time and class of its own, as diffusers has it; in the
    released weights they are all equal, so that one is enough. `mlp_norm_eps` is that of each second norm.
    Raises UserError for numbers that do not fit together.
    """

    in_channels: int = 3
    out_channels: int = 3
    patch_size: int = 2
    dim: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: int = 4
    time_embedding: str = "sinusoidal"
    time_channels: int = 256
    flip_sin_to_cos: bool = True
    freq_shift: float = 0.0
    fourier_scale: float = 16.0
    num_classes: int | None = None
    context_dim: int | None = None
    pooled_dim: int | None = None
    concat_channels: int = 0
    learned_variance: bool = False
    own_embeddings: bool = False
    mlp_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if min(self.dim, self.depth, self.patch_size, self.num_heads, self.mlp_ratio) < 1:
            raise UserError("a DiT needs at least one block, and 1 or more of everything that is counted")
        if self.dim % 4 or self.dim % self.num_heads:
            raise UserError(f"dim {self.dim} must be divisible by 4 and by num_heads {self.num_heads}")
        if self.time_channels % 2 or self.time_channels < 4:
            raise UserError(f"time_channels {self.time_channels} must be even and at least 4")
        check_time_embedding(self.time_embedding)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`x * (1 + scale) + shift`; x: [B, N, dim], shift and scale: [B, dim]."""
    return x * (1 + scale[:, None]) + shift[:, None]


class DiTBlock(nn.Module):
    """adaLN-zero: layer norms without weights, shifted, scaled and gated by the embedding.

    `x += g1 * attention(mod1(norm(x)))`; with a context, `x += cross(x, context)`;
    `x += g2 * mlp(mod2(norm(x)))`. All six modulations are one linear map of `emb` (already through silu),
    zero at initialisation: a new block is the identity.

    x: [B, N, dim]; emb: [B, dim]; context: [B, L, context_dim]; mask: bool [B, L].
    Source: arXiv:2212.09748, Sec. 3.2; arXiv:2310.00426, Sec. 2.3 (cross-attention, zero at initialisation).
    """

    def __init__(self, config: DiTConfig, site: str) -> None:
        super().__init__()
        dim = config.dim
        self.norm1 = nn.LayerNorm(dim, 1e-6, elementwise_affine=False)
        self.attention = Attention(dim, config.num_heads, f"{site}.self")
        # The gate starts at zero already; two zeros in a row would stop the gradient of both.
        self.attention.to_out.reset_parameters()
        self.cross_attention = None
        if config.context_dim is not None:
            self.cross_attention = Attention(
                dim, config.num_heads, f"{site}.cross", context_dim=config.context_dim
            )
        self.norm2 = nn.LayerNorm(dim, config.mlp_norm_eps, elementwise_affine=False)
        self.mlp_in = nn.Linear(dim, config.mlp_ratio * dim)
        self.mlp_out = nn.Linear(config.mlp_ratio * dim, dim)
        self.modulation = zero(nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(emb).chunk(6, dim=-1)
        x = x + gate1[:, None] * self.attention(modulate(self.norm1(x), shift1, scale1))
        if self.cross_attention is not None:
            x = x + self.cross_attention(x, context, mask)
        h = F.gelu(self.mlp_in(modulate(self.norm2(x), shift2, scale2)), approximate="tanh")
        return x + gate2[:, None] * self.mlp_out(h)


class Embedding(nn.Module):
    """What a block is told beside the image: time, class and pooled text, added up, [B, dim]."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.time = TimeEmbedding(
            config.time_embedding,
            config.time_channels,
            config.dim,
            flip=config.flip_sin_to_cos,
            shift=config.freq_shift,
            fourier_scale=config.fourier_scale,
        )
        self.label = None if config.num_classes is None else LabelEmbedding(config.num_classes, config.dim)
        self.pooled = None if config.pooled_dim is None else nn.Linear(config.pooled_dim, config.dim)

    def forward(self, time: Tensor, cond: Mapping[str, Any], batch: int) -> Tensor:
        emb = self.time(time.expand(batch))
        if self.label is not None:
            emb = emb + self.label(label_of(cond, batch))
        if self.pooled is not None:
            emb = emb + self.pooled(pooled_of(cond, batch, self.pooled.in_features, emb.dtype))
        return F.silu(emb)


class DiT(nn.Module):
    """Raw output of a diffusion transformer for a noisy image.

    `forward(x, time, cond)` as `UNet.forward`: x [B, in_channels, H, W] with H and W multiples of
    `patch_size`, at any size (positions are computed for the grid at hand). Returns [B, out_channels, H, W],
    twice the channels with `learned_variance`; exactly 0 at initialisation.

    `gradient_checkpointing` (attribute, off) recomputes each block in backward.
    Attention sites: "block.<i>.self" and "block.<i>.cross".
    Source: arXiv:2212.09748. Raises UserError for a missing or misshapen condition or image size.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        dim, patch = config.dim, config.patch_size
        count = config.depth if config.own_embeddings else 1
        self.embeddings = nn.ModuleList(Embedding(config) for _ in range(count))
        self.patches = nn.Conv2d(config.in_channels + config.concat_channels, dim, patch, stride=patch)
        self.blocks = nn.ModuleList(DiTBlock(config, f"block.{i}") for i in range(config.depth))
        self.norm_out = nn.LayerNorm(dim, 1e-6, elementwise_affine=False)
        self.modulation_out = zero(nn.Linear(dim, 2 * dim))
        out = config.out_channels * (2 if config.learned_variance else 1)
        self.linear_out = zero(nn.Linear(dim, patch * patch * out))

    def _unpatch(self, x: Tensor, height: int) -> Tensor:
        """[B, h*w, p*p*C] -> [B, C, h*p, w*p]; the channel runs fastest, as in the released weights."""
        patch = self.config.patch_size
        grid = x.unflatten(1, (height, -1)).unflatten(-1, (patch, patch, -1))
        return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def forward(self, x: Tensor, time: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        config, cond, batch = self.config, cond or {}, x.shape[0]
        if x.shape[2] % config.patch_size or x.shape[3] % config.patch_size:
            raise UserError(
                f"the image is {x.shape[3]}x{x.shape[2]}, "
                f"but this network needs sides divisible by {config.patch_size}"
            )
        told = [embedding(time, cond, batch) for embedding in self.embeddings]
        context, mask = tokens_of(cond, config.context_dim, x.dtype)
        h = self.patches(concatenated(x, cond, config.in_channels, config.concat_channels))
        height, width = h.shape[2:]
        h = to_sequence(h)
        h = h + position_2d(height, width, config.dim, h.device).to(h.dtype)
        for i, block in enumerate(self.blocks):
            h = run(block, h, told[i % len(told)], context, mask, recompute=self.gradient_checkpointing)
        shift, scale = self.modulation_out(told[0]).chunk(2, dim=-1)
        return self._unpatch(self.linear_out(modulate(self.norm_out(h), shift, scale)), height)
