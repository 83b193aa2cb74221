"""The words of the little world: how each value may be said, and which other words are understood."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from noisette.errors import UserError

__all__ = ["Token", "a", "after", "before", "lex", "noun", "phrases", "said", "understood", "verb"]

# Left of the semicolon stands what captions say, the plainest first; right of it what is understood besides.
ADJECTIVES: dict[str, dict[str, str]] = {
    "color": {
        "red": "red; scarlet, crimson",
        "orange": "orange",
        "yellow": "yellow",
        "green": "green",
        "cyan": "cyan, turquoise; aqua",
        "blue": "blue",
        "purple": "purple, violet",
        "pink": "pink",
        "brown": "brown",
        "white": "white",
        "gray": "gray, grey",
        "beige": "beige; cream, sand colored, sand coloured",
    },
    "size": {
        "small": "small, little, tiny; mini, miniature, smaller",
        "large": "large, big, huge; giant, bigger, larger",
    },
    "material": {
        "matte": "matte, dull; matt, mat, rubber",
        "shiny": "shiny, glossy, metallic, polished; metal, gleaming, reflective, shinier",
        "striped": "striped, stripy; stripey, stripes",
    },
    "floor_pattern": {
        "plain": "plain; bare",
        "checkered": "checkered, chequered; checked, checker, checkerboard, chequerboard, chessboard, tiled",
        "wooden": "wooden; wood, parquet, plank",
    },
}

NOUNS = {
    "sphere": "sphere, ball; orb, globe",
    "cube": "cube, box, block; brick",
    "cylinder": "cylinder; drum",
    "cone": "cone",
    "torus": "torus, ring, doughnut, donut; hoop",
    "capsule": "capsule, pill; tablet",
    "figure": "figure, person, man; woman, human, mannequin, stick figure",
    "object": "object, thing; shape",
    "floor": "floor, ground",
    "camera": "camera; viewpoint",
    "surface": "surface; finish, texture, color, colour, paint",
    "picture": "picture, image; scene, view, shot, render, rendering, video, clip",
}

# Verbs stand in their plain form; a phrase that begins with "with" or "=" is no verb.
VERBS: dict[str, dict[str, str]] = {
    "pose": {
        "standing": "stand; stand up, stand upright, =upright",
        "waving": "wave, wave its hand; wave a hand, wave an arm, wave its arm",
        "arms up": "with its arms up, with raised arms, raise its arms, with its arms in the air; "
        "with raised hands, with arms up, with arms raised, with its arms raised, with arms in the air, "
        "with hands up, with its hands up, with its hands in the air, raise its hands, raise arms, "
        "put its arms up, hold its arms up, lift its arms, put its hands up, hold up its arms",
        "sitting": "sit, sit down; =seated",
        "running": "run; jog, sprint",
    },
    "motion": {
        "still": "stay still, =motionless; =still, =static, =stationary, =at rest, keep still, stand still, "
        "=not move, =does not move, =do not move, =doesn't move, =don't move, =fixed, stop moving",
        "rolls left": "roll left, roll to the left; roll leftward, roll leftwards",
        "rolls right": "roll right, roll to the right; roll rightward, roll rightwards",
        "bounces": "bounce, bounce up and down; hop, jump",
        "spins": "spin, spin around; rotate, turn around, twirl, whirl",
        "walks": "walk; walk along, stroll",
    },
    "camera_motion": {
        "orbits": "orbit, circle around; orbit around, circle",
        "zooms in": "zoom in, move closer; move in",
        "zooms out": "zoom out, pull back; move back",
        "pans left": "pan left, pan to the left",
        "pans right": "pan right, pan to the right",
    },
}

TIMES = {
    "day": "in daylight, by day, during the day; day, daylight, daytime, in the daytime, by daylight, "
    "at day, in broad daylight, at noon, noon, at midday, sunny, in the sunshine",
    "sunset": "at sunset, at dusk, in the evening; sunset, dusk, evening, sundown, at sundown, "
    "during sunset, golden hour, at golden hour, in evening light, evening light",
    "night": "at night, by night, in the dark; night, nighttime, night time, at nighttime, in the night, "
    "during the night, after dark, in moonlight, by moonlight, moonlit, moonlight, nocturnal",
}

STYLES = {
    "photo": "photo, photograph; photographic, photorealistic, realistic, snapshot",
    "cartoon": "cartoon, comic; cartoonish, comic drawing, cartoon drawing",
    "sketch": "pencil sketch, sketch, pencil drawing; drawing, pencil, line drawing",
    "watercolor": "watercolor, watercolour, watercolor painting; watercolour painting, painting, aquarelle",
}

# What is "under" something carries it: the same relation told from below.
PLACES: dict[tuple[str | None, bool], str] = {
    ("left of", False): "left of, to the left of, on the left of; on the left side of, at the left of",
    ("right of", False): "right of, to the right of, on the right of; on the right side of, at the right of",
    ("in front of", False): "in front of; before, at the front of",
    ("behind", False): "behind, in back of; at the back of, in the back of",
    ("on top of", False): "on top of, on, atop; upon, onto, over, above, on the top of",
    ("on top of", True): "under, beneath; below, underneath",
    (None, False): "; next to, beside, near, close to, by, alongside",
}

MARKS = {
    "left of": "on the left; to the left, at the left, to its left, on its left, on the left side, at left",
    "right of": "on the right; to the right, at the right, to its right, on its right, "
    "on the right side, at right",
    "in front of": "in the foreground; in the front, at the front, in front",
    "behind": "in the background; in the back, at the back",
    "on top of": "on top; on the top",
}

GLUE: dict[tuple[str, Any], str] = {
    ("det", "a"): "a, an, some, another, one more",
    ("det", "the"): "the, this, these, those",
    ("det", "other"): "the other",
    ("it", "it"): "it, them, they",
    ("is", "is"): "is, are, being, lies, lie, lying, rests, rest, resting, is placed, is located, "
    "be, has been",
    ("that", "that"): "that, which, who",
    ("with", "with"): "with, has, have, having, wearing, featuring",
    ("and", "and"): "and, plus, also, while, as well as, then, &",
    ("of", "of"): "of",
    ("only", "only"): "only, just, exactly, nothing else, nothing more, nothing but, alone",
    ("frozen", "frozen"): "nothing moves, nothing is moving, nothing else moves, everything is still, "
    "everything stays still, nothing else is moving",
    ("noise", "noise"): "there, here, there's, we, you, see, can, shows, show, showing, depicts, depicting, "
    "its, as, style, in the style of, drawn, painted, stands out, please, in the scene, in the picture",
}

NUMBERS = {1: "one, 1, single", 2: "two, 2, a pair of, a couple of", 3: "three, 3", 4: "four, 4"}
ORDINALS = {1: "first, 1st", 2: "second, 2nd", 3: "third, 3rd", 4: "fourth, 4th"}
TOO_MANY = "five, six, seven, eight, nine, ten, eleven, twelve, dozen, many, several, hundred"

IRREGULAR = {"person": "people", "man": "men", "woman": "women", "torus": "tori"}


def _split(entry: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    left, _, right = entry.partition(";")
    says, reads = (tuple(w.strip() for w in part.split(",") if w.strip()) for part in (left, right))
    return says, says + reads


def _entry(kind: str, value: Any) -> str:
    tables = {**ADJECTIVES, **VERBS, "shape": NOUNS, "light": TIMES, "style": STYLES}
    if kind == "relation":
        return PLACES[value, False]
    return MARKS[value] if kind == "mark" else tables[kind][value]


@cache
def said(kind: str, value: str) -> tuple[str, ...]:
    """The forms in which captions say a value, the plainest first; verbs in their plain form."""
    return _split(_entry(kind, value))[0]


@cache
def understood(kind: str, value: str) -> tuple[str, ...]:
    """All forms of a value that are understood; verbs in their plain form."""
    return _split(_entry(kind, value))[1]


def a(phrase: str) -> str:
    """The phrase with its indefinite article."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


