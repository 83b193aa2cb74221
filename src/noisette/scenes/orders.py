"""Instructions in words: read from text ("put a cone on top of the box"), and said in one of many ways."""

from __future__ import annotations

from typing import Any

from noisette.errors import UserError
from noisette.scenes.caption import Pick, name_of
from noisette.scenes.constraints import Constraints, Pattern
from noisette.scenes.instructions import Add, Change, Instruction, Move, Remove, Surround, told_of
from noisette.scenes.parse import ATTRIBUTES, OPENINGS, SURROUNDINGS, Reader, agreed
from noisette.scenes.scene import SHAPES
from noisette.scenes.vocabulary import a, lex, said, verb

__all__ = ["read", "say"]


def _all(kind: str, value: Any, words: str) -> dict[str, tuple[str, Any]]:
    return dict.fromkeys(words.split(", "), (kind, value))


VERBS: dict[str, tuple[str, Any]] = {
    **_all("remove", None, "remove, delete, erase, take, take away, get rid of"),
    **_all("put", None, "put, place, add, insert, move, push, bring, shift"),
    **_all("make", None, "make, turn, change, let, give, set, replace, redraw, render, switch"),
    **_all("make", None, "recolor, recolour, repaint"),
    **_all("resize", "large", "enlarge"),
    **_all("resize", "small", "shrink"),
    **_all("to", None, "to, into, should, becomes, become, must, by, now, away, turns"),
    **_all("noun", ("picture", False), "light, lighting, time, time of day, style"),
    **_all("noun", ("surface", False), "size, shape, pose, material, color, colour"),
    **_all("mark", "left of", "left"),
    **_all("mark", "right of", "right"),
    **_all("mark", "in front of", "forward, forwards, closer, to the front"),
    **_all("mark", "behind", "back, backward, backwards, to the back"),
}

GLUE = ("to", "is", "with", "that", "noise", "and", ",")

NOUN_OF_TIME = {"day": ("day", "daytime"), "sunset": ("sunset", "dusk"), "night": ("night", "nighttime")}
TOWARDS = {
    "left of": ("to the left", "left"),
    "right of": ("to the right", "right"),
    "in front of": ("forward", "closer"),
    "behind": ("back", "to the back"),
}


def read(text: str) -> Instruction:
    """What an instruction asks to be done, in the words of captions and a few verbs.

    Raises UserError, naming the word, for what is not understood.
    """
    tokens = [token for token in lex(text, extra=VERBS) if token.kind != "stop"]
    if not tokens:
        raise UserError("an empty instruction; say one, as in 'make the cube blue'")
    first = tokens[0]
    # "Paint the cube blue", "color it red".
    verbal = first.kind in ("remove", "put", "make", "resize") or first.text in ("paint", "color", "colour")
    reader = Reader(tokens, at=int(verbal))
    if first.kind == "remove":
        return Remove(_ended(reader, _target(reader)))
    if first.kind == "resize":
        return Change(_ended(reader, _target(reader)), Pattern(size=first.value))
    return _read_put(reader) if first.kind == "put" else _read_change(reader)


def _skip(reader: Reader) -> None:
    while reader.kind() in GLUE:
        reader.at += 1


def _ended(reader: Reader, target: Constraints) -> Constraints:
    """The target, if nothing else is left to read."""
    _skip(reader)
    if (token := reader.peek()) is not None:
        raise UserError(f"{token.text!r} is not understood at this place of an instruction")
    return target


def _target(reader: Reader, related: bool = True) -> Constraints:
    """The object that the next words mean: "it", "the red cube left of the sphere"."""
    if reader.kind() == "it":
        reader.at += 1
        return Constraints((Pattern(),))
    if reader.kind() in OPENINGS:
        reader.mention()
    _more(reader, related)
    if not isinstance(reader.head, tuple) or len(reader.head) != 1 or reader.around:
        raise UserError("one object must be named, as in 'the red cube'")
    return reader.constraints()


