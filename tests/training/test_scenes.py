"""Training on scenes that are drawn as they are needed."""

from __future__ import annotations

import pytest
import torch

from noisette.core import IndexTime, V
from noisette.data import loader
from noisette.errors import UserError
from noisette.models import ModelSpec
from noisette.nets import UNetConfig
from noisette.scenes.dataset import SceneDataset
from noisette.schedules import CosineVP
from noisette.training import Recipe, fit

SPEC = ModelSpec(
    "tiny", UNetConfig(3, 3, 8, (1,), 1, (), norm_groups=4), CosineVP(100), V(), IndexTime(100), 16, 3
)
RECIPE = Recipe(
    spec=SPEC,
    steps=4,
    batch_size=4,
    warmup=0,
    precision="fp32",
    sample_every=0,
    checkpoint_every=0,
    cond_dropout=0,
)


def scenes(**changes) -> SceneDataset:
    return SceneDataset(16, samples=1, **changes)


def test_endless_images_keep_their_order() -> None:
    data = scenes()
    batches = loader(data, 4, seed=3)
    assert batches.batches_per_epoch == len(data) // 4
    stream = iter(batches)
    first, second = next(stream), next(stream)
    assert first["text"] == data.fetch(range(4))["text"] and second["text"] == data.fetch(range(4, 8))["text"]
    far = loader(data, 4, seed=3)
    far.load_state_dict({**far.state_dict(), "position": 10**8})
    assert torch.equal(next(iter(far))["image"], data.fetch(range(4 * 10**8, 4 * 10**8 + 4))["image"])


def test_scenes_are_not_mirrored() -> None:
    with pytest.raises(UserError, match="mirrored"):
        loader(scenes(), 4, seed=0, flip=True)


def test_fit_takes_scenes_and_resumes_bit_for_bit(tmp_path) -> None:
    whole = fit(RECIPE, scenes(), tmp_path / "whole")
    fit(RECIPE, scenes(), tmp_path / "halves", max_train_steps=2)
    halves = fit(RECIPE, scenes(), tmp_path / "halves", resume=True)
    one, other = (run.model.denoiser.net.state_dict() for run in (whole, halves))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert whole.model.notes["trained_on"] == "16 images (scenes, split train)"


def test_scenes_of_another_size_are_told(tmp_path) -> None:
    with pytest.raises(UserError, match="images are"):
        fit(RECIPE, SceneDataset(24), tmp_path / "run")
