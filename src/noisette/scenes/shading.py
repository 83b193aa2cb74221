"""Light and materials: from what each ray meets to a picture."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from noisette.scenes.camera import View
from noisette.scenes.layout import World
from noisette.scenes.scene import FLOOR_COLORS, LIGHTS, MATERIALS, SHAPES, STYLES
from noisette.scenes.styles import Lit, cartoon, photo, sketch, watercolor
from noisette.scenes.textures import FLOOR_PALETTE, albedo, linear, smoothstep, unit
from noisette.scenes.trace import FLOOR, SKY, Surface, occlusion, sunlight

__all__ = ["paint", "sun"]

SUN_WIDTH = 0.09
"""Half the width of the sun's disc in radians: what makes shadows soft."""
HANDS = {"photo": photo, "cartoon": cartoon, "sketch": sketch, "watercolor": watercolor}
SHINY = MATERIALS.index("shiny")


class Hour(NamedTuple):
    """A light: where its sun stands, in degrees; linear light of sun and sky; the backdrop's colors."""

    azimuth: float
    elevation: float
    sun: tuple[float, float, float]
    sky: tuple[float, float, float]
    low: str
    middle: str
    high: str


HOURS = {
    "day": Hour(40, 52, (0.80, 0.75, 0.65), (0.42, 0.455, 0.51), "#e6eef3", "#bcdcf3", "#6aaee6"),
    "sunset": Hour(150, 21, (1.02, 0.68, 0.44), (0.50, 0.40, 0.45), "#ffc48a", "#f08f79", "#6f5a9c"),
    "night": Hour(250, 46, (0.345, 0.385, 0.485), (0.195, 0.22, 0.295), "#26355f", "#1a2549", "#0b1029"),
}


def _of(world: World, name: str) -> Tensor:
    """An attribute of each scene's hour, [B, 3]."""
    values = [getattr(HOURS[light], name) for light in LIGHTS]
    table = torch.tensor([linear(v) if isinstance(v, str) else v for v in values], device=world.light.device)
    return table[world.light]


def sun(world: World) -> Tensor:
    """Unit vectors [B, 3] towards each scene's sun, or moon; fixed in the world."""
    rows = []
    for light in LIGHTS:
        a, e = math.radians(HOURS[light].azimuth), math.radians(HOURS[light].elevation)
        rows.append((math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)))
    return torch.tensor(rows, device=world.light.device)[world.light]


def paint(world: World, view: View, surface: Surface) -> Tensor:
    """The picture [B, 3, n, n] as displayed, in [-1, 1]; each scene in its style.

    It is to be averaged over the rays of a pixel as it is.
    """
    lit = _lit(world, view, surface)
    picture = torch.empty_like(surface.normal, memory_format=torch.contiguous_format)
    for index, style in enumerate(STYLES):
        pick = (world.style == index).nonzero()[:, 0]
        if len(pick):
            picture[pick] = HANDS[style](lit.pick(pick) if len(pick) < len(picture) else lit)
    return picture.clamp_(0, 1).mul_(2).sub_(1)


def _lit(world: World, view: View, surface: Surface) -> Lit:
    to_sun = sun(world)
    cosine = (surface.normal * to_sun[:, :, None, None]).sum(1).clamp_(min=0)
    key = cosine * sunlight(world, surface, to_sun, SUN_WIDTH)
    open = 1 - 0.85 * occlusion(world, surface)
    ray = unit(surface.direction)
    backdrop = _backdrop(world, ray)
    x, y = surface.point[:, 0], surface.point[:, 1]
    haze = smoothstep(3.5, 20.0, (x * x + y * y).sqrt()) * (surface.instance == FLOOR)
    haze = torch.where(surface.instance == SKY, 1.0, haze)
    sun_color, sky_color = _of(world, "sun")[:, :, None, None], _of(world, "sky")[:, :, None, None]
    floors = torch.tensor([linear(FLOOR_PALETTE[c]) for c in FLOOR_COLORS], device=haze.device)
    floor_color = floors[world.floor_color][:, :, None, None]
    shape = surface.of_object(world.shape)
    return Lit(
        albedo=albedo(world, view, surface),
        gloss=_gloss(world, surface, ray, key, open),
        backdrop=backdrop,
        key=key[:, None],
        open=open[:, None],
        up=0.5 + 0.5 * surface.normal[:, 2:],
        haze=haze[:, None],
        sun=sun_color,
        sky=sky_color,
        bounce=0.35 * sky_color
        + 0.35 * floor_color * (sun_color * to_sun[:, 2, None, None, None] + sky_color),
        noon=to_sun[:, 2, None, None, None],
        normal=surface.normal,
        depth=surface.depth,
        instance=surface.instance,
        crease=(shape == SHAPES.index("cube")) | (shape == SHAPES.index("cylinder")),
    )


def _backdrop(world: World, ray: Tensor) -> Tensor:
    """Light of the sky along unit rays [B, 3, n, n]; below the horizon it goes on as a cyclorama."""
    low, middle, high = (_of(world, name)[:, :, None, None] for name in ("low", "middle", "high"))
    rise = ray[:, 2:]
    color = torch.lerp(low, middle, smoothstep(-0.2, 0.02, rise))
    return torch.lerp(color, high, smoothstep(-0.02, 0.35, rise))


def _gloss(world: World, surface: Surface, ray: Tensor, key: Tensor, open: Tensor) -> Tensor:
    """Light mirrored by what is shiny [B, 3, n, n]: the sun's spot, and sky and floor by Fresnel's law."""
    shiny = (surface.of_object(world.material) == SHINY) & (surface.instance >= 0) & ~surface.skin
    # Flat faces are taken as slightly domed, or they would mirror a single point of the sky.
    center = torch.stack([surface.of_object(world.center[..., i]) for i in range(3)], 1)
    normal = unit(surface.normal + 0.3 * unit(surface.point - center))
    facing = -(normal * ray).sum(1, keepdim=True).clamp(max=0)
    mirrored = ray + 2 * facing * normal
    to_sun = sun(world)[:, :, None, None]
    aligned = (mirrored * to_sun).sum(1, keepdim=True)
    spot = smoothstep(0.86, 0.95, aligned) * (0.15 + 0.85 * smoothstep(0, 0.15, key[:, None]))
    fresnel = 0.06 + 0.6 * (1 - facing).clamp(0, 1).square().square()
    sky, light = _of(world, "sky")[:, :, None, None], _of(world, "sun")[:, :, None, None]
    rise = mirrored[:, 2:]
    # A bright band above the horizon, as of a bank of windows, shows on every shape from every side.
    band = smoothstep(0.05, 0.2, rise) * smoothstep(0.75, 0.45, rise)
    air = (sky + 0.6 * light).mean(1, keepdim=True).lerp(sky + 0.6 * light, 0.5)
    around = air * (0.2 + smoothstep(-0.05, 0.1, rise) + 1.2 * band)
    return shiny[:, None] * (fresnel * around * open[:, None] + 1.3 * spot * (light + sky))