@cache
def noun(word: str, count: int) -> str:
    """The noun in the singular or the plural."""
    if count == 1:
        return word
    *rest, last = word.split(" ")
    if last not in IRREGULAR:
        plural = last + ("es" if re.search(r"(s|x|ch|sh)$", last) else "s")
    else:
        plural = IRREGULAR[last]
    return " ".join([*rest, plural])


@cache
def verb(phrase: str, form: str) -> str:
    """A verb phrase in the third person (form "s") or as a participle (form "ing")."""
    word, *rest = phrase.split(" ")
    if form == "s":
        word += "es" if re.search(r"(s|x|ch|sh)$", word) else "s"
    else:
        if re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]|stop", word):
            word += word[-1]
        word = word.removesuffix("e") + "ing"
    return " ".join([word, *rest])


@cache
def before(kind: str, value: str) -> tuple[str, ...]:
    """What is said of a thing before its noun: "red", "waving", "bouncing"."""
    if kind not in VERBS:
        return said(kind, value)
    bare = [p for p in said(kind, value) if not p.startswith("with ")]
    forms = [p[1:] if p.startswith("=") else verb(p, "ing") for p in bare]
    return tuple(form for form in forms if " " not in form)


@cache
def after(kind: str, value: str, count: int = 1) -> tuple[str, ...]:
    """What is said of a thing after its noun: "with its arms up", "that rolls left", "rolling left"."""
    result: list[str] = []
    for phrase in said(kind, value):
        if phrase.startswith("with "):
            result.append(phrase.replace("its", "their") if count > 1 else phrase)
        elif not phrase.startswith("=") and "its" not in phrase.split():
            result += [f"that {phrase if count > 1 else verb(phrase, 's')}", verb(phrase, "ing")]
        elif count == 1 and not phrase.startswith("="):
            result += [f"that {verb(phrase, 's')}", verb(phrase, "ing")]
    return tuple(result)


