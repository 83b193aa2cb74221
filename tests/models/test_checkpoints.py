"""Checkpoints of others' as models: read, changed for a while, and written for others again."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import noisette
from noisette.core import V
from noisette.errors import UserError
from noisette.models import Model
from noisette.models.starting import steps_taken
from noisette.solvers import DDIM
from noisette.training import Recipe, Simple, fit

diffusers = pytest.importorskip("diffusers")
Pipelines = Callable[[str], Path]
ASKED: dict[str, Any] = {"num_inference_steps": 3, "seed": 1, "output_type": "torch"}


def images(model: Model, prompt: Any = "a red cat", **options: Any) -> torch.Tensor:
    """Pictures as generate makes them, as latents where it can."""
    return model.generate(prompt, **{**ASKED, "output_type": "latent", **options}).images


def theirs(folder: Path, latents: torch.Tensor, **options: Any) -> np.ndarray:
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe("a red cat", latents=latents, num_inference_steps=3, output_type="np", **options).images


@pytest.mark.parametrize("name", ["sd", "sd-2", "xl"])
def test_a_saved_model_is_the_same_pipeline_to_diffusers(
    name: str, pipelines: Pipelines, tmp_path: Path
) -> None:
    model = noisette.load(pipelines(name))
    saved = model.save(tmp_path / "saved")
    latents = torch.randn(1, 4, 8, 8)
    assert np.array_equal(theirs(saved, latents), theirs(pipelines(name), latents))
    again = noisette.load(saved)
    assert torch.equal(images(again), images(model))
    with pytest.raises(UserError, match="exists already"):
        model.save(saved)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dit", "inpainting", "refiner"])
def test_every_kind_of_pipeline_keeps_its_weights(name: str, pipelines: Pipelines, tmp_path: Path) -> None:
    """What diffusers finds in the folder written is bit for bit what it wrote."""
    saved = noisette.load(pipelines(name)).save(tmp_path / "saved")
    before = diffusers.DiffusionPipeline.from_pretrained(pipelines(name)).components
    after = diffusers.DiffusionPipeline.from_pretrained(saved).components
    parts = [part for part, value in before.items() if isinstance(value, torch.nn.Module)]
    assert parts and before.keys() - {"safety_checker", "feature_extractor", "image_encoder"} <= after.keys()
    for part in parts:
        old, new = before[part].state_dict(), after[part].state_dict()
        assert old.keys() == new.keys()
        assert all(torch.equal(old[key], new[key]) for key in old)
    assert before["scheduler"].config == after["scheduler"].config


def test_half_precision_halves_the_files(pipelines: Pipelines, tmp_path: Path) -> None:
    model = noisette.load(pipelines("sd"))
    saved = model.save(tmp_path / "half", dtype=torch.float16)
    file = "unet/diffusion_pytorch_model.safetensors"
    assert (saved / file).stat().st_size < 0.6 * (pipelines("sd") / file).stat().st_size
    assert next(noisette.load(saved).denoiser.parameters()).dtype == torch.float32
    half = noisette.load(saved, dtype=torch.float16)
    assert next(half.denoiser.parameters()).dtype == torch.float16


def test_weights_are_mapped_not_copied(pipelines: Pipelines) -> None:
    """A weight lies at an address where the system has mapped the file of its part."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("the system does not tell what is mapped where")
    model = noisette.load(pipelines("sd"))
    place = model.denoiser.net.net.conv_in.weight.data_ptr()
    file = str(pipelines("sd") / "unet" / "diffusion_pytorch_model.safetensors")
    ranges = [line.split()[0].split("-") for line in maps.read_text().splitlines() if line.endswith(file)]
    assert any(int(low, 16) <= place < int(high, 16) for low, high in ranges)


def test_variants_and_shards(pipelines: Pipelines, tmp_path: Path) -> None:
    pipe = diffusers.DiffusionPipeline.from_pretrained(pipelines("sd"))
    pipe.save_pretrained(tmp_path / "parts", max_shard_size="100KB")
    assert list((tmp_path / "parts" / "unet").glob("*-of-*.safetensors"))
    expected = images(noisette.load(pipelines("sd")))
    assert torch.equal(images(noisette.load(tmp_path / "parts")), expected)
    pipe.save_pretrained(tmp_path / "parts", variant="fp16")
    assert torch.equal(images(noisette.load(tmp_path / "parts", variant="fp16")), expected)
    pipe.save_pretrained(tmp_path / "only", variant="fp16")
    assert torch.equal(images(noisette.load(tmp_path / "only")), expected)
    with pytest.raises(UserError, match="has no weights of the variant 'ema'"):
        noisette.load(tmp_path / "only", variant="ema")


