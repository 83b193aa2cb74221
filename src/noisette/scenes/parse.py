"""From text to what it asks: the reading of captions, prompts and other plain sentences about a scene."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

from noisette.errors import UserError
from noisette.scenes.constraints import Constraints, Pattern, Relation
from noisette.scenes.scene import COLORS, FLOOR_COLORS, motions_of
from noisette.scenes.vocabulary import Token, lex

__all__ = ["ATTRIBUTES", "OPENINGS", "SURROUNDINGS", "Reader", "agreed", "called", "parse"]

ATTRIBUTES = ("color", "size", "material", "pose", "motion", "floor_pattern")
SURROUNDINGS = ("light", "style", "camera_motion")
OPENINGS = ("det", "number", "ordinal", "noun", *ATTRIBUTES)
JOINTS = (",", "and")

Target = tuple[int, ...] | Literal["floor", "camera", "picture", "surface"] | None
"""What is spoken of: objects, by index of their patterns, or a part of the surroundings."""


@dataclass
class Reader:
    """Reads tokens from left to right into patterns, relations and surroundings.

    head is what the clause speaks of, last what was named last. After a comma, "and" or "is" the words
    say something about the head; otherwise about the last.
    """

    tokens: Sequence[Token]
    at: int = 0
    patterns: list[dict[str, str]] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)
    around: dict[str, str] = field(default_factory=dict)
    marks: dict[int, str] = field(default_factory=dict)
    count: int | None = None
    exact: bool = False
    frozen: bool = False
    head: Target = None
    last: Target = None
    previous: Target = None
    of_head: bool = True
    beside: bool = False
    front: tuple[tuple[str | None, bool], tuple[int, ...]] | None = None

    def peek(self, ahead: int = 0) -> Token | None:
        """The next token, or None at the end."""
        return self.tokens[self.at + ahead] if 0 <= self.at + ahead < len(self.tokens) else None

    def kind(self, ahead: int = 0) -> str:
        """The kind of the next token, "" at the end."""
        token = self.peek(ahead)
        return "" if token is None else token.kind

    def next(self) -> Token:
        """Take the next token."""
        self.at += 1
        return self.tokens[self.at - 1]

    def read(self) -> None:
        """Read all there is."""
        while self.at < len(self.tokens):
            self.step()
        self.end_clause()

    def step(self) -> None:
        """Read one phrase."""
        token = self.tokens[self.at]
        if token.kind in OPENINGS or token.kind in SURROUNDINGS:
            return self.mention()
        self.at += 1
        handlers: dict[str, Callable[[Token], None]] = {
            "relation": self.relation,
            "mark": self.mark,
            "it": self.pronoun,
            "of": self.of,
            "stop": lambda _: self.end_clause(),
        }
        if token.kind in handlers:
            handlers[token.kind](token)
        elif token.kind in JOINTS or (token.kind == "is" and self.kind(-2) != "that"):
            self.of_head = True
        elif token.kind == "that":
            self.of_head = False
        elif token.kind == "with":
            self.beside = self.head is not None
        elif token.kind == "only":
            self.exact = True
        elif token.kind == "frozen":
            self.frozen = True

    @property
    def target(self) -> Target:
        """What the words that come now are about."""
        return self.head if self.of_head else self.last

    def end_clause(self) -> None:
        """A full stop: the next words speak of something new."""
        if self.front is not None:
            raise UserError(f"what is {self.front[0][0] or 'there'}? The sentence ends before it says so")
        self.previous = self.head or self.previous
        self.head = self.last = None
        self.of_head, self.beside = True, False

    def mention(self) -> None:
        """A noun phrase that stands by itself, or words about what was mentioned before."""
        beside, self.beside = self.beside, False
        found = self.noun_phrase()
        if found is None or found in ("picture", "surface"):
            return
        self.last, self.of_head = found, False
        if isinstance(found, tuple) and self.front is not None:
            place, ground = self.front
            self.front = None
            self.relate(found, place, ground)
        if not beside:
            self.previous, self.head = self.head or self.previous, found

    def noun_phrase(self, besides: Target = None) -> Target:
        """What a noun phrase names, introduced if it is new; None where there is no noun.

        Attributes without a noun are said of the target.
        """
        begin = self.at
        how, number = self.determiner()
        attributes = self.attributes()
        if self.kind() == "noun":
            what, plural = self.next().value
        elif (how or attributes) and self.takes_one():
            self.at += 1
            what, plural = "object", False
        elif "floor_pattern" in attributes and (how or self.target is None or isinstance(self.target, tuple)):
            what, plural = "floor", False  # "on a checkerboard"
        elif how and (attributes or self.tokens[self.at - 1].kind not in SURROUNDINGS):
            raise UserError(f"{self.text(begin)!r}: a noun is missing, as in 'a red cube'")
        else:
            self.apply(self.target, attributes)
            self.skip_of()
            return None
        if what in ("floor", "camera"):
            self.apply(what, attributes)
            return what
        if what == "surface":
            self.apply(self.last, attributes)
            return what
        if what == "picture":
            self.apply(None, attributes)
            self.skip_of()
            return what
        return self.objects(what, plural, how, number, attributes, besides)

    def takes_one(self) -> bool:
        """Whether the next token is the "one" of "the red one"."""
        token = self.peek()
        return token is not None and token.text == "one"

    def text(self, begin: int) -> str:
        """The text from token `begin` to here, to be quoted in a message."""
        return " ".join(token.text for token in self.tokens[begin : max(self.at, begin + 1)])

    def skip_of(self) -> None:
        """The "of" of "a photo of"."""
        if self.kind() == "of":
            self.at += 1

    def of(self, token: Token) -> None:
        """An "of" that follows no picture."""
        raise UserError("'of' is not understood here; say 'a photo of ...', 'in front of ...', 'left of ...'")

    def determiner(self) -> tuple[str, int | None]:
        """How a noun phrase begins ("a", "the", "other", "1" to "4", or "" for nothing), and its number."""
        how, number = "", None
        while self.kind() in ("det", "number", "ordinal") and not (how and self.takes_one()):
            if self.kind() == "ordinal":
                how = str(self.next().value)
            elif self.kind() == "det":
                how = self.next().value
            else:
                number = self.next().value
                how = how or "a"
        return how, number

    def attributes(self) -> dict[str, str]:
        """A run of attributes, joined by commas or "and"; light, style and the camera's motion pass by."""
        found: dict[str, str] = {}
        while True:
            kind = self.kind()
            if kind in ATTRIBUTES:
                _merge(found, kind, self.next().value)
            elif kind in SURROUNDINGS:
                _merge(self.around, kind, self.next().value)
            elif found and kind in JOINTS and self.kind(1) in ATTRIBUTES:
                self.at += 1
            elif found and kind == "," and self.kind(1) == "and" and self.kind(2) in ATTRIBUTES:
                self.at += 2
            else:
                return found

    def objects(
        self, what: str, plural: bool, how: str, number: int | None, said: dict[str, str], besides: Target
    ) -> tuple[int, ...] | None:
        """The objects a noun phrase speaks of: new ones, or those mentioned before."""
        if what == "object" and number and not said and how == "a" and (self.exact or self.kind() == "stop"):
            self.count = number
            self.exact = False
            return None
        wanted = dict(said) if what == "object" else {"shape": what, **said}
        if how not in ("", "a"):
            known = self.known(wanted, how, besides)
            if how.isdigit() and known:
                if int(how) > len(known):
                    raise UserError(f"there is no {how}. {called(wanted)} in what was said before")
                known = (known[int(how) - 1],)
            elif known and not plural and len(known) > 1:
                raise UserError(f"'the {called(wanted)}' could be any of {len(known)}; say 'the first'")
            if known:
                for index in known:
                    self.patterns[index] = agreed(self.patterns[index], wanted)
                return known
        fresh = max(number or 1, 2 if plural and how != "a" else 1)
        if len(self.patterns) + fresh > 4:
            raise UserError("a scene has one to four objects, and the text asks for more")
        self.patterns += [agreed({}, wanted) for _ in range(fresh)]
        return tuple(range(len(self.patterns) - fresh, len(self.patterns)))

    def known(self, wanted: Mapping[str, str], how: str, besides: Target) -> tuple[int, ...]:
        """The objects mentioned before that are so, or, if none is for certain, that may be so."""
        hidden: Collection[int] = besides if isinstance(besides, tuple) and not how.isdigit() else ()
        if how == "other":
            hidden = self.head if isinstance(self.head, tuple) else ()
        here = [(i, p) for i, p in enumerate(self.patterns) if i not in hidden]
        sure = tuple(i for i, p in here if all(p.get(k) == v for k, v in wanted.items()))
        return sure or tuple(i for i, p in here if all(p.get(k, v) == v for k, v in wanted.items()))

    def apply(self, target: Target, said: Mapping[str, str]) -> None:
        """Say attributes of what was mentioned before."""
        if not said:
            return
        if isinstance(target, tuple):
            for index in target:
                self.patterns[index] = agreed(self.patterns[index], said)
            return
        names = {"color": "floor_color", "floor_pattern": "floor_pattern"} if target == "floor" else {}
        names = {"motion": "camera_motion"} if target == "camera" else names
        for name, value in said.items():
            if name not in names or (target == "camera" and value != "still"):
                whole = target in ("floor", "camera")
                raise UserError(f"the {target} is never {value}" if whole else f"which object is {value}?")
            if target == "floor" and name == "color" and value not in FLOOR_COLORS:
                raise UserError(f"the floor is never {value}; it is {' or '.join(FLOOR_COLORS)}")
            _merge(self.around, names[name], value)

    def relate(self, subject: Iterable[int], place: tuple[str | None, bool], ground: Iterable[int]) -> None:
        """Note that each subject is at that place of each object; a place without a name asks nothing."""
        kind, swapped = place
        for i, j in product(subject, ground):
            if kind is not None and i != j:
                self.relations.append(Relation(*((j, kind, i) if swapped else (i, kind, j))))

    def relation(self, token: Token) -> None:
        """ "left of", "on top of": between what is spoken of and the noun phrase that follows."""
        subject = self.target if isinstance(self.target, tuple) else self.head
        subject = subject if isinstance(subject, tuple) else None
        if self.kind() == "it":
            self.at += 1
            ground = self.head
            if subject is None or (subject == ground and self.kind(int(self.kind() == "is")) in OPENINGS):
                subject, ground = None, self.head or self.previous
            elif subject == ground:
                ground = self.previous
        elif self.kind() in OPENINGS:
            ground = self.noun_phrase(besides=subject)
            if ground == "floor":
                self.last, self.of_head = "floor", False
                return
        else:
            ground = self.head if self.last != self.head else None
        if not isinstance(ground, tuple):
            raise UserError(f"{token.text!r} needs an object after it, as in '{token.text} a red cube'")
        if subject is None:
            self.front = (token.value, ground)
            self.head = self.head or ground
        else:
            self.relate(subject, token.value, ground)
        self.last, self.of_head = ground, False

    def mark(self, token: Token) -> None:
        """ "on the left": of what the clause is about, or, said of that, of all other objects."""
        if isinstance(self.head, tuple) and isinstance(self.last, tuple) and self.head != self.last:
            self.relate(self.last, (token.value, False), self.head)
        elif isinstance(self.head, tuple) and token.value != "on top of":
            self.marks.update((index, token.value) for index in self.head)
        else:
            raise UserError(f"what is {token.text!r}? Name it first, as in 'a red cube {token.text}'")

    def pronoun(self, token: Token) -> None:
        """ "it": what the last sentence was about."""
        self.head = self.last = self.head or self.previous

    def constraints(self) -> Constraints:
        """All that was read. Raises UserError where it contradicts itself."""
        everyone = range(len(self.patterns))
        for index, kind in self.marks.items():
            others = [i for i in everyone if self.marks.get(i) != kind]
            if not others:
                raise UserError(f"nothing is there for the {called(self.patterns[index])} to be {kind}")
            self.relate([index], (kind, False), others)
        patterns = [{"motion": "still", **p} if self.frozen else p for p in self.patterns]
        around = {"camera_motion": "still", **self.around} if self.frozen else self.around
        count = self.count if self.count or not self.exact else len(patterns)
        objects = tuple(Pattern(**p) for p in patterns)
        return Constraints(objects, tuple(dict.fromkeys(self.relations)), count, **around)


