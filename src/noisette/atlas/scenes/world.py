"""The world, word by word: do any two words look alike?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from noisette.atlas.cells import Cell, Tick
from noisette.atlas.page import Section, Verdict, abreast, figure, number, table
from noisette.atlas.scenes.bench import Bench, Measured
from noisette.atlas.scenes.pictures import each, matrix
from noisette.scenes.render import render
from noisette.scenes.scene import (
    CAMERA_MOTIONS,
    COLORS,
    FLOOR_COLORS,
    FLOOR_PATTERNS,
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

FRAMES = 5
APART = 2.0
"""Levels of 255, root mean square over the whole picture: from here on two pictures differ."""

NEAR = Camera(azimuth=0, elevation=22, distance=4.8, fov=34)
ROOM = Camera(azimuth=0, elevation=22, distance=6.2, fov=40)

STEPS = {"rolls left": 0.45, "rolls right": 0.45, "bounces": 0.18, "spins": 0.22, "walks": 0.5}
ROLLER = {"rolls left": "cylinder", "rolls right": "capsule", "bounces": "sphere", "spins": "cube"}
START = {"rolls left": 0.6, "rolls right": -0.6, "walks": -0.6}
GLIDE = 0.6
"""Seconds between frames while the camera moves."""


def one(
    shape: str, color: str, *, size: str = "large", material: str = "matte", pose: str = "standing"
) -> Scene:
    """A single object in the middle of the picture."""
    yaw = {"figure": 25.0, "cube": 32.0, "torus": 0.0}.get(shape, 20.0)
    camera = replace(NEAR, distance=5.4) if shape == "figure" else NEAR
    return Scene((Object(shape, color, size, material, yaw=yaw, pose=pose),), camera=camera)


def pair() -> Scene:
    """Two objects on a wooden floor."""
    things = (
        Object("cube", "red", "small", x=0.2, y=-0.75, yaw=30),
        Object("torus", "cyan", "small", "shiny", x=0.4, y=0.6, yaw=15),
    )
    return Scene(things, Floor("beige", "wooden"), camera=NEAR)


def moving(motion: str) -> tuple[Scene, list[float]]:
    """Something that does it, and the times of a film."""
    thing = Object(
        ROLLER.get(motion, "figure"),
        "orange",
        "large",
        "striped",
        y=START.get(motion, 0.0),
        yaw=90 if motion == "walks" else 20,
        motion=motion,
    )
    scene = Scene((thing,), Floor("gray", "checkered"), camera=replace(NEAR, distance=5.6))
    return scene, [STEPS[motion] * k for k in range(FRAMES)]


def filmed(motion: str) -> tuple[Scene, list[float]]:
    """The camera that does it, and the times of a film."""
    scene = replace(pair(), camera=replace(ROOM, motion=motion))
    return scene, [GLIDE * k for k in range(FRAMES)]


def fields() -> dict[str, tuple[Sequence[str], dict[str, list[Scene]]]]:
    """For each field of still pictures: its words, and rows in which it alone changes from left to right."""
    shapes = {style: [replace(one(s, c), style=style) for s, c in zip(SHAPES, COLORS, strict=False)]
              for style in STYLES}  # fmt: skip
    colors = {light: [replace(one("sphere", c), light=light) for c in COLORS] for light in LIGHTS}
    materials = {s: [one(s, "orange", material=m) for m in MATERIALS] for s in ("torus", "cone")}
    floors = {p: [replace(one("cone", "yellow"), floor=Floor(c, p)) for c in FLOOR_COLORS]
              for p in FLOOR_PATTERNS}  # fmt: skip
    return {
        "shape": (SHAPES, shapes),
        "color": (COLORS, colors),
        "material": (MATERIALS, materials),
        "size": (SIZES, {s: [one(s, "green", size=size) for size in SIZES] for s in ("cube", "capsule")}),
        "floor": (FLOOR_COLORS, floors),
        "pose": (POSES, {"": [one("figure", "purple", pose=pose) for pose in POSES]}),
    }


def cells(bench: Bench) -> list[Cell]:
    """One cell: every picture of the section."""
    plan = bench.plan
    stills = sum(len(words) * len(rows) for words, rows in fields().values())
    cost = stills + len(SHAPES) + FRAMES * (len(MOTIONS) + len(CAMERA_MOTIONS) - 2)
    settings = {"what": "world", "tile": plan.tile, "samples": plan.samples, **bench.world}
    return [Cell({**settings, "seed": 0}, cost, partial(measure, bench))]


def measure(bench: Bench, tick: Tick) -> dict[str, Any]:
    """The pictures, and for each field the two words that look most alike."""

    def drawn(scenes: Sequence[Scene], times: float | Sequence[float] = 0.0) -> Tensor:
        rgb = render(scenes, bench.plan.tile, samples=bench.plan.samples, time=times).rgb
        tick(len(scenes))
        return rgb

    stills = {
        name: {row: drawn(scenes) for row, scenes in rows.items()} for name, (_, rows) in fields().items()
    }
    films = {m: drawn([moving(m)[0]] * FRAMES, moving(m)[1]) for m in MOTIONS[1:]}
    glides = {m: drawn([filmed(m)[0]] * FRAMES, filmed(m)[1]) for m in CAMERA_MOTIONS[1:]}
    # On the page each shape has a color of its own; to be compared they are of one.
    plain = drawn([one(shape, "red") for shape in SHAPES])
    compared = {name: list(rows.values()) for name, rows in stills.items()} | {"shape": [plain]}
    alike = {name: _alike(fields()[name][0], rows) for name, rows in compared.items()}
    columns = {
        "style": (STYLES, stills["shape"]),
        "light": (LIGHTS, stills["color"]),
        "floor pattern": (FLOOR_PATTERNS, stills["floor"]),
    }
    for name, (words, rows) in columns.items():
        table = torch.stack(list(rows.values()))
        alike[name] = _alike(words, list(table.unbind(1)))
    alike["motion of the camera"] = _alike(
        CAMERA_MOTIONS[1:], [torch.stack([f[-1] for f in glides.values()])]
    )
    pictures = stills | {"film": films, "glide": glides}
    return {
        "alike": alike,
        "pictures": {
            name: {row: each(images) for row, images in rows.items()} for name, rows in pictures.items()
        },
    }


def _alike(words: Sequence[str], rows: Sequence[Tensor]) -> list[Any]:
    """The least root mean square difference, in levels, of two pictures of a row, and their words."""
    pairs = [
        (float((255 / 2) * (row[a] - row[b]).square().mean().sqrt()), words[a], words[b])
        for row in rows
        for a, b in itertools.combinations(range(len(words)), 2)
    ]
    return [len(words), *min(pairs)]


def sections(bench: Bench, measured: Measured) -> list[Section]:
    """Everything there is to see, and what looks most alike."""
    [found] = measured
    drawn: Mapping[str, Mapping[str, Sequence[str]]] = found["pictures"]
    alike: Mapping[str, Sequence[Any]] = found["alike"]
    name, (_, least, a, b) = min(alike.items(), key=lambda item: item[1][1])
    good = sum(gap >= APART for _, gap, _, _ in alike.values())
    verdict = Verdict(
        "holds" if good == len(alike) else "holds in part" if good else "does not hold",
        f"In {good} of {len(alike)} fields every two words differ by {number(APART, 2)} levels or more. Most "
        f"alike are <i>{a}</i> and <i>{b}</i> ({name}), {number(least)} levels apart.",
    )
    rows = [[n, f"{count}", f"{a}, {b}", number(gap)] for n, (count, gap, a, b) in alike.items()]
    small = [
        f"<h3>{title}</h3>{matrix(fields()[n][0], drawn[n], title)}"
        for title, n in (("Materials", "material"), ("Sizes", "size"), ("Floors", "floor"), ("Poses", "pose"))
    ]
    films = [
        f"<h3>{title}</h3>{matrix((), drawn[n], title)}"
        for title, n in (("Motions", "film"), ("Motions of the camera", "glide"))
    ]
    return [
        Section(
            "world",
            "The world, word by word",
            "A scene is a sentence: one to four objects with shape, color, size, material, pose and "
            "motion; a floor, a light, a style, a camera. No two words look alike.",
            verdict,
            [
                figure(matrix(SHAPES, drawn["shape"], "Shape and style"), "Shapes in every style."),
                figure(matrix(COLORS, drawn["color"], "Color and light"), "Colors in every light."),
                figure(abreast(*small), "What else is told of objects, and of the floor below them."),
                figure(abreast(*films, wide=True), f"Films of {FRAMES} frames, from left to right."),
                table(
                    ["Field", "words", "most alike", "levels apart"],
                    rows,
                    "The two words of each field whose pictures differ least, all else being equal.",
                ),
            ],
            f"Pictures of {bench.plan.tile} × {bench.plan.tile} pixels, {bench.plan.samples} rays each, "
            "ray-traced with shadows, ambient occlusion and highlights. The difference is the root mean "
            "square over all pixels and channels of two pictures of which only that word is another, in "
            "levels of 255; the background, which is the same, is counted in. Cameras are compared after "
            f"{GLIDE * (FRAMES - 1):g} seconds; motions of objects are shown, not compared.",
        )
    ]