def test_a_checkpoint_trained_further_is_a_folder_for_diffusers(pipelines: Pipelines, tmp_path: Path) -> None:
    """What training leaves of a checkpoint of others' is one again, and the run is loaded by its name."""
    data = tmp_path / "cats"
    data.mkdir()
    for i in range(2):
        Image.new("RGB", (64, 64), (255, 40 * i, 0)).save(data / f"{i}.png")
        (data / f"{i}.txt").write_text("the red cat")
    start = pipelines("sd")
    spec = noisette.load(start).spec
    plain = {"start": str(start), "objective": Simple(), "steps": 1, "batch_size": 2, "warmup": 0}
    recipe = Recipe(spec=replace(spec, image_size=64), **plain, sample_every=0)
    trained = fit(recipe, data, tmp_path / "run").model
    again = noisette.load(tmp_path / "run")
    size = {"height": 64, "width": 64}
    assert again.spec.name == "run" and torch.equal(images(again, **size), images(trained, **size))
    assert not torch.equal(images(again), images(noisette.load(start)))
    latents = torch.randn(1, 4, 8, 8)
    pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "run" / "model")
    pipe.set_progress_bar_config(disable=True)
    asked: dict[str, Any] = {"num_inference_steps": 3, "latents": latents}
    theirs = pipe("a red cat", output_type="latent", **asked).images
    assert torch.allclose(images(again, **asked), theirs, atol=1e-4)
    other = replace(recipe, spec=replace(recipe.spec, parameterization=V()))
    with pytest.raises(UserError, match="says itself what it predicts"):
        fit(other, data, tmp_path / "other")


def test_a_solver_of_ones_own_goes_over_the_checkpoints_grid(pipelines: Pipelines) -> None:
    model = noisette.load(pipelines("sd"))
    rows = [int(level.t * 1000 - 1) for level in model.levels(5)]
    assert rows == [801, 601, 401, 201, 1, 0]  # leading, offset 1, and an end at the first row: trap 1
    named, own = images(model, solver="ddim"), images(model, solver=DDIM())
    assert torch.equal(named, own)
    settings = model.generate("a cat", **ASKED).settings_of(0)
    assert settings["solver"] is None and settings["negative_prompt"] is None


@pytest.mark.parametrize("number", range(4))
def test_an_image_of_a_batch_is_that_image_alone_trap_30(number: int, pipelines: Pipelines) -> None:
    """Whatever the neighbours are told, and however long: one has two windows, one has weights."""
    model = noisette.load(pipelines("sd"))
    prompts = ["a cat", ", ".join(["the red dog"] * 40), "a (red:1.5) cat", "the dog"]
    together = images(model, prompts, solver="euler-ancestral")
    alone = images(model, prompts[number], solver="euler-ancestral", seed=1 + number)
    torch.testing.assert_close(alone[0], together[number], rtol=1e-5, atol=1e-4)


def test_words_can_be_weighed(pipelines: Pipelines) -> None:
    model = noisette.load(pipelines("sd"))
    plain, heavy = images(model, "a red cat"), images(model, "a (red:1.6) cat")
    assert (heavy - plain).abs().max() > 1e-3
    assert torch.equal(images(model, "a (red:1.0) cat"), plain)


@pytest.mark.parametrize(
    ("steps", "strength", "taken"),
    [(100, 0.29, 29), (50, 0.0, 0), (50, 1.0, 50), (20, 0.04, 1), (10, 0.999, 9), (3, 0.34, 1), (1, 0.5, 1)],
)
def test_strength_at_its_edges_trap_7(steps: int, strength: float, taken: int) -> None:
    assert steps_taken(steps, strength) == taken


def test_strength_0_gives_the_picture_back(pipelines: Pipelines) -> None:
    model = noisette.load(pipelines("sd"))
    picture = torch.rand(1, 3, 16, 16) * 2 - 1
    expected = model.decode(model.encode(picture)).clamp(-1, 1)
    made = model.generate("a cat", image=picture, strength=0.0, num_inference_steps=4, seed=0)
    calls = model.generate(
        "a cat", image=picture, strength=0.5, num_inference_steps=4, seed=0, callback=lambda step: None
    )
    near, far = (np.asarray(one.images[0], dtype=float) for one in (made, calls))
    wanted = ((expected[0].permute(1, 2, 0) + 1) * 127.5).round().numpy()
    assert np.abs(near - wanted).max() <= 1 < np.abs(far - wanted).max()


