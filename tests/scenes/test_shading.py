import pytest
import torch

from noisette.scenes.camera import views
from noisette.scenes.layout import World
from noisette.scenes.render import render
from noisette.scenes.scene import (
    COLORS,
    FLOOR_COLORS,
    FLOOR_PATTERNS,
    LIGHTS,
    STYLES,
    Camera,
    Floor,
    Object,
    Scene,
)
from noisette.scenes.shading import paint, sun
from noisette.scenes.textures import PALETTE, albedo, hashed, linear, noise, srgb
from noisette.scenes.trace import FLOOR, trace

CAMERA = Camera(azimuth=25, elevation=22, distance=5)


def of_colors(shape, light, style="photo", material="matte"):
    return [
        Scene((Object(shape, c, material=material),), light=light, style=style, camera=CAMERA) for c in COLORS
    ]


def mean_colors(scenes, size=32):
    """Mean display color [B, 3] in [0, 1] of the objects, and of the floor."""
    drawn = render(scenes, size)
    rgb = drawn.rgb * 0.5 + 0.5
    masks = ((drawn.instance >= 0)[:, None], (drawn.instance == FLOOR)[:, None])
    return [(rgb * m).sum((2, 3)) / m.sum((2, 3)) for m in masks]


def levels(rgb):
    return (rgb * 127.5 + 127.5).round().to(torch.uint8)


def test_srgb_undoes_linear():
    for name, code in PALETTE.items():
        shown = srgb(torch.tensor(linear(code))) * 255
        assert shown.round().int().tolist() == [int(code[i : i + 2], 16) for i in (1, 3, 5)], name


def test_noise_is_the_hash_on_its_lattice_and_stays_between():
    i, j = torch.meshgrid(torch.arange(-5.0, 6), torch.arange(-5.0, 6), indexing="ij")
    assert torch.equal(noise(i, j, 3), hashed(i, j, 3))
    assert hashed(i, j, 3).std() > 0.2 and not torch.equal(hashed(i, j, 3), hashed(i, j, 4))


def test_suns_are_unit_vectors_above_the_horizon_and_lowest_at_sunset():
    world = World.of([Scene((Object("cube"),), light=light) for light in LIGHTS], [0.0] * 3)
    towards = sun(world)
    assert torch.allclose(towards.norm(dim=1), torch.ones(3))
    assert (towards[:, 2] > 0).all() and towards[:, 2].argmin() == LIGHTS.index("sunset")


