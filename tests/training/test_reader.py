from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from noisette.pixels import from_uint8
from noisette.scenes.camera import views
from noisette.scenes.constraints import relations, sideways_and_away
from noisette.scenes.reader import Reader, Reading, Seen
from noisette.scenes.reader.net import OFFSET_UNIT, Maps
from noisette.scenes.reader.reading import group
from noisette.scenes.sampling import sample_scene
from noisette.scenes.scene import COLORS, SHAPES, Camera, Object, Scene
from noisette.training.reader import shards
from noisette.training.reader.__main__ import main
from noisette.training.reader.disturb import disturb, mirrored, voids
from noisette.training.reader.fitting import PEAK_RATE, Budget, Run, fit, order, rate, rounded, train, update
from noisette.training.reader.loss import Target, heat_loss, loss
from noisette.training.reader.measure import Tally, check, check_scores, clear, matches
from noisette.training.reader.shards import Pictures, around_of, emptied, pictures, single, tables


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene(seed) for seed in range(16)]


@pytest.fixture(scope="module")
def data(scenes: list[Scene]) -> Pictures:
    return pictures(scenes, [0.0] * len(scenes))


def ideal(scene: Scene, owner: torch.Tensor) -> Reading:
    """What a reader without fault sees: the objects in their order."""
    things = []
    for i, thing in enumerate(scene.objects):
        right, away = sideways_and_away(scene, i)
        pose = thing.pose if thing.shape == "figure" else None
        words = (thing.shape, thing.color, thing.size, thing.material, pose)
        things.append(Seen(*words, (0.0, 0.0), right, away, thing.on, {}, owner == i))
    return Reading(True, tuple(things), **around_of(scene))


def test_tables_are_what_the_scene_says(scenes: list[Scene], data: Pictures):
    for k, scene in enumerate(scenes):
        for i, thing in enumerate(scene.objects):
            assert SHAPES[data.words[k, i, 0]] == thing.shape and COLORS[data.words[k, i, 1]] == thing.color
            assert torch.allclose(data.place[k, i], torch.tensor(sideways_and_away(scene, i)), atol=1e-4)
            assert data.on[k, i] == (-1 if thing.on is None else thing.on)
        assert (data.words[k, len(scene.objects) :] == -1).all()
        assert set(range(len(scene.objects))) <= set(data.owner[k].unique().tolist())


def test_places_move_with_the_object_and_the_camera():
    ball = Object("sphere", motion="rolls right")
    scene = Scene((ball,), camera=Camera(azimuth=30, motion="orbits"))
    for time in (0.0, 1.0):
        _, place, _ = tables(scene, time, views([scene.camera], [time]).extrinsics()[0])
        # It rolls along what was right; by then the camera has gone round by 30 degrees a second.
        turn = math.radians(30 * time)
        assert place[0] == pytest.approx(
            [0.6 * time * math.cos(turn), -0.6 * time * math.sin(turn)], abs=1e-5
        )


def test_an_emptied_scene_shows_no_object(scenes: list[Scene]):
    shown = pictures([emptied(scene) for scene in scenes[:4]], [0.0] * 4)
    assert (shown.owner < 0).all()
    assert torch.equal(shown.around, pictures(scenes[:4], [0.0] * 4).around)


def test_a_single_object_keeps_its_place(scenes: list[Scene]):
    base, top = Object("cube", x=0.3, y=0.2), Object("cone", "blue", "small", on=0)
    scene = Scene((base, Object("torus", y=-1.5), top))
    alone, index = single(scene, 2)
    assert [thing.shape for thing in alone.objects] == ["cone", "cube"] and index == 0
    assert sideways_and_away(alone, 0) == sideways_and_away(scene, 2)
    both = pictures([scene, alone], [0.0, 0.0])
    assert torch.equal(both.owner[0] == 2, both.owner[1] == 0)