def test_pictures_come_as_files_arrays_and_tensors(pipelines: Pipelines) -> None:
    model = noisette.load(pipelines("sd"))
    array = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    kinds = [Image.fromarray(array), [Image.fromarray(array)], array, array / 255.0]
    kinds.append(torch.from_numpy(array).permute(2, 0, 1)[None] / 127.5 - 1)
    found = [images(model, image=kind, strength=0.5) for kind in kinds]
    assert all(torch.allclose(one, found[0], atol=1e-5) for one in found)
    bigger = Image.fromarray(array).resize((37, 21))
    assert images(model, image=bigger, strength=0.5).shape[-2:] == (20 // 2, 36 // 2)
    two = images(model, ["a red cat", "a dog"], image=[kinds[0], kinds[0]], strength=0.5)
    assert torch.allclose(two[:1], found[0], atol=1e-5)


def test_what_a_mask_spares_is_what_the_codec_makes_of_the_picture(pipelines: Pipelines) -> None:
    model = noisette.load(pipelines("sd"))
    picture, mask = torch.rand(1, 3, 16, 16) * 2 - 1, torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    made = images(model, image=picture, mask_image=mask)
    known = model.encode(picture)
    assert torch.equal(made[..., 4:], known[..., 4:])
    assert (made[..., :4] - known[..., :4]).abs().min() > 0


def test_lora_is_attached_weighed_and_taken_off(pipelines: Pipelines, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    pipe = diffusers.DiffusionPipeline.from_pretrained(pipelines("sd"))
    layers = ["to_q", "to_v", "q_proj", "proj_in"]
    pipe.unet.add_adapter(peft.LoraConfig(r=3, lora_alpha=2, target_modules=layers, init_lora_weights=False))
    pipe.text_encoder.add_adapter(
        peft.LoraConfig(r=3, lora_alpha=2, target_modules=layers, init_lora_weights=False)
    )
    state = peft.get_peft_model_state_dict
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path, unet_lora_layers=state(pipe.unet), text_encoder_lora_layers=state(pipe.text_encoder)
    )
    model = noisette.load(pipelines("sd"))
    bare = images(model)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    plain = diffusers.DiffusionPipeline.from_pretrained(pipelines("sd"))
    plain.set_progress_bar_config(disable=True)
    plain.load_lora_weights(tmp_path, adapter_name="one")
    latents = torch.randn(1, 4, 8, 8)
    asked: dict[str, Any] = {"num_inference_steps": 3, "latents": latents, "output_type": "latent"}
    # Their file says alpha 2 of rank 3 only in metadata, which they read and so do we.
    expected = plain("a red cat", **asked).images
    found = model.load_lora(file).generate("a red cat", **asked).images
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
    with pytest.raises(UserError, match="a LoRA is attached"):
        model.save(tmp_path / "saved")
    restore = model.fuse_lora()
    torch.testing.assert_close(
        images(model), images(noisette.load(pipelines("sd")).load_lora(file)), atol=1e-3, rtol=0
    )
    restore()
    assert torch.equal(images(model.unload_lora()), bare)


def test_offloaded_and_cached_models_draw_the_same(pipelines: Pipelines) -> None:
    model = noisette.load(pipelines("sd"))
    expected = images(model)
    assert torch.equal(images(model.cached(1)), expected)
    assert (
        images(model.cached(2), num_inference_steps=6) - images(model, num_inference_steps=6)
    ).abs().max() > 0
    away = noisette.load(pipelines("sd")).offloaded("cpu")
    assert next(away.denoiser.net.net.parameters()).device.type == "meta"
    assert torch.equal(images(away), expected)
    drawn = away.generate("a red cat", **ASKED).images
    assert torch.equal(drawn, model.generate("a red cat", **ASKED).images)


def broken(pipelines: Pipelines, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pipelines("sd"), tmp_path / "broken"))


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weights": (
        lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
        "there are no weights in .*unet: no diffusion_pytorch_model.safetensors",
    ),
    "cut off": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x09" * 40),
        "is not a whole safetensors file",
    ),
    "another network": (
        lambda f: edited(f / "unet" / "config.json", block_out_channels=[16, 48]),
        "has shape .* but the network described needs",
    ),
    "blocks unknown": (
        lambda f: edited(f / "unet" / "config.json", down_block_types=["DownBlock2D", "SkipDownBlock2D"]),
        r"down_block_types \['SkipDownBlock2D'\] are not known here",
    ),
    "an option unknown": (
        lambda f: edited(f / "unet" / "config.json", class_embed_type="timestep"),
        "class_embed_type = 'timestep' is not known here",
    ),
    "scheduler unknown": (
        lambda f: edited(f / "scheduler" / "scheduler_config.json", _class_name="TCDScheduler"),
        "the scheduler TCDScheduler is not known here; known are DDIMScheduler",
    ),
    "betas unknown": (
        lambda f: edited(f / "scheduler" / "scheduler_config.json", beta_schedule="sigmoid"),
        "beta_schedule 'sigmoid' is not known",
    ),
    "pipeline unknown": (
        lambda f: edited(f / "model_index.json", _class_name="KandinskyPipeline"),
        "is a KandinskyPipeline, which is not known here",
    ),
    "a part unknown": (
        lambda f: edited(f / "model_index.json", prior=["diffusers", "PriorTransformer"]),
        "needs prior, which noisette does not know",
    ),
    "no JSON": (lambda f: (f / "unet" / "config.json").write_text("{"), "config.json is not valid JSON"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "there is no tokenizer at"),
    "out of the folder": (
        lambda f: (
            (f / "unet" / "diffusion_pytorch_model.safetensors").rename(f / "out.safetensors"),
            (f / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"conv_in.weight": "../out.safetensors"}})
            ),
        ),
        r"names '\.\./out\.safetensors', which is no file of its folder",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_broken_folder_is_told_in_one_line(what: str, pipelines: Pipelines, tmp_path: Path) -> None:
    folder = broken(pipelines, tmp_path)
    change, message = WRONG[what]
    change(folder)
    with pytest.raises(UserError, match=message) as caught:
        noisette.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 0.5}, "a mask and a strength belong to a picture"),
        (
            {"image": torch.zeros(1, 3, 16, 16), "strength": 1.5},
            r"strength is a part of the steps in \[0, 1\]",
        ),
        ({"image": torch.zeros(3, 3, 16, 16), "prompt": ["a", "b"]}, "3 pictures were given for 2 to draw"),
        ({"image": "cat.png"}, "a picture is a PIL image, an array or a tensor"),
        ({"image": torch.zeros(1, 3, 1, 1)}, "the picture is 1x1, too small"),
        ({"image": torch.zeros(1, 3, 16, 16), "height": 16}, "give both height and width, or neither"),
        ({"clip_skip": 9}, "clip skip 9 must lie in 0 to 3"),
        ({"grid": "round"}, "there is no grid 'round'"),
        ({"solver": "dpm"}, 'there is no solver "dpm"'),
        ({"num_inference_steps": 2000}, "2000 steps asked of a schedule with 1000 levels"),
        ({"prompt": "a (cat:99)"}, r"the weight 99 of '\(cat:99\)'"),
    ],
)
def test_what_cannot_be_asked_is_told(options: dict[str, Any], message: str, pipelines: Pipelines) -> None:
    model = noisette.load(pipelines("sd"))
    with pytest.raises(UserError, match=message):
        model.generate(**{"prompt": "a cat", "num_inference_steps": 2, "seed": 0, **options})
    inpainting = noisette.load(pipelines("inpainting"))
    with pytest.raises(UserError, match="fills in parts of a picture: give image= and mask_image="):
        inpainting.generate("a cat", num_inference_steps=2)


