"""Training latent and text-to-image models: whole runs of tiny ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from noisette.conditioning.tokenizer import FILE, Tokenizer
from noisette.core import IndexTime, V
from noisette.data import open_dataset
from noisette.errors import UserError
from noisette.models import Autoencoder, AutoencoderSpec, Model, ModelSpec
from noisette.nets import UNetConfig
from noisette.nets.text import Prompted, TextConfig
from noisette.nets.vae import AutoencoderKL, AutoencoderKLConfig
from noisette.scenes.dataset import SceneDataset
from noisette.schedules import CosineVP
from noisette.training import Recipe, Rows, Simple, fit
from noisette.training.checkpoint import load_latest
from noisette.training.denoising import captions_of
from noisette.training.kept import KeptImages, KeptScenes, kept
from noisette.training.setup import batches, begin

VAE = AutoencoderKLConfig(
    block_out_channels=(4, 8), layers_per_block=1, latent_channels=2, norm_num_groups=4,
    mid_block_add_attention=False, scaling_factor=3.0, shift_factor=0.1,
)  # fmt: skip
TEXT = TextConfig(
    vocab_size=530, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    max_position_embeddings=12,
)  # fmt: skip
NET = UNetConfig(
    2, 2, 8, (1,), 1, (0,), num_heads=2, norm_groups=4, context_dim=8, pooled_dim=8, dropout=0.1
)  # fmt: skip
SPEC = ModelSpec("tiny", NET, CosineVP(100), V(), IndexTime(100), 16, 3, text=TEXT, codec=VAE)
PIXELS = replace(SPEC, codec=None, net=replace(NET, in_channels=3, out_channels=3))


@pytest.fixture(autouse=True)
def few_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noisette.training.denoising.MOST_CAPTIONS", 300)


@pytest.fixture
def vae(tmp_path: Path) -> str:
    """An autoencoder on disk, its weights random, its latents of another scale than SPEC says."""
    torch.manual_seed(3)
    spec = AutoencoderSpec("vae", replace(VAE, scaling_factor=2.0), 16)
    return str(Autoencoder(spec, AutoencoderKL(spec.codec)).save(tmp_path / "vae"))


@pytest.fixture
def recipe(vae: str) -> Recipe:
    return Recipe(
        spec=SPEC,
        objective=Simple(times=Rows(100)),
        codec=vae,
        steps=6,
        batch_size=4,
        lr=1e-3,
        warmup=0,
        ema=0.9,
        cond_dropout=0.2,
        precision="fp32",
        sample_every=0,
        checkpoint_every=0,
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> KeptScenes:
    """Twelve scenes, kept."""
    data = kept(SceneDataset(16, samples=1, length=12, scenes=True), tmp_path_factory.mktemp("scenes"))
    assert isinstance(data, KeptScenes)
    return data


class Listening(Simple):
    """Writes down what it is asked about, and answers 0."""

    def __init__(self) -> None:
        super().__init__(times=Rows(100))
        object.__setattr__(self, "heard", [])

    def __deepcopy__(self, memo: Any) -> Listening:
        return self

    def __call__(self, denoiser: Any, schedule: Any, x0: Tensor, cond: Any, draws: Any) -> Tensor:
        self.heard.append((x0, cond))  # pyright: ignore
        return x0.flatten(1).mean(1)


def listen(recipe: Recipe, data: Any, steps: int) -> list[tuple[Tensor, Any]]:
    objective = Listening()
    state = begin(replace(recipe, objective=objective), data)
    stream = batches(state, torch.device("cpu"))
    for state.step in range(steps):
        state.task.loss(state.net, *next(stream), state.step)
    return objective.heard  # pyright: ignore


def test_a_text_to_image_model_trains_resumes_is_saved_and_draws(
    recipe: Recipe, scenes: KeptScenes, tmp_path: Path
) -> None:
    straight = fit(replace(recipe, sample_every=6), scenes, tmp_path / "straight")
    fit(recipe, scenes, tmp_path / "parts", max_train_steps=3)
    torch.manual_seed(99)
    fit(recipe, scenes, tmp_path / "parts", resume=True)
    one, other = (load_latest(tmp_path / name / "checkpoints") for name in ("straight", "parts"))
    assert one.facts["data"] == other.facts["data"] and one.step == 6
    for group in ("weights", "ema", "optimizer"):
        for name, value in one.tensors[group].items():
            assert torch.equal(value, other.tensors[group][name]), (group, name)
    fresh = begin(recipe, scenes).net.state_dict()
    learned = [name for name, value in one.tensors["weights"].items() if not torch.equal(value, fresh[name])]
    assert {name.split(".")[0] for name in learned} == {"net", "text"}
    assert (tmp_path / "straight" / "samples" / "step-00000006.png").is_file()

    files = {path.name for path in (tmp_path / "parts" / "model").iterdir()}
    assert files == {"model.json", "model.safetensors", "codec.safetensors", FILE, "README.md"}
    options: dict[str, Any] = {"num_inference_steps": 2, "seed": 4, "output_type": "torch"}
    prompts = ["a red cube", "two blue spheres, at night"]
    drawn = straight.model.generate(prompts, **options).images
    assert drawn.shape == (2, 3, 16, 16)
    for name in ("straight", "parts"):
        model = Model.load(tmp_path / name)
        assert model.spec == straight.model.spec and isinstance(model.denoiser.net, Prompted)
        assert torch.equal(model.generate(prompts, **options).images, drawn)


def test_latents_are_what_is_learned_and_their_scale_is_the_codecs(
    recipe: Recipe, scenes: KeptScenes, vae: str, own_cache: Path
) -> None:
    (x0, cond), *_ = listen(recipe, scenes, 1)
    assert x0.shape == (4, 2, 8, 8)
    assert set(cond) == {"ids", "token_mask"} and cond["ids"].shape == cond["token_mask"].shape == (4, 12)
    wanted = Autoencoder.load(vae).encode(scenes.fetch(range(4))["image"])
    torch.testing.assert_close(x0, wanted, atol=5e-3, rtol=5e-3)
    assert len(list((own_cache / "images").iterdir())) == 1
    task = begin(recipe, scenes).task
    model = task.finished({})
    assert isinstance(model, Model) and model.spec.codec == Autoencoder.load(vae).spec.codec
    assert model.spec.codec != VAE


def test_captions_are_left_out_at_the_rate_asked(recipe: Recipe, scenes: KeptScenes) -> None:
    def shares(rate: float, steps: int) -> float:
        heard = listen(replace(recipe, cond_dropout=rate), scenes, steps)
        lengths = torch.cat([cond["token_mask"].sum(1) for _, cond in heard])
        return float((lengths == 2).float().mean())  # of the null prompt both ends are left

    assert shares(0.3, 120) == pytest.approx(0.3, abs=0.06)
    assert shares(0.0, 5) == 0.0 and shares(1.0, 2) == 1.0


def test_places_that_no_text_of_a_batch_fills_do_not_matter(recipe: Recipe, scenes: KeptScenes) -> None:
    state = begin(replace(recipe, cond_dropout=1.0), scenes)
    (x0, cond), *_ = listen(replace(recipe, cond_dropout=1.0), scenes, 1)
    assert cond["ids"].shape == (4, 2)
    model = state.task.finished({})
    assert isinstance(model, Model) and model.texts is not None
    with torch.no_grad():
        for parameter in model.denoiser.net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    net, time = model.denoiser.net.eval(), torch.full((4,), 30.0)
    whole = model.texts.cond([""] * 4, "cpu")
    assert whole["ids"].shape == (4, 12)
    torch.testing.assert_close(net(x0, time, cond), net(x0, time, whole), atol=1e-5, rtol=1e-5)


def test_the_tokenizer_knows_the_words_of_the_captions_and_is_the_same_each_time(
    recipe: Recipe, scenes: KeptScenes
) -> None:
    one, other = (begin(recipe, scenes).task.finished({}) for _ in range(2))
    assert isinstance(one, Model) and isinstance(other, Model)
    assert one.texts == other.texts and one.texts is not None
    assert one.texts.unknown("a sphere, a violin") == {"violin": one.texts.unknown("violin")["violin"]}
    text = one.spec.text
    assert isinstance(text, TextConfig) and text.vocab_size <= 530
    tokenizer: Tokenizer = one.texts.tokenizer  # pyright: ignore
    assert (text.vocab_size, text.eos_token_id) == (tokenizer.vocab_size, tokenizer.eos_token_id)
    drawn = one.generate("a sphere", num_inference_steps=1, output_type="latent").images
    assert drawn.shape == (1, 2, 8, 8)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_text_encoder_may_learn_more_slowly(
    recipe: Recipe, scenes: KeptScenes, optimizer: Any, tmp_path: Path
) -> None:
    slow = replace(recipe, optimizer=optimizer, text_lr_scale=0.01)
    fresh = begin(slow, scenes).net.state_dict()
    fit(slow, scenes, tmp_path / "straight")
    fit(slow, scenes, tmp_path / "parts", max_train_steps=3)
    fit(slow, scenes, tmp_path / "parts", resume=True)
    one, other = (load_latest(tmp_path / name / "checkpoints").tensors["weights"]
                  for name in ("straight", "parts"))  # fmt: skip
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    # AdamW moves a weight by no more than about the rate, whatever its gradient.
    moved = {"net": 0.0, "text": 0.0}
    for name, value in one.items():
        part = name.split(".")[0]
        moved[part] = max(moved[part], float((value - fresh[name]).abs().max()))
    assert moved["net"] > 2e-3 and 1e-6 < moved["text"] < 1e-4
    with pytest.raises(UserError, match="text_lr_scale must be positive, not 0"):
        replace(recipe, text_lr_scale=0.0)


def test_training_starts_from_another_model(recipe: Recipe, scenes: KeptScenes, tmp_path: Path) -> None:
    first = fit(recipe, scenes, tmp_path / "first").model
    run = str(tmp_path / "first")
    for codec in (recipe.codec, None):
        again = replace(recipe, codec=codec, start=run)
        state = begin(again, scenes)
        assert state.net.training and all(value.requires_grad for value in state.net.parameters())
        for name, value in state.net.state_dict().items():
            assert torch.equal(value, first.denoiser.net.state_dict()[name])
        model = state.task.finished({})
        assert isinstance(model, Model) and model.texts == first.texts and model.spec == first.spec
    tuned = fit(again, scenes, tmp_path / "tuned", max_train_steps=2).model
    moved = tuned.denoiser.net.state_dict()
    assert any(not torch.equal(value, moved[name]) for name, value in first.denoiser.net.state_dict().items())
    for net in (replace(NET, dropout=0.2), replace(NET, model_channels=16)):
        with pytest.raises(UserError, match="has another network than tiny: training cannot start from it"):
            begin(replace(again, spec=replace(SPEC, net=net)), scenes)


def test_a_latent_model_of_classes(vae: str, recipe: Recipe, images: Path, tmp_path: Path) -> None:
    net = replace(NET, context_dim=None, pooled_dim=None, num_classes=2)
    spec = replace(SPEC, net=net, text=None, labels=("dark", "light"))
    data = open_dataset(images, size=16)
    result = fit(replace(recipe, spec=spec, steps=2), data, tmp_path / "run")
    drawn = Model.load(tmp_path / "run").generate(label="dark", num_inference_steps=1, output_type="torch")
    assert drawn.images.shape == (1, 3, 16, 16) and result.step == 2
    (x0, cond), *_ = listen(replace(recipe, spec=spec, cond_dropout=0.0), data, 1)
    wanted = Autoencoder.load(vae).encode(data.fetch(range(24))["image"]).half().float()
    rows = [int((wanted - one).flatten(1).abs().amax(1).argmin()) for one in x0]
    assert cond["label"].tolist() == [int(row >= 12) for row in rows]


def test_a_frozen_text_encoder_reads_the_captions(
    recipe: Recipe, scenes: KeptScenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from noisette.conditioning.pretrained import PretrainedText

    calls: list[str] = []

    class Frozen:
        identity, device = "frozen", torch.device("cpu")

        def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
            calls.extend(texts)
            tokens = torch.tensor([[[float(len(text))] * 8] * 3 for text in texts])
            return {"tokens": tokens, "pooled": tokens[:, 0]}

    monkeypatch.setattr(PretrainedText, "load", lambda self, device: Frozen())
    spec = replace(SPEC, text=PretrainedText("somewhere"))
    (_, cond), *_ = listen(replace(recipe, spec=spec, cond_dropout=0.5), scenes, 1)
    texts = begin(recipe, scenes).loader.data.fetch(range(4))["text"]
    assert cond["tokens"].shape == (4, 3, 8)
    assert all(int(t) in (0, len(text)) for t, text in zip(cond["tokens"][:, 0, 0], texts, strict=True))
    assert len(calls) == len(set(calls)) <= 4
    model = begin(replace(recipe, spec=spec), scenes).task.finished({})
    assert isinstance(model, Model) and not isinstance(model.denoiser.net, Prompted)
    calls.clear()
    pictures = model.generate(["a", "bb"], num_inference_steps=1, output_type="torch").images
    assert pictures.shape == (2, 3, 16, 16) and sorted(calls) == ["a", "bb"]  # "" was read in training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec": None}, "tiny draws latents: name the model whose autoencoder makes them"),
        ({"flip": True}, "flip=False"),
        ({"spec": PIXELS}, "tiny has no codec: leave codec="),
        ({"cond_dropout": 1.5}, "cond_dropout is a share"),
    ],
)
def test_a_recipe_that_does_not_fit_is_told(recipe: Recipe, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        replace(recipe, **change)
    assert "\n" not in str(told.value)


def test_data_that_do_not_fit_are_told(recipe: Recipe, images: Path, scenes: KeptScenes) -> None:
    nothing_said = open_dataset(images, size=16)
    with pytest.raises(UserError, match="learns from captions, and these have none") as told:
        begin(recipe, nothing_said)
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match=r"there is no model 'nothing'"):
        begin(replace(recipe, codec="nothing"), scenes)
    deep_net = replace(NET, in_channels=4, out_channels=4)
    deeper = replace(SPEC, codec=replace(VAE, latent_channels=4), net=deep_net)
    with pytest.raises(UserError, match="latents have 2 channels, but the network takes 4"):
        begin(replace(recipe, spec=deeper), scenes)
    with pytest.raises(UserError, match=r"images are \(3, 24, 24\), but tiny draws \(3, 16, 16\)"):
        begin(recipe, SceneDataset(24))


def test_captions_are_taken_from_the_first_image_on(scenes: KeptScenes) -> None:
    assert captions_of(scenes) == scenes.fetch(range(300))["text"]
    few = KeptImages("few", torch.zeros(3, 1, 2, 2, dtype=torch.uint8), {"text": list("abc")}, None, "few")
    assert captions_of(few) == ["a", "b", "c"]
