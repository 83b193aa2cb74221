"""Text-to-image in latents, at the front door; the weights are random, what depends on what is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from noisette.conditioning.tokenizer import Tokenizer
from noisette.core import IndexTime, V
from noisette.errors import UserError
from noisette.models import Defaults, Model, ModelSpec
from noisette.models.texts import LearnedTexts, told_by
from noisette.nets import UNetConfig
from noisette.nets.text import Prompted, TextConfig
from noisette.nets.vae import AutoencoderKL, AutoencoderKLConfig
from noisette.schedules import CosineVP
from noisette.solvers import NoiseStreams

TOKENIZER = Tokenizer.train(["a red cube", "two blue spheres on the left"] * 3, 530, 10)
TEXT = told_by(
    TOKENIZER,
    TextConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
               max_position_embeddings=10, vocab_size=514),
)  # fmt: skip
VAE = AutoencoderKLConfig(
    block_out_channels=(4, 8), layers_per_block=1, latent_channels=2, norm_num_groups=4,
    mid_block_add_attention=False, scaling_factor=1.0,
)  # fmt: skip
NET = UNetConfig(2, 2, 8, (1, 2), 1, (0,), num_heads=2, norm_groups=4, context_dim=8, pooled_dim=8)
SPEC = ModelSpec(
    "tiny", NET, CosineVP(100), V(), IndexTime(100), 16, 3, defaults=Defaults(guidance_scale=3.0), text=TEXT,
    codec=VAE,
)  # fmt: skip


def alive() -> Model:
    """A model whose every weight matters."""
    torch.manual_seed(1)
    codec = AutoencoderKL(VAE).eval()
    model = Model.new(SPEC, codec=codec, texts=LearnedTexts(TOKENIZER))
    with torch.no_grad():
        for parameter in model.denoiser.net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.denoiser.net.eval()
    return model


@pytest.fixture(scope="module")
def model() -> Model:
    return alive()


def draw(model: Model, prompt: Any = None, **options: Any) -> Tensor:
    options = {"num_inference_steps": 3, "output_type": "torch", "seed": 0, **options}
    return model.generate(prompt, **options).images


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_a_picture_does_not_depend_on_its_batch(model: Model) -> None:
    prompts = ["a red cube", "two blue spheres", "", "a cube on the left, and a red one"]
    together = model.generate(prompts, seed=7, num_inference_steps=3, output_type="torch")
    assert together.images.shape == (4, 3, 16, 16) and together.seeds == (7, 8, 9, 10)
    for size in (1, 3):
        close(draw(model, prompts, seed=7, batch_size=size), together.images)
    for k, prompt in enumerate(prompts):
        close(draw(model, prompt, seed=7 + k), together.images[k : k + 1])
    assert (draw(model, prompts[0], seed=8) - together.images[1]).abs().max() > 1e-3  # prompts matter


def test_each_prompt_has_its_pictures_in_a_row(model: Model) -> None:
    output = model.generate(
        ["a cube", "spheres"], negative_prompt=["red", "blue"], num_images_per_prompt=2, seed=[5, 6, 7, 8],
        num_inference_steps=2, output_type="torch",
    )  # fmt: skip
    assert output.prompts == ("a cube", "a cube", "spheres", "spheres")
    assert output.negative_prompts == ("red", "red", "blue", "blue")
    assert output.labels is None
    own = output.settings_of(2)
    assert (own["prompt"], own["negative_prompt"], own["seed"]) == ("spheres", "blue", 7)
    assert "label" not in own
    assert (own["size"], own["guidance_scale"], own["guidance_rescale"]) == ("16x16", 3.0, 0.0)
    alone = draw(model, "spheres", negative_prompt="blue", seed=7, num_inference_steps=2)
    close(output.images[2:3], alone)
    assert model.generate(num_images_per_prompt=2, num_inference_steps=1).prompts == ("", "")


def test_a_negative_prompt_is_what_guidance_leads_away_from(model: Model) -> None:
    plain = draw(model, "a red cube")
    assert torch.equal(draw(model, "a red cube", negative_prompt=""), plain)
    away = draw(model, "a red cube", negative_prompt="blue spheres")
    assert (away - plain).abs().max() > 1e-4
    unguided = draw(model, "a red cube", guidance_scale=1)
    assert torch.equal(draw(model, "a red cube", negative_prompt="blue", guidance_scale=1), unguided)
    assert (plain - unguided).abs().max() > 1e-4
    # At scale 0 the negative prompt alone is left.
    only = draw(model, "a cube", negative_prompt="blue", guidance_scale=0)
    close(only, draw(model, "blue", guidance_scale=1))
    # A prompt led away from itself stays where it is, whatever the scale.
    close(draw(model, "a cube", negative_prompt="a cube"), draw(model, "a cube", guidance_scale=1))


def test_texts_are_encoded_once_for_a_trajectory(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    net = model.denoiser.net
    assert isinstance(net, Prompted)
    calls: list[tuple[int, ...]] = []
    forward = net.text.forward

    def watched(ids: Tensor, **options: Any) -> Any:
        calls.append(tuple(ids.shape))
        return forward(ids, **options)

    monkeypatch.setattr(net.text, "forward", watched)
    draw(model, ["a cube", "spheres"], num_inference_steps=5)
    assert calls == [(2, 10), (2, 10)]


def test_latents_go_in_and_come_out(model: Model) -> None:
    noise = NoiseStreams([11]).initial((2, 8, 8))
    own, given = (draw(model, "a cube", seed=11, **more) for more in ({}, {"latents": noise}))
    assert torch.equal(own, given)
    latents = draw(model, "a cube", seed=11, output_type="latent")
    assert latents.shape == (1, 2, 8, 8)
    assert torch.equal(model.decode(latents).clamp(-1, 1), own)
    again = model.generate("a cube", latents=noise, num_inference_steps=1)
    assert again.settings["latents"] == "given"
    # What the network works on is not clipped, the picture is.
    wild = draw(model, "a cube", guidance_scale=200.0, output_type="latent")
    assert float(wild.abs().max()) > 1
    assert float(draw(model, "a cube", guidance_scale=200.0).abs().max()) <= 1


def test_a_panorama_is_drawn_and_its_size_is_that_of_pixels(model: Model) -> None:
    output = model.generate("a cube", height=16, width=48, num_inference_steps=2, output_type="torch", seed=1)
    assert output.images.shape == (1, 3, 16, 48) and output.settings["size"] == "48x16"
    latents = draw(model, "a cube", height=16, width=48, output_type="latent")
    assert latents.shape == (1, 2, 8, 24)
    assert draw(model, "a cube", height=16, width=48, latents=latents).shape == (1, 3, 16, 48)
    assert draw(model, "a cube", height=14, width=18).shape == (1, 3, 14, 18)  # latents of 7 x 9


def test_pictures_of_every_kind(model: Model) -> None:
    pil = model.generate("a cube", num_inference_steps=1, seed=3)
    array = model.generate("a cube", num_inference_steps=1, seed=3, output_type="numpy").images
    assert pil.images[0].size == (16, 16)
    assert np.abs(np.asarray(pil.images[0]) / 255 - array[0]).max() <= 0.5 / 255 + 1e-6


def test_inversion_with_a_prompt_finds_the_latents(model: Model) -> None:
    noise = NoiseStreams([3, 4]).initial((2, 8, 8))
    options: dict[str, Any] = {"solver": "ddim", "guidance_scale": 1, "num_inference_steps": 50}
    drawn = draw(model, ["a cube", "spheres"], latents=noise, output_type="latent", **options)
    found = replace(model, codec=None, spec=replace(SPEC, codec=None, channels=2, image_size=8)).invert(
        drawn, ["a cube", "spheres"], num_inference_steps=50
    )
    assert (found - noise).abs().mean() < 0.1 * noise.abs().mean()
    swapped = model.invert(torch.rand(2, 3, 16, 16), "a cube", num_inference_steps=2)
    assert swapped.shape == (2, 2, 8, 8)
    other = model.invert(torch.rand(2, 3, 16, 16), num_inference_steps=2)
    assert other.shape == (2, 2, 8, 8)
    with pytest.raises(UserError, match="2 pictures need one prompt, or one each, not 3"):
        model.invert(torch.rand(2, 3, 16, 16), ["a", "b", "c"])
    with pytest.raises(UserError, match="sides divisible by 2, not 16x17"):
        model.invert(torch.rand(1, 3, 17, 16))
    with pytest.raises(UserError, match=r"takes \[B, 3, H, W\]"):
        model.invert(torch.rand(1, 1, 16, 16))


def test_rescaled_guidance_is_another_picture_and_none_at_zero(model: Model) -> None:
    plain, rescaled, none = (draw(model, "a cube", guidance_rescale=phi) for phi in (0.0, 0.7, 0))
    assert torch.equal(plain, none) and (plain - rescaled).abs().max() > 1e-4
    own = replace(model, spec=replace(SPEC, defaults=replace(SPEC.defaults, guidance_rescale=0.7)))
    assert torch.equal(draw(own, "a cube"), rescaled)
    assert torch.equal(draw(own, "a cube", guidance_rescale=0.0), plain)


def test_what_is_saved_draws_the_same(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    loaded = Model.load(tmp_path / "m")
    assert loaded.spec == SPEC and loaded.texts == model.texts
    options: dict[str, Any] = {"negative_prompt": "blue", "seed": 2}
    assert torch.equal(draw(loaded, "a red cube", **options), draw(model, "a red cube", **options))
    card = (tmp_path / "m" / "README.md").read_text()
    assert "pipeline_tag: text-to-image" in card and 'generate("a red cube", seed=0)' in card
    assert "| labels |" not in card and "| autoencoder | AutoencoderKLConfig(" in card
    (tmp_path / "m" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Model.load(tmp_path / "m")


def test_half_precision_and_compilation_change_little(model: Model) -> None:
    whole = draw(model, "a cube")
    compiled = alive().compiled(backend="eager")
    assert isinstance(compiled.denoiser.net, Prompted)
    close(draw(compiled, "a cube"), whole)
    half = draw(alive().to(dtype=torch.bfloat16), "a cube")
    assert half.dtype == torch.float32 and 0 < (half - whole).abs().max() < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, "a prompt is a text, or a list of texts with at least one"),
        ({"prompt": [7]}, "a prompt is a text"),
        ({"prompt": 7}, "a prompt is a text"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"] * 3}, "2 prompts but 3 negative prompts"),
        ({"negative_prompt": [None]}, "a negative prompt is a text"),
        ({"label": 3}, "tiny draws from texts: give a prompt in place of the label"),
        ({"height": 17}, "sides divisible by 2, not 16x17"),
        ({"width": 2**14, "num_images_per_prompt": 10**5}, "too many for one call"),
        ({"latents": torch.zeros(1, 3, 16, 16)}, r"shape \[1, 3, 16, 16\], but \[1, 2, 8, 8\]"),
        ({"guidance_rescale": 1.5}, r"guidance_rescale is a part in \[0, 1\], not 1.5"),
        ({"seed": [1, 2]}, "2 seeds were given for 1 pictures"),
        ({"num_images_per_prompt": 10**6, "prompt": ["a", "b"]}, "the number of pictures must be"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_line(
    model: Model, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as told:
        draw(model, **{"prompt": "a cube", **options})
    assert "\n" not in str(told.value)


def test_models_without_texts_say_so(model: Model) -> None:
    net = replace(NET, context_dim=None, pooled_dim=None)
    silent = Model.new(replace(SPEC, net=net, text=None), codec=model.codec)
    with pytest.raises(UserError, match="tiny takes no prompt, it draws without being told what"):
        silent.generate("a cube")
    with pytest.raises(UserError, match="tiny takes no prompt"):
        silent.generate(negative_prompt="blue")
    with pytest.raises(UserError, match="no labels, so there is nothing to guide"):
        silent.generate(guidance_scale=2.0)
    classes = Model.new(replace(SPEC, net=replace(net, num_classes=2), text=None, labels=("ant", "bee")))
    for ask in (classes.generate, lambda prompt: classes.invert(torch.zeros(1, 3, 16, 16), prompt)):
        with pytest.raises(UserError, match="tiny takes no prompt, it draws labels: give one as label="):
            ask("ant")
    with pytest.raises(UserError, match="tiny has no texts to read a prompt with"):
        Model.new(SPEC, codec=model.codec).generate("a cube")
