"""The exponential moving average of the weights: what is sampled and saved."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["EMA"]


class EMA:
    """``shadow <- d shadow + (1 - d) weights`` with ``d = min(decay, (1 + n) / (10 + n))`` at update n.

    The shadow is float32 on the weights' device; buffers are copied. The warm-up lets the random
    start be forgotten at once: after n updates the average reaches back about n / 10 of them.
    Source: arXiv:2006.11239, Appendix B (decay); the warm-up is TensorFlow's.
    """

    def __init__(self, module: nn.Module, decay: float = 0.9999) -> None:
        self.decay = decay
        self.updates = 0
        self.shadow = {name: _shadow(value) for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the shadow towards the weights of ``module``; a few kernels, whatever its size."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        parameters = dict(module.named_parameters())
        names = [name for name in self.shadow if name in parameters]
        # What torch.optim.swa_utils uses for the same purpose.
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            [self.shadow[name] for name in names], [parameters[name].float() for name in names], 1 - decay
        )
        for name, value in module.state_dict().items():
            if name not in parameters:
                self.shadow[name].copy_(value)

    def copy_to(self, module: nn.Module) -> None:
        """Write the average into ``module``, in its own dtype."""
        module.load_state_dict(self.shadow)

    @contextmanager
    def swapped_into(self, module: nn.Module) -> Generator[None]:
        """The module holds the average inside the block, and its own weights again after it."""
        own = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self.copy_to(module)
        try:
            yield
        finally:
            module.load_state_dict(own)

    def load(self, shadow: dict[str, Tensor], updates: int) -> None:
        """Go on from a saved average."""
        self.updates = updates
        for name, value in self.shadow.items():
            value.copy_(shadow[name])


def _shadow(value: Tensor) -> Tensor:
    return value.detach().clone().float() if value.is_floating_point() else value.detach().clone()
