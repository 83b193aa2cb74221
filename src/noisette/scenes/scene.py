"""What there is to see: frozen dataclasses of a small world, in words and a few numbers, to JSON and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from noisette.errors import UserError

__all__ = [
    "CAMERA_MOTIONS",
    "COLORS",
    "FLOOR_COLORS",
    "FLOOR_PATTERNS",
    "LIGHTS",
    "MATERIALS",
    "MOTIONS",
    "POSES",
    "SHAPES",
    "SIZES",
    "STYLES",
    "Camera",
    "Floor",
    "Object",
    "Scene",
    "check_word",
    "motions_of",
]

SHAPES = ("sphere", "cube", "cylinder", "cone", "torus", "capsule", "figure")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "white")
SIZES = ("small", "large")
MATERIALS = ("matte", "shiny", "striped")
POSES = ("standing", "waving", "arms up", "sitting", "running")
MOTIONS = ("still", "rolls left", "rolls right", "bounces", "spins", "walks")
FLOOR_COLORS = ("gray", "beige", "green", "blue", "white")
FLOOR_PATTERNS = ("plain", "checkered", "wooden")
LIGHTS = ("day", "sunset", "night")
STYLES = ("photo", "cartoon", "sketch", "watercolor")
CAMERA_MOTIONS = ("still", "orbits", "zooms in", "zooms out", "pans left", "pans right")

FLAT_TOPPED = ("cube", "cylinder")
ROUND = ("sphere", "cylinder", "torus", "capsule")


def motions_of(shape: str) -> tuple[str, ...]:
    """The motions an object of that shape can make: what is round rolls, only the figure walks."""
    rolls = ("rolls left", "rolls right") if shape in ROUND else ()
    return ("still", *rolls, "bounces", "spins", *(("walks",) if shape == "figure" else ()))


@dataclass(frozen=True)
class Object:
    """One thing: what it is, where it stands, and how it moves.

    x, y are in world units from the middle of what it stands on: the origin of the floor, or the centre of
    the object of index `on` (a cube or a cylinder). yaw, in degrees, turns it about the vertical,
    counter-clockwise seen from above; at 0 it faces +x. A cylinder, torus or capsule that rolls lies on its
    side. pose is the figure's; other shapes keep "standing".

    Raises UserError for a word that is not in the vocabulary, a number that is not finite, or one who is to
    walk while sitting.
    """

    shape: str
    color: str = "red"
    size: str = "large"
    material: str = "matte"
    x: float = 0.0
    y: float = 0.0
    yaw: float = 0.0
    on: int | None = None
    pose: str = "standing"
    motion: str = "still"

    def __post_init__(self) -> None:
        check_word("shape", self.shape, SHAPES)
        check_word("color", self.color, COLORS)
        check_word("size", self.size, SIZES)
        check_word("material", self.material, MATERIALS)
        check_word("pose", self.pose, POSES if self.shape == "figure" else ("standing",))
        check_word("motion", self.motion, motions_of(self.shape))
        if self.motion == "walks" and self.pose == "sitting":
            raise UserError("motion: who sits does not walk; let the figure stand, wave or run")
        for name in ("x", "y", "yaw"):
            _number(name, getattr(self, name), -1e4, 1e4)
        if self.on is not None and (isinstance(self.on, bool) or not isinstance(self.on, int)):
            raise UserError(f"on: {self.on!r:.40} is not the index of an object")


@dataclass(frozen=True)
class Floor:
    """The plane z = 0. Raises UserError for a word that is not in the vocabulary."""

    color: str = "gray"
    pattern: str = "plain"

    def __post_init__(self) -> None:
        check_word("color", self.color, FLOOR_COLORS)
        check_word("pattern", self.pattern, FLOOR_PATTERNS)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks at the point (0, 0, 0.6), and how it moves.

    azimuth, elevation in degrees: it stands at distance * (cos e cos a, cos e sin a, sin e) from that point,
    the world being right-handed with z up. fov is the full angle of view in degrees, across the square.

    Raises UserError for a number out of range, or a word that is not in the vocabulary.
    """

    azimuth: float = 0.0
    elevation: float = 25.0
    distance: float = 6.5
    fov: float = 40.0
    motion: str = "still"

    def __post_init__(self) -> None:
        _number("azimuth", self.azimuth, -1e4, 1e4)
        _number("elevation", self.elevation, 0.0, 89.0)
        _number("distance", self.distance, 1.0, 100.0)
        _number("fov", self.fov, 1.0, 120.0)
        check_word("motion", self.motion, CAMERA_MOTIONS)


