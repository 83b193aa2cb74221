"""Teaching a text encoder where things are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from noisette.core import IndexTime, V
from noisette.errors import UserError
from noisette.models import Model, ModelSpec
from noisette.nets import UNetConfig
from noisette.nets.text import Prompted, TextConfig
from noisette.scenes import render, sample_scene
from noisette.scenes.dataset import SceneDataset
from noisette.scenes.maps import PALETTE, segmentation
from noisette.scenes.parse import parse
from noisette.scenes.scene import COLORS, SHAPES
from noisette.schedules import CosineVP
from noisette.training import GroundingRecipe, fit
from noisette.training.draws import Draws
from noisette.training.grounding import cells
from noisette.training.kept import KeptScenes, kept
from noisette.training.setup import begin

TEXT = TextConfig(
    vocab_size=700,
    hidden_size=36,
    intermediate_size=72,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=64,
)
NET = UNetConfig(3, 3, 8, (1,), 1, (0,), num_heads=2, norm_groups=4, context_dim=36, pooled_dim=36)
SPEC = ModelSpec("tiny", NET, CosineVP(100), V(), IndexTime(100), 16, 3, text=TEXT)
RECIPE = GroundingRecipe(
    spec=SPEC,
    steps=10,
    batch_size=16,
    lr=3e-3,
    warmup=0,
    ema=0.9,
    cond_dropout=0.0,
    precision="fp32",
    sample_every=0,
    checkpoint_every=0,
)


@pytest.fixture(autouse=True)
def few_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noisette.training.denoising.MOST_CAPTIONS", 300)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> KeptScenes:
    data = kept(SceneDataset(16, samples=1, length=64, scenes=True), tmp_path_factory.mktemp("scenes"))
    assert isinstance(data, KeptScenes)
    return data


def test_cells_are_what_a_rendering_shows() -> None:
    scene = sample_scene(3, **{**vars(parse("a large red cube")), "count": 1})
    shapes, colors = cells([scene], 16)[0]
    assert set(shapes.unique().tolist()) == {0, 1 + SHAPES.index("cube")}
    assert set(colors.unique().tolist()) == {0, 1 + COLORS.index("red")}
    drawn = segmentation(render([scene], 16, samples=1))[0]
    cube = torch.tensor(PALETTE["cube"]).view(3, 1, 1) / 255
    assert torch.equal(shapes > 0, (drawn - cube).abs().amax(0) < 1e-6)


def test_the_encoder_learns_from_captions_and_nothing_else_does(scenes: KeptScenes, tmp_path: Path) -> None:
    fresh = begin(RECIPE, scenes)
    untaught = {name: value.clone() for name, value in fresh.task.whole.state_dict().items()}  # pyright: ignore
    model = fit(RECIPE, scenes, tmp_path / "run").model
    assert isinstance(model, Model) and isinstance(model.denoiser.net, Prompted)
    taught = model.denoiser.net.state_dict()
    changed = {name.split(".")[0] for name in taught if not torch.equal(taught[name], untaught[name])}
    assert changed == {"text"}
    assert Model.load(tmp_path / "run").spec.name == "tiny"


def test_a_caption_says_more_of_its_own_picture_than_of_another(scenes: KeptScenes) -> None:
    state = begin(RECIPE, scenes)
    task, net = state.task, state.net.train()
    batch = scenes.fetch(range(24))
    for step in range(100):
        state.optimizer.zero_grad()
        task.loss(net, batch, Draws(0, step), step).backward()
        state.optimizer.step()
    own = task.loss(net.eval(), batch, Draws(0, 0), 0)
    other = task.loss(net, {**batch, "text": batch["text"][1:] + batch["text"][:1]}, Draws(0, 0), 0)
    assert other > own + 0.1


def test_only_scenes_with_a_text_encoder_of_the_models_own_will_do(scenes: KeptScenes, images: Path) -> None:
    for path in images.rglob("*.png"):
        path.with_suffix(".txt").write_text("a red cube")
    with pytest.raises(UserError, match="tiny learns what is where, which only scenes tell"):
        begin(RECIPE, images)
    plain = replace(SPEC, text=None, net=replace(NET, context_dim=None, pooled_dim=None))
    with pytest.raises(UserError, match="does not train its text encoder"):
        begin(replace(RECIPE, spec=plain), scenes)
