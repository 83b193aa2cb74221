"""Pictures and their truth: maps that agree, flow that warps, views that see the same points."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from noisette.errors import UserError
from noisette.pixels import to_uint8
from noisette.scenes.render import Rendering, render, render_video, render_views
from noisette.scenes.scene import COLORS, SHAPES, Camera, Floor, Object, Scene
from noisette.scenes.surface import signed_distance

SCENE = Scene(
    (
        Object("cube", "red", x=-0.9, y=-0.7, yaw=25),
        Object("sphere", "blue", "small", x=0.6, y=0.8, material="striped"),
        Object("figure", "green", "small", x=0.9, y=-0.7, yaw=10, pose="waving"),
    ),
    camera=Camera(20, 25),
)


def unprojected(picture: Rendering, b: int = 0) -> Tensor:
    """World points [H, H, 3] by depth and camera matrices alone."""
    size = picture.depth.shape[-1]
    line = torch.arange(size, dtype=torch.float64) + 0.5
    x, y = torch.meshgrid(line, line, indexing="xy")
    rays = torch.linalg.inv(picture.intrinsics[b].double()) @ torch.stack((x, y, torch.ones_like(x))).flatten(
        1
    )
    camera = torch.cat((rays * picture.depth[b].flatten(), torch.ones(1, size * size)))
    return (torch.linalg.inv(picture.extrinsics[b].double()) @ camera)[:3].T.view(size, size, 3)


def test_depth_and_matrices_lead_back_to_the_surface() -> None:
    picture = render([SCENE], 64)
    solid = picture.depth[0].isfinite()
    assert signed_distance(SCENE, unprojected(picture)[solid]).abs().max() < 1e-3


def test_normals_are_those_of_the_signed_distance_in_camera_axes() -> None:
    picture = render([SCENE], 64)
    solid = picture.instance[0] >= 0
    points = unprojected(picture)[solid]
    world = torch.linalg.inv(picture.extrinsics[0, :3, :3]).double() @ picture.normal[0][:, solid].double()
    step = 1e-3
    slope = torch.stack(
        [
            (signed_distance(SCENE, points + step * e) - signed_distance(SCENE, points - step * e))
            / (2 * step)
            for e in torch.eye(3, dtype=torch.float64)
        ]
    )
    aligned = (F.normalize(slope, dim=0) * world).sum(0)
    assert aligned.median() > 0.9999 and (aligned > 0.99).double().mean() > 0.97
    ray = F.normalize(points - torch.linalg.inv(picture.extrinsics[0])[:3, 3].double(), dim=1)
    assert ((world * ray.T).sum(0) < 0.05).all()  # what is seen faces the camera
    assert (picture.normal[0][:, picture.instance[0] == -2] == 0).all()


def test_ids_say_what_is_where() -> None:
    picture = render([SCENE], 64)
    for index, thing in enumerate(SCENE.objects):
        here = picture.instance[0] == index
        assert here.sum() > 20
        assert (picture.shape[0][here] == SHAPES.index(thing.shape)).all()
        assert (picture.color[0][here] == COLORS.index(thing.color)).all()
    assert (picture.shape[0][picture.instance[0] < 0] == -1).all()
    red = picture.rgb[0][:, picture.instance[0] == 0].mean(1)
    assert red.argmax() == 0 and red[0] - red[1:].max() > 0.3


def test_a_picture_depends_on_its_scene_alone() -> None:
    others = [
        replace(SCENE, light=light, style=style)
        for light in ("sunset", "night")
        for style in ("sketch", "photo")
    ]
    together = render([*others, SCENE], 64)
    alone = render([SCENE], 64)
    assert torch.equal(to_uint8(together.rgb[-1:]), to_uint8(alone.rgb))
    for name in ("depth", "instance", "normal"):
        assert torch.allclose(getattr(together, name)[-1:], getattr(alone, name), atol=1e-5)


def test_larger_pictures_show_the_same_and_more_samples_only_smooth() -> None:
    small, large = render([SCENE], 64).rgb, render([SCENE], 128).rgb
    assert (F.avg_pool2d(large, 2) - small).abs().mean() < 0.02
    few, many = render([SCENE], 64, samples=4).rgb, render([SCENE], 64, samples=16).rgb
    one = render([SCENE], 64, samples=1).rgb
    assert (few - many).abs().mean() < (one - many).abs().mean() / 1.5


def flowed(video: Rendering, value: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """`value` [F, C, H, H] of frame t + 1 fetched to frame t along the flow, and where that is defined."""
    size = value.shape[-1]
    line = torch.arange(size) + 0.5
    target = torch.stack(torch.meshgrid(line, line, indexing="xy")) + video.flow[t]
    grid = (target / size * 2 - 1).permute(1, 2, 0)[None]
    inside = (target > 1).all(0) & (target < size - 1).all(0)
    return F.grid_sample(value[t + 1 : t + 2], grid, align_corners=False)[0], inside


MOVING = Scene(
    (
        Object("sphere", "blue", motion="rolls right", x=-0.8, y=-0.8),
        Object("figure", "green", "small", x=0.9, y=-0.5, yaw=80, motion="walks"),
        Object("cube", "red", "small", x=0.3, y=1.2, motion="spins"),
    ),
    camera=Camera(20, 25, motion="orbits"),
)


def test_flow_takes_every_point_to_where_the_next_frame_sees_it() -> None:
    # Along the flow the next frame shows the same instance, at the depth at which the moved point lies.
    video = render_video(MOVING, frames=3, fps=16, size=96, samples=1)
    for t in range(2):
        instance, inside = flowed(video, video.instance[:, None].float(), t)
        same = (instance[0] - video.instance[t]).abs() < 1e-3
        assert same[inside].float().mean() > 0.9
        mask = video.instance[t] >= 0
        assert video.flow[t].norm(dim=0)[mask].mean() > 0.5


def test_flow_of_a_still_camera_is_nothing_but_where_things_move() -> None:
    scene = replace(MOVING, camera=replace(MOVING.camera, motion="still"))
    video = render_video(scene, frames=2, fps=8, size=64, samples=1)
    assert video.flow[0][:, video.instance[0] < 0].abs().max() < 1e-3
    rolling = video.flow[0][:, video.instance[0] == 0]
    assert rolling[0].mean() > 0.5  # to the right


def test_warping_the_next_frame_along_the_flow_gives_this_one() -> None:
    # Matte surfaces in a still world look the same from everywhere: but for what comes into sight, and for
    # the softening of edges by the warp itself, the pictures agree within one level of 255.
    plain = Scene(
        (Object("sphere", "blue", x=-0.6, y=-0.7), Object("cube", "red", y=0.8, yaw=20)),
        floor=Floor("beige", "plain"),
        camera=Camera(20, 30, motion="orbits"),
    )
    video = render_video(plain, frames=2, fps=30, size=256, samples=4)
    warped, inside = flowed(video, video.rgb, 0)
    wrong = (warped - video.rgb[0]).abs().amax(0) * 127.5
    floor_far = unprojected(video)[..., :2].norm(dim=-1) < 2.5
    edge = (
        F.max_pool2d(
            (
                video.normal[:1].diff(dim=2, append=video.normal[:1, :, -1:]).abs()
                + video.normal[:1].diff(dim=3, append=video.normal[:1, :, :, -1:]).abs()
            ).amax(1, keepdim=True),
            9,
            1,
            4,
        )[0, 0]
        > 0.1
    )
    clear = inside & floor_far & ~edge
    assert clear.float().mean() > 0.3
    assert wrong[clear].median() < 0.3 and wrong[clear].quantile(0.99) < 1


def test_the_clouds_of_two_views_are_one_surface() -> None:
    cameras = [Camera(a, 30) for a in (0, 50)]
    picture = render_views(SCENE, cameras, 64)
    for b in range(2):
        points = unprojected(picture, b)[picture.depth[b].isfinite()]
        assert signed_distance(SCENE, points).abs().max() < 1e-3
    # The unobstructed top of the cube is seen where the matrices of the other camera say.
    top = torch.tensor([-0.9, -0.7, 2 * 0.6, 1.0])
    for b in range(2):
        seen = picture.intrinsics[b] @ (picture.extrinsics[b] @ top)[:3]
        x, y = (seen[:2] / seen[2]).long().tolist()
        assert picture.instance[b, y, x] == 0


def test_keypoints_lie_on_the_figure_and_face_the_camera_or_not() -> None:
    def points(yaw: float) -> Tensor:
        scene = Scene((Object("figure", yaw=yaw),), camera=Camera(0, 15))
        picture = render([scene], 128)
        table = picture.keypoints[0, 0]
        assert picture.keypoints[0, 1:].isnan().all()
        x, y = table[:, 0].long(), table[:, 1].long()
        near = F.max_pool2d((picture.instance == 0).float()[:, None], 5, 1, 2)[0, 0]
        assert near[y, x].all()
        return table

    front, back = points(0), points(180)
    assert front[0, 2] == 1 and front[14:16, 2].tolist() == [1, 1]  # nose and eyes
    assert back[0, 2] == 0 and back[14:16, 2].tolist() == [0, 0]
    assert front[1, 2] == back[1, 2] == 1  # the neck either way
    assert front[2, 0] < front[5, 0] and back[2, 0] > back[5, 0]  # its right shoulder is on our left
    assert front[0, 1] < front[8, 1] < front[10, 1]  # nose over hip over ankle


def test_a_small_figure_from_behind_shows_no_face() -> None:
    scene = Scene((Object("figure", size="small", yaw=180),), camera=Camera(0, 15))
    assert render([scene], 128).keypoints[0, 0, [0, 14, 15], 2].tolist() == [0, 0, 0]


def test_one_behind_another_is_hidden() -> None:
    scene = Scene((Object("figure", size="small", x=-1.2), Object("cube", x=0.3)), camera=Camera(0, 12))
    assert render([scene], 128).keypoints[0, 0, 8:14, 2].sum() == 0  # its legs


def test_sizes_samples_and_videos_that_make_no_sense_are_refused() -> None:
    for wrong in (
        lambda: render([SCENE], 4),
        lambda: render([], 64),
        lambda: render([SCENE], 64, samples=3),
        lambda: render_video(SCENE, 0),
        lambda: render_video(SCENE, 4, fps=0),
    ):
        with pytest.raises(UserError):
            wrong()


def test_time_moves_only_what_moves() -> None:
    now, later = render([SCENE, MOVING], 64), render([SCENE, MOVING], 64, time=[0.0, 0.5])
    assert torch.equal(now.rgb[0], later.rgb[0])
    assert (now.rgb[1] - later.rgb[1]).abs().max() > 0.3
    assert math.isclose(now.intrinsics[0, 0, 0].item(), 32 / math.tan(math.radians(20)), rel_tol=1e-5)
