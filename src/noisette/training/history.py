"""Importance sampling of steps by their recent losses."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["LossHistory"]


@dataclass
class LossHistory:
    """The last ``keep`` losses of each of ``steps`` steps, and the odds that follow from them.

    ``p_i ~ sqrt(mean loss_i^2)``, mixed with a ``floor`` of uniform odds so that no step is starved;
    uniform until every step has been seen ``keep`` times. Part of a checkpoint; equal on all processes.
    Source: arXiv:2102.09672, Eq. 18.
    """

    steps: int = 1000
    keep: int = 10
    floor: float = 1e-3
    losses: Tensor = field(init=False, repr=False, compare=False)
    seen: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.losses = torch.zeros(self.steps, self.keep, dtype=torch.float64)
        self.seen = torch.zeros(self.steps, dtype=torch.long)

    def odds(self) -> Tensor:
        """Probability of each step, float64 [steps]."""
        uniform = torch.full((self.steps,), 1 / self.steps, dtype=torch.float64)
        if bool((self.seen < self.keep).any()):
            return uniform
        scale = self.losses.square().mean(1).sqrt()
        return (1 - self.floor) * scale / scale.sum() + self.floor * uniform

    def rows(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Steps 1 .. steps [B] by the inverse of their distribution at ``u`` [B], and their odds [B]."""
        odds = self.odds().to(u.device)
        index = torch.searchsorted(odds.cumsum(0), u, right=True).clamp(max=self.steps - 1)
        return index + 1, odds[index]

    def record(self, rows: Tensor, losses: Tensor) -> None:
        """Note the losses [B] of ``rows`` [B], those of all processes in the order of the batch."""
        pairs = torch.stack([rows.double(), losses.detach().double()])
        if dist.is_available() and dist.is_initialized():
            parts = [torch.empty_like(pairs) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, pairs)
            pairs = torch.cat(parts, dim=1)
        for row, loss in pairs.cpu().T.tolist():
            index = int(row) - 1
            self.losses[index, self.seen[index] % self.keep] = loss
            self.seen[index] += 1

    def state_dict(self) -> dict[str, Tensor]:
        return {"losses": self.losses, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.losses.copy_(state["losses"])
        self.seen.copy_(state["seen"])