def called(pattern: Mapping[str, str]) -> str:
    """A pattern in the plainest words, for messages."""
    order = ("size", "material", "color", "pose", "motion")
    return " ".join([*(pattern[k] for k in order if k in pattern), pattern.get("shape", "object")])


def _merge(found: dict[str, str], name: str, value: str) -> None:
    if name == "pose" and found.get(name) == "standing":
        del found[name]  # who waves or has the arms up stands too
    if found.setdefault(name, value) != value and (name, value) != ("pose", "standing"):
        what = name.replace("_", " ")
        raise UserError(f"both {found[name]} and {value} are asked for, but there is one {what} only")


def agreed(pattern: Mapping[str, str], said: Mapping[str, str]) -> dict[str, str]:
    """The pattern with attributes added. Raises UserError for what such an object cannot be."""
    result = dict(pattern)
    for name, value in said.items():
        _merge(result, name, value)
    shape = result.get("shape")
    if "floor_pattern" in result:
        raise UserError(f"only the floor is {result['floor_pattern']}, not the {called(pattern)}")
    if result.get("color", "red") not in COLORS:
        raise UserError(f"there is no {result['color']} {shape or 'object'}; colors are {', '.join(COLORS)}")
    if shape not in (None, "figure") and "pose" in result:
        if result["pose"] not in ("standing", "sitting"):
            raise UserError(f"a {shape} has no pose {result['pose']!r}; only a figure has")
        del result["pose"]
    if shape is not None and result.get("motion", "still") not in motions_of(shape):
        raise UserError(f"a {shape} never {result['motion']}; it {', '.join(motions_of(shape)[1:])}")
    return result


def parse(text: str, *, strict: bool = True) -> Constraints:
    """What a caption or a prompt asks of a scene; an empty text asks nothing.

    Articles, plurals, case, punctuation, both spellings of English and many synonyms are understood. "A"
    speaks of a new object, "the" of one mentioned before if there is one. Being next to something asks no
    more than that both are there.

    Raises UserError, naming the word, for what is not understood (strict=False skips unknown words instead),
    and for what contradicts itself or the world.
    """
    reader = Reader(lex(text, strict=strict))
    reader.read()
    return reader.constraints()
