from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from noisette.atlas.page import picture
from noisette.atlas.scenes import geometry, run
from noisette.atlas.scenes.bench import QUICK, Bench, Exam, wilson
from noisette.atlas.scenes.pictures import heat, matrix
from noisette.atlas.scenes.reading import faults, graded
from noisette.atlas.scenes.splits import shows
from noisette.atlas.scenes.world import one
from noisette.errors import UserError
from noisette.scenes.constraints import sideways_and_away
from noisette.scenes.reader import Reader, Reading, Seen
from noisette.scenes.render import render, render_video
from noisette.scenes.sampling import sample_scene
from noisette.scenes.scene import Camera, Object, Scene
from noisette.training.reader.shards import Pictures, around_of, pictures

COUNT = 8
SECTIONS = {"world", "truth", "words", "splits", "reader", "silence", "distance"}


def fresh() -> Reader:
    torch.manual_seed(0)
    return Reader().eval().requires_grad_(False)


@pytest.fixture(scope="module", autouse=True)
def smaller() -> Iterator[None]:
    """Smaller pictures than of the quick plan: what is tested is the page, not how it looks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("noisette.atlas.scenes.QUICK", replace(QUICK, tile=32, samples=1))
        patch.setattr(geometry, "CLIP", 128)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a reader that knows nothing."""
    folder = tmp_path_factory.mktemp("scenes")
    assert run(folder, quick=True, count=COUNT, model=fresh()) == folder / "scenes.html"
    return folder


def cells(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "scenes.json").read_text()
    return json.loads(text, parse_constant=lambda name: pytest.fail(name))["cells"]


def finding(folder: Path, section: str) -> str:
    text = (folder / "scenes.html").read_text(encoding="utf-8")
    [badge] = re.findall(rf"<section id='{section}'.*?class='verdict ([^']*)'", text, re.DOTALL)
    return badge


def test_the_page_needs_no_other_file_and_no_network(made: Path) -> None:
    text = (made / "scenes.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://", text)
    assert not re.search(r"<(script|link|iframe|object)\b|@import|url\((?!#)", text)
    assert all(address.startswith("data:image/png;base64,") for address in re.findall(r"src='([^']*)'", text))
    bare = re.sub(r"base64,[^']*", "", text)
    assert not re.search(r"\b(nan|inf|None)\b", bare)
    assert set(re.findall(r"<section id='([^']*)'", text)) == SECTIONS
    assert set(re.findall(r"href='#([^']*)'", text)) == SECTIONS
    assert bare.count("<img") == bare.count("alt='")
    assert "quick" in text
    for tag in ("div", "table", "figure", "span", "td"):
        assert len(re.findall(rf"<{tag}\b", bare)) == bare.count(f"</{tag}>")


def test_what_the_world_claims_of_itself_holds(made: Path) -> None:
    assert {finding(made, name) for name in ("world", "words", "splits")} == {"holds"}
    found = {cell["settings"]["what"]: cell["result"] for cell in cells(made)}
    assert 0 < found["pixels"]["depth"] < 1e-3
    assert found["pixels"]["ids"] == 1
    assert found["mesh"]["gap"] < 1e-3
    assert found["flow"]["most of objects"] < found["flow"]["still of objects"] / 2
    assert found["captions"]["right"] == 5 * COUNT
    assert found["visible"]["seen"] == found["visible"]["objects"] > COUNT


def test_a_reader_that_knows_nothing_meets_no_goal_of_objects(made: Path) -> None:
    [test] = [c["result"] for c in cells(made) if c["settings"].get("split") == "test"]
    assert test["total"]["style"] == COUNT
    assert test["right"]["shape and color"] < test["total"]["shape and color"]
    for name, rows in test["confusion"].items():
        assert sum(map(sum, rows)) == test["total"][name]
        assert sum(row[k] for k, row in enumerate(rows)) == test["right"][name]
    assert finding(made, "reader") != "holds"


def test_a_second_run_measures_only_what_is_missing(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (made / "scenes.html").read_text(encoding="utf-8")
    record = json.loads((made / "scenes.json").read_text())
    lost = next(c for c in record["cells"] if c["settings"]["what"] == "edits")
    record["cells"].remove(lost)
    (made / "scenes.json").write_text(json.dumps(record))
    monkeypatch.setattr(Bench, "exam", lambda *_: pytest.fail("rendered again"))
    run(made, quick=True, count=COUNT, model=fresh())
    [found] = [c for c in cells(made) if c["settings"] == lost["settings"]]
    assert found["result"]["right"] == lost["result"]["right"] == COUNT
    timeless = [re.sub(r"[\d.]+ minutes", "", text) for text in (before, (made / "scenes.html").read_text())]
    assert timeless[0] == timeless[1]


def test_what_cannot_be_measured_is_told_before_anything_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave --data out"):
        run(tmp_path / "a", model=fresh(), data=tmp_path)
    with pytest.raises(UserError, match="8 scenes or more"):
        run(tmp_path / "a", model=fresh(), count=7)
    (tmp_path / "wrong.safetensors").write_bytes(b"no weights")
    for name in ("wrong.safetensors", "none.safetensors"):
        with pytest.raises(UserError, match="no safetensors file of a reader"):
            run(tmp_path / "a", model=tmp_path / name)
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "scenes.html").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        run(tmp_path / "b", model=fresh(), quick=True)


