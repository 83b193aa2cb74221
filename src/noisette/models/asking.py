"""What a call of a `Model` asks for: checked, and made explicit for every picture."""

from __future__ import annotations

import math
import operator
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from noisette.conditioning import NO_LABEL
from noisette.conditioning.text import NO_TEXT, negatives_of
from noisette.errors import UserError
from noisette.hub.spec import ModelSpec

__all__ = ["Labels", "Prompts", "Told"]

Labels: TypeAlias = int | str | Sequence[int | str]
Prompts: TypeAlias = str | Sequence[str]

MOST_PICTURES, MOST_VALUES = 10**6, 2**31
"""What one call may return at most."""


@dataclass(frozen=True)
class Told:
    """What each picture of a call is told: labels, or prompts and maybe negative ones, or nothing."""

    labels: tuple[int, ...] | None = None
    prompts: tuple[str, ...] | None = None
    negatives: tuple[str, ...] | None = None

    @property
    def count(self) -> int | None:
        """How many pictures that makes, None where nothing says."""
        told = self.labels if self.prompts is None else self.prompts
        return None if told is None else len(told)


def told_to_draw(
    spec: ModelSpec, prompt: Prompts | None, negative: Prompts | None, label: Labels | None, each: int
) -> Told:
    """What every picture is told, ``each`` pictures of one prompt or label."""
    if spec.text is None:
        if prompt is not None or negative is not None:
            draws = "labels: give one as label=" if spec.labels else "without being told what"
            raise UserError(f"{spec.name} takes no prompt, it draws {draws}")
        return _labelled(spec, label, each)
    if label is not None:
        raise UserError(f"{spec.name} draws from texts: give a prompt in place of the label")
    prompts = [NO_TEXT] if prompt is None else _texts(prompt, "a prompt")
    if negative is not None and not isinstance(negative, str):
        negative = _texts(negative, "a negative prompt")
    negatives = negatives_of(prompts, negative)
    whole(len(prompts) * each, "the number of pictures", 1, MOST_PICTURES)
    every = [(p, n) for p, n in zip(prompts, negatives, strict=True) for _ in range(each)]
    given = None if negative is None else tuple(n for _, n in every)
    return Told(prompts=tuple(p for p, _ in every), negatives=given)


def told_of_pictures(spec: ModelSpec, count: int, prompt: Prompts | None, label: Labels | None) -> Told:
    """What ``count`` pictures that are there show: one prompt or label for all, or one each, or none."""
    if label is None and spec.labels is not None and prompt is None:
        return Told(labels=(NO_LABEL,) * count)
    told = told_to_draw(spec, prompt, None, label, 1)
    if told.count in (None, count):
        return told
    if told.count != 1:
        what = "label" if told.prompts is None else "prompt"
        raise UserError(f"{count} pictures need one {what}, or one each, not {told.count}")
    labels, prompts, negatives = told.labels, told.prompts, told.negatives
    return Told(labels and labels * count, prompts and prompts * count, negatives and negatives * count)


def _labelled(spec: ModelSpec, label: Labels | None, each: int) -> Told:
    names = spec.labels
    if label is None and names is None:
        return Told()
    if label is None:
        every = range(len(names or ()))
        whole(len(every) * each, "the number of pictures", 1, MOST_PICTURES)
        return Told(labels=tuple(every) * each)
    chosen: list[int | str] = [label] if isinstance(label, int | str) else list(label)
    if not chosen:
        raise UserError("the list of labels is empty: name at least one")
    whole(len(chosen) * each, "the number of pictures", 1, MOST_PICTURES)
    return Told(labels=tuple(one for name in chosen for one in [label_index(spec, name)] * each))


def _texts(asked: Prompts, what: str) -> list[str]:
    every = [asked] if isinstance(asked, str) else list(asked) if isinstance(asked, Sequence) else []
    if not every or not all(isinstance(one, str) for one in every):
        raise UserError(f"{what} is a text, or a list of texts with at least one, not {asked!r:.40}")
    return every


def label_index(spec: ModelSpec, label: int | str) -> int:
    """The index of a class by its name, or by its number. Raises UserError for neither."""
    names = spec.labels
    if names is None:
        raise UserError(f"{spec.name} draws without labels: leave label out")
    if isinstance(label, str) and label in names:
        return names.index(label)
    # Where the names are numbers themselves, a number in words means a name and nothing else.
    if isinstance(label, str):
        plain = label.isdecimal() and len(label) < 10 and not any(name.isdecimal() for name in names)
        number = int(label) if plain else -1
    else:
        number = label if _is_whole(label) else -1
    if not 0 <= number < len(names):
        known = ", ".join(names) if len(names) <= 20 else f"0 to {len(names) - 1}"
        raise UserError(f"{spec.name} knows no label {label!r:.60}: its labels are {known}")
    return int(number)


def shape_of(
    spec: ModelSpec, count: int, height: int | None, width: int | None, given: Tensor | None
) -> tuple[int, int, int, int]:
    """[N, C, h, w] of what the network works on, for pictures of that size; ``given`` must have it."""
    tall, wide = (spec.image_size if side is None else side for side in (height, width))
    spec.check_size(tall, wide)
    shape = count, spec.shape[0], tall // spec.factor, wide // spec.factor
    if math.prod((count, spec.channels, tall, wide)) > MOST_VALUES:
        raise UserError(f"{count} pictures of {wide}x{tall} are too many for one call: ask for fewer")
    if given is not None and given.shape != shape:
        raise UserError(f"the tensor given has shape {list(given.shape)}, but {list(shape)} is needed")
    return shape


def seeds_of(seed: int | Sequence[int] | None, count: int) -> list[int]:
    """The seed of each picture: counted up from one number, or as listed, or fresh."""
    if seed is None:
        # Not from torch's generator: unless seeded it starts alike in every process.
        seed = secrets.randbelow(2**32)
    if not isinstance(seed, Sequence):
        return [whole(seed, "seed", 0, 2**62) + k for k in range(count)]
    if len(seed) != count:
        raise UserError(f"{len(seed)} seeds were given for {count} pictures: give one number, or one each")
    return [whole(one, "seed", 0, 2**63 - 1) for one in seed]


def whole(value: int, name: str, low: int, high: int) -> int:
    """A whole number of any kind in [low, high], as an int. Raises UserError for anything else."""
    if not _is_whole(value) or not low <= value <= high:
        raise UserError(f"{name} must be a whole number from {low} to {high}, got {value!r:.40}")
    return operator.index(value)


def _is_whole(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)