def _more(reader: Reader, related: bool) -> None:
    """What follows a noun to say which one is meant; where an object is, if related."""
    while isinstance(reader.head, tuple):
        kinds = [reader.kind(ahead) for ahead in range(3)]
        glue = 2 if kinds[:2] == ["that", "is"] else int(kinds[0] in ("that", "with"))
        if kinds[glue] in ATTRIBUTES and (glue > 0 or (not related and kinds[0] in ("pose", "motion"))):
            reader.at += glue
            token = reader.next()
            reader.apply(reader.last, {token.kind: token.value})
            continue
        glue = glue or int(kinds[0] == "and")
        if not related or kinds[glue] != "relation" or reader.kind(glue + 1) not in OPENINGS:
            return
        for _ in range(glue + 1):
            reader.step()


def _read_put(reader: Reader) -> Instruction:
    """ "Put a cone on top of the cube" adds, "put the cone on top of the cube" moves."""
    token = reader.peek()
    new = reader.tokens[0].text in ("add", "insert") or (token is not None and token.value == "a")
    target = _target(reader, related=False)
    place, ground = None, None
    if reader.kind() == "to":
        reader.at += 1
    if reader.kind() == "relation":
        place, under = reader.next().value
        if place is None or under:
            raise UserError("a place is left of, right of, in front of, behind or on top of an object")
        rest = Reader(reader.tokens, at=reader.at)
        ground, reader.at = _target(rest), rest.at
    elif reader.kind() == "mark":
        place = reader.next().value
    _ended(reader, target)
    nowhere = not new if place is None else ground is None and (new or place == "on top of")
    if nowhere:
        raise UserError("where? Say a place, as in 'on top of the cube', 'left of the cube'")
    return Add(target.objects[0], place, ground) if new else Move(target, place or "", ground)


def _read_change(reader: Reader) -> Instruction:
    """ "Make the cube blue", "the figure raises its arms", "turn it into a sketch", "make it night"."""
    it = reader.kind() == "it"
    if it:
        reader.at += 1
    elif reader.kind() in (*OPENINGS, *SURROUNDINGS):
        reader.mention()
        if reader.kind() == "of":  # "the color of the cube"
            reader.at += 1
            reader.mention()
        _more(reader, related=True)
    what, to = reader.head, Reader(reader.tokens, at=reader.at)
    told, noun = _becomes(to)
    if not (isinstance(what, tuple) or noun in SHAPES or (it and told)) or noun == "floor":
        part = noun if noun in ("floor", "camera") else what or ("floor" if "floor_pattern" in told else None)
        to.apply(part if part in ("floor", "camera") else None, told)
        around = to.around or reader.around  # what comes first in "turn the photo into a sketch" is the old
        if not around:
            raise UserError("what is to change? Say it, as in 'make the cube blue' or 'make it night'")
        return Surround(Constraints(**around))  # pyright: ignore[reportArgumentType]
    target = reader.constraints() if isinstance(what, tuple) else Constraints((Pattern(),))
    target = Constraints(target.objects, target.relations)
    if not told or to.around or (isinstance(what, tuple) and len(what) > 1):
        raise UserError("what one object is to be must be said, as in 'make the cube blue'")
    shape = {} if noun in SHAPES or target.objects[0].shape is None else {"shape": target.objects[0].shape}
    agreed(shape, told)
    return Change(target, Pattern(**agreed({}, told)))


def _becomes(to: Reader) -> tuple[dict[str, str], str | None]:
    """What something is to be: attributes, and the noun with them: "blue", "a small red cone"."""
    told: dict[str, str] = {}
    noun = None
    while to.peek() is not None:
        _skip(to)
        begin = to.at
        how, _ = to.determiner()
        if how and (told or noun):
            raise UserError("one thing at a time is changed: give two instructions")
        told |= to.attributes()
        if to.kind() == "noun" and noun is None:
            noun = to.next().value[0]
        elif told and to.takes_one():
            to.at += 1
        elif to.at == begin and (token := to.peek()) is not None:
            raise UserError(f"{token.text!r} is not understood at this place of an instruction")
    return (told | {"shape": noun} if noun in SHAPES else told), noun


