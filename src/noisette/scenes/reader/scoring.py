"""Whether a picture shows what was asked: each attribute, each relation, and all of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from noisette.errors import UserError
from noisette.scenes.constraints import Constraints, Pattern, Relation
from noisette.scenes.reader.net import Reader
from noisette.scenes.reader.reading import Reading, Seen, read

__all__ = ["Score", "judge", "score"]

ATTRIBUTES = ("shape", "color", "size", "material", "pose")
AROUND = ("floor_color", "floor_pattern", "light", "style")


@dataclass(frozen=True)
class Score:
    """How far a picture shows what was asked of it.

    objects: per pattern, by field, whether the object given to it has it; found says whether there was one to
    give. relations: per relation. surroundings: by field. count: None where no number was asked.
    assignment: the index of the object seen that each pattern was given, or None.
    Motions cannot be seen in one picture and are left out.
    """

    objects: tuple[dict[str, bool], ...]
    relations: tuple[bool, ...]
    surroundings: dict[str, bool]
    count: bool | None
    assignment: tuple[int | None, ...]

    @property
    def all(self) -> bool:
        """Whether everything asked was seen."""
        parts = [*(value for thing in self.objects for value in thing.values()), *self.relations]
        return all([*parts, *self.surroundings.values(), self.count is not False])


def score(
    images: Tensor, constraints: Constraints | Sequence[Constraints], reader: Reader | None = None
) -> list[Score]:
    """Read pictures and say, for each, which of the attributes and relations asked for hold.

    images: [B, 3, S, S] in [-1, 1], S >= 64; constraints: one for all or one for each. Raises UserError as
    `read` does, and when there are not as many constraints as pictures. Cost: that of `read`.
    """
    asked = [constraints] * len(images) if isinstance(constraints, Constraints) else list(constraints)
    if len(asked) != len(images):
        raise UserError(f"{len(images)} pictures need as many constraints, not {len(asked)}")
    return [judge(reading, one) for reading, one in zip(read(images, reader), asked, strict=True)]


def judge(reading: Reading, constraints: Constraints) -> Score:
    """Hold one reading against what was asked.

    Objects are given to patterns, one each, so that as many attributes and relations hold as can; so
    everything holds if there is any way that it does.
    """
    seen = set(reading.relations())
    count = len(constraints.objects)
    hands = [*range(len(reading.objects)), *[None] * max(0, count - len(reading.objects))]
    best = max(
        (_given(reading, constraints, chosen, seen) for chosen in itertools.permutations(hands, count)),
        key=lambda s: sum(value for thing in s.objects for value in thing.values()) + sum(s.relations),
    )
    return best


def _given(
    reading: Reading, constraints: Constraints, chosen: tuple[int | None, ...], seen: set[Relation]
) -> Score:
    things = [None if i is None else reading.objects[i] for i in chosen]
    objects = tuple(_attributes(p, thing) for p, thing in zip(constraints.objects, things, strict=True))
    relations = tuple(_related(r, chosen, seen) for r in constraints.relations)
    around = {
        name: getattr(reading, name) == value
        for name, value in constraints.surroundings().items()
        if name in AROUND
    }
    count = None if constraints.count is None else len(reading.objects) == constraints.count
    return Score(objects, relations, around, count, chosen)


def _attributes(pattern: Pattern, thing: Seen | None) -> dict[str, bool]:
    asked = {name: value for name in ATTRIBUTES if (value := getattr(pattern, name)) is not None}
    return {"found": thing is not None} | {name: getattr(thing, name, None) == v for name, v in asked.items()}


def _related(relation: Relation, chosen: tuple[int | None, ...], seen: set[Relation]) -> bool:
    a, b = chosen[relation.subject], chosen[relation.object]
    return a is not None and b is not None and Relation(a, relation.kind, b) in seen
