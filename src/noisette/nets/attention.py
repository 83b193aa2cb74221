"""Attention parts: every softmax goes through `core.attention.attend` under a site name."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from noisette.core.attention import attend
from noisette.nets.layers import zero


class Attention(nn.Module):
    """Multi-head attention, `softmax(q k^T / sqrt(d)) v`, of a sequence to itself or to a context.

    x: [B, N, dim]; context: [B, L, context_dim] (x itself when none was declared); mask: bool [B, L], False
    hides a token. The output projection starts at zero. `site` is the name attention rules see.
    """

    def __init__(
        self, dim: int, heads: int, site: str, *, context_dim: int | None = None, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        self.heads, self.site, self.crosses = heads, site, context_dim is not None
        self.to_q = nn.Linear(dim, dim, bias=qkv_bias)
        self.to_k = nn.Linear(context_dim or dim, dim, bias=qkv_bias)
        self.to_v = nn.Linear(context_dim or dim, dim, bias=qkv_bias)
        self.to_out = zero(nn.Linear(dim, dim))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        source = context if self.crosses and context is not None else x
        q, k, v = self._split(self.to_q(x)), self._split(self.to_k(source)), self._split(self.to_v(source))
        keep = mask[:, None, None, :] if self.crosses and mask is not None else None
        return self.to_out(attend(q, k, v, self.site, mask=keep).transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    """Feed-forward layer with a gated GELU, `W2 (a * gelu(g))`, `[a, g] = W1 x`; x: [B, N, dim].

    Source: arXiv:2002.05202.
    """

    def __init__(self, dim: int, mult: int = 4) -> None:
        super().__init__()
        self.proj_in = nn.Linear(dim, 2 * mult * dim)
        self.proj_out = nn.Linear(mult * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj_in(x).chunk(2, dim=-1)
        return self.proj_out(value * F.gelu(gate))


def to_sequence(x: Tensor) -> Tensor:
    """Pixels as a sequence, [B, C, H, W] -> [B, H*W, C]: a view when x is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_image(x: Tensor, height: int) -> Tensor:
    """The inverse of `to_sequence`: [B, H*W, C] -> [B, C, H, W]."""
    return x.unflatten(1, (height, -1)).permute(0, 3, 1, 2)


class AttentionBlock(nn.Module):
    """Residual self-attention over the pixels, `x + attention(norm(x))`; x: [B, C, H, W].

    Source: arXiv:2006.11239, App. B; arXiv:2105.05233, Sec. 3.1 (several heads).
    """

    def __init__(self, channels: int, heads: int, site: str, *, groups: int = 32, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.attention = Attention(channels, heads, f"{site}.self")

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return x + to_image(self.attention(to_sequence(self.norm(x))), x.shape[2])


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each residual after a layer norm; x: [B, N, dim].

    Source: arXiv:2112.10752, App. E.2.1.
    """

    def __init__(self, dim: int, heads: int, context_dim: int, site: str) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.self_attention = Attention(dim, heads, f"{site}.self", qkv_bias=False)
        self.cross_attention = Attention(dim, heads, f"{site}.cross", context_dim=context_dim, qkv_bias=False)
        self.feed_forward = GEGLU(dim)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.self_attention(self.norm1(x))
        x = x + self.cross_attention(self.norm2(x), context, mask)
        return x + self.feed_forward(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over pixels [B, C, H, W] that read a context [B, L, context_dim].

    `x + proj_out(blocks(proj_in(norm(x)), context))`, `proj_out` starting at zero. Attention sites are those
    of the blocks: "<site>.self" and "<site>.cross", of several blocks "<site>.<block>.self" and so on.
    Source: arXiv:2112.10752, App. E.2.1. Its group norm uses eps 1e-6, as the released weights expect.
    """

    def __init__(
        self, channels: int, heads: int, context_dim: int, site: str, *, depth: int = 1, groups: int = 32
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels)
        sites = [site] if depth == 1 else [f"{site}.{block}" for block in range(depth)]
        self.blocks = nn.ModuleList(TransformerBlock(channels, heads, context_dim, one) for one in sites)
        self.proj_out = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.proj_in(to_sequence(self.norm(x)))
        for block in self.blocks:
            h = block(h, context, mask)
        return x + to_image(self.proj_out(h), x.shape[2])
