"""Meshes, points and pictures lie on the one surface that the signed distance describes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from noisette.errors import UserError
from noisette.scenes.camera import views
from noisette.scenes.layout import World
from noisette.scenes.scene import SHAPES, Camera, Object, Scene
from noisette.scenes.shapes import RADIUS
from noisette.scenes.surface import mesh, save_mesh, signed_distance, surface_points
from noisette.scenes.trace import trace

SCENE = Scene(
    (
        Object("torus", "red", y=-1.2),
        Object("cube", "blue", x=0.4, y=0.9, yaw=20),
        Object("figure", "green", on=1),
    ),
    camera=Camera(30, 25),
)


@pytest.mark.parametrize("shape", SHAPES)
def test_vertices_lie_on_the_surface_and_the_mesh_is_closed(shape: str) -> None:
    scene = Scene((Object(shape, yaw=31, x=0.2),))
    body = mesh(scene, cells=32)
    vertices = torch.from_numpy(body.vertices.copy())
    assert signed_distance(scene, vertices, floor=False).abs().max() < 1e-6
    assert body.is_watertight and body.volume > 0
    middles = torch.from_numpy(body.triangles_center.copy())
    assert signed_distance(scene, middles, floor=False).abs().max() < 0.06 * RADIUS["large"]


def test_volume_and_area_of_a_sphere_are_the_closed_forms() -> None:
    body, r = mesh(Scene((Object("sphere"),))), RADIUS["large"]
    assert body.volume == pytest.approx(4 / 3 * math.pi * r**3, rel=0.005)
    assert body.area == pytest.approx(4 * math.pi * r**2, rel=0.005)


def test_depth_comes_back_to_the_surface() -> None:
    world, view = World.of([SCENE], [0.0]), views([SCENE.camera], [0.0])
    seen = trace(world, view, 96)
    solid = seen.depth[0].isfinite()
    point = seen.point[0][:, solid].T
    assert signed_distance(SCENE, point.double()).abs().max() < 1e-3
    outward = point + 1e-2 * seen.normal[0][:, solid].T
    rise = signed_distance(SCENE, outward.double())
    assert rise.quantile(0.02) > 0.9e-2  # but in corners, where something else is nearer


def test_rays_pass_nothing_before_they_meet_the_surface() -> None:
    view = views([SCENE.camera], [0.0])
    seen = trace(World.of([SCENE], [0.0]), view, 48)
    for part in torch.linspace(0.3, 0.995, 60):
        depth = seen.depth[0].clamp(max=30) * part
        before = view.eye[0][:, None, None] + depth * seen.direction[0]
        assert signed_distance(SCENE, before.flatten(1).T).min() > -1e-3


def test_surface_points_are_even_and_on_the_surface() -> None:
    cloud = surface_points(SCENE, 4000, seed=1)
    assert signed_distance(SCENE, cloud.position.double(), floor=False).abs().max() < 1e-3
    step = cloud.position.double() + 0.01 * cloud.normal.double()
    assert signed_distance(SCENE, step, floor=False).median() == pytest.approx(0.01, abs=1e-4)
    areas = torch.tensor([mesh(Scene((SCENE.objects[i],))).area for i in (0, 1)])
    shares = torch.tensor([(cloud.instance == i).sum().item() for i in (0, 1)])
    assert (shares[0] / shares[1]).item() == pytest.approx((areas[0] / areas[1]).item(), rel=0.15)
    red, green = (cloud.color[cloud.instance == i].mean(0) for i in (0, 2))
    assert red.argmax() == 0 and green.argmax() == 1
    again = surface_points(SCENE, 4000, seed=1)
    assert torch.equal(cloud.position, again.position)


@pytest.mark.parametrize("kind", ["glb", "ply", "obj", "stl"])
def test_meshes_are_written_and_read_by_others(kind: str, tmp_path: Path) -> None:
    import trimesh

    body = mesh(SCENE, cells=16)
    path = tmp_path / f"scene.{kind}"
    save_mesh(body, path)
    back = trimesh.load_mesh(path)
    low, high = body.bounds
    if kind == "glb":  # y is up there
        low, high = low[[0, 2, 1]] * [1, 1, -1], high[[0, 2, 1]] * [1, 1, -1]
        low[2], high[2] = high[2], low[2]
    assert abs(back.bounds - [low, high]).max() < 1e-4
    with pytest.raises(UserError, match="exists"):
        save_mesh(body, path)
    with pytest.raises(UserError, match=r"\.glb"):
        save_mesh(body, tmp_path / "scene.fbx")
