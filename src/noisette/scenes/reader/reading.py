"""What the reader sees in a picture: objects with their masks, and what surrounds them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from noisette.errors import UserError
from noisette.scenes.constraints import Relation
from noisette.scenes.reader.net import OBJECT, OFFSET_UNIT, SIZE, SURROUNDINGS, WORDS, Maps, Reader, Told

__all__ = ["APART", "Reading", "Seen", "group", "read", "shipped"]

APART = 0.25
"""World units: nearer than this, two objects seen are neither left nor right, before nor behind one another.

Half of what makes the relation true: what is read may be a little off, and what holds clearly must be found.
"""

LIKELY_MIDDLE = 0.3
"""Probability from which a place is the middle of an object."""

MOST_OBJECTS = 4
FEWEST_PIXELS = 8
"""Of the 64 x 64 pixels: smaller masks are specks, not objects."""


@dataclass(frozen=True)
class Seen:
    """One object seen.

    mask: bool [S, S], as large as the picture; center: its mean (x, y) in pixels, the middle of the first
    pixel being (0.5, 0.5); right, away: world units to the right of the middle of the scene and away from
    the camera; on: the index of the object seen that it stands on; pose: of a figure, else None;
    confidence: probability in [0, 1] of the words read, by field.
    """

    shape: str
    color: str
    size: str
    material: str
    pose: str | None
    center: tuple[float, float]
    right: float
    away: float
    on: int | None
    confidence: dict[str, float]
    mask: Tensor = field(repr=False, compare=False)


@dataclass(frozen=True)
class Reading:
    """What a picture shows.

    readable: whether it is a picture of this world at all; if not, no object is seen and the words are None.
    """

    readable: bool
    objects: tuple[Seen, ...] = ()
    light: str | None = None
    style: str | None = None
    floor_color: str | None = None
    floor_pattern: str | None = None

    def relations(self, margin: float = APART) -> Iterator[Relation]:
        """Every relation seen between two objects, as `constraints.relations` has them of a scene."""
        for (i, a), (j, b) in itertools.permutations(enumerate(self.objects), 2):
            if a.on == j:
                yield Relation(i, "on top of", j)
                continue
            if abs(a.right - b.right) >= margin:
                yield Relation(i, "right of" if a.right > b.right else "left of", j)
            if abs(a.away - b.away) >= margin:
                yield Relation(i, "behind" if a.away > b.away else "in front of", j)


@torch.no_grad()
def read(images: Tensor, reader: Reader | None = None) -> list[Reading]:
    """Read pictures: what objects they show, in what floor, light and style; nothing where nothing is.

    images: [B, 3, S, S] in [-1, 1], square, S >= 64; what is larger than 64 is averaged down first. reader:
    by default the one that ships with the package. Raises UserError for another shape, or a value that is
    not finite. Cost: two network calls per 256 pictures.
    """
    reader = reader or shipped()
    if not torch.isfinite(images).all():
        raise UserError("the pictures hold NaN or infinity and cannot be read: check how they were made")
    return [reading for batch in images.split(256) if len(batch) for reading in _read(reader, batch)]


@cache
def shipped() -> Reader:
    """The reader that ships with the package, loaded once."""
    return Reader.load()


def _read(reader: Reader, images: Tensor) -> Iterator[Reading]:
    masks, told, around, readable = look(reader, images)
    chosen = {name: logits.argmax(1).tolist() for name, logits in around.items()}
    for b, can in enumerate((readable > 0).tolist()):
        if not can:
            yield Reading(False)
            continue
        words = {name: SURROUNDINGS[name][index[b]] for name, index in chosen.items()}
        there = masks[b].any((1, 2)).nonzero()[:, 0]
        probable = {name: _likeliest(logits[b, there]) for name, logits in told.words.items()}
        on = _supports(told.on[b][there][:, there])
        shown = _enlarge(masks[b, there], images.shape[-1])
        objects = [
            _seen(probable, place, on[k], shown[k], k)
            for k, place in enumerate(told.place[b, there].tolist())
        ]
        yield Reading(True, tuple(objects), **words)


def look(reader: Reader, images: Tensor) -> tuple[Tensor, Told, dict[str, Tensor], Tensor]:
    """The masks bool [B, 4, 64, 64] in pictures, what they show, what surrounds them and how surely, [B].

    Each picture is looked at twice, the second time in a mirror, and the two are averaged: what is said of
    it must not depend on the side it is seen from.
    """
    like = next(reader.parameters())
    x = images.to(like.device, like.dtype)
    maps, mirror = reader.maps(x), reader.maps(x.flip(-1))
    across = maps.offset.new_tensor([-1.0, 1.0])
    both = replace(
        maps,
        heat=(maps.heat + mirror.heat.flip(-1)) / 2,
        area=(maps.area + mirror.area.flip(-1)) / 2,
        offset=(maps.offset + mirror.offset.flip(-1) * across[:, None, None]) / 2,
    )
    masks = group(both)
    told, other = reader.tell(maps, masks.to(like.dtype)), reader.tell(mirror, masks.flip(-1).to(like.dtype))
    (around, readable), (around_other, readable_other) = reader.around(maps), reader.around(mirror)
    told = Told(
        _mean(told.words, other.words), (told.place + other.place * across) / 2, (told.on + other.on) / 2
    )
    return masks, told, _mean(around, around_other), (readable + readable_other) / 2


def _mean(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (value + b[name]) / 2 for name, value in a.items()}


def _seen(
    probable: dict[str, tuple[Tensor, Tensor]], place: list[float], on: int | None, mask: Tensor, k: int
) -> Seen:
    words = {name: WORDS[name][int(index[k])] for name, (_, index) in probable.items()}
    confidence = {name: float(value[k]) for name, (value, _) in probable.items()}
    if words["shape"] != "figure":
        del words["pose"], confidence["pose"]
    y, x = (axis.double().mean().item() + 0.5 for axis in mask.nonzero(as_tuple=True))
    return Seen(
        words["shape"],
        words["color"],
        words["size"],
        words["material"],
        words.get("pose"),
        (x, y),
        place[0],
        place[1],
        on,
        confidence,
        mask.cpu(),
    )


def _likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    value, index = logits.softmax(1).max(1)
    return value, index


def _supports(logits: Tensor) -> list[int | None]:
    """For logits [K, K] that i stands on j: the likeliest j of each i, or None where none is likely."""
    if not len(logits):
        return []
    best = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool, device=logits.device), -torch.inf).max(
        1
    )
    return [int(j) if v > 0 else None for v, j in zip(best.values, best.indices, strict=True)]


def _enlarge(masks: Tensor, size: int) -> Tensor:
    if size == SIZE:
        return masks
    return F.interpolate(masks[None].float(), (size, size), mode="nearest-exact")[0] > 0.5


def group(maps: Maps) -> Tensor:
    """The masks bool [B, 4, 64, 64] of up to four objects, the likeliest first; empty where there are fewer.

    Middles are the peaks of the heat; each pixel of an object goes to the middle nearest to where it points.
    Source: arXiv:1911.10194, Sec. 3.2.
    """
    heat = maps.heat.float().sigmoid()
    peak = (heat == F.max_pool2d(heat, 3, stride=1, padding=1)) & (heat > LIKELY_MIDDLE)
    value, index = torch.where(peak, heat, 0).flatten(1).topk(MOST_OBJECTS)
    cell = SIZE // heat.shape[-1]
    middles = torch.stack([index % heat.shape[-1], index // heat.shape[-1]], 2) * cell + cell / 2  # [B, 4, 2]
    line = torch.arange(SIZE, device=heat.device) + 0.5
    x = line + maps.offset[:, 0].float() * OFFSET_UNIT
    y = line[:, None] + maps.offset[:, 1].float() * OFFSET_UNIT
    far = (x[:, None] - middles[:, :, 0, None, None]).square() + (
        y[:, None] - middles[:, :, 1, None, None]
    ).square()
    far = far.masked_fill((value <= 0)[..., None, None], torch.inf)
    owner = torch.where(maps.area.argmax(1) == OBJECT, far.argmin(1), -1)
    masks = (owner[:, None] == torch.arange(MOST_OBJECTS, device=heat.device)[:, None, None]) & far.isfinite()
    return masks & (masks.sum((2, 3), keepdim=True) >= FEWEST_PIXELS)