def test_a_mirror_turns_right_into_left(data: Pictures):
    turned = mirrored(data, torch.Generator().manual_seed(0))
    flipped = (turned.rgb != data.rgb).flatten(1).any(1)
    assert 0 < flipped.sum() < len(data)
    assert torch.equal(turned.rgb[flipped], data.rgb[flipped].flip(-1))
    assert torch.equal(turned.owner[flipped], data.owner[flipped].flip(-1))
    assert torch.equal(turned.place[flipped], data.place[flipped] * torch.tensor([-1.0, 1.0]))
    assert torch.equal(turned.place[~flipped], data.place[~flipped])
    assert torch.equal(turned.words, data.words)


def test_disturbed_pictures_stay_close_and_voids_do_not(data: Pictures):
    clean = from_uint8(data.rgb)
    mild = disturb(clean, torch.Generator().manual_seed(0))
    assert torch.equal(mild, disturb(clean, torch.Generator().manual_seed(0)))
    assert 0 < (mild - clean).abs().mean() < 0.1
    many = clean.repeat(8, 1, 1, 1)
    ruined = voids(many, torch.Generator().manual_seed(0))
    assert ruined.shape == many.shape and ruined.isfinite().all() and ruined.abs().max() <= 1
    near = (ruined - many).square().mean((1, 2, 3)).sqrt()
    assert near.min() > 0.03 and near.median() > 0.2


def test_targets_are_found_again_by_the_grouping(data: Pictures):
    target = Target.of(data.owner)
    line = torch.arange(64) + 0.5
    masks = target.masks * target.there[..., None, None]
    offset = torch.stack(
        [
            (masks * (target.middle[..., 0, None, None] - line)).sum(1),
            (masks * (target.middle[..., 1, None, None] - line[:, None])).sum(1),
        ],
        1,
    )
    area = torch.nn.functional.one_hot(target.area, 3).permute(0, 3, 1, 2).float()
    heat = torch.logit(target.heat, eps=1e-4)
    nothing = torch.zeros(1)
    found = group(Maps(heat, area, offset / OFFSET_UNIT, nothing, nothing, nothing))
    for k in range(len(data)):
        true = {mask.bool().numpy().tobytes() for mask in masks[k] if mask.any()}
        assert {mask.numpy().tobytes() for mask in found[k] if mask.any()} == true


def test_the_heat_loss_is_least_at_the_truth(data: Pictures):
    heat = Target.of(data.owner).heat
    true = torch.logit((heat == 1).float(), eps=1e-6)
    assert heat_loss(true, heat) < 1e-3 < 1 < heat_loss(true.roll(3, -1), heat)


def test_voids_are_taught_nothing_but_silence(data: Pictures):
    torch.manual_seed(0)
    reader = Reader().eval()
    x, void = from_uint8(data.rgb), torch.arange(len(data)) < 8
    other = replace(data, words=data.words.roll(1, 0), place=data.place + 1, around=data.around.roll(1, 0))
    mixed = Pictures(
        *(torch.cat([a[:8], b[8:]]) for a, b in zip(vars(other).values(), vars(data).values(), strict=True))
    )
    ours, theirs = loss(reader, x, data, void), loss(reader, x, mixed, void)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(value.isfinite() for value in ours.values())


def test_the_rate_rises_and_falls_with_what_is_spent():
    assert (
        rate(0.0) < 0.1 * PEAK_RATE
        and rate(0.05) == pytest.approx(PEAK_RATE)
        and rate(1.0) == pytest.approx(0)
    )
    assert Budget(steps=10).spent(5, 1e9) == 0.5
    assert Budget(minutes=1).spent(10**9, 30) == 0.5
    assert Budget(steps=10, minutes=1).spent(9, 30) == 0.9


def test_every_epoch_shows_every_picture_once():
    rows = torch.cat([order(256, step) for step in range(4)])
    assert torch.equal(rows.sort().values, torch.arange(256))
    assert not torch.equal(order(256, 0), order(256, 4))


def test_training_learns(data: Pictures):
    run = Run()
    parts = [sum(update(run, data, 0.05).values()) for _ in range(12)]
    assert sum(parts[-3:]) < 0.8 * sum(parts[:3])