def say(instruction: Instruction, pick: Pick[str]) -> str:
    """An instruction in words; pick chooses among the ways to put it."""
    if isinstance(instruction, Remove):
        t = _who(instruction.target, pick)
        return pick([f"remove {t}", f"delete {t}", f"take away {t}", f"take {t} away", f"get rid of {t}"])
    if isinstance(instruction, Surround):
        return _say_surround(instruction.to.surroundings(), pick)
    if isinstance(instruction, Change):
        return _say_change(_who(instruction.target, pick), told_of(instruction.to), pick)
    where = ""
    if instruction.ground is not None and instruction.place is not None:
        ground = _who(instruction.ground, pick)
        if isinstance(instruction, Move) and instruction.ground.objects[0] == instruction.target.objects[0]:
            ground = ground.replace("the ", "the other ", 1)
        where = f" {pick(said('relation', instruction.place))} {ground}"
    if isinstance(instruction, Add):
        thing = name_of(told_of(instruction.thing), pick)
        return pick(["add", "put", "place"] if where else ["add", "insert"]) + f" {thing}{where}"
    where = where or " " + pick(TOWARDS[instruction.place])
    return f"{pick(['move', 'put', 'place'] if instruction.ground else ['move', 'push', 'shift'])} " + (
        _who(instruction.target, pick) + where
    )


def _who(target: Constraints, pick: Pick[str]) -> str:
    """The object meant, and where it is if that is part of it."""
    first, *others = target.objects
    text = name_of(told_of(first), pick, "the")
    for relation in target.relations:
        ground = others[relation.object - 1]
        how = "the other" if ground == first else "the"
        text += f" {pick(said('relation', relation.kind))} {name_of(told_of(ground), pick, how)}"
    return text


def _say_change(t: str, to: dict[str, str], pick: Pick[str]) -> str:
    name, value = next(iter(to.items()))
    if "shape" in to:
        thing = name_of(to, pick)
        return pick([f"turn {t} into {thing}", f"replace {t} with {thing}", f"make {t} {thing}"])
    if name in ("pose", "motion"):
        phrase = pick([p for p in said(name, value) if not p.startswith(("=", "with "))])
        return pick([f"{t} {verb(phrase, 's')}", f"make {t} {phrase}", f"let {t} {phrase}"])
    if name == "size":
        words = {"large": (f"make {t} bigger", f"enlarge {t}"), "small": (f"make {t} smaller", f"shrink {t}")}
        return pick([*words[value], f"make {t} {pick(said(name, value))}"])
    word = pick(said(name, value))
    ways = [f"make {t} {word}", f"{t} should be {word}", f"{t} becomes {word}"]
    if name == "color":
        ways += [f"turn {t} {word}", f"paint {t} {word}", f"change the color of {t} to {word}"]
    if value == "striped":
        ways.append(f"give {t} stripes")
    return pick(ways)


def _say_surround(to: dict[str, str], pick: Pick[str]) -> str:
    name, value = next(iter(to.items()))
    if name == "light":
        word = pick(NOUN_OF_TIME[value])
        return pick([f"make it {word}", f"let it be {word}", f"change the light to {word}"])
    if name == "style":
        picture = a(pick(said("style", value)))
        ways = [f"turn it into {picture}", f"make it {picture}", f"redraw it as {picture}"]
        return pick([*ways, f"change the style to {picture}"])
    if name == "camera_motion":
        kind = "motion" if value == "still" else name
        phrase = pick([p for p in said(kind, value) if not p.startswith("=")])
        moves = verb(phrase, "s")
        return pick([f"the camera {moves}", f"make the camera {phrase}", f"let the camera {phrase}"])
    parts = {"floor_pattern": "floor_pattern", "floor_color": "color"}
    words = " ".join(pick(said(parts[k], v)) for k, v in to.items() if k in parts)
    if len(to) > 1:
        return pick([f"change the floor to a {words} one", f"give it {a(words)} floor"])
    return pick([f"make the floor {words}", f"change the floor to {words}", f"give it {a(words)} floor"])
