"""Pictures and latents that are made once and kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from noisette.data import loader, open_dataset
from noisette.errors import UserError
from noisette.nets.vae import AutoencoderKL, AutoencoderKLConfig
from noisette.pixels import to_uint8
from noisette.scenes import Scene
from noisette.scenes.constraints import holds
from noisette.scenes.dataset import ENDLESS, SceneDataset
from noisette.scenes.parse import parse
from noisette.training import ScenesWorld
from noisette.training.kept import KeptImages, KeptScenes, fingerprint_of, kept

CODEC = AutoencoderKLConfig(
    block_out_channels=(4, 8), layers_per_block=1, latent_channels=2, norm_num_groups=4,
    mid_block_add_attention=False, scaling_factor=0.7, shift_factor=0.2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noisette.training.kept.PART", 4)
    monkeypatch.setattr("noisette.training.kept.BATCH", 2)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the scenes that are rendered, as it happens."""
    seen: list[int] = []
    fetch = SceneDataset.fetch

    def watched(self: SceneDataset, indices: Sequence[int], flip: Any = None) -> dict[str, Any]:
        seen.extend(indices)
        return fetch(self, indices, flip)

    monkeypatch.setattr(SceneDataset, "fetch", watched)
    return seen


def scenes(length: int = 10, **changes: Any) -> SceneDataset:
    return SceneDataset(16, samples=1, length=length, scenes=True, **changes)


