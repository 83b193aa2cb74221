from dataclasses import replace

import pytest
import torch

from noisette.scenes.camera import views
from noisette.scenes.layout import World
from noisette.scenes.render import render
from noisette.scenes.scene import LIGHTS, STYLES, Camera, Object, Scene
from noisette.scenes.shading import _lit
from noisette.scenes.styles import develop, outlines
from noisette.scenes.trace import trace

SCENE = Scene(
    (Object("sphere", "red"), Object("cube", "yellow", x=-1.2, y=1.2, yaw=20)), camera=Camera(20, 22, 6)
)


def lit_of(scene, n):
    world, view = World.of([scene], [0.0]), views([scene.camera], [0.0])
    return _lit(world, view, trace(world, view, n))


def in_style(style, size=64):
    return render([replace(SCENE, style=style)], size)


def test_develop_rises_and_ends_below_white():
    light = torch.linspace(0, 8, 500)
    shown = develop(light)
    assert (shown.diff() >= 0).all() and shown[0].abs() < 1e-6 and 0.99 < shown[-1] <= 1


def test_outlines_run_around_every_object_outside_it():
    lit = lit_of(SCENE, 128)
    lines = outlines(replace(lit, crease=torch.zeros_like(lit.crease)), 0.009)[0] > 0
    part = lit.instance[0]
    right = (part[:, 1:] == 0) & (part[:, :-1] < 0)
    assert right.any() and lines[:, :-1][right].all()
    assert not lines[part == part.max()].any()
    assert lines.float().mean() < 0.1


def test_outlines_have_the_same_share_of_the_picture_at_every_size():
    small, large = (outlines(lit_of(SCENE, n), 0.009).mean() for n in (128, 512))
    assert 0.5 < large / small < 1.3


def test_folds_of_a_cube_are_drawn_and_a_slanted_plane_is_not():
    scene = Scene((Object("cube"),), camera=Camera(30, 12, 6))
    lit = lit_of(scene, 256)
    lines = outlines(lit, 0.009)[0] > 0
    inside = lit.instance[0] == 0
    assert 0.01 < lines[inside].float().mean() < 0.35
    top = inside & (lit.normal[0, 2] > 0.999)
    assert lines[top].float().mean() < 0.75
    assert lit.key[0, 0][top].numel() > 50


def test_a_cartoon_has_ink_and_few_tones():
    photo, cartoon = in_style("photo"), in_style("cartoon")
    assert (cartoon.rgb.amax(1) < -0.4).float().mean() > 3 * (photo.rgb.amax(1) < -0.4).float().mean()
    ball = photo.instance[0] == 0
    tones = [len((r.rgb[0, 0][ball] * 24).round().unique()) for r in (photo, cartoon)]
    steps = [r.rgb[0].diff(dim=2).abs().amax(0)[ball[:, 1:]] for r in (photo, cartoon)]
    flat = [(step < 0.01).float().mean() for step in steps]
    assert flat[1] > flat[0] + 0.2 and tones[1] <= tones[0] + 4


@pytest.mark.parametrize("light", LIGHTS)
def test_a_watercolor_leaves_a_margin_of_paper(light):
    rgb = render([replace(SCENE, style=s, light=light) for s in STYLES], 64).rgb
    edge = torch.cat((rgb[:, :, 0], rgb[:, :, -1], rgb[:, :, :, 0], rgb[:, :, :, -1]), 2).mean((1, 2))
    white = [STYLES.index("watercolor")]
    assert edge[white] > 0.75
    assert edge[white] > edge[[i for i in range(4) if i not in white]].max()


def test_a_sketch_is_hatched_where_it_is_dark():
    sketch, photo = in_style("sketch", 128), in_style("photo", 128)
    ball = photo.instance[0] == 0
    gray = photo.rgb[0].mean(0)
    shade = ball & (gray < gray[ball].quantile(0.3))
    bright = ball & (gray > gray[ball].quantile(0.7))
    rough = (sketch.rgb[0, :, 1:, 1:] - sketch.rgb[0, :, :-1, :-1]).abs().mean(0)
    assert rough[shade[1:, 1:]].mean() > 1.2 * rough[bright[1:, 1:]].mean()
    assert sketch.rgb.mean() > photo.rgb.mean()


def test_styles_differ_everywhere():
    pictures = torch.cat([in_style(s).rgb for s in STYLES]).flatten(1)
    assert torch.cdist(pictures, pictures, p=1).fill_diagonal_(1e9).min() / pictures.shape[1] > 0.06