def test_hub_names_are_fetched_by_huggingface_hub(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked: list[Any] = []

    def fetch(name: str, *, revision: Any, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(pipelines("sd"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    model = noisette.load("someone/tiny", revision="v2", variant=None)
    assert asked[0][:2] == ("someone/tiny", "v2") and len(asked) == 1
    assert "unet/config.json" in asked[0][2] and not any(p.endswith(".bin") for p in asked[0][2])
    assert torch.equal(images(model), images(noisette.load(pipelines("sd"))))

    def refuse(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no connection\nand no file")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match="someone/tiny is neither here nor to be had from the Hub: no conn"):
        noisette.load("someone/tiny")


def test_loading_imports_no_peer(pipelines: Pipelines) -> None:
    """Loading and drawing need neither diffusers nor transformers: they cost the seconds of a cold start."""
    import subprocess

    code = (
        "import sys, noisette; noisette.load(sys.argv[1]).generate('a cat', num_inference_steps=1, seed=0); "
        "print([name for name in ('diffusers', 'transformers', 'peft', 'accelerate') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(pipelines("sd"))], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_model_that_is_told_its_guidance_hears_no_negative_prompt(pipelines: Pipelines) -> None:
    model = noisette.load(pipelines("lcm"))
    assert torch.equal(images(model), images(model, negative_prompt=""))
    assert not torch.equal(images(model), images(model, guidance_scale=2.0))
    with pytest.raises(UserError, match="hears no negative prompt"):
        images(model, negative_prompt="a dog")
