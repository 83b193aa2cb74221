"""Low-rank updates of the layers of a network (LoRA): several at once, live or fused, trained or read.

A linear layer or a convolution that carries updates becomes an `AdaptedLinear` or an `AdaptedConv2d`, in
place: it stays the same object with the very same parameters under the same names, and its updates are one
more submodule, `<layer>.lora.<adapter>`. So whoever looks at `layer.weight` finds it, the state of the
network keeps every key it had, and `detach` has nothing to put back. (A wrapper around the layer would
rename its weights, a parametrization would round the sum to the precision of the weights in every call,
and a forward hook is something that a compiled network does not watch.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisette.errors import UserError

DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


@dataclass(frozen=True, eq=False)
class LowRank:
    """The update of one layer, `scale * up @ down` with `scale = alpha / r`.

    down: [r, in] for a linear layer, [r, in, kh, kw] for a convolution; up: [out, r] or [out, r, 1, 1].
    Where a file says nothing of `alpha` it is r, so that the scale is 1. Rank-stabilised updates, whose
    scale is `a / sqrt(r)`, have `alpha = a * sqrt(r)`.
    Source: arXiv:2106.09685, Sec. 4.1. Raises UserError for two halves that do not belong together.
    """

    down: Tensor
    up: Tensor
    alpha: float

    def __post_init__(self) -> None:
        shapes = f"down {list(self.down.shape)} and up {list(self.up.shape)}"
        if self.down.ndim < 2 or self.up.ndim < 2 or not self.down.numel() or not self.up.numel():
            raise UserError(f"{shapes} are not the two halves of a low-rank update")
        if self.down.shape[0] != self.up.shape[1]:
            raise UserError(f"{shapes} have different ranks, {self.down.shape[0]} and {self.up.shape[1]}")
        if not {self.down.dtype, self.up.dtype} <= DTYPES:
            raise UserError(f"{self.down.dtype} and {self.up.dtype} are not the weights of an update")
        if not math.isfinite(self.alpha):
            raise UserError(f"alpha {self.alpha} is not a finite number")

    @property
    def rank(self) -> int:
        """The number of rows of `down`, r."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """`alpha / r`, what the product of the halves is multiplied by."""
        return self.alpha / self.rank

    def delta(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The update as a whole, [out, in] or [out, in, kh, kw], in `dtype` or in the halves' if wider."""
        wide = torch.promote_types(torch.promote_types(self.down.dtype, self.up.dtype), dtype)
        product = self.up.to(wide).flatten(1) @ self.down.to(wide).flatten(1)
        return self.scale * product.unflatten(1, self.down.shape[1:])


class Term(nn.Module):
    """What one adapter adds to one layer: a `LowRank` with a weight, its halves as parameters."""

    def __init__(self, update: LowRank, weight: float, trainable: bool) -> None:
        super().__init__()
        self.down = nn.Parameter(update.down, trainable)
        self.up = nn.Parameter(update.up, trainable)
        self.alpha, self.weight = update.alpha, weight

    def update(self) -> LowRank:
        """The update, whose tensors are the parameters themselves."""
        return LowRank(self.down.detach(), self.up.detach(), self.alpha)


Apply: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def _plus(out: Tensor, x: Tensor, terms: nn.ModuleDict, down: Apply, up: Apply) -> Tensor:
    for term in terms.values():
        assert isinstance(term, Term)
        if term.weight:  # an adapter that is switched off costs nothing, and changes not even a sign of zero
            wide = torch.promote_types(x.dtype, term.down.dtype)
            h = down(x.to(wide), term.down.to(wide)) * (term.weight * term.alpha / term.down.shape[0])
            out = out + up(h, term.up.to(wide)).to(out.dtype)
    return out


class AdaptedLinear(nn.Linear):
    """`W x + b + sum_i weight_i * scale_i * up_i (down_i x)`; made by `attach`, and unmade by `detach`."""

    lora: nn.ModuleDict

    def forward(self, input: Tensor) -> Tensor:
        return _plus(super().forward(input), input, self.lora, F.linear, F.linear)


