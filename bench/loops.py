"""What every library is asked for: a training loop that can be stopped anywhere, and a sampler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor


class Loop(Protocol):
    """One library training one network by its own code."""

    batch_size: int
    parameters: int

    def updates(self) -> Iterator[None]:
        """Train without end; each item is one more update of the weights."""
        ...

    def sample(self, count: int, steps: int | None = None, *, average: bool = True) -> Tensor:
        """Draw [count, 1, 32, 32] in [-1, 1], with the averaged weights or the last ones."""
        ...

    def state(self) -> dict[str, Any]:
        """All that training needs to go on, as tensors and plain numbers."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; called before the first update."""
        ...
