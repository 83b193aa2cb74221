"""Muon: the weights of a layer are a matrix, and move by an orthogonal one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

__all__ = ["Muon", "matrices"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic ``a X + b (X X^T) X + c (X X^T)^2 X``: steep at 0, where small singular values grow fast."""

ITERATIONS, FEWEST = 5, 32


def matrices(module: nn.Module) -> list[Tensor]:
    """The weights that Muon moves: of linear layers and convolutions that learn, from 32 x 32 up.

    Not those of embeddings, whose rows are apart, nor the thin ones at both ends of a network.
    """
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    weights = (layer.weight for layer in module.modules() if isinstance(layer, layers))
    return [w for w in weights if w.requires_grad and min(len(w), w[0].numel()) >= FEWEST]


class Muon(AdamW):
    """Matrices move by their orthogonalised momentum, everything else as in AdamW.

    ``M <- M + (1 - momentum) (G - M)``, ``O = orthogonal(G + momentum (M - G))``,
    ``W <- W (1 - lr decay) - 0.2 lr sqrt(max(rows, columns)) O``: each entry moves by about 0.2 lr, as those
    of AdamW do, so that one learning rate serves both. Filters [out, in, h, w] count as [out, in h w].
    Cost of a step: 15 products of a matrix with its square, whatever the batch.
    Source: K. Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024; the scale is that of
    arXiv:2502.16982, Eq. 4.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        matrices: Iterable[Tensor],
        *,
        momentum: float = 0.95,
        **options: Any,
    ) -> None:
        """``matrices`` are some of the parameters; ``options`` are AdamW's, lr among them."""
        moved = {id(weight): weight for weight in matrices}
        rest = [weight for weight in parameters if id(weight) not in moved]
        groups: list[dict[str, Any]] = [
            {"params": list(moved.values()), "momentum": momentum},
            {"params": rest, "momentum": None},
        ]
        super().__init__([group for group in groups if group["params"]], **options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move all weights that have a gradient; those of matrices are used up by it."""
        for group in self.param_groups:
            if group["momentum"] is None:
                continue
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[weight.flatten(1).shape].append(weight)
            for shape, weights in alike.items():  # of one shape at once: small products are slow alone
                pulls = torch.stack([self._pull(weight, group["momentum"]).flatten(1) for weight in weights])
                size = 0.2 * group["lr"] * max(shape) ** 0.5
                for weight, update in zip(weights, orthogonal(pulls), strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(update.view_as(weight), alpha=-size)
                    weight.grad = None  # AdamW, which comes next, passes it by
        return super().step(closure)

    def _pull(self, weight: Tensor, momentum: float) -> Tensor:
        """The gradient ahead of its average, which learns it first."""
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state |= {"step": torch.tensor(0.0), "average": torch.zeros_like(weight)}
        state["step"] += 1  # AdamW asks for it in every state it loads
        return weight.grad.lerp(state["average"].lerp_(weight.grad, 1 - momentum), momentum)


def orthogonal(x: Tensor) -> Tensor:
    """Matrices [..., n, m] with the singular vectors of x, all singular values between about 0.7 and 1.2."""
    a, b, c = COEFFICIENTS
    wide = x.shape[-2] <= x.shape[-1]
    y = x if wide else x.mT
    y = (y / (y.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(ITERATIONS):
        square = y @ y.mT
        y = a * y + (b * square + c * square @ square) @ y
    return (y if wide else y.mT).to(x.dtype)
