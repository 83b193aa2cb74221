"""The training loop, as an iterator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class TrainStep:
    """What happened in one update: detached tensors, so that reading them is the caller's choice."""

    index: int
    loss: Tensor
    grad_norm: Tensor


def train(
    loss: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    optimizer: Optimizer,
    *,
    backward: Callable[[Tensor], None] | None = None,
    max_grad_norm: float = 1.0,
) -> Iterator[TrainStep]:
    """Minimise ``loss(batch)`` over ``batches`` and yield a `TrainStep` after every update.

    Gradients are clipped to a global norm of ``max_grad_norm`` (use inf for none). EMA, learning
    rates, logging, checkpoints and the decision to stop live outside, in the loop that consumes
    this. An update whose loss or gradient is not finite is not applied; the step is still yielded.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, batch in enumerate(batches):
        value = loss(batch)
        if backward is None:
            torch.autograd.backward(value)
        else:
            backward(value)
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        if bool(torch.isfinite(norm) & torch.isfinite(value.detach())):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield TrainStep(index, value.detach(), norm.detach())