@dataclass(frozen=True)
class Scene:
    """One to four objects on a floor, under a light, drawn in a style, seen by a camera.

    Raises UserError when there are none or more than four, when an object stands on what has no flat top,
    on itself, or on something that moves away, or for a word that is not in the vocabulary.
    """

    objects: tuple[Object, ...]
    floor: Floor = field(default_factory=Floor)
    light: str = "day"
    style: str = "photo"
    camera: Camera = field(default_factory=Camera)

    def __post_init__(self) -> None:
        object.__setattr__(self, "objects", tuple(self.objects))
        if not 1 <= len(self.objects) <= 4:
            raise UserError(f"objects: a scene has one to four, not {len(self.objects)}")
        check_word("light", self.light, LIGHTS)
        check_word("style", self.style, STYLES)
        for index, thing in enumerate(self.objects):
            if thing.on is not None:
                self._check_support(index, thing.on)

    def _check_support(self, index: int, on: int) -> None:
        place = f"objects[{index}].on"
        if not 0 <= on < len(self.objects) or on == index:
            raise UserError(f"{place}: {on} is not the index of another object")
        below = self.objects[on]
        if below.shape not in FLAT_TOPPED:
            raise UserError(f"{place}: nothing stands on a {below.shape}; only on {' or '.join(FLAT_TOPPED)}")
        if below.motion != "still" or self.objects[index].motion not in ("still", "bounces", "spins"):
            raise UserError(f"{place}: what stands on another must stay on it, and that one must be still")
        seen = {index}
        while (on := self.objects[on].on) is not None:  # pyright: ignore[reportAssignmentType]
            if on in seen or not 0 <= on < len(self.objects):
                raise UserError(f"{place}: the objects stand on each other in a circle")
            seen.add(on)

    def to_json(self) -> str:
        """One line of JSON from which `from_json` makes an equal scene."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Scene:
        """The scene that JSON text describes; what is left out takes its default.

        Raises UserError, naming the place, for text that is not JSON, a field that does not exist, and
        whatever the dataclasses refuse.
        """
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"a scene is written in JSON, and this is not: {error}") from None
        return cls.from_dict(tree)

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Scene:
        """The scene of a JSON object already parsed; see `from_json`."""
        _known("scene", tree, cls)
        things = tree.get("objects", ())
        if not isinstance(things, list | tuple):
            raise UserError("objects: a list is needed")
        objects = tuple(_build(Object, f"objects[{i}]", thing) for i, thing in enumerate(things))
        parts = {
            "floor": _build(Floor, "floor", tree.get("floor", {})),
            "camera": _build(Camera, "camera", tree.get("camera", {})),
        }
        words = {name: tree[name] for name in ("light", "style") if name in tree}
        return cls(objects, **parts, **words)


def check_word(name: str, value: object, words: tuple[str, ...]) -> None:
    """Raise UserError unless value is one of the words."""
    if not isinstance(value, str) or value not in words:
        raise UserError(f"{name}: {value!r:.40} is none of {', '.join(words)}")


def _number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{name}: {value!r:.40} is not a number in [{low:g}, {high:g}]")
    if not math.isfinite(value):
        raise UserError(f"{name}: {value!r:.40} is not finite")


def _known(place: str, tree: object, kind: type) -> None:
    if not isinstance(tree, Mapping):
        raise UserError(f"{place}: a JSON object is needed, not {type(tree).__name__}")
    names = [f.name for f in fields(kind)]
    unknown = [str(name) for name in tree if name not in names]
    if unknown:
        raise UserError(f"{place}: there is no field {unknown[0]!r:.40}; there are {', '.join(names)}")


def _build(kind: type, place: str, tree: object) -> Any:
    _known(place, tree, kind)
    try:
        return kind(**tree)  # pyright: ignore[reportCallIssue]
    except TypeError:
        raise UserError(f"{place}: the shape is missing") from None
    except UserError as error:
        raise UserError(f"{place}.{error}") from None