def test_stopped_and_gone_on_is_the_same(data: Pictures, tmp_path: Path):
    whole, _ = fit(data, Budget(steps=4), tmp_path / "whole")
    half_way = Run()
    steps = train(half_way, data, Budget(steps=4), tmp_path / "parts")
    assert next(steps) and next(steps)
    half_way.save(tmp_path / "parts")
    gone_on, run = fit(data, Budget(steps=4), tmp_path / "parts")
    assert run.step == 4
    for name, value in whole.state_dict().items():
        assert torch.equal(value, gone_on.state_dict()[name]), name


def test_shipped_weights_survive_rounding(data: Pictures):
    torch.manual_seed(0)
    reader = Reader().eval()
    kept = rounded(reader)
    assert all(torch.equal(v, v.half().float()) for v in kept.state_dict().values() if v.is_floating_point())
    assert torch.allclose(
        kept.features(from_uint8(data.rgb)), reader.features(from_uint8(data.rgb)), atol=0.05
    )


def test_a_faultless_reading_counts_as_right(scenes: list[Scene], data: Pictures):
    tally = Tally()
    readings = [ideal(scene, owner) for scene, owner in zip(scenes, data.owner, strict=True)]
    for scene, reading, owner in zip(scenes, readings, data.owner, strict=True):
        check(tally, scene, reading, owner, [1] * len(scene.objects))
    check_scores(tally, scenes, readings)
    assert set(tally.shares().values()) == {1.0}
    assert tally.total["relation"] > 20 and sum(map(sum, tally.table("shape"))) == tally.total["shape"]


def test_faults_are_counted_where_they_are(scenes: list[Scene], data: Pictures):
    k = next(k for k, scene in enumerate(scenes) if len(scene.objects) > 1 and any(relations(scene)))
    scene, owner = scenes[k], data.owner[k]
    reading = ideal(scene, owner)
    color = COLORS[(COLORS.index(scene.objects[0].color) + 1) % 10]
    wrong = replace(reading, objects=(replace(reading.objects[0], color=color), *reading.objects[1:]))
    tally, count = Tally(), len(scene.objects)
    check(tally, scene, wrong, owner, [1] * count)
    assert tally.right["color"] == tally.right["shape and color"] == tally.total["color"] - 1
    assert tally.right["shape"] == tally.total["shape"]
    unseen = Tally()
    check(unseen, scene, replace(reading, objects=()), owner, [1] * count)
    assert unseen.right["found"] == unseen.right["relation"] == unseen.right["count"] == 0
    assert sum(row[-1] for row in unseen.table("shape")) == unseen.total["shape"]


def test_clearly_visible_and_matched():
    owner = torch.full((64, 64), -1)
    owner[:10, :10], owner[20:23, :10], owner[40:50, :10] = 0, 1, 2
    assert clear(owner, [150, 30, 400]) == [True, False, False]
    masks = [owner == 2, owner == 0]
    masks[1] = masks[1] & (torch.arange(64) < 4)
    seen = [Seen("cube", "red", "small", "matte", None, (0, 0), 0, 0, None, {}, mask) for mask in masks]
    assert matches(owner, 3, seen) == [None, None, 0]
    assert matches(owner, 3, []) == [None, None, None]


def test_the_command_writes_weights_figures_and_card_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    # Render in this process: those that are started would not know of the smaller shards.
    monkeypatch.setattr(shards, "COUNT", 50)
    monkeypatch.setattr("noisette.training.reader.__main__.COUNT", 50)
    monkeypatch.setattr(
        "noisette.training.reader.__main__.prepare",
        lambda jobs, workers: [job() for job in jobs if not job.file.exists()],
    )
    command = [str(out), "--scenes", "50", "--exam", "50", "--steps", "2", "--threads", "1"]
    main(command)
    names = ["scenes-reader.json", "scenes-reader.md", "scenes-reader.safetensors", "work"]
    assert sorted(file.name for file in out.iterdir()) == names
    weights = load_file(out / names[2])
    assert {value.dtype for value in weights.values()} == {torch.float16, torch.int64}
    assert (out / names[2]).stat().st_size < 2_000_000
    Reader().load_state_dict(weights)
    figures = json.loads((out / names[0]).read_text())
    assert figures["steps"] == 2 and set(figures["exams"]) == {"test", "novel", "test, 128 px"}
    assert "shape and color" in (out / names[1]).read_text()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2 and "exists already" in capsys.readouterr().err
