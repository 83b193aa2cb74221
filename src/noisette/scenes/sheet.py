"""The contact sheet: everything this world can show, on one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from noisette.errors import UserError
from noisette.pixels import to_uint8
from noisette.scenes.constraints import Constraints
from noisette.scenes.edits import apply
from noisette.scenes.examples import orbit
from noisette.scenes.maps import control_maps
from noisette.scenes.parse import parse
from noisette.scenes.render import render, render_views
from noisette.scenes.sampling import sample_scene
from noisette.scenes.scene import (
    CAMERA_MOTIONS,
    COLORS,
    LIGHTS,
    MATERIALS,
    MOTIONS,
    POSES,
    SHAPES,
    SIZES,
    STYLES,
    Camera,
    Floor,
    Object,
    Scene,
)

__all__ = ["sheet"]

COLUMNS = 10
TEXTS = (
    "a photo of a small red cube left of a shiny blue sphere, at night",
    "a cartoon of a waving yellow figure behind a large purple torus, by day",
    "a watercolor of two pink cones and a large orange sphere on a green floor",
    "a pencil sketch of a large running red figure right of a large striped cylinder, by day",
    "a photo of a shiny blue capsule on top of a large white cube and a red torus, at sunset",
)
"""Of the large pictures at the top: one column of them for each two of tiles."""

PAPER, INK, QUIET, RULE = (252, 251, 248), (35, 33, 31), (112, 107, 100), (214, 209, 201)

CLOSE = Camera(azimuth=0, elevation=22, distance=4.6, fov=34)
ROOM = Camera(azimuth=0, elevation=22, distance=6.0, fov=40)

FLOORS = ("plain gray", "plain green", "checkered blue", "checkered white", "wooden beige", "wooden gray")
EDIT = "put a small pink cone on top of the cube"

STEP = {"bounces": 0.18, "spins": 0.2, "rolls left": 0.5, "rolls right": 0.5, "walks": 0.5}
"""Seconds from one frame of a film to the next; 0.6 where the camera moves."""


@dataclass(frozen=True)
class Panel:
    """A titled row of pictures; column: the first it takes. A film has one label, and no gaps."""

    title: str
    column: int
    pictures: Tensor
    labels: Sequence[str]
    film: bool = False
    width: int = 1


def sheet(size: int = 128, *, samples: int = 9) -> Image.Image:
    """A page with every shape, color, size, material, pose, light, style, floor, control map and motion.

    size: side of a tile in pixels; the page is about 12.5 tiles wide and 25 high. Costs 103 pictures of size
    by size and five of twice that: half a minute on one core at 128, in proportion to the pixels.

    Raises UserError for a size under 32 or above 512.
    """
    if not 32 <= size <= 512:
        raise UserError(f"the tiles of a sheet have 32 to 512 pixels, not {size}")
    page = Page(size)
    page.title("noisette scenes", "A small world of which everything is known, drawn from words.")
    page.row(_samples(page.span(2), samples))
    for row in _rows(size, samples):
        page.row(*row)
    return page.image()


def _samples(size: int, samples: int) -> Panel:
    def asked(text: str) -> Constraints:
        found = parse(text)
        return replace(found, count=len(found.objects))

    scenes = [sample_scene(0, **vars(asked(text))) for text in TEXTS]
    return Panel("Pictures from text", 0, render(scenes, size, samples=samples).rgb, TEXTS, width=2)


def _rows(size: int, samples: int) -> Iterator[tuple[Panel, ...]]:
    def panel(title: str, column: int, scenes: Sequence[Scene], labels: Sequence[str]) -> Panel:
        return Panel(title, column, render(scenes, size, samples=samples).rgb, labels)

    def film(title: str, column: int, name: str, scene: Scene, step: float) -> Panel:
        times = [step * k for k in range(COLUMNS // 2)]
        rgb = render([scene] * len(times), size, samples=samples, time=times).rgb
        return Panel(title, column, rgb, [name], film=True)

    yield (panel("Colors", 0, [_one("sphere", c, "shiny") for c in COLORS], COLORS),)
    yield (
        panel("Shapes", 0, [_one(s, c) for s, c in zip(SHAPES, COLORS, strict=False)], SHAPES),
        panel("Materials", 7, [_one("torus", "orange", m) for m in MATERIALS], MATERIALS),
    )
    yield (
        panel("Poses", 0, [_one("figure", "purple", pose=pose) for pose in POSES], POSES),
        panel("Sizes", 5, [_one("cube", "green", size=s) for s in SIZES], SIZES),
        panel("Lights", 7, [replace(_still_life(), light=light) for light in LIGHTS], LIGHTS),
    )
    floors = (Floor(*reversed(name.split())) for name in FLOORS)
    yield (
        panel("Styles", 0, [replace(_still_life(), style=style) for style in STYLES], STYLES),
        panel("Floors", 4, [replace(_one("cone", "yellow"), floor=floor) for floor in floors], FLOORS),
    )
    rendering = render([_company()], size, samples=samples)
    hints = {name.replace("_", " "): 2 * hint - 1 for name, hint in control_maps(rendering).items()}
    edited = [_still_life(), apply(_still_life(), EDIT)]
    yield (
        Panel("Control maps", 0, torch.cat([rendering.rgb, *hints.values()]), ["picture", *hints]),
        panel("Edits", 8, edited, [f'"{EDIT}"']),
    )
    around = render_views(_company(), orbit(_company().camera, COLUMNS), size, samples=samples)
    turns = [f"{360 * k // COLUMNS}°" for k in range(COLUMNS)]
    yield (Panel("Views", 0, around.rgb, turns),)
    for k, (motion, way) in enumerate(zip(MOTIONS[1:], CAMERA_MOTIONS[1:], strict=True)):
        moving = replace(_company(), camera=replace(ROOM, motion=way))
        yield (
            film("" if k else "Motions", 0, motion, _moving(motion), STEP[motion]),
            film("" if k else "Motions of the camera", 5, f"the camera {way}", moving, 0.6),
        )


def _one(
    shape: str, color: str, material: str = "matte", size: str = "large", pose: str = "standing"
) -> Scene:
    tall = shape == "figure"
    camera = replace(CLOSE, distance=5.3 if tall else CLOSE.distance)
    yaw = {"figure": 25.0, "cube": 32.0, "torus": 0.0}.get(shape, 20.0)
    return Scene((Object(shape, color, size, material, yaw=yaw, pose=pose),), camera=camera)


def _still_life() -> Scene:
    things = (
        Object("cube", "red", "small", x=0.2, y=-0.75, yaw=30),
        Object("sphere", "blue", "small", "shiny", x=0.5, y=0.55),
    )
    return Scene(things, Floor("beige", "wooden"), camera=replace(CLOSE, distance=5.2))


def _company() -> Scene:
    things = (
        Object("figure", "orange", "large", x=-0.4, y=-0.1, yaw=15, pose="waving"),
        Object("cube", "green", "small", "striped", x=0.6, y=-1.25, yaw=25),
        Object("sphere", "red", "small", "shiny", x=0.7, y=1.1),
    )
    return Scene(things, Floor("gray", "checkered"), camera=ROOM)


def _moving(motion: str) -> Scene:
    """A single thing that does it, in the middle of the picture halfway through."""
    shape = {"rolls left": "cylinder", "rolls right": "sphere", "bounces": "torus", "spins": "cube"}
    way = {"rolls left": 0.6, "rolls right": -0.6, "walks": -0.6}
    thing = Object(
        shape.get(motion, "figure"),
        {"bounces": "cyan", "spins": "purple", "walks": "green", "rolls left": "red"}.get(motion, "yellow"),
        "large",
        "striped",
        y=way.get(motion, 0.0),
        yaw=90 if motion == "walks" else 20,
        motion=motion,
    )
    return Scene((thing,), Floor("beige", "plain"), camera=replace(CLOSE, distance=5.4))


class Page:
    """A column of rows of panels, drawn when all are known; lengths in pixels follow from the tile's."""

    def __init__(self, tile: int) -> None:
        self.tile = tile
        self.gap = max(6, tile // 10)
        self.margin = round(0.8 * tile)
        small = 10 * (tile / 64) ** 0.7
        self.fonts = {name: ImageFont.load_default(small * k) for name, k in
                      {"label": 1.0, "heading": 1.3, "title": 3.2, "subtitle": 1.4}.items()}  # fmt: skip
        self.line = round(1.35 * small)
        self.width = 2 * self.margin + self.span(COLUMNS)
        self.canvas = Image.new("RGB", (self.width, 34 * tile), PAPER)
        self.draw = ImageDraw.Draw(self.canvas)
        self.y = self.margin

    def span(self, columns: int) -> int:
        """How wide that many tiles are, with the gaps between them."""
        return columns * (self.tile + self.gap) - self.gap

    def left(self, column: int) -> int:
        return self.margin + column * (self.tile + self.gap)

    def title(self, text: str, below: str) -> None:
        self.draw.text((self.margin, self.y), text, INK, self.fonts["title"], anchor="la")
        self.y += round(3.4 * self.line)
        self.draw.text((self.margin, self.y), below, QUIET, self.fonts["subtitle"], anchor="la")
        self.y += 4 * self.line

    def row(self, *panels: Panel) -> None:
        """Place panels side by side, and go on below the lowest."""
        top = self.y
        if any(panel.title for panel in panels):
            top += round(2.3 * self.line)
        self.y = max(self._place(panel, top) for panel in panels)

    def _place(self, panel: Panel, top: int) -> int:
        size = panel.pictures.shape[-1]
        left = self.left(panel.column)
        columns = len(panel.pictures) * panel.width
        if panel.title:
            rule = top - round(2.3 * self.line)
            self.draw.line((left, rule, left + self.span(columns) - 1, rule), RULE, max(1, self.tile // 96))
            self.draw.text(
                (left, rule + self.line // 2), panel.title, INK, self.fonts["heading"], anchor="la"
            )
        pixels = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in to_uint8(panel.pictures)]
        if panel.film:
            pixels = [_film(pixels, self.span(columns))]
        for k, image in enumerate(pixels):
            place = (self.left(panel.column + k * panel.width), top)
            self.canvas.paste(image, place, _rounded(image.size, max(2, self.tile // 20)))
        return self._labels(panel, top + (pixels[0].height if panel.film else size))

    def _labels(self, panel: Panel, top: int) -> int:
        lines = [self._wrapped(text, panel) for text in panel.labels]
        for k, text in enumerate(lines):
            for n, line in enumerate(text):
                place = (self.left(panel.column + k * panel.width), top + round((n + 0.4) * self.line))
                self.draw.text(place, line, QUIET, self.fonts["label"], anchor="la")
        return top + round((max(map(len, lines)) + (1.0 if panel.film else 2.2)) * self.line)

    def _wrapped(self, text: str, panel: Panel) -> list[str]:
        """The words in lines no wider than what they stand under."""
        shared = len(panel.pictures) // len(panel.labels)
        most = self.span(shared * panel.width)
        lines: list[str] = []
        for word in text.split():
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and self.fonts["label"].getlength(longer) <= most:
                lines[-1] = longer
            else:
                lines.append(word)
        return lines

    def image(self) -> Image.Image:
        return self.canvas.crop((0, 0, self.width, self.y + self.margin // 2))


def _film(frames: Sequence[Image.Image], width: int) -> Image.Image:
    """The frames side by side, with a hair between them, exactly that wide."""
    strip = Image.new("RGB", (width, frames[0].height), PAPER)
    hair = max(1, frames[0].width // 64)
    side = (width - hair * (len(frames) - 1)) / len(frames)
    for k, frame in enumerate(frames):
        left, right = round(k * (side + hair)), round(k * (side + hair) + side)
        strip.paste(frame.resize((right - left, frame.height), Image.Resampling.LANCZOS), (left, 0))
    return strip


def _rounded(size: tuple[int, int], radius: int) -> Image.Image:
    """A mask of that size with rounded corners, smooth at the edge."""
    fine = Image.new("L", (4 * size[0], 4 * size[1]))
    ImageDraw.Draw(fine).rounded_rectangle((0, 0, fine.width - 1, fine.height - 1), 4 * radius, 255)
    return fine.resize(size, Image.Resampling.BOX)
