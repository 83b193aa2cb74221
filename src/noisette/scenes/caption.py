"""From a scene to sentences that are true of it: full and plain, or as different people would put it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TypeVar

from noisette.scenes.constraints import Relation, relations
from noisette.scenes.scene import Object, Scene
from noisette.scenes.vocabulary import a, after, before, noun, said, verb

__all__ = ["attributes", "caption", "describe", "name_of"]

T = TypeVar("T")
Pick = Callable[[Sequence[T]], T]

KEEP = {"shape": 0.97, "color": 0.85, "size": 0.5, "material": 0.5, "pose": 0.7, "motion": 0.8}
"""How often a caption tells each attribute."""

MARKS = ("left of", "right of", "in front of", "behind")
ADJECTIVES = ("size", "material", "color")
NUMBERS = ("", "one", "two", "three", "four")
ORDINALS = ("first", "second", "third", "fourth")


def attributes(thing: Object) -> dict[str, str]:
    """What can be said of an object, by field; a pose only of a figure."""
    names = ("shape", *ADJECTIVES, *(("pose",) if thing.shape == "figure" else ()), "motion")
    return {name: getattr(thing, name) for name in names}


def name_of(told: Mapping[str, str], pick: Pick[str], how: str = "a", count: int = 1) -> str:
    """A noun phrase: "a small red cube", "the figure with its arms up", "two balls rolling left".

    pick chooses among synonyms; how is the article, an ordinal or "another", and counts do without.
    """
    adjectives = [pick(said(name, told[name])) for name in ADJECTIVES if name in told]
    afterwards: list[str] = []
    for name in ("pose", "motion"):
        if name in told:
            early, late = before(name, told[name]), after(name, told[name], count)
            word = pick([*early, *late])
            (adjectives if word in early else afterwards).append(word)
    if len(adjectives) > 1 and pick(["", "", "", "", "turned"]):
        adjectives.reverse()
    head = noun(pick(said("shape", told.get("shape", "object"))), count)
    phrase = " ".join([*adjectives, head, *afterwards])
    if count > 1:
        return f"{NUMBERS[count]} {phrase}"
    return a(phrase) if how == "a" else f"{how} {phrase}"


def plainest(options: Sequence[str]) -> str:
    """The first of several forms."""
    return options[0]


def listed(parts: Sequence[str]) -> str:
    """ "x", "x and y", "x, y and z"."""
    return " and ".join(p for p in (", ".join(parts[:-1]), parts[-1]) if p)


def sentence(text: str) -> str:
    """The text with a capital letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


@dataclass
class Teller:
    """Puts a scene into words.

    told holds what is said of which object, known the order of first mention, spoken the relations told.
    """

    scene: Scene
    told: dict[int, dict[str, str]]
    pick: Pick[str]
    known: list[int] = field(default_factory=list)
    spoken: set[Relation] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.true = [r for r in relations(self.scene) if {r.subject, r.object} <= set(self.told)]

    def introduce(self, *group: int) -> str:
        """The first mention of an object, or of several of which the same is told."""
        same = any(self.told[i] == self.told[group[0]] for i in self.known)
        self.known += group
        how = "another" if same and len(group) == 1 and self.pick(["yes", "no"]) == "yes" else "a"
        return name_of(self.told[group[0]], self.pick, how, len(group))

    def refer(self, index: int) -> str:
        """A later mention: as short as is clear, or by its number in the order of mention."""
        told = {k: v for k, v in self.told[index].items() if k in ("shape", *ADJECTIVES)}
        names = [k for k in ("color", "size", "material") if k in told]
        for length in range(len(names) + 1):
            for some in combinations(names, length):
                part = {k: told[k] for k in ("shape", *some) if k in told}
                if part and self._like(part) == [index]:
                    return name_of(part, self.pick, "the")
        place = self._like(told).index(index)
        return name_of(told, self.pick, f"the {ORDINALS[place]}")

    def _like(self, part: Mapping[str, str]) -> list[int]:
        return [i for i in self.known if part.items() <= self.told[i].items()]

    def mention(self, index: int) -> str:
        """The object by its first or a later name."""
        return self.refer(index) if index in self.known else self.introduce(index)

    def place(self, kind: str) -> str:
        """A relation in words."""
        return self.pick(said("relation", kind))

    def full(self, relation: Relation) -> str:
        """A sentence that tells a relation between two objects already known."""
        subject, ground = self.refer(relation.subject), self.refer(relation.object)
        place = self.place(relation.kind)
        return self.pick([f"{subject} is {place} {ground}", f"{place} {ground} is {subject}"])


