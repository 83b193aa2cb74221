"""Exports: what they hold is true, loads, and comes to the same bytes however it was made."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from noisette.data import open_dataset
from noisette.errors import UserError
from noisette.pixels import to_uint8
from noisette.scenes import maps
from noisette.scenes.caption import caption
from noisette.scenes.constraints import holds
from noisette.scenes.dataset import SceneDataset
from noisette.scenes.export import MAPS, Export, export, orbit
from noisette.scenes.parse import parse
from noisette.scenes.render import render, render_video, render_views
from noisette.scenes.scene import Scene
from noisette.scenes.splits import belongs


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def levels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def hwc(image: torch.Tensor) -> np.ndarray:
    return to_uint8(image).permute(1, 2, 0).numpy()


def test_pictures_captions_and_cameras_are_those_of_the_scenes(tmp_path: Path) -> None:
    out = export(Export(5, size=32, seed=7), tmp_path / "a", workers=1)
    data, endless = open_dataset(out), SceneDataset(32, "train", 7)
    assert len(data) == 5
    assert [row["index"] for row in rows(out)] == [0, 1, 2, 3, 4]
    for i, row in enumerate(rows(out)):
        scene = Scene.from_dict(row["scene"])
        assert scene == endless.scene(i)
        assert row["caption"] == endless.text(i) == data[i]["text"]
        rendering = render([scene], 32)
        assert torch.equal(to_uint8(data[i]["image"]), to_uint8(rendering.rgb[0]))
        for name in ("intrinsics", "extrinsics"):
            assert torch.equal(torch.tensor(row["camera"][name]), getattr(rendering, name)[0])


def test_maps_are_those_of_the_rendering(tmp_path: Path) -> None:
    out = export(Export(2, size=48, maps=MAPS), tmp_path / "a", workers=1)
    assert len(open_dataset(out)) == 2
    for i, row in enumerate(rows(out)):
        rendering = render([Scene.from_dict(row["scene"])], 48)
        stored = {name: levels(out / row[f"{name}_file_name"]) for name in MAPS}
        for name, hint in maps.control_maps(rendering, i).items():
            want = (hint[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            got = stored[name] if stored[name].ndim == 3 else stored[name][..., None]
            assert np.array_equal(np.broadcast_to(got, want.shape), want), name
        assert np.array_equal(stored["instances"].astype(int) - 2, rendering.instance[0].numpy())
        solid = rendering.depth[0].isfinite().numpy()
        depth = rendering.depth[0].clamp(max=65.535).numpy()
        assert stored["metric_depth"].dtype == np.uint16
        assert np.abs(stored["metric_depth"] / 1000 - depth)[solid].max() <= 0.00051
        assert (stored["metric_depth"][~solid] == 0).all()


def test_frames_and_their_flow(tmp_path: Path) -> None:
    out = export(Export(2, size=32, frames=3, fps=4, maps=("depth",)), tmp_path / "a", workers=1)
    assert len(open_dataset(out)) == 2
    row = rows(out)[1]
    scene = Scene.from_dict(row["scene"])
    assert scene.camera.motion != "still" or any(thing.motion != "still" for thing in scene.objects)
    video = render_video(scene, 3, 4, 32)
    assert [frame["time"] for frame in row["frames"]] == [0, 0.25, 0.5]
    assert row["file_name"] == row["frames"][0]["file_name"] == "00000/0000001/000.png"
    for k, frame in enumerate(row["frames"]):
        assert np.array_equal(levels(out / frame["file_name"]), hwc(video.rgb[k]))
        assert torch.equal(torch.tensor(frame["camera"]["extrinsics"]), video.extrinsics[k])
        assert (out / frame["depth_file_name"]).exists()
    with np.load(out / row["flow"]) as arrays:
        flow = torch.from_numpy(arrays["flow"]).float()
    assert video.flow is not None
    assert flow.shape == (3, 2, 32, 32)
    assert torch.allclose(flow, video.flow, rtol=2**-11, atol=1e-6)


def test_views_go_round_the_scene(tmp_path: Path) -> None:
    out = export(Export(1, size=32, views=4), tmp_path / "a", workers=1)
    (row,) = rows(out)
    scene = Scene.from_dict(row["scene"])
    cameras = orbit(scene.camera, 4)
    assert cameras[0] == scene.camera
    assert [round((c.azimuth - scene.camera.azimuth) % 360) for c in cameras] == [0, 90, 180, 270]
    rendering = render_views(scene, cameras, 32)
    for k, view in enumerate(row["views"]):
        assert np.array_equal(levels(out / view["file_name"]), hwc(rendering.rgb[k]))
        assert torch.equal(torch.tensor(view["camera"]["extrinsics"]), rendering.extrinsics[k])


def test_archives_hold_the_same_as_folders(tmp_path: Path) -> None:
    job: dict[str, Any] = {"count": 70, "size": 16, "maps": ("canny",)}
    folder = export(Export(**job), tmp_path / "a", workers=1)
    archives = export(Export(**job, format="webdataset"), tmp_path / "b", workers=1)
    first, second = open_dataset(folder), open_dataset(archives)
    assert len(first) == len(second) == 70
    for i in (0, 63, 64, 69):
        assert torch.equal(first[i]["image"], second[i]["image"])
        assert first[i]["text"] == second[i]["text"]
    assert [row["scene"] for row in rows(folder)] == [row["scene"] for row in rows(archives)]
    assert second.metadata[69]["scene"] == rows(archives)[69]["scene"]
    with tarfile.open(archives / rows(archives)[0]["shard"]) as archive:
        names = archive.getnames()
        assert names[:4] == ["0000000.png", "0000000.canny.png", "0000000.txt", "0000000.json"]
        assert {(m.mtime, m.uid, m.gid) for m in archive.getmembers()} == {(0, 0, 0)}
        member = archive.extractfile("0000069.canny.png")
        assert member is not None
        with Image.open(io.BytesIO(member.read())) as image:
            assert np.array_equal(np.asarray(image), levels(folder / rows(folder)[69]["canny_file_name"]))


def test_clips_in_archives(tmp_path: Path) -> None:
    out = export(Export(2, size=16, frames=2, format="webdataset"), tmp_path / "a", workers=1)
    assert len(open_dataset(out)) == 2
    with tarfile.open(out / "scenes-00000.tar") as archive:
        assert archive.getnames()[:5] == [
            "0000000.000.png", "0000000.001.png", "0000000.flow.npz", "0000000.txt", "0000000.json",
        ]  # fmt: skip


def test_what_is_described_holds_and_splits_are_kept(tmp_path: Path) -> None:
    text = "a red cube left of a blue sphere, at night"
    out = export(Export(3, size=16, describe=text, split="all"), tmp_path / "a", workers=1)
    assert all(holds(Scene.from_dict(row["scene"]), parse(text)) for row in rows(out))
    out = export(Export(4, size=16, split="novel"), tmp_path / "b", workers=1)
    assert all(belongs(Scene.from_dict(row["scene"]), "novel") for row in rows(out))


def test_a_still_picture_is_not_said_to_move() -> None:
    job = Export(1, motion=True)
    scene = job.scene(0)
    assert job.caption(scene, 0) == caption(scene, Random("caption/0/train/0"), motion=False)
    assert (Export(1).motion, Export(1, frames=2).motion, Export(1, frames=2, motion=False).motion) == (
        False,
        True,
        False,
    )


@pytest.mark.parametrize("form", ["imagefolder", "webdataset"])
def test_stopped_at_any_moment_it_goes_on_to_the_same_bytes(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop before every single replacement of a file, one after the other, until nothing is left to do."""
    monkeypatch.setattr("noisette.scenes.examples.CHUNK", 2)
    monkeypatch.setattr("noisette.scenes.examples.FOLDER", 2)
    monkeypatch.setattr("noisette.scenes.export.FOLDER", 2)
    job = Export(7, size=16, format=form, maps=("canny",))
    want = tree(export(job, tmp_path / "whole", workers=1))
    assert (".parts" in str(want)) is False
    replace, allowed, stops, out = Path.replace, 0, 0, tmp_path / "stopped"

    def careful(path: Path, target: Path) -> Path:
        nonlocal allowed
        if allowed == 0:
            raise KeyboardInterrupt
        allowed -= 1
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", careful)
    for step in range(1000):
        allowed = 1 + step % 5
        try:
            export(job, out, workers=1)
            break
        except KeyboardInterrupt:
            stops += 1
            assert not (out / "metadata.jsonl").exists()
    assert stops >= 4
    assert tree(out) == want
    allowed = 0
    assert tree(export(job, out, workers=1)) == want


