"""Instructions as data: what is to change and who is meant; carried out, nothing else has changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from noisette.errors import UserError
from noisette.scenes.constraints import Constraints, Pattern, assignments
from noisette.scenes.parse import called
from noisette.scenes.room import apart, first_place
from noisette.scenes.scene import Object, Scene, motions_of

__all__ = ["Add", "Change", "Instruction", "Move", "Remove", "Surround", "find", "told_of"]


def told_of(pattern: Pattern) -> dict[str, str]:
    """What a pattern asks, by field."""
    return {name: value for name, value in asdict(pattern).items() if value is not None}


def find(scene: Scene, target: Constraints, besides: tuple[int, ...] = ()) -> int:
    """The one object that the first pattern of `target` means, other than those besides.

    Raises UserError where none is, or more than one.
    """
    meant = {chosen[0] for chosen in assignments(scene, target)} - set(besides)
    if len(meant) != 1:
        name = called(told_of(target.objects[0]))
        if not meant:
            raise UserError(f"there is no such {name} in the scene")
        raise UserError(f"'the {name}' could be any of {len(meant)}; say more about it")
    return meant.pop()


def _with(scene: Scene, index: int, thing: Object) -> Scene:
    return replace(scene, objects=(*scene.objects[:index], thing, *scene.objects[index + 1 :]))


@dataclass(frozen=True)
class Change:
    """Make an object what `to` says. What the new shape cannot have, a pose or a motion, ends."""

    target: Constraints
    to: Pattern

    def carry_out(self, scene: Scene) -> Scene:
        """The scene after it. Raises UserError where it is not clear, cannot be, or has no room."""
        index = find(scene, self.target)
        thing, to = scene.objects[index], told_of(self.to)
        shape = to.get("shape", thing.shape)
        if shape != "figure":
            to.setdefault("pose", "standing")
        if thing.motion not in motions_of(shape):
            to.setdefault("motion", "still")
        after = _with(scene, index, replace(thing, **to))
        if not apart(after, index) and apart(scene, index):
            raise UserError(f"there is no room for the {called(told_of(self.target.objects[0]))} to be so")
        return after


@dataclass(frozen=True)
class Remove:
    """Take an object away. What stood on it falls straight down."""

    target: Constraints

    def carry_out(self, scene: Scene) -> Scene:
        """The scene after it. Raises UserError where the object is not clear, or is the only one."""
        index = find(scene, self.target)
        if len(scene.objects) == 1:
            raise UserError("a scene has one object at least: the only one cannot be removed")
        gone = scene.objects[index]
        left: list[Object] = []
        for thing in (*scene.objects[:index], *scene.objects[index + 1 :]):
            if thing.on == index:
                thing = replace(thing, on=gone.on, x=thing.x + gone.x, y=thing.y + gone.y)
            later = thing.on is not None and thing.on > index
            left.append(replace(thing, on=thing.on - 1) if later and thing.on is not None else thing)
        return replace(scene, objects=tuple(left))


@dataclass(frozen=True)
class Add:
    """Put a new object somewhere, or at a place (a kind of relation) of the object `ground`.

    What `thing` leaves open is red and matte, and large where there is room for it. It comes last.
    """

    thing: Pattern
    place: str | None = None
    ground: Constraints | None = None

    def carry_out(self, scene: Scene) -> Scene:
        """The scene after it. Raises UserError where `ground` is not clear, or there is no room."""
        ground = None if self.ground is None else find(scene, self.ground)
        said = told_of(self.thing)
        sizes = [said.pop("size")] if "size" in said else ["large", "small"]
        if self.place == "on top of" and ground is not None and scene.objects[ground].size == "small":
            sizes = sizes[-1:]
        for size in sizes:
            thing = replace(Object("sphere", size=size), **said)
            after = replace(scene, objects=(*scene.objects, thing))
            if placed := _placed(after, len(scene.objects), self.place, ground):
                return placed
        raise UserError(f"there is no free place for the {called(told_of(self.thing))}")


@dataclass(frozen=True)
class Move:
    """Put an object at a place (a kind of relation) of `ground`, or of where it stands; what it carries
    comes along."""

    target: Constraints
    place: str
    ground: Constraints | None = None

    def carry_out(self, scene: Scene) -> Scene:
        """The scene after it. Raises UserError where an object is not clear, or there is no room."""
        index = find(scene, self.target)
        ground = None if self.ground is None else find(scene, self.ground, besides=(index,))
        if placed := _placed(scene, index, self.place, ground):
            return placed
        raise UserError(f"there is no free place for the {called(told_of(self.target.objects[0]))}")


def _placed(scene: Scene, index: int, kind: str | None, ground: int | None) -> Scene | None:
    """The scene with an object at that place; None where there is no room for it."""
    if kind != "on top of":
        return first_place(scene, index, kind, ground)
    if ground is None:
        raise UserError("on top of what?")
    if any(thing.on == ground for i, thing in enumerate(scene.objects) if i != index):
        raise UserError(f"something stands on the {scene.objects[ground].shape} already")
    after = _with(scene, index, replace(scene.objects[index], on=ground, x=0.0, y=0.0))
    return after if apart(after, index) else None


@dataclass(frozen=True)
class Surround:
    """Change the light, the style, the floor or the motion of the camera, as far as `to` asks."""

    to: Constraints

    def carry_out(self, scene: Scene) -> Scene:
        """The scene after it."""
        to = self.to.surroundings()
        floor = {name: to[f"floor_{name}"] for name in ("color", "pattern") if f"floor_{name}" in to}
        camera = {"motion": to["camera_motion"]} if "camera_motion" in to else {}
        return replace(
            scene,
            floor=replace(scene.floor, **floor),
            camera=replace(scene.camera, **camera),
            **{name: to[name] for name in ("light", "style") if name in to},
        )


Instruction = Change | Remove | Add | Move | Surround
