from __future__ import annotations

import pytest
import torch

from noisette.data import loader
from noisette.errors import UserError
from noisette.scenes.constraints import holds
from noisette.scenes.dataset import SceneDataset
from noisette.scenes.parse import parse
from noisette.scenes.render import render
from noisette.scenes.splits import belongs


def small(**changes) -> SceneDataset:
    return SceneDataset(**{"size": 16, "samples": 1, "length": 48, **changes})


def test_an_image_is_a_function_of_its_number() -> None:
    data, again = small(), small()
    batch = data.fetch([7, 3, 11])
    other = again.fetch([3])
    assert torch.equal(batch["image"][1], other["image"][0]) and batch["text"][1] == other["text"][0]
    assert torch.equal(data[3]["image"], other["image"][0]) and data[3]["text"] == other["text"][0]
    assert torch.equal(data[-1]["image"], data[47]["image"])
    assert data.text(3) == other["text"][0]


def test_what_it_gives() -> None:
    data = small(size=24, scenes=True)
    batch = data.fetch(range(6))
    assert (
        batch["image"].shape == (6, *data.shape) == (6, 3, 24, 24) and batch["image"].dtype == torch.float32
    )
    assert batch["image"].min() >= -1 and batch["image"].max() <= 1
    steps = (batch["image"] + 1) * 127.5
    assert (steps - steps.round()).abs().max() < 1e-3, "the values of a stored picture"
    drawn = render(batch["scene"], 24, samples=1).rgb
    assert (batch["image"] - drawn).abs().max() < 0.51 / 127.5
    assert "scene" not in small()[0]


def test_the_text_is_true_of_the_scene() -> None:
    data = small(scenes=True)
    for index in range(40):
        assert holds(data.scene(index), parse(data.text(index)))


def test_splits_and_seeds_are_different_streams() -> None:
    firsts = [small(split=s, seed=n).scene(0) for s in ("train", "test", "novel", "all") for n in (0, 1)]
    assert len({scene.to_json() for scene in firsts}) == 8
    for split in ("train", "test", "novel"):
        assert all(belongs(small(split=split).scene(i), split) for i in range(30))


def test_neighbouring_seeds_share_no_scene() -> None:
    one, other = ({small(seed=n).scene(i).to_json() for i in range(100)} for n in (0, 1))
    assert len(one) == len(other) == 100 and not one & other


def test_workers_processes_and_resumption_see_the_same() -> None:
    whole = iter(loader(small(), 8, seed=0))
    first, second = next(whole), next(whole)

    halves = [next(iter(loader(small(), 4, seed=0, rank=r, world_size=2))) for r in (0, 1)]
    assert torch.equal(torch.cat([h["image"] for h in halves]), first["image"])
    assert halves[0]["text"] + halves[1]["text"] == first["text"]

    resumed = loader(small(), 8, seed=0, num_workers=2)
    stopped = loader(small(), 8, seed=0)
    next(iter(stopped))
    resumed.load_state_dict(stopped.state_dict())
    batch = next(iter(resumed))
    assert torch.equal(batch["image"], second["image"]) and batch["text"] == second["text"]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="validation"):
        small(split="validation")
    with pytest.raises(UserError, match="at least one"):
        small(length=0)
    with pytest.raises(UserError, match="mirrored"):
        small().fetch([0, 1], flip=[False, True])
    with pytest.raises(IndexError):
        small()[48]


def test_it_has_no_end() -> None:
    data = SceneDataset(16, samples=1)
    assert len(data) == 10**9 and data.shuffled
    assert data.scene(len(data) - 1) != data.scene(0)