# A shell that starts tests in the background has them ignore Ctrl-C, and their children with them.
SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from noisette.scenes.export import Export, export
if __name__ == "__main__":
    job = Export(24, size=32, frames=16, maps=("canny",))
    export(job, sys.argv[1], workers=int(sys.argv[2]))
"""


def spawn(script: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(script), str(out), str(workers)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True)


def members(group: int) -> list[int]:
    """The processes of a process group that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # A process may end while it is looked at.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_processes_end_at_ctrl_c_and_others_finish_the_work(tmp_path: Path) -> None:
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(SCRIPT)
    with spawn(script, out, 2) as first:
        deadline = time.monotonic() + 60
        while not any(out.glob(".parts/**/*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(first.pid, signal.SIGINT)
        assert first.stderr is not None
        said = first.stderr.read().decode()
    assert first.returncode != 0
    assert said.count("Traceback") == 1, said
    deadline = time.monotonic() + 10  # multiprocessing's own tracker ends a moment after its parent
    while members(first.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert members(first.pid) == []
    assert not (out / "metadata.jsonl").exists()
    with spawn(script, out, 2) as second:
        second.wait(60)
    assert second.returncode == 0
    job = Export(24, size=32, frames=16, maps=("canny",))
    assert tree(out) == tree(export(job, tmp_path / "whole", workers=1))


def test_progress_counts_scenes_and_goes_on_counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noisette.scenes.examples.CHUNK", 2)
    job, seen = Export(5, size=16), []

    def stop(done: int) -> None:
        seen.append(done)
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(job, tmp_path / "a", workers=1, report=stop)
    assert seen == [0, 2, 4]
    seen.clear()
    export(job, tmp_path / "a", workers=1, report=seen.append)
    assert seen == [2, 4, 5]
    seen.clear()
    export(job, tmp_path / "a", workers=1, report=seen.append)
    assert seen == [5]


def test_another_export_or_anything_else_is_left_alone(tmp_path: Path) -> None:
    out = export(Export(2, size=16), tmp_path / "a", workers=1)
    before = tree(out)
    for job, message in (
        (Export(3, size=16), "holds an export with count 2, not 3"),
        (Export(2, size=24), "with size 16, not 24"),
        (Export(2, size=16, maps=("canny",)), r"with maps \[\], not \[\"canny\"\]"),
    ):
        with pytest.raises(UserError, match=message):
            export(job, out, workers=1)
    assert tree(out) == before
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "note").write_text("precious")
    with pytest.raises(UserError, match="holds no export to go on with"):
        export(Export(1, size=16), tmp_path / "b", workers=1)
    with pytest.raises(UserError, match="is a file"):
        export(Export(1, size=16), tmp_path / "b" / "note", workers=1)
    (out / "export.json").write_text("{")
    with pytest.raises(UserError, match="holds an export"):
        export(Export(2, size=16), out, workers=1)


def test_two_processes_do_not_write_the_same_export(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "a" / ".parts").mkdir(parents=True)
    with (tmp_path / "a" / ".parts" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is writing"):
            export(Export(1, size=16), tmp_path / "a", workers=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 0}, "count is a whole number from 1"),
        ({"count": 1, "size": 4}, "size is a whole number from 8"),
        ({"count": 1, "format": "zip"}, "format: 'zip'"),
        ({"count": 1, "split": "trian"}, "split: 'trian'"),
        ({"count": 1, "maps": ("cany",)}, "maps: 'cany'"),
        ({"count": 1, "views": 2, "frames": 2}, "give one of the two"),
        ({"count": 1, "frames": 2, "fps": 0.0}, "fps is a positive number"),
        ({"count": 1, "fps": float("nan")}, "fps is a positive number"),
    ],
)
def test_what_cannot_be_exported(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Export(**fields)


def test_impossible_scenes_cost_nothing(tmp_path: Path) -> None:
    job = Export(3, split="train", describe="a green sphere")
    with pytest.raises(UserError, match=r"scene 0: .*held out"):
        export(job, tmp_path / "a", workers=1)
    with pytest.raises(UserError, match="at least one"):
        export(Export(1, size=16), tmp_path / "b", workers=0)
    assert not (tmp_path / "a").exists()
