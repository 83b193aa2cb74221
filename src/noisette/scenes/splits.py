"""Which combinations training never shows: the splits are functions, so that there is no list to lose."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from functools import cache

from noisette.scenes.constraints import RELATIONS, relations
from noisette.scenes.scene import COLORS, SHAPES, Scene, check_word

__all__ = [
    "SPLITS",
    "Fact",
    "Pair",
    "belongs",
    "facts",
    "held_out_pairs",
    "held_out_relations",
    "is_held_out_relation",
    "is_novel",
]

SPLITS = ("train", "test", "novel", "all")
"""train and test show nothing held out, each novel scene shows something held out, all asks nothing."""

Pair = tuple[str, str]
"""A shape and a color."""

Fact = tuple[int, str, int]
"""Object i is (left of, in front of, on top of) object j."""

# One color of each shape, another each time: every shape keeps nine colors, every color six shapes or all.
_HELD_OUT = {
    "sphere": "green",
    "cube": "purple",
    "cylinder": "white",
    "cone": "cyan",
    "torus": "orange",
    "capsule": "pink",
    "figure": "blue",
}

_INVERSE = {"right of": "left of", "behind": "in front of"}
_KINDS = tuple(kind for kind in RELATIONS if kind not in _INVERSE)


def held_out_pairs() -> frozenset[Pair]:
    """The 7 of the 70 pairs (shape, color) that training never shows."""
    return frozenset(_HELD_OUT.items())


@cache
def is_held_out_relation(a: Pair, kind: str, b: Pair) -> bool:
    """Whether training never shows that an `a` is `kind` a `b`; one relation in ten, drawn by a hash.

    "a right of b" is "b left of a", and "a behind b" is "b in front of a": either way of saying it gives
    the same answer. The sentence "a red cube left of a blue sphere", in ASCII, goes through the 8-byte
    BLAKE2b hash; where that, as a big-endian number, is a multiple of 10, the relation is held out.

    Raises UserError for a word that is not in the vocabulary.
    """
    check_word("relation", kind, RELATIONS)
    for shape, color in (a, b):
        check_word("shape", shape, SHAPES)
        check_word("color", color, COLORS)
    if kind in _INVERSE:
        a, kind, b = b, _INVERSE[kind], a
    said = f"a {a[1]} {a[0]} {kind} a {b[1]} {b[0]}"
    return int.from_bytes(hashlib.blake2b(said.encode("ascii"), digest_size=8).digest(), "big") % 10 == 0


def held_out_relations() -> Iterator[tuple[Pair, str, Pair]]:
    """Every held-out relation once, told as left of, in front of or on top of."""
    pairs = tuple(itertools.product(SHAPES, COLORS))
    for a, kind, b in itertools.product(pairs, _KINDS, pairs):
        if is_held_out_relation(a, kind, b):
            yield a, kind, b


def facts(scene: Scene) -> tuple[Fact, ...]:
    """The relations that hold in a scene, each told once; they depend on no color."""
    return tuple((r.subject, r.kind, r.object) for r in relations(scene) if r.kind not in _INVERSE)


def is_novel(pairs: Sequence[Pair], true: Sequence[Fact]) -> bool:
    """Whether objects of these shapes and colors, of which these facts are true, show something held out."""
    return any(_HELD_OUT[shape] == color for shape, color in pairs) or any(
        is_held_out_relation(pairs[i], kind, pairs[j]) for i, kind, j in true
    )


def belongs(scene: Scene, split: str) -> bool:
    """Whether the scene may be in that split, by what holds in it at time 0, captioned or not.

    Raises UserError when there is no such split.
    """
    check_word("split", split, SPLITS)
    pairs = [(thing.shape, thing.color) for thing in scene.objects]
    return split == "all" or is_novel(pairs, facts(scene)) == (split == "novel")