def test_another_reader_or_seed_is_another_measurement() -> None:
    bench = Bench(fresh(), 0, QUICK)
    assert replace(bench, seed=1).world != bench.world == replace(bench, reader=Reader()).world
    other = fresh()
    next(other.parameters()).flatten()[0] += 1
    assert replace(bench, reader=other).reading != bench.reading == Bench(fresh(), 0, QUICK).reading


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(50, 100, 0.4038, 0.5962), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (0, 0, 0.0, 1.0)],
)
def test_intervals_are_wilsons(right: int, total: int, low: float, high: float) -> None:
    assert wilson(right, total) == pytest.approx((low, high), abs=1e-4)


THINGS = (Object("cube", "red", y=-1.2), Object("sphere", "blue", y=1.2))
TWO = Scene(THINGS, camera=Camera(0, 25))


def saw(scene: Scene, data: Pictures, **changes: Any) -> Reading:
    """A reading without fault, but for the words given of its first object."""
    things = []
    for i, thing in enumerate(scene.objects):
        right, away = sideways_and_away(scene, i)
        words = (thing.shape, thing.color, thing.size, thing.material, None)
        seen = Seen(*words, (0.0, 0.0), right, away, thing.on, {}, data.owner[0] == i)
        things.append(replace(seen, **changes) if i == 0 else seen)
    return Reading(True, tuple(things), **around_of(scene))


def test_a_misreading_is_told_in_words_and_ranked_by_what_was_asked() -> None:
    data = pictures([TWO], [0.0])
    owner, alone = data.owner[0], [int((data.owner[0] == i).sum()) for i in range(2)]

    def told(reading: Reading) -> list[str]:
        return list(faults(TWO, reading, owner, alone))

    assert told(saw(TWO, data)) == []
    assert told(saw(TWO, data, color="pink")) == ["red cube: red → pink"]
    assert told(saw(TWO, data, right=3.0)) == ["red cube not left of blue sphere"]
    nowhere = torch.zeros(64, 64, dtype=torch.bool)
    assert told(saw(TWO, data, mask=nowhere)) == ["red cube: mask too far off"]
    assert told(saw(TWO, data, mask=nowhere, shape="cone")) == [
        "red cube: not seen",
        "red cone that is not there",
    ]
    assert told(replace(saw(TWO, data), style="sketch")) == ["style: photo → sketch"]
    assert told(Reading(False)) == ["taken for no picture of this world"]
    three = Exam([TWO] * 3, Pictures.joined([data] * 3), [alone] * 3)
    readings = [saw(TWO, data), saw(TWO, data, material="shiny"), saw(TWO, data, color="pink")]
    tally, order = graded(three, readings)
    assert order == [2, 1, 0]
    assert tally.shares()["color"] == pytest.approx(5 / 6)
    assert tally.confusion["color"]["red", "pink"] == 1


def test_held_out_combinations_are_found_by_the_lists() -> None:
    assert shows(one("sphere", "green")) == (True, False)
    assert shows(one("sphere", "red")) == (False, False)
    found = [shows(sample_scene(k, split="novel")) for k in range(30)]
    assert all(any(pair) for pair in found)
    assert any(related and not paired for paired, related in found)


def test_hidden_pixels_are_not_compared_and_a_false_flow_is_seen() -> None:
    scene = geometry._calm(0, 2)
    video = render_video(scene, 2, geometry.FPS, 96)
    clear = geometry._clear(video)
    assert 0.1 < clear.float().mean() < 0.9
    right = (geometry._fetched(video, video.rgb[1:]) - video.rgb[0]).abs().amax(0)[clear]
    assert video.flow is not None
    turned = replace(video, flow=-video.flow)
    wrong = (geometry._fetched(turned, video.rgb[1:]) - video.rgb[0]).abs().amax(0)[clear]
    assert geometry._most(right) < geometry._most(wrong) / 4
    assert geometry._clear(turned).float().mean() < clear.float().mean()


def test_points_of_a_picture_lie_where_the_sphere_is() -> None:
    ball = one("sphere", "red")
    shown = render([ball], 32, samples=1)
    points = geometry.unprojected(shown)[shown.instance[0] == 0]
    radius = (points - points.new_tensor([0.0, 0.0, 0.75])).norm(dim=1)
    assert (radius - 0.75).abs().max() < 1e-3


def test_tables_of_heat_show_every_count_and_pictures_their_names() -> None:
    drawn = heat("Two", ("a", "b"), "not seen", [[97, 2, 1], [0, 0, 0]])
    assert drawn.count("<td style='min-width") == 6
    assert [int(n) for n in re.findall(r">(\d+)</td>", drawn)] == [97, 2, 1]
    strengths = [int(n) for n in re.findall(r"\) (\d+)%", drawn)]
    assert strengths[0] > strengths[1] > strengths[2] > strengths[3] == 0
    address = picture(torch.zeros(1, 3, 4, 4))
    grid = matrix(("x", "y"), {"left": (address, address)}, "Pair's")
    assert grid.count("<img") == 2
    assert "Pair&#x27;s: left x" in grid