def _spoken(phrase: str) -> Iterator[str]:
    """All inflections of an entry of `VERBS`."""
    if phrase.startswith(("=", "with ")):
        yield phrase.removeprefix("=").removeprefix("with ")
    else:
        yield from (phrase, verb(phrase, "s"), verb(phrase, "ing"))


def _entries() -> Iterator[tuple[str, str, Any]]:
    """Every phrase that is understood, the kind of thing it says, and its value."""
    for kind, table in ADJECTIVES.items():
        for value in table:
            yield from ((form, kind, value) for form in understood(kind, value))
    for value, entry in NOUNS.items():
        for form in _split(entry)[1]:
            yield form, "noun", (value, False)
            yield noun(form, 2), "noun", (value, True)
    yield "toruses", "noun", ("torus", True)
    for kind, table in VERBS.items():
        for value in table:
            for phrase in understood(kind, value):
                yield from ((form, kind, value) for form in _spoken(phrase))
    for value in TIMES:
        yield from ((form, "light", value) for form in understood("light", value))
    for value in STYLES:
        for form in understood("style", value):
            yield from ((pre + form, "style", value) for pre in ("", "in "))
    for kind, table in (("relation", PLACES), ("mark", MARKS), ("number", NUMBERS), ("ordinal", ORDINALS)):
        for value, entry in table.items():
            yield from ((form, kind, value) for form in _split(entry)[1])
    for (kind, value), entry in GLUE.items():
        yield from ((form, kind, value) for form in _split(entry)[1])
    yield from ((form, "number", 5) for form in _split(TOO_MANY)[1])


@cache
def phrases() -> dict[tuple[str, ...], tuple[str, Any]]:
    """Every phrase that is understood, as a tuple of words, with what it says: (kind, value)."""
    return {tuple(form.split(" ")): (kind, value) for form, kind, value in _entries()}


LONGEST = max(map(len, phrases()))
"""Words in the longest phrase."""


@dataclass(frozen=True)
class Token:
    """A phrase of the text, and what it says."""

    kind: str
    value: Any
    text: str


def lex(text: str, *, strict: bool = True, extra: Mapping[str, tuple[str, Any]] | None = None) -> list[Token]:
    """The phrases of a text, the longest first where several begin; extra adds phrases to the vocabulary.

    Raises UserError for a word that is not in the vocabulary; strict=False skips it.
    """
    known = phrases() if extra is None else {**phrases(), **{tuple(k.split()): v for k, v in extra.items()}}
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    words = re.findall(r"\d+(?:st|nd|rd|th)?|[^\W\d_]+(?:'[^\W\d_]+)*|[.,;:!?&]", text)
    words = ["its" if word in ("his", "her", "their", "both") else word for word in words]
    words = [word for word, last in zip(words, ["", *words], strict=False) if not word == last == "its"]
    tokens: list[Token] = []
    at = 0
    while at < len(words):
        for length in range(min(LONGEST, len(words) - at), 0, -1):
            phrase = tuple(words[at : at + length])
            if phrase in known:
                tokens.append(Token(*known[phrase], " ".join(phrase)))
                break
        else:
            length = 1
            if words[at] in ".;!?,:":
                tokens.append(Token("," if words[at] == "," else "stop", words[at], words[at]))
            elif strict:
                raise UserError(_unknown(words[at], known))
        at += length
    return tokens


def _unknown(word: str, known: Iterable[tuple[str, ...]]) -> str:
    single = sorted({w for phrase in known for w in phrase if w.isalpha() and len(w) > 2})
    near = get_close_matches(word, single, 3, 0.7)
    if near:
        return f"{word[:40]!r} is not understood; did you mean {' or '.join(near)}?"
    return f"{word[:40]!r} is not understood; say shapes, colors, places, light or style, as in 'a red cube'"
