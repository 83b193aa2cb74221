"""Denoisers, and the small algebra in which most methods are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor, nn

from .attention import Attention, Proceed, Rule, attention_lanes
from .level import Level, combine
from .prediction import Parameterization, Prediction

Cond: TypeAlias = Mapping[str, Any]
"""What a network is told beside x: named batch-first tensors, or tuples of them.

``label`` [B] (-1 = no label), ``tokens`` [B, L, D], ``token_mask`` [B, L], ``concat`` [B, C, H, W].
"""

Weight: TypeAlias = float | Tensor | Callable[[Level], float | Tensor]


class Denoiser(Protocol):
    """Splits a noisy x at a level, under a condition, into data and noise."""

    def __call__(self, x: Tensor, level: Level, cond: Cond) -> Prediction: ...


class TimeInput(Protocol):
    """What number the network gets for a level."""

    def __call__(self, level: Level) -> Tensor: ...


@dataclass(frozen=True)
class IndexTime:
    """The row of a table of ``steps`` levels, ``t * steps - 1`` in [0, steps - 1]; fractional between rows.

    The data itself (t = 0) has no row: it is shown as row 0, as DDIM inversion does.
    """

    steps: int = 1000

    def __call__(self, level: Level) -> Tensor:
        return (level.t * self.steps - 1).clamp(min=0)


@dataclass(frozen=True)
class LogSigmaTime:
    """``log(sigma / alpha) / 4``, the c_noise of EDM, held within +-5. Source: arXiv:2206.00364, Table 1."""

    def __call__(self, level: Level) -> Tensor:
        return (-level.half_logsnr / 4).clamp(-5, 5)


@dataclass(frozen=True)
class ScaledTime:
    """``scale * t``: the continuous time of flow-matching networks."""

    scale: float = 1000.0

    def __call__(self, level: Level) -> Tensor:
        return level.t * self.scale


class NetDenoiser(nn.Module):
    """A network as a denoiser: ``read(net(scale_input(x), time(level), cond))``; one network call.

    The network runs in the precision of its weights, everything around it in that of x. An output
    with twice the channels of x carries a learned variance, handed on as ``aux["variance"]``.
    """

    def __init__(self, net: nn.Module, parameterization: Parameterization, time: TimeInput) -> None:
        super().__init__()
        self.net = net
        self.parameterization = parameterization
        self.time = time

    def forward(self, x: Tensor, level: Level, cond: Cond) -> Prediction:
        dtype = next(self.net.parameters()).dtype
        time = self.time(level).flatten().to(x.device, torch.float32).expand(x.shape[0])
        raw = self.net(self.parameterization.scale_input(x, level).to(dtype), time, cond).to(x.dtype)
        if raw.shape[1] == x.shape[1]:
            return self.parameterization.read(raw, x, level)
        raw, variance = raw.chunk(2, dim=1)
        return replace(self.parameterization.read(raw, x, level), aux={"variance": variance})


@dataclass(frozen=True)
class _Term:
    weight: Weight
    base: Denoiser
    changes: tuple[Callable[[Cond], Cond], ...] = ()
    rules: tuple[Rule, ...] = ()

    def change(self, cond: Cond) -> Cond:
        for change in self.changes:
            cond = change(cond)
        return cond


@dataclass(frozen=True)
class _Sum:
    """``sum_i w_i * base_i``: the normal form of `affine`, `given` and `with_attention`."""

    terms: tuple[_Term, ...]

    def __call__(self, x: Tensor, level: Level, cond: Cond) -> Prediction:
        return together((self,), x, level, cond)[0]


def affine(*terms: tuple[Weight, Denoiser]) -> Denoiser:
    """``sum_i w_i * d_i`` with weights that sum to one, so that the split of x stays a split of x.

    A weight is a number, a tensor that broadcasts against x, or a function of the level. The same
    combination holds in eps, x0, v and score. Terms over one base denoiser are ONE batched network
    call; a term whose weight is the number 0 is not called. ``aux`` is the first term's.

    Raises ValueError when all weights are numbers and do not sum to one.
    """
    numbers = [w for w, _ in terms if isinstance(w, int | float)]
    if len(numbers) == len(terms) and abs(sum(numbers) - 1) > 1e-6:
        raise ValueError(f"the weights of an affine combination sum to one, not to {sum(numbers):g}")
    return _Sum(tuple(replace(t, weight=_times(w, t.weight)) for w, d in terms for t in _terms(d)))


def together(denoisers: Sequence[Denoiser], x: Tensor, level: Level, cond: Cond) -> list[Prediction]:
    """What several denoisers make of one x, each by itself, in as few calls as their `affine` sum takes."""
    sums = [_live(_terms(denoiser), level) for denoiser in denoisers]
    found = iter(_run([term for terms in sums for _, term in terms], x, level, cond))
    return [_added([(w, next(found)) for w, _ in terms], level) for terms in sums]


def given(denoiser: Denoiser, change_cond: Callable[[Cond], Cond]) -> Denoiser:
    """The same denoiser under another condition: ``d(x, level, change_cond(cond))``."""
    return _Sum(tuple(replace(t, changes=(change_cond, *t.changes)) for t in _terms(denoiser)))


def guide(strong: Denoiser, weak: Denoiser, scale: Weight) -> Denoiser:
    """``weak + scale * (strong - weak)``: guidance of every kind; scale 1 is off.

    With ``weak = given(d, to_null)`` it is classifier-free guidance in Stable Diffusion's
    convention, scale = 1 + omega (arXiv:2207.12598, Eq. 6), for one batched call; with a smaller or
    younger network as ``weak`` it is autoguidance (arXiv:2406.02507, Eq. 3).
    """
    if callable(scale) and not isinstance(scale, Tensor):
        return affine((scale, strong), (lambda level: 1 - scale(level), weak))
    return affine((scale, strong), (1 - scale, weak))


def with_attention(denoiser: Denoiser, rule: Rule, where: str | Callable[[str], bool] = "*") -> Denoiser:
    """The denoiser with ``rule(call, proceed)`` in place of attention at the sites that match ``where``.

    ``where`` is a shell-style pattern or a test of the site's name ("down.1.0.self", "mid.cross").
    In an affine combination the rule touches its own term's lane only.
    """

    def scoped(call: Attention, proceed: Proceed) -> Tensor:
        matches = fnmatchcase(call.site, where) if isinstance(where, str) else where(call.site)
        return rule(call, proceed) if matches else proceed(call)

    return _Sum(tuple(replace(t, rules=(scoped, *t.rules)) for t in _terms(denoiser)))


def oracle(x0: Tensor, eps: Tensor) -> Denoiser:
    """The truth as a denoiser, whatever x is: teachers, tests, and the baselines of losses. No call."""
    return lambda x, level, cond: Prediction(x0, eps, level)


def _terms(denoiser: Denoiser) -> tuple[_Term, ...]:
    return denoiser.terms if isinstance(denoiser, _Sum) else (_Term(1.0, denoiser),)


def _live(terms: Sequence[_Term], level: Level) -> list[tuple[float | Tensor, _Term]]:
    """Terms with their weights. One of exactly zero costs no call: scale 1 and intervals are free."""
    weighted = [(_at(term.weight, level), term) for term in terms]
    return [(w, term) for w, term in weighted if isinstance(w, Tensor) or w != 0]


def _added(weighted: Sequence[tuple[float | Tensor, Prediction]], level: Level) -> Prediction:
    """The combination of predictions, with the ``aux`` of the first."""
    weight, first = weighted[0]
    if len(weighted) == 1 and not isinstance(weight, Tensor) and weight == 1:
        return first
    x0 = combine(*((w, p.x0) for w, p in weighted))
    eps = combine(*((w, p.eps) for w, p in weighted))
    return Prediction(x0, eps, level, first.aux)


def _at(weight: Weight, level: Level) -> float | Tensor:
    return weight(level) if callable(weight) and not isinstance(weight, Tensor) else weight


def _times(a: Weight, b: Weight) -> Weight:
    if isinstance(b, int | float) and b == 1:
        return a
    if any(callable(w) and not isinstance(w, Tensor) for w in (a, b)):
        return lambda level: _at(a, level) * _at(b, level)
    return cast(float, a) * cast(float, b)


def _run(terms: Sequence[_Term], x: Tensor, level: Level, cond: Cond) -> list[Prediction]:
    """The prediction of each term, in order; one batched call for each base and kind of condition.

    Terms that differ in their weights alone are one lane.
    """
    keys = [(id(term.base), *map(id, (*term.changes, None, *term.rules))) for term in terms]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    terms = list(dict(zip(keys, terms, strict=True)).values())
    conds = [term.change(cond) for term in terms]
    groups: dict[tuple[int, Any], list[int]] = {}
    for i, term in enumerate(terms):
        groups.setdefault((id(term.base), _signature(conds[i])), []).append(i)
    found: dict[int, Prediction] = {}
    for lanes in groups.values():
        n = len(lanes)
        with attention_lanes(tuple(terms[i].rules for i in lanes)):
            batched = terms[lanes[0]].base(
                x if n == 1 else torch.cat([x] * n),
                level if n == 1 else Level.concatenate([level] * n),
                conds[lanes[0]] if n == 1 else _concatenate([conds[i] for i in lanes]),
            )
        found |= zip(lanes, _chunk(batched, n, level), strict=True)
    return [found[places[key]] for key in keys]


def _chunk(prediction: Prediction, n: int, level: Level) -> list[Prediction]:
    if n == 1:
        return [prediction]
    aux = {key: value.chunk(n) for key, value in prediction.aux.items()}
    parts = zip(prediction.x0.chunk(n), prediction.eps.chunk(n), strict=True)
    return [
        Prediction(x0, eps, level, {key: value[i] for key, value in aux.items()})
        for i, (x0, eps) in enumerate(parts)
    ]


def _signature(value: Any) -> Any:
    """What two conditions must share to be laid one after the other along the batch."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.dtype)
    if isinstance(value, Mapping):
        items = cast(Mapping[str, Any], value)
        return tuple((key, _signature(items[key])) for key in sorted(items))
    if isinstance(value, list | tuple):
        return tuple(_signature(item) for item in cast(Sequence[Any], value))
    return value


def _concatenate(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, Mapping):
        keys = cast(Mapping[str, Any], first)
        return {key: _concatenate([value[key] for value in values]) for key in keys}
    if isinstance(first, list | tuple):
        return tuple(_concatenate(items) for items in zip(*values, strict=True))
    return first
