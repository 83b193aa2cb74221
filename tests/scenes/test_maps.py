from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from noisette.errors import UserError
from noisette.scenes import maps
from noisette.scenes.maps import (
    PALETTE,
    canny,
    control_maps,
    depth,
    normals,
    pose,
    scribble,
    segmentation,
    soft_edges,
)
from noisette.scenes.render import Rendering, render
from noisette.scenes.scene import SHAPES, Camera, Floor, Object, Scene
from noisette.scenes.trace import FLOOR, SKY


@pytest.fixture(scope="module")
def rendering() -> Rendering:
    figure = Object("figure", "blue", y=-1.2, pose="arms up")
    cube, ball = Object("cube", "red", y=0.9), Object("sphere", "green", "small", x=1.5)
    first = Scene((figure, cube, ball), camera=Camera(elevation=10))
    return render([first, Scene((Object("torus"),), Floor("beige", "checkered"))], 64)


def step(low: float = -1.0, high: float = 1.0, size: int = 32) -> Tensor:
    images = torch.full((1, 3, size, size), low)
    images[..., size // 2 :] = high
    return images


def test_every_map_is_a_hint(rendering: Rendering):
    for name, hint in control_maps(rendering).items():
        assert hint.shape == (2, 3, 64, 64) and hint.dtype == torch.float32, name
        assert hint.min() >= 0 and hint.max() <= 1 and hint.std() > 0, name


def test_maps_do_not_depend_on_the_rest_of_the_batch(rendering: Rendering):
    together = control_maps(rendering, [3, 4])
    fields = {name: value[1:] for name, value in vars(rendering).items() if value is not None}
    alone = control_maps(Rendering(**fields), [4])
    for name in together:
        torch.testing.assert_close(together[name][1:], alone[name], msg=name)


def test_canny_of_a_step_is_one_pixel_wide():
    line = torch.zeros(32)
    line[15] = 1
    assert torch.equal(canny(step()), line.expand(1, 3, 32, 32))
    assert torch.equal(canny(step().mT), line[:, None].expand(1, 3, 32, 32))


def test_canny_measures_four_times_the_step():
    """As cv2.Canny with the L1 norm: a step of s levels of 255 measures 4 s."""
    for levels, found in ((49, False), (51, True)):
        edges = canny(step(-0.5, -0.5 + levels / 127.5), 100, 200)
        assert bool(edges.any()) == found


def test_canny_keeps_the_weak_only_beside_the_strong():
    images = step(-0.5, -0.5 + 30 / 127.5)
    assert not canny(images, 100, 200).any()
    images[:, :, :8, 16:] = 1.0
    assert canny(images, 100, 200)[0, 0, 12:, 15].all()
    assert canny(images.flip(2), 100, 200)[0, 0, :20, 15].all()


def test_canny_sees_edges_between_colors_of_equal_luminance():
    images = step()
    images[:, 0], images[:, 1], images[:, 2] = images[:, 0], -images[:, 0], 0.0
    assert canny(images)[0, 0, :, 15].all()


def test_canny_edges_lie_where_those_of_scikit_image_do(rendering: Rendering):
    from scipy import ndimage
    from skimage import feature

    grey = rendering.rgb.mean(1, keepdim=True)
    ours = canny(grey, 80, 160)[:, 0].bool().numpy()
    for mine, picture in zip(ours, grey[:, 0], strict=True):
        theirs = feature.canny((picture.double().numpy() + 1) / 2, 0.4, 80 / 255, 160 / 255)
        near = ndimage.binary_dilation(theirs, np.ones((3, 3)))
        assert near[mine].mean() > 0.9 and 0.6 < mine.sum() / theirs.sum() < 1.6


def test_hysteresis_does_not_run_from_picture_to_picture():
    images = torch.cat((step(), step(-0.5, -0.5 + 30 / 127.5)))
    assert canny(images)[0].any() and not canny(images)[1].any()


def test_soft_edges_are_highest_on_the_edge_and_fall_off():
    row = soft_edges(step(size=64))[0, 0, 32]
    assert row[31] == pytest.approx(row[32].item()) and row[31] == row.max() > 0.8
    fall = row[32:44]
    assert (fall[1:] <= fall[:-1] + 1e-6).all() and fall[3] > 0.05 and row[-1] == 0
    assert soft_edges(torch.zeros(1, 3, 64, 64)).max() == 0


def test_soft_edges_keep_their_width_in_a_larger_picture():
    small, large = (soft_edges(step(size=s))[0, 0, s // 2] for s in (128, 512))
    assert (large > 0.2).sum() / 4 == pytest.approx((small > 0.2).sum().item(), abs=1.5)


def test_scribble_is_by_its_seed(rendering: Rendering):
    one, two = scribble(rendering, 1), scribble(rendering, [1, 2])
    assert torch.equal(one, scribble(rendering, 1))
    assert torch.equal(one[0], two[0]) and not torch.equal(one[1], two[1])
    with pytest.raises(UserError, match="one seed"):
        scribble(rendering, [1, 2, 3])


def test_scribble_is_thick_wobbly_and_leaves_out_the_small():
    images = torch.full((1, 3, 64, 64), -1.0)
    images[..., 32:] = 1.0
    images[..., 10:12, 10:12] = 1.0  # a speck
    drawn = scribble(images, 5)[0, 0]
    assert not drawn[:, :24].any() and canny(images)[0, 0, :, :24].any()
    width = drawn.sum(1)
    assert 1.5 <= width.mean() <= 4
    middle = (drawn * torch.arange(64.0)).sum(1) / width
    assert (middle - 31.5).abs().max() < 4 and middle.std() > 0.2
    assert (middle[1:] - middle[:-1]).abs().max() <= 1.5  # smooth, not noise


def test_scribble_of_the_truth_ignores_patterns_and_shadows(rendering: Rendering):
    truth, seen = scribble(rendering), scribble(rendering.rgb)
    away = (rendering.instance[1] == FLOOR)[None].float()
    away = 1 - torch.nn.functional.max_pool2d(1 - away, 11, 1, 5)[0]
    assert not (truth[1, 0] * away).any() and (seen[1, 0] * away).any()
    assert truth[1].any()
    assert truth.mean() < 0.2


def test_depth_is_affine_in_disparity(rendering: Rendering):
    hint, z = depth(rendering), rendering.depth
    for picture, truth in zip(hint[:, 0], z, strict=True):
        solid = truth.isfinite()
        assert picture[~solid].eq(0).all()
        near, seen = 1 / truth[solid], picture[solid]
        want = (near - near.min()) / (near.max() - near.min())
        torch.testing.assert_close(seen, want, atol=1e-5, rtol=0)
        order = truth[solid].argsort()
        assert (seen[order].diff() <= 1e-6).all() and seen.max() == 1


def test_depth_of_one_distance_or_none(rendering: Rendering):
    z = torch.full_like(rendering.depth, torch.inf)
    z[0] = 5.0
    hint = depth(replace(rendering, depth=z))
    assert hint[0].eq(1).all() and hint[1].eq(0).all()


def test_normals_of_known_planes(rendering: Rendering):
    n = torch.zeros_like(rendering.normal)
    n[:, 2, :16] = -1  # faces the viewer
    n[:, 1, 16:32] = -1  # faces up
    n[:, 0, 32:48] = -1  # faces left
    hint = normals(replace(rendering, normal=n))[0]
    rows = {0: (0.5, 0.5, 1), 20: (0.5, 1, 0.5), 40: (1, 0.5, 0.5), 60: (0.5, 0.5, 0.5)}
    for row, want in rows.items():
        assert hint[:, row, 0].tolist() == list(want)


def test_normals_of_the_floor_point_up(rendering: Rendering):
    floor = rendering.instance[0] == FLOOR
    red, green, blue = normals(rendering)[0][:, floor]
    assert red.sub(0.5).abs().max() < 1e-4 and green.min() > 0.95 and (blue > 0.5).all()


def test_segmentation_names_every_class(rendering: Rendering):
    hint = segmentation(rendering).mul(255).round().long()
    assert len(set(PALETTE.values())) == len(PALETTE) == 2 + len(SHAPES)
    for name, color in PALETTE.items():
        there = (hint == torch.tensor(color)[:, None, None]).all(1)
        if name in SHAPES:
            want = rendering.shape == SHAPES.index(name)
        else:
            want = rendering.instance == {"floor": FLOOR, "sky": SKY}[name]
        assert torch.equal(there, want), name


def person(size: int) -> Tensor:
    """Keypoints of one upright figure, spread over the picture."""
    points = torch.full((1, 2, 18, 3), torch.nan)
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(3.0), indexing="ij")
    grid = (torch.stack((x * 0.3 + 0.2, y * 0.15 + 0.1), -1).view(18, 2) * size).floor() + 0.5
    points[0, 0] = torch.cat((grid, torch.ones(18, 1)), 1)
    return points


def test_pose_draws_points_and_limbs_in_their_colors():
    size = 128
    points = person(size)
    hint = pose(points, size)[0]
    for i, want in (
        (0, (255, 0, 0)),
        (1, (255, 85, 0)),
        (3, (255, 255, 0)),
        (12, (0, 0, 255)),
        (17, (255, 0, 85)),
    ):
        x, y = points[0, 0, i, :2].long()
        assert hint[:, y, x].mul(255).round().tolist() == list(want), i
    only = torch.full_like(points, torch.nan)
    only[0, 1, 1], only[0, 1, 0] = torch.tensor([20.0, 64.0, 1]), torch.tensor([100.0, 64.0, 1])
    hint = pose(only, size)[0]
    color = torch.tensor([0.0, 0.0, 1.0])  # limb 12, neck to nose, has hue 12/18
    torch.testing.assert_close(hint[:, 63:65, 60], 0.6 * color[:, None].expand(3, 2), atol=1e-5, rtol=0)
    assert hint[:, 67:].eq(0).all() and hint[:, :61].eq(0).all() and hint[:, 64, :17].eq(0).all()


def test_pose_leaves_out_what_is_hidden():
    size = 64
    points = person(size)
    hidden = points.clone()
    hidden[0, 0, 4, 2] = 0  # the right wrist
    gone = points.clone()
    gone[0, 0, 4] = torch.nan
    x, y = points[0, 0, 4, :2].long()
    assert pose(points, size)[0, :, y, x].any() and not pose(hidden, size)[0, :, y, x].any()
    assert torch.equal(pose(hidden, size), pose(gone, size))
    nobody = torch.full_like(points, torch.nan)
    assert not pose(nobody, size).any()
    assert torch.isfinite(pose(points, size)).all()


def test_pose_in_its_window_is_pose_on_the_whole_picture():
    """Figures drawn near, across and outside the border are what whole-picture drawing makes of them."""
    size = 48
    line = torch.arange(size) + 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    for shift in ((0, 0), (-30, 0), (20, 25), (200, 0)):
        points = person(size)
        points[..., :2] = points[..., :2] * 0.5 + torch.tensor(shift)
        shown = torch.ones(1, 18, dtype=torch.bool)
        color, _ = maps._skeleton(points[:, 0, :, :2], shown, torch.stack((x, y)).flatten(1), 1.4)
        torch.testing.assert_close(pose(points, size), color.view(1, 3, size, size), atol=1e-5, rtol=0)


def test_pose_of_a_rendering_lies_on_its_figure(rendering: Rendering):
    drawn = pose(rendering)
    assert not drawn[1].any()
    figure = (rendering.instance[0] == 0)[None].float()
    around = torch.nn.functional.max_pool2d(figure, 5, 1, 2)[0].bool()
    assert drawn[0].any() and not drawn[0][:, ~around].any()


def test_wrong_shapes_are_named():
    with pytest.raises(UserError, match="pictures are"):
        canny(torch.zeros(3, 8, 8))
    with pytest.raises(UserError, match="keypoints are"):
        pose(torch.zeros(1, 18, 3), 64)
    with pytest.raises(UserError, match="size"):
        pose(person(64))
