"""The commands of the scenes as a person types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from noisette.cli import main
from noisette.data import open_dataset
from noisette.hub.png import read_settings
from noisette.pixels import to_uint8
from noisette.scenes.constraints import holds
from noisette.scenes.parse import parse
from noisette.scenes.reader import Reading, Seen
from noisette.scenes.render import render
from noisette.scenes.scene import Scene

Run = Callable[..., tuple[int, str, str]]

TEXT = "a red cube left of a blue sphere, at night"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def typed(line: str, *more: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["scenes", *line.split(), *more])
        out, err = capsys.readouterr()
        return code, out, err

    return typed


def test_help_has_examples(run: Run) -> None:
    for command in ("", "sheet", "draw", "export", "read"):
        code, out, err = run(f"{command} --help")
        assert (code, err) == (0, "")
        assert f"  noisette scenes {command}".rstrip() in out
    assert run("") == run("--help")


def test_a_drawing_shows_its_text_and_carries_its_scene(run: Run) -> None:
    code, out, err = run("draw --size 48 -o a.png", TEXT)
    assert (code, err) == (0, "")
    assert out.startswith("a.png: ") and out.count("\n") == 1
    settings = read_settings("a.png")
    scene = Scene.from_dict(settings["scene"])
    assert holds(scene, parse(TEXT)) and len(scene.objects) == 2
    want = to_uint8(render([scene], 48).rgb[0]).permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(Image.open("a.png")), want)
    Path("scene.json").write_text(scene.to_json())
    assert run("draw scene.json --size 48 -o b.png")[0] == 0
    assert np.array_equal(np.asarray(Image.open("b.png")), want)


def test_views_and_frames(run: Run) -> None:
    assert run("draw --size 16 --views 3 -o a.png", TEXT)[0] == 0
    assert Image.open("a.png").size == (48, 16)
    assert run("draw --size 16 --frames 3 -o a.gif", "a figure that walks")[0] == 0
    with Image.open("a.gif") as clip:
        assert (getattr(clip, "n_frames", 1), clip.size) == (3, (16, 16))


def test_an_export_loads_and_goes_on(run: Run) -> None:
    line = "export --count 3 --size 16 --maps canny,soft-edges --workers 1 --out data"
    code, out, err = run(line)
    assert (code, out, err) == (0, "data: 3 scenes\n", "")
    assert len(open_dataset("data")) == 3
    row = json.loads(Path("data/metadata.jsonl").read_text().splitlines()[2])
    assert Path("data", row["soft_edges_file_name"]).is_file()
    assert "depth_file_name" not in row
    assert run(line)[0] == 0
    assert run("export --count 2 --size 16 --frames 2 --maps none --workers 1 -o clips")[1] == (
        "clips: 2 scenes of 2 pictures\n"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sheet -o a.jpg", "a.jpg: take a name that ends in .png"),
        ("sheet -o there.png", "exists already"),
        ("sheet --size 4 -o a.png", "'--size'"),
        ("draw cube -o a.bmp", "ends in .png or .gif or .webp"),
        ("draw cube -o there.png", "exists already"),
        ("draw bicycle -o a.png", "'bicycle' is not understood"),
        ("draw no.json -o a.png", "no.json: No such file"),
        ("draw there.json -o a.png", "a scene is written in JSON"),
        ("draw cube --views 2 --frames 2 -o a.png", "give one of them"),
        ("draw cube --size 4096 --frames 9 -o a.png", "do not fit into one"),
        ("export --out a", "Missing option '--count'"),
        ("export --count 0 --out a", "'--count'"),
        ("export --count 1 --out a --maps cany", "maps: 'cany' is none of canny, "),
        ("export --count 1 --out a --format zip", "format: 'zip'"),
        ("export --count 1 --out a --split trian", "split: 'trian'"),
        ("export --count 1 --out a --views 2 --frames 2", "give one of the two"),
        ("export --count 1 --out a --describe bicycle", "'bicycle' is not understood"),
        ("export --count 1 --out .", "is not empty"),
        ("export --count 1 --out there.png", "is a file"),
        ("read no.png", "there is no picture no.png"),
        ("read there.png", "there.png: not a PNG, JPEG or WebP image"),
        ("read there.png --expect bicycle", "'bicycle' is not understood"),
    ],
)
def test_a_mistake_costs_one_line_and_leaves_nothing(run: Run, line: str, message: str) -> None:
    Path("there.png").write_text("precious")
    Path("there.json").write_text("precious")
    code, out, err = run(line)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("noisette: ") and err.count("\n") == 1
    assert {path.name for path in Path().iterdir()} == {"there.png", "there.json"}
    assert Path("there.png").read_text() == "precious"


def test_a_sheet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noisette.scenes.sheet.sheet", lambda size: Image.new("RGB", (size, 2 * size)))
    assert run("sheet --size 64 -o a.png") == (0, "a.png: 64 x 128 pixels\n", "")
    assert Image.open("a.png").size == (64, 128)


def seen(shape: str, color: str, right: float) -> Seen:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    sure = {"shape": 0.99, "color": 0.98, "size": 0.97, "material": 0.96}
    return Seen(shape, color, "small", "matte", None, (20.5, 30.5), right, 0.0, None, sure, mask)


def test_reading(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    things = (seen("cube", "red", -1.0), seen("sphere", "green", 1.0))
    reading = Reading(True, things, "night", "photo", "gray", "plain")
    shapes: list[torch.Size] = []

    def see(images: torch.Tensor) -> list[Reading]:
        shapes.append(images.shape)
        return [reading]

    monkeypatch.setattr("noisette.scenes.reader.read", see)
    Image.new("RGB", (100, 40)).save("a.png")
    code, out, err = run("read a.png")
    assert (code, err) == (0, "")
    assert shapes == [(1, 3, 64, 64)]
    assert "96%" in out and "20, 30" in out
    assert out.splitlines()[-1] == (
        "a small matte red cube, a small matte green sphere on a plain gray floor; light: night; "
        "style: photo; the red cube left of the green sphere."
    )
    _, out, _ = run("read a.png --expect", TEXT)
    assert out.splitlines()[-4:] == [
        "yes  red cube",
        "NO   blue sphere (color)",
        "yes  red cube left of blue sphere",
        "yes  light: night",
    ]
    _, out, _ = run("read a.png --json --expect", TEXT)
    tree = json.loads(out)
    assert [thing["color"] for thing in tree["objects"]] == ["red", "green"]
    assert tree["relations"][0] == {"subject": 0, "kind": "left of", "object": 1}
    assert (tree["light"], tree["expected"]["all"]) == ("night", False)
    reading = Reading(False)
    assert run("read a.png")[1].startswith("This is no picture of the world")