def test_by_day_matte_objects_have_the_color_of_the_palette():
    things, _ = mean_colors(of_colors("sphere", "day"))
    palette = torch.tensor([[int(PALETTE[c][i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLORS])
    hue, hues = (c / c.norm(dim=1, keepdim=True) for c in (things, palette))
    distance = (hue[:, None] - hues).norm(dim=2)
    distance = distance + 0.35 * (things.amax(1)[:, None] - 0.8 * palette.amax(1)).abs()
    assert distance.argmin(1).tolist() == list(range(len(COLORS)))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("light", LIGHTS)
def test_colors_are_told_apart_in_every_light_and_style(light, style):
    known, _ = mean_colors(of_colors("sphere", light, style))
    seen, _ = mean_colors(of_colors("cylinder", light, style, "shiny"))
    assert torch.cdist(seen, known).argmin(1).tolist() == list(range(len(COLORS)))
    assert torch.pdist(known).min() > 0.09


@pytest.mark.parametrize("pattern", FLOOR_PATTERNS)
@pytest.mark.parametrize("style", STYLES)
def test_floors_are_told_apart(style, pattern):
    thing = Object("cube", size="small")
    for light in LIGHTS:
        scenes = [Scene((thing,), Floor(c, pattern), light, style, CAMERA) for c in FLOOR_COLORS]
        _, floors = mean_colors(scenes)
        assert torch.pdist(floors).min() > 0.06


@pytest.mark.parametrize("style", STYLES)
def test_sunset_is_warmer_and_night_darker_than_day(style):
    scenes = [Scene((Object("cube", "white"),), Floor("white"), light, style, CAMERA) for light in LIGHTS]
    rgb = render(scenes, 32).rgb * 0.5 + 0.5
    warmth = (rgb[:, 0] - rgb[:, 2]).mean((1, 2))
    value = rgb.mean((1, 2, 3))
    day, sunset, night = (LIGHTS.index(name) for name in ("day", "sunset", "night"))
    assert warmth[sunset] > warmth[day] + 0.08 > warmth[night] + 0.08
    assert value[night] < value[sunset] - 0.05 and value[night] < value[day] - 0.15


def test_an_object_darkens_the_floor_away_from_the_sun():
    bare = Scene((Object("sphere", size="small", x=30.0),), camera=Camera(0, 80, 8))
    thing = Scene((Object("sphere"),), camera=Camera(0, 80, 8))
    drawn = render([bare, thing], 64)
    to_sun = sun(World.of([thing], [0.0]))[0]
    # Seen from above with azimuth 0, up in the picture is -x and right is +y.
    floor = (drawn.instance == FLOOR).all(0)
    loss = ((drawn.rgb[0] - drawn.rgb[1]).mean(0) * floor).clamp(min=0)
    row, column = torch.meshgrid(torch.arange(64.0) - 31.5, torch.arange(64.0) - 31.5, indexing="ij")
    center = torch.stack((row, column)).mul(loss).sum((1, 2)) / loss.sum()
    assert loss.max() > 0.2
    assert center[0] * to_sun[0] + center[1] * to_sun[1] < 0


@pytest.mark.parametrize("light", LIGHTS)
def test_shiny_objects_have_a_highlight(light):
    matte, shiny = (
        render([Scene((Object("sphere", "blue", "small", m),), light=light)], 64) for m in ("matte", "shiny")
    )
    here = shiny.instance[0] >= 0
    brightest = [r.rgb[0].mean(0)[here].max() for r in (matte, shiny)]
    assert brightest[1] > brightest[0] + 0.4


@pytest.mark.parametrize("shape", ["sphere", "cube", "cylinder", "cone", "torus", "capsule"])
def test_stripes_turn_with_the_object_and_leave_its_color_the_greater_part(shape):
    camera = Camera(0, 20, 4)
    scenes = [
        Scene((Object(shape, "red", material="striped", yaw=yaw),), camera=camera) for yaw in (0.0, 35.0)
    ]
    plain = Scene((Object(shape, "red"),), camera=camera)
    drawn = render([*scenes, plain], 64)
    here = (drawn.instance >= 0).all(0)
    turned = (drawn.rgb[0] - drawn.rgb[1]).abs().mean(0)[here]
    assert turned.mean() > 0.04
    striped = (drawn.rgb[0] - drawn.rgb[2]).abs().amax(0)[here] > 0.3
    assert 0.15 < striped.float().mean() < 0.5


def test_patterns_vary_the_floor_and_keep_its_mean():
    scenes = [Scene((Object("cube", size="small"),), Floor("gray", p), camera=CAMERA) for p in FLOOR_PATTERNS]
    drawn = render(scenes, 64)
    floor = (drawn.instance == FLOOR).all(0)
    values = drawn.rgb.mean(1)[:, floor]
    assert (values[1:].std(1) > values[0].std() + 0.02).all()
    assert (values[1:].mean(1) - values[0].mean()).abs().max() < 0.15


def test_a_figure_has_eyes_in_front_only():
    for yaw, dark in ((0.0, True), (180.0, False)):
        camera = Camera(0, 5, 4.5)
        world = World.of([Scene((Object("figure", "yellow", yaw=yaw),), camera=camera)], [0.0])
        view = views([camera], [0.0])
        reflected = albedo(world, view, trace(world, view, 128))[0].amax(0)
        assert (reflected < 0.05).any() == dark


def test_a_picture_does_not_depend_on_its_batch():
    scenes = [
        Scene(
            (Object("torus", COLORS[i], "large", m), Object("figure", x=1.3)), Floor("beige", p), light, style
        )
        for i, (style, light, m, p) in enumerate(
            zip(STYLES * 2, LIGHTS * 3, ("shiny", "striped", "matte") * 3, FLOOR_PATTERNS * 3, strict=False)
        )
    ]
    together = levels(render(scenes, 24).rgb)
    alone = torch.cat([levels(render([s], 24).rgb) for s in scenes])
    assert torch.equal(together, alone)
    order = [5, 0, 7, 2]
    assert torch.equal(levels(render([scenes[i] for i in order], 24).rgb), together[order])


def test_paint_stays_in_range():
    thing = Object("cube", "white", material="shiny")
    scenes = [Scene((thing,), light=light, style=style) for light in LIGHTS for style in STYLES]
    world, view = (
        World.of(scenes, [0.0] * len(scenes)),
        views([s.camera for s in scenes], [0.0] * len(scenes)),
    )
    picture = paint(world, view, trace(world, view, 32))
    assert picture.shape == (12, 3, 32, 32) and picture.dtype == torch.float32
    assert picture.isfinite().all() and picture.abs().max() <= 1
