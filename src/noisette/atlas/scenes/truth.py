"""What is known of a picture: all of it, and whether it agrees."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from noisette.atlas.cells import Cell, Tick
from noisette.atlas.page import Finding, Section, Verdict, figure, number, percent, picture, table
from noisette.atlas.scenes import geometry
from noisette.atlas.scenes.bench import Bench, Measured, pixels
from noisette.atlas.scenes.pictures import each, gallery, matrix
from noisette.scenes.examples import orbit
from noisette.scenes.maps import control_maps
from noisette.scenes.render import render, render_video, render_views
from noisette.scenes.scene import Camera, Floor, Object, Scene

VIEWS = 6
COMPANY = Scene(
    (
        Object("figure", "orange", "large", x=-0.3, y=0.1, yaw=15, pose="waving"),
        Object("cube", "green", "large", "striped", x=0.1, y=-1.65, yaw=25),
        Object("sphere", "red", "small", "shiny", x=0.8, y=1.2),
        Object("cone", "blue", "small", on=1),
    ),
    Floor("gray", "checkered"),
    camera=Camera(azimuth=0, elevation=22, distance=7.4, fov=40),
)
NUMBERS = torch.tensor([[0.55, 0.8, 0.9], [0.35, 0.35, 0.35], [0.95, 0.6, 0.2], [0.2, 0.65, 0.35],
                        [0.85, 0.2, 0.25], [0.3, 0.4, 0.9]])  # fmt: skip
"""Colours of instances: sky, floor, and the objects in their order."""

LIMIT = 1e-3
"""World units that depth and mesh may be off the surface."""


def cells(bench: Bench) -> list[Cell]:
    """The pictures, and what `geometry` measures."""
    plan = bench.plan
    settings = {"what": "truth", "tile": plan.tile, "samples": plan.samples, **bench.world, "seed": 0}
    return [Cell(settings, 2 + VIEWS, partial(measure, bench)), *geometry.cells(bench)]


def measure(bench: Bench, tick: Tick) -> dict[str, Any]:
    """One scene with everything that is known of it."""
    size, samples = 2 * bench.plan.tile, bench.plan.samples
    drawn = render([COMPANY], size, samples=samples)
    tick(1)
    going = replace(
        COMPANY,
        camera=replace(COMPANY.camera, motion="orbits"),
        objects=(replace(COMPANY.objects[0], motion="spins"), *COMPANY.objects[1:]),
    )
    flow = render_video(going, 1, 8, size, samples=1).flow
    assert flow is not None
    tick(1)
    shown = {"picture": picture(drawn.rgb)}
    shown |= {name.replace("_", " "): picture(pixels(hint[0])) for name, hint in control_maps(drawn).items()}
    shown["object ids"] = picture(pixels(NUMBERS[drawn.instance[0] + 2].permute(2, 0, 1)))
    shown["flow"] = picture(pixels(_wheel(flow[0])))
    views = render_views(COMPANY, orbit(COMPANY.camera, VIEWS), bench.plan.tile, samples=samples)
    tick(VIEWS)
    return {
        "pictures": shown,
        "views": each(views.rgb),
        "depths": each(torch.cat([pixels(_near(depth)) for depth in views.depth])),
    }


def _near(depth: Tensor) -> Tensor:
    """Depth [H, H] as gray [3, H, H], 4 units white and 12 black."""
    return ((12 - depth) / 8).clamp(0, 1).expand(3, *depth.shape)


def _wheel(flow: Tensor) -> Tensor:
    """Flow [2, H, H] as colour [3, H, H]: the hue its direction, paler where it is slow."""
    speed = flow.norm(dim=0)
    strength = (speed / speed.quantile(0.99).clamp(min=1e-6)).clamp(max=1)
    hue = (torch.atan2(flow[1], flow[0]) / (2 * torch.pi)) % 1
    wheel = torch.tensor([colorsys.hsv_to_rgb(k / 256, 1, 0.92) for k in range(256)])
    color = wheel[(hue * 256).long().clamp(max=255)].permute(2, 0, 1)
    return torch.lerp(torch.ones_like(color), color, strength)


def sections(bench: Bench, measured: Measured) -> list[Section]:
    """The pictures, and how far each truth is from the surface."""
    seen, pixel, body, flow = measured
    tests = _tests(bench, pixel, body, flow)
    good = sum(met for *_, met in tests)
    missed = [name.replace("<br>", " ") for name, *_, met in tests if not met]
    finding: Finding = "holds" if good == len(tests) else "holds in part" if good else "does not hold"
    rows = [
        [name, wanted, f"<span{'' if met else ' class=off'}>{value}</span>", over]
        for name, wanted, value, over, met in tests
    ]
    turns = [f"{360 * k // VIEWS}°" for k in range(VIEWS)]
    around = matrix(turns, {"picture": seen["views"], "depth": seen["depths"]}, "View")
    warp = zip(
        flow["pictures"], ("frame", "next frame", "difference as it is", "after the warp"), strict=True
    )
    return [
        Section(
            "truth",
            "Everything is known, and agrees",
            "Depth, normals, ids, keypoints, optical flow and mesh all speak of one surface, given by a "
            "signed distance: depth leads back to it within 10<sup>−3</sup>, vertices lie on it within "
            "10<sup>−3</sup>, and the next frame, fetched along the flow, is this one within one level.",
            Verdict(
                finding,
                f"{good} of {len(tests)} agreements are met{_but(missed)}. The farthest of "
                f"{pixel['pixels']:,} pixels is {number(pixel['depth'], 2)} units off the surface.",
            ),
            [
                figure(
                    gallery([(a, name) for name, a in seen["pictures"].items()], "7rem"),
                    "One scene, and what is known of each of its pixels. Flow is that of a camera that "
                    "orbits while the figure spins: hue is direction, paler is slower.",
                ),
                figure(around, "The same scene from other cameras, whose matrices are known."),
                table(
                    ["Truth", "wanted", "measured", "over"], rows, "Each truth against the signed distance."
                ),
                figure(
                    gallery(list(warp), "8rem"),
                    f"Two frames of a clip, and their difference, {geometry.STRONG} times as strong, before "
                    "and after the second is fetched along the flow. What is gray was not compared: edges, "
                    "what is hidden, the far floor and the sky.",
                ),
            ],
            f"{bench.plan.solid} sampled scenes at {geometry.SIZE} pixels, every pixel that shows a surface, "
            "taken back to the world by depth and camera matrices alone, in float64. Slopes by central "
            f"differences. Flow: {bench.plan.clips} sampled scenes of matte things on a plain floor by day, "
            f"at {geometry.CLIP} pixels, the camera orbiting at {geometry.FPS:g} frames a second, so that "
            "brightness moves with the surface; hidden is what the next frame's depth contradicts.",
        )
    ]


def _but(missed: list[str]) -> str:
    return f"; not met: {', '.join(missed)}" if missed else ""


def _tests(
    bench: Bench, pixel: Mapping[str, Any], body: Mapping[str, Any], flow: Mapping[str, Any]
) -> list[tuple[str, str, str, str, bool]]:
    """Name, what is wanted, what was measured, over how much, and whether it is met."""
    points, near = pixel["keypoints"], pixel["keypoints near"]
    return [
        (
            "depth, units off the<br>surface, at most",
            f"{LIMIT:g}",
            number(pixel["depth"], 2),
            f"{pixel['pixels']:,} pixels",
            pixel["depth"] < LIMIT,
        ),
        (
            "normals, degrees off<br>the slope, median",
            "0.5",
            f"{number(pixel['angle'], 2)} <small>(99 %: {number(pixel['angle most'], 2)})</small>",
            f"{pixel['objects']:,} pixels",
            pixel["angle"] < 0.5,
        ),
        (
            "shape and color ids<br>those of the object",
            "all",
            percent(pixel["ids"]),
            f"{bench.plan.solid} pictures",
            pixel["ids"] == 1,
        ),
        (
            "visible keypoints<br>on their figure",
            "all",
            percent(near / points, 1) if points else "–",
            f"{points:,} points",
            near == points,
        ),
        (
            "mesh, units off the<br>surface, at most",
            f"{LIMIT:g}",
            number(body["gap"], 2),
            f"{body['vertices']:,} vertices",
            body["gap"] < LIMIT,
        ),
        (
            "meshes closed",
            "all",
            f"{body['closed']} of {body['bodies']}",
            f"{body['bodies']} scenes",
            body["closed"] == body["bodies"],
        ),
        (
            "flow, levels off after<br>the warp, of 99&nbsp;%",
            "1",
            f"{number(flow['most'], 2)} <small>(as it is: {number(flow['still'], 2)})</small>",
            f"{flow['compared']:,} pixels",
            flow["most"] < 1,
        ),
        (
            "the same of objects alone",
            "1",
            f"{number(flow['most of objects'], 2)} "
            f"<small>(as it is: {number(flow['still of objects'], 2)})</small>",
            f"{flow['compared of objects']:,} pixels",
            flow["compared of objects"] > 0 and flow["most of objects"] < 1,
        ),
    ]