def implied(relation: Relation, true: Sequence[Relation]) -> bool:
    """Whether the relation follows from others: turned round, or by way of a third object."""
    inverse = {"right of": "left of", "behind": "in front of"}.get(relation.kind)
    if inverse is not None and Relation(relation.object, inverse, relation.subject) in true:
        return True
    steps = {(r.subject, r.object) for r in true if r.kind == relation.kind}
    by_way = {b for x, b in steps if x == relation.subject} & {b for b, x in steps if x == relation.object}
    return relation.kind != "on top of" and bool(by_way)


def describe(scene: Scene) -> str:
    """All that words can tell of a scene, the same each time; no other attribute fits what it says.

    Relations that follow from others are left to the reader.
    """
    told = {i: attributes(thing) for i, thing in enumerate(scene.objects)}
    told = {i: {k: v for k, v in words.items() if (k, v) != ("motion", "still")} for i, words in told.items()}
    teller = Teller(scene, told, plainest)
    things = listed([teller.introduce(i) for i in told])
    picture, time = a(said("style", scene.style)[0]), said("light", scene.light)[0]
    parts = [f"{picture} of {things} on {floor(scene, plainest)}, {time}, and nothing else"]
    parts += [teller.full(r) for r in teller.true if not implied(r, teller.true)]
    if scene.camera.motion != "still":
        parts.append(f"the camera {verb(said('camera_motion', scene.camera.motion)[0], 's')}")
    still = all(thing.motion == "still" for thing in scene.objects) and scene.camera.motion == "still"
    parts.append("nothing moves" if still else "nothing else moves")
    return " ".join(map(sentence, parts))


def floor(scene: Scene, pick: Pick[str], names: Sequence[str] = ("pattern", "color")) -> str:
    """The floor in words, with its pattern, its color or both."""
    words = {"pattern": ("floor_pattern", scene.floor.pattern), "color": ("color", scene.floor.color)}
    return a(" ".join([*(pick(said(*words[name])) for name in names), pick(said("shape", "floor"))]))


def caption(scene: Scene, rng: random.Random, *, motion: bool | None = None) -> str:
    """What someone might say of the scene: true, in varying words and order, and seldom all of it.

    motion says whether to speak of motion; by default that is done where something moves.
    """
    moving = scene.camera.motion != "still" or any(thing.motion != "still" for thing in scene.objects)
    motion = moving if motion is None else motion
    count = len(scene.objects)
    chosen = rng.sample(range(count), count if rng.random() < 0.85 else rng.randint(1, count))
    teller = Teller(scene, {i: _some(scene.objects[i], rng, motion) for i in chosen}, rng.choice)
    things = list(_things(teller, rng))
    early, late, extra = _surroundings(scene, rng, motion)
    extra += _further(teller, rng)
    if len(chosen) == count and rng.random() < 0.08:
        late.append("and nothing else")
    rng.shuffle(extra)
    if not early and len(things) > 1 and rng.random() < 0.3:
        parts = [f"there {'is' if text.startswith('a') else 'are'} {text}" for text in things]
        return " ".join(map(sentence, [*parts[:-1], _joined(parts[-1], late, rng), *extra]))
    first = _joined(" ".join([*early, listed(things)]), late, rng)
    return " ".join(map(sentence, [first, *extra])) if extra or rng.random() < 0.5 else first


