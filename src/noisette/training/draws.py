"""The random numbers of one training step, as a function of (seed, step) and the row of the batch."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

__all__ = ["Draws", "mix"]


def mix(*parts: int | str) -> int:
    """A 63-bit seed from numbers and words: equal parts give equal seeds, others unrelated ones.

    >>> mix(0, 1) == mix(0, 1), mix(0, 1) == mix(1, 0)
    (True, False)
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Draws:
    """Random numbers for the rows [first, first + n) of a batch of ``total`` rows, on one device.

    Every process draws for the whole batch and keeps its own rows, so that processes which share a
    batch draw together what one process draws alone, and a resumed run needs the step, no
    generator state. The draws of a step come in a fixed order, each call gives the next.
    """

    def __init__(
        self,
        seed: int,
        step: int,
        *,
        first: int = 0,
        total: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.step = step
        self.generator = torch.Generator(device).manual_seed(mix(seed, step))
        self.first = first
        self.total = total

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal noise shaped like ``like`` [B, ...]."""
        return self._mine(torch.randn, like.shape, like.dtype)

    def uniform(self, count: int) -> Tensor:
        """Independent numbers in [0, 1), float64 [count]."""
        return self._mine(torch.rand, (count,), torch.float64)

    def stratified(self, count: int) -> Tensor:
        """Numbers in [0, 1) spread evenly over the whole batch: ``(u + i / total) mod 1``, [count].

        Each one is uniform; together they have less variance. Source: arXiv:2107.00630, Appendix I.1.
        """
        total = self.total or count
        rows = torch.arange(self.first, self.first + count, dtype=torch.float64, device=self.generator.device)
        start = torch.rand((), generator=self.generator, dtype=torch.float64, device=self.generator.device)
        return (start + rows / total) % 1

    def _mine(self, draw, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        whole = (self.total or shape[0], *shape[1:])
        device = self.generator.device
        return draw(whole, generator=self.generator, dtype=dtype, device=device)[self.first :][: shape[0]]
