"""Attention with named sites, and rules that watch or change it.

Networks call `attend`; without a rule it runs a fused kernel and keeps no map.
Rules reach a network only through `noisette.core.denoiser.with_attention`, for the length of one
call, so that nothing global outlives it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Lock
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class Attention:
    """One attention call: ``q [B, heads, N, d]``, ``k`` and ``v [B, heads, M, d]`` at ``site``.

    ``mask`` is boolean, broadcastable to [B, heads, N, M], True where a key may be seen.
    """

    site: str
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None = None

    def probabilities(self) -> Tensor:
        """The map ``softmax(q k^T / sqrt(d))``, [B, heads, N, M] in float32; costs its memory."""
        logits = self.q.float() @ self.k.float().transpose(-2, -1) * self.q.shape[-1] ** -0.5
        if self.mask is not None:
            logits = logits.masked_fill(~self.mask, float("-inf"))
        return logits.softmax(-1)

    def output(self, probabilities: Tensor) -> Tensor:
        """What comes out under the given map, [B, heads, N, d]."""
        return probabilities.to(self.v.dtype) @ self.v


Proceed: TypeAlias = Callable[[Attention], Tensor]
Rule: TypeAlias = Callable[[Attention, Proceed], Tensor]
Lanes: TypeAlias = tuple[tuple[Rule, ...], ...]

# One tuple of rules for each lane of the running batch; empty when nobody watches.
_lanes: ContextVar[Lanes] = ContextVar("attention_lanes", default=())

# How many calls with rules are under way in all threads. A plain number, because torch.compile can read
# one and no ContextVar: without rules a network compiles to one graph.
_watchers = 0
_counting = Lock()


MOST_PLAIN = 2**14
"""Entries of a map that a CPU makes faster than it fuses."""


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention by the kernel that is fastest here."""
    small = q.shape[-2] * k.shape[-2] <= MOST_PLAIN
    if small and q.requires_grad and q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16):
        # The fused kernel's backward in half precision takes three to five times as long there.
        logits = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).float()
        weights = (logits if mask is None else logits.masked_fill(~mask, float("-inf"))).softmax(-1)
        return weights.to(v.dtype) @ v
    return scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attend(q: Tensor, k: Tensor, v: Tensor, site: str, mask: Tensor | None = None) -> Tensor:
    """``softmax(q k^T / sqrt(d)) v`` for one named site, through the rules of the running call.

    Shapes as in `Attention`; returns [B, heads, N, d]. Source: arXiv:1706.03762, Eq. 1.
    """
    if not _watchers or not any(_lanes.get()):
        return _attention(q, k, v, mask)
    lanes = _lanes.get()
    n = len(lanes)
    masks = [None] * n if mask is None else mask.expand(q.shape[0], *mask.shape[1:]).chunk(n)
    calls = map(Attention, [site] * n, q.chunk(n), k.chunk(n), v.chunk(n), masks)
    return torch.cat([_proceed(rules)(call) for rules, call in zip(lanes, calls, strict=True)])


def _proceed(rules: tuple[Rule, ...]) -> Proceed:
    if not rules:
        return lambda call: _attention(call.q, call.k, call.v, call.mask)
    first, rest = rules[0], rules[1:]
    return lambda call: first(call, _proceed(rest))


@contextmanager
def attention_lanes(lanes: Lanes) -> Generator[None]:
    """Rules for each lane of the batch, for the length of one network call.

    Inside a call that already has lanes, every inner lane holds all outer ones in order, and outer
    rules run first.
    """
    global _watchers
    own = any(lanes)
    token = _lanes.set(tuple(outer + inner for inner in lanes for outer in _lanes.get() or ((),)))
    with _counting:
        _watchers += own
    try:
        yield
    finally:
        with _counting:
            _watchers -= own
        _lanes.reset(token)


def running_lanes() -> Lanes:
    """The lanes of the running call, for what has to run under them later, such as a recomputed block."""
    return _lanes.get()