class AdaptedConv2d(nn.Conv2d):
    """The same for a convolution: `down` has its kernel, stride and padding, `up` is 1x1."""

    lora: nn.ModuleDict

    def _down(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._conv_forward(x, weight, None)

    def forward(self, input: Tensor) -> Tensor:
        return _plus(super().forward(input), input, self.lora, self._down, F.conv2d)


Adapted: TypeAlias = AdaptedLinear | AdaptedConv2d
Layer: TypeAlias = nn.Linear | nn.Conv2d


def _layers(net: nn.Module) -> dict[str, Layer]:
    """The layers that can carry updates, by their paths."""
    kinds = (nn.Linear, nn.Conv2d, AdaptedLinear, AdaptedConv2d)
    return {
        path: layer
        for path, layer in net.named_modules()
        if isinstance(layer, Layer) and type(layer) in kinds and getattr(layer, "groups", 1) == 1
    }


def _terms(net: nn.Module) -> Iterator[tuple[str, Adapted, str, Term]]:
    """Path, layer, name of the adapter and term, of everything that is attached."""
    for path, layer in list(net.named_modules()):
        if isinstance(layer, Adapted):
            for name, term in list(layer.lora.items()):
                assert isinstance(term, Term)
                yield path, layer, name, term


def projections(path: str) -> bool:
    """Whether a path is that of an attention's query, key, value or output projection."""
    return path.rpartition(".")[2] in ("to_q", "to_k", "to_v", "to_out")


def fresh(
    net: nn.Module,
    rank: int,
    *,
    alpha: float | None = None,
    where: Callable[[str], bool] = projections,
) -> dict[str, LowRank]:
    """New updates for the layers whose paths `where` accepts, to be attached and trained.

    `down` is Kaiming-uniform with a = sqrt(5), `up` is 0, so that nothing changes at first. `alpha` is
    `rank` by default; a fixed alpha makes the step size independent of the rank. In float32 at least.

    ```python
    net.requires_grad_(False)
    attach(net, fresh(net, rank=4), trainable=True)
    optimizer = AdamW(p for p in net.parameters() if p.requires_grad)
    ```

    Source: arXiv:2106.09685, Sec. 4.1. Raises UserError for a rank below 1, and where no layer is chosen.
    """
    if rank < 1:
        raise UserError(f"rank {rank} must be at least 1")
    chosen = {path: layer for path, layer in _layers(net).items() if where(path)}
    if not chosen:
        raise UserError("no linear layer or convolution of this network was chosen to be adapted")
    return {
        path: _new(layer, rank, float(rank if alpha is None else alpha)) for path, layer in chosen.items()
    }


def _new(layer: Layer, rank: int, alpha: float) -> LowRank:
    weight = layer.weight
    made = {"device": weight.device, "dtype": torch.promote_types(weight.dtype, torch.float32)}
    down = nn.init.kaiming_uniform_(torch.empty(rank, *weight.shape[1:], **made), a=math.sqrt(5))
    return LowRank(down, torch.zeros(len(weight), rank, *[1] * (weight.ndim - 2), **made), alpha)


def attach(
    net: nn.Module,
    updates: Mapping[str, LowRank],
    *,
    weight: float = 1.0,
    name: str = "default",
    trainable: bool = False,
) -> None:
    """Let layers of `net` compute `W x + weight * scale * up (down x)`, under the name of an adapter.

    updates: by the path of the layer. The network's own parameters stay the very same tensors under the
    same names; compiled networks notice. Several adapters add up. An update for a 1x1 convolution fits a
    linear layer of the same widths, and the other way round: trailing sizes of 1 do not matter.

    The halves keep their dtype and share their memory with `updates`; the product is computed in the wider
    of theirs and the input's. With `trainable` they are copies in float32 (or better), which is what an
    optimizer needs; cast the network to half precision before, not after. Cost: 2 r (in + out)
    multiplications per position and update.

    Raises UserError, with nothing attached, for a name that is taken, a weight that is not finite, and
    updates that do not fit.
    """
    if name in attached(net):
        raise UserError(f"an adapter named {name!r} is attached already: choose another name, or detach it")
    if not name or "." in name or hasattr(nn.ModuleDict(), name):
        raise UserError(f"{name!r} cannot be the name of an adapter: choose a plain word")
    _finite(name, weight)
    layers = _layers(net)
    if unknown := sorted(updates.keys() - layers.keys()):
        raise UserError(
            f"{len(unknown)} updates are for layers that this network does not have, such as {unknown[0]!r}"
        )
    fitted = {path: _fitted(path, update, layers[path]) for path, update in updates.items()}
    for path, update in fitted.items():
        layer = _adapted(layers[path])
        layer.lora[name] = Term(_trainable(update) if trainable else update, weight, trainable)


def _fitted(path: str, update: LowRank, layer: Layer) -> LowRank:
    """The update in the layer's shape and on its device."""
    wanted, ones = layer.weight.shape, [1] * (layer.weight.ndim - 2)
    found = (update.up.shape[0], *update.down.shape[1:])
    if _trimmed(found) != _trimmed(wanted) or max(update.up.shape[2:], default=1) > 1:
        halves = f"down {list(update.down.shape)} and up {list(update.up.shape)}"
        raise UserError(f"an update of {path!r} has {halves}, but its weight is {list(wanted)}")
    down = update.down.detach().reshape(update.rank, *wanted[1:]).to(layer.weight.device)
    up = update.up.detach().reshape(wanted[0], update.rank, *ones).to(layer.weight.device)
    return LowRank(down, up, update.alpha)


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape of two sizes or more without the ones at its end."""
    kept = list(shape)
    while len(kept) > 2 and kept[-1] == 1:
        kept.pop()
    return tuple(kept)


def _trainable(update: LowRank) -> LowRank:
    wide = torch.promote_types(torch.promote_types(update.down.dtype, update.up.dtype), torch.float32)
    return LowRank(update.down.to(wide, copy=True), update.up.to(wide, copy=True), update.alpha)


def attached(net: nn.Module) -> dict[str, float]:
    """The adapters that `net` carries, and the weight of each."""
    return {name: term.weight for _, _, name, term in _terms(net)}


def set_adapters(net: nn.Module, weights: Mapping[str, float]) -> None:
    """Give adapters their weights; those that are not named are switched off, and stay attached.

    Raises UserError for a name that is not attached and a weight that is not finite.
    """
    _known(net, weights)
    for name, weight in weights.items():
        _finite(name, weight)
    for _, _, name, term in _terms(net):
        term.weight = weights.get(name, 0.0)


def detach(net: nn.Module, name: str | None = None) -> None:
    """Take one adapter away, or all of them; the network is then what it was, to the last bit and key.

    Raises UserError for a name that is not attached.
    """
    if name is not None:
        _known(net, [name])
    for _, layer, found, _ in _terms(net):
        if name in (None, found):
            del layer.lora[found]
            if not layer.lora:
                _unmake(layer)


def _known(net: nn.Module, names: Iterable[str]) -> None:
    there = attached(net)
    for name in names:
        if name not in there:
            listed = f"those attached are: {', '.join(there)}" if there else "none is attached"
            raise UserError(f"no adapter {name!r} is attached to this network ({listed})")


def _finite(name: str, weight: float) -> None:
    if not math.isfinite(weight):
        raise UserError(f"the weight of adapter {name!r} is {weight}: it must be a finite number")


def _adapted(layer: Layer) -> Adapted:
    """The same layer as one that can carry updates."""
    if not isinstance(layer, Adapted):
        object.__setattr__(
            layer, "__class__", AdaptedLinear if isinstance(layer, nn.Linear) else AdaptedConv2d
        )
        layer.lora = nn.ModuleDict()
    assert isinstance(layer, Adapted)
    return layer


def _unmake(layer: Adapted) -> None:
    del layer.lora
    object.__setattr__(layer, "__class__", nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d)


def updates_of(net: nn.Module, name: str = "default") -> dict[str, LowRank]:
    """An attached adapter as `attach` took it, by the paths of the layers: what one writes to a file.

    The tensors are the live ones, without gradient. Raises UserError for a name that is not attached.
    """
    _known(net, [name])
    return {path: term.update() for path, _, found, term in _terms(net) if found == name}


def lora_state(net: nn.Module) -> dict[str, Tensor]:
    """The tensors of the adapters alone, under the keys that they have in `net.state_dict()`.

    What a checkpoint of a training keeps; `net.load_state_dict(state, strict=False)` brings them back to a
    network with the same adapters attached. Their alphas and weights are numbers that a recipe knows.
    """
    return {
        f"{path}.lora.{name}.{key}": value
        for path, _, name, term in _terms(net)
        for key, value in term.state_dict().items()
    }


@torch.no_grad()
def fuse(net: nn.Module) -> Callable[[], None]:
    """Add every attached adapter to the weights it updates; returns a function that takes this back.

    `W + sum_i weight_i * scale_i * up_i down_i`, summed in float32 (or better) and rounded once. The fused
    network is as fast as it was without adapters, and its state has the plain keys. The original
    parameters are kept aside for the returned function, which puts back these very objects with their
    adapters, so that the network is again what it was to the last bit; dropping the function frees them.
    """
    layers = [(layer, layer.weight, layer.lora) for layer in net.modules() if isinstance(layer, Adapted)]
    for layer, original, terms in layers:
        total = original.to(torch.promote_types(original.dtype, torch.float32))
        for term in terms.values():
            assert isinstance(term, Term)
            if term.weight:
                total = total + term.weight * term.update().delta(total.dtype).to(total.device)
        layer.weight = nn.Parameter(total.to(original.dtype), original.requires_grad)
        _unmake(layer)

    def restore() -> None:
        for layer, original, terms in layers:
            original.data = original.data.to(layer.weight.device)
            layer.weight, _adapted(layer).lora = original, terms.to(layer.weight.device)

    return restore