def codec() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(CODEC).eval()


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """Seven coloured pictures with captions."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "captioned"
    folder.mkdir()
    for i in range(7):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"picture {i}")
    return folder


def test_scenes_are_rendered_once_and_are_those_of_the_data_set(tmp_path: Path, asked: list[int]) -> None:
    first = kept(scenes(), tmp_path)
    assert asked == list(range(10))
    again = kept(scenes(), tmp_path)
    assert asked == list(range(10))
    assert isinstance(first, KeptScenes) and len(first) == ENDLESS and first.shape == (3, 16, 16)
    data = scenes()
    rendered = data.fetch(range(10))
    for one in (first, again):
        assert torch.equal(one.images, to_uint8(rendered["image"]))
        assert [Scene.from_json(text) for text in one.told["scene"]] == rendered["scene"]
    assert [path.name for path in tmp_path.iterdir()] == [fingerprint_of(data, None)]


def test_pictures_of_a_folder_keep_their_labels_and_captions(tmp_path: Path, captioned, images) -> None:
    for data in (open_dataset(captioned, size=8), open_dataset(images, size=8, channels=1)):
        own = kept(data, tmp_path / "home")
        assert type(own) is KeptImages and len(own) == len(data) and own.labels == data.labels
        theirs, ours = data.fetch([5, 0, 6]), own.fetch([5, 0, 6])
        assert ours.keys() == theirs.keys() and torch.equal(ours["image"], theirs["image"])
        assert ours.get("text") == theirs.get("text")
        assert ours.get("label", torch.zeros(3)).tolist() == theirs.get("label", torch.zeros(3)).tolist()


def test_interrupted_work_goes_on_where_it_was(tmp_path: Path, asked: list[int]) -> None:
    def interrupt(done: int, total: int) -> None:
        assert total == 10
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(scenes(), tmp_path / "halves", progress=interrupt)
    asked.clear()
    told: list[tuple[int, int]] = []
    halves = kept(scenes(), tmp_path / "halves", progress=lambda *how_far: told.append(how_far))
    assert asked == list(range(4, 10)) and told == [(2, 6), (4, 6), (6, 6)]
    whole = kept(scenes(), tmp_path / "whole")
    assert torch.equal(halves.images, whole.images) and halves.told == whole.told
    next((tmp_path / "whole").rglob("part-000001.json")).unlink()
    asked.clear()
    mended = kept(scenes(), tmp_path / "whole")
    assert asked == [4, 5, 6, 7]
    assert torch.equal(mended.images, whole.images) and mended.told == whole.told


def test_latents_are_those_of_the_codec(tmp_path: Path, asked: list[int]) -> None:
    pictures = kept(scenes(), tmp_path)
    asked.clear()
    latents = kept(pictures, tmp_path, codec())
    assert asked == []  # made from what is kept, not rendered again
    assert isinstance(latents, KeptScenes) and latents.shape == (2, 8, 8)
    assert latents.images.dtype == torch.float16
    wanted = codec().to_latents(scenes().fetch(range(10))["image"]).half()
    torch.testing.assert_close(latents.images, wanted, atol=2e-3, rtol=2e-3)
    assert latents.told == {"scene": pictures.told["scene"]}
    assert latents.fetch([3])["image"].dtype == torch.float32


def test_workers_make_the_same(tmp_path: Path) -> None:
    alone, together = (kept(scenes(), tmp_path / str(n), workers=n) for n in (0, 2))
    assert torch.equal(alone.images, together.images) and alone.told == together.told


def test_other_data_or_another_codec_have_another_folder(tmp_path: Path, captioned: Path) -> None:
    def one(**changes: Any) -> str:
        return fingerprint_of(scenes(**changes), None)

    other = codec()
    with torch.no_grad():
        other.decoder.conv_out.bias[0] += 1e-3
    scaled = codec()
    scaled.config = replace(CODEC, scaling_factor=0.8)
    data = [one(), one(seed=1), one(split="test"), one(length=11), fingerprint_of(SceneDataset(24), None)]
    data += [fingerprint_of(scenes(), a) for a in (codec(), other, scaled)]
    assert len(set(data)) == len(data)
    assert one() == one() and fingerprint_of(scenes(), codec()) == fingerprint_of(scenes(), codec())

    def folder(**changes: Any) -> str:
        return fingerprint_of(open_dataset(captioned, **{"size": 8, **changes}), None)

    seen = [folder(), folder(size=4), folder(channels=1), folder(fit="pad")]
    assert folder() == seen[0] == folder(cache=True)
    (captioned / "3.txt").write_text("picture three")
    seen.append(folder())
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(captioned / "3.png")
    seen.append(folder())
    assert len(set(seen)) == len(seen)


def test_every_turn_shows_every_scene_once_in_other_words(tmp_path: Path) -> None:
    data = kept(scenes(), tmp_path)
    pictures = scenes().fetch(range(10))
    texts, orders = [], []
    for turn in range(3):
        batch = data.fetch(range(10 * turn, 10 * turn + 10))
        assert batch.keys() == {"image", "scene", "text"}
        where = [int((pictures["image"] == image).flatten(1).all(1).nonzero()) for image in batch["image"]]
        assert sorted(where) == list(range(10))
        assert batch["scene"] == [pictures["scene"][row] for row in where]
        for row, text in zip(where, batch["text"], strict=True):
            assert holds(pictures["scene"][row], parse(text)), text
        texts.append(dict(zip(where, batch["text"], strict=True)))
        orders.append(where)
    assert orders[0] != orders[1] != orders[2]
    for row in range(10):
        assert len({turn[row] for turn in texts}) > 1


def test_an_image_is_a_function_of_its_number(tmp_path: Path) -> None:
    data, fresh = kept(scenes(), tmp_path), kept(scenes(), tmp_path)
    numbers = [3, 27, 9, 10, 3, 10**8]
    together = data.fetch(numbers)
    for k in (5, 0, 3, 1):
        alone = fresh.fetch([numbers[k]])
        assert alone["text"] == together["text"][k : k + 1]
        assert torch.equal(alone["image"][0], together["image"][k])
    batches = loader(data, 4, seed=7)
    stream = iter(batches)
    assert next(stream)["text"] == data.fetch(range(4))["text"]
    batches.load_state_dict({**batches.state_dict(), "position": 10**7})
    assert next(iter(batches))["text"] == data.fetch(range(4 * 10**7, 4 * 10**7 + 4))["text"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("noisette.training.kept.PART", 4)
        patch.setattr("noisette.training.kept.BATCH", 2)
        kept(scenes(6), folder)
    return folder


@given(junk=st.binary(max_size=40) | st.integers(0, 2000), name=st.sampled_from(["json", "safetensors"]))
def test_a_damaged_part_gives_one_line(home: Path, junk: bytes | int, name: str) -> None:
    file = next(home.rglob(f"part-000001.{name}"))
    whole = file.read_bytes()
    file.write_bytes(whole[: junk % len(whole)] if isinstance(junk, int) else junk)
    try:
        with pytest.raises(UserError, match=r"part-000001.safetensors is damaged .*made again$") as told:
            kept(scenes(6), home)
        assert "\n" not in str(told.value)
    finally:
        file.write_bytes(whole)
    assert len(kept(scenes(6), home).images) == 6


@pytest.mark.parametrize("said", [[], {"scene": []}, {"scene": ["{}"] * 5}, {"scene": 3}, 7, None])
def test_words_that_do_not_fit_their_pictures_are_damage(tmp_path: Path, said: Any) -> None:
    kept(scenes(), tmp_path)
    next(tmp_path.rglob("part-000001.json")).write_text(json.dumps(said))
    with pytest.raises(UserError, match="is damaged"):
        kept(scenes(), tmp_path)


def test_what_cannot_be_kept_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="images without end cannot be kept: give a count"):
        kept(SceneDataset(16), tmp_path)
    data = kept(scenes(), tmp_path)
    with pytest.raises(UserError, match="not mirrored, set flip=False"):
        data.fetch([0, 1], [False, True])
    nameless: Any = scenes()
    del nameless.fingerprint
    with pytest.raises(UserError, match="only images with a fingerprint"):
        kept(nameless, tmp_path)
    with pytest.raises(UserError, match="a world has 0"):
        ScenesWorld(-1)


def test_a_world_without_a_count_has_no_end_and_one_with_a_count_has_scenes() -> None:
    endless, counted = ScenesWorld(split="test", seed=3).open(16), ScenesWorld(5).open(16)
    assert len(endless) == ENDLESS and (endless.split, endless.seed, endless.scenes) == ("test", 3, False)
    assert len(counted) == 5 and counted.scenes