def _some(thing: Object, rng: random.Random, motion: bool) -> dict[str, str]:
    """Some of what can be said of an object, at least one thing."""
    every = {k: v for k, v in attributes(thing).items() if motion or k != "motion"}
    told = {k: v for k, v in every.items() if rng.random() < KEEP[k] and (v != "still" or rng.random() < 0.3)}
    return told or {"shape": thing.shape}


def _joined(text: str, late: Sequence[str], rng: random.Random) -> str:
    return "".join([text, *(rng.choice((" ", ", ")) + words for words in late)])


def _things(teller: Teller, rng: random.Random) -> Iterator[str]:
    """Each object once, alone, with others of its kind, or together with what it stands by."""
    for index, told in teller.told.items():
        if index in teller.known:
            continue
        alike = [i for i, other in teller.told.items() if other == told and i not in teller.known]
        carried = [r for r in teller.true if r.object == index and r.subject not in teller.known]
        places = [r for r in teller.true if r.subject == index]
        choice = rng.random()
        if len(alike) > 1 and choice < 0.6:
            yield teller.introduce(*alike)
        elif carried and choice < 0.2:
            teller.spoken.add(r := rng.choice(carried))
            short = {"on top of": "on top", "left of": "to its left", "right of": "to its right"}
            where = rng.choice((short.get(r.kind, f"{r.kind} it"), f"{teller.place(r.kind)} it"))
            yield f"{teller.introduce(index)} with {teller.introduce(r.subject)} {where}"
        elif places and choice < 0.75:
            teller.spoken.add(r := rng.choice(places))
            link = rng.choice((" ", " ", " that is ")) + teller.place(r.kind)
            yield f"{teller.introduce(index)}{link} {teller.mention(r.object)}"
        else:
            yield teller.introduce(index) + _mark(teller, index, rng)


def _further(teller: Teller, rng: random.Random) -> Iterator[str]:
    """Sentences about relations that were not told yet, at most two."""
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        ends = [{r.subject, r.object} for r in teller.spoken]
        fresh = [r for r in teller.true if {r.subject, r.object} not in ends]
        if fresh:
            teller.spoken.add(r := rng.choice(fresh))
            yield teller.full(r)


def _mark(teller: Teller, index: int, rng: random.Random) -> str:
    """ " on the left" where all others told of are to the right, and so on; often nothing."""
    others = teller.told.keys() - {index}
    kinds = [k for k in MARKS if others and all(Relation(index, k, i) in teller.true for i in others)]
    return f" {said('mark', rng.choice(kinds))[0]}" if kinds and rng.random() < 0.7 else ""


def _surroundings(scene: Scene, rng: random.Random, motion: bool) -> tuple[list[str], list[str], list[str]]:
    """What is told of style, light, floor and camera before the objects, after them, and in own sentences."""
    early: list[str] = []
    late: list[str] = []
    extra: list[str] = []
    if rng.random() < 0.5:
        picture = a(rng.choice(said("style", scene.style)))
        rng.choice((early, early, early, late)).append(picture)
        early, late = [f"{p} of" for p in early], [f"in the style of {p}" for p in late]
    if rng.random() < 0.5:
        time = rng.choice(said("light", scene.light))
        late.append(time) if rng.random() < 0.8 else early.insert(0, f"{time},")
    if rng.random() < 0.5:
        names = rng.choice((("pattern", "color"), ("color", "pattern"), ("pattern",), ("color",)))
        if rng.random() < 0.7:
            late.append(f"on {floor(scene, rng.choice, names)}")
        else:
            words = {"pattern": ("floor_pattern", scene.floor.pattern), "color": ("color", scene.floor.color)}
            extra.append(f"the floor is {listed([rng.choice(said(*words[name])) for name in names])}")
    if motion and rng.random() < (0.15 if scene.camera.motion == "still" else 0.7):
        kind = "motion" if scene.camera.motion == "still" else "camera_motion"
        forms = [p for p in said(kind, scene.camera.motion) if not p.startswith("=")]
        moves = f"the camera {verb(rng.choice(forms), 's')}"
        late.append(f"while {moves}") if rng.random() < 0.5 else extra.append(moves)
    rng.shuffle(late)
    return early, late, extra
