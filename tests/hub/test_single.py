from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers.loaders import single_file_utils as peers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from noisette.conditioning.tokenizer import EOS
from noisette.errors import UserError
from noisette.hub.checkpoint import Checkpoint
from noisette.hub.configs import text_config, unet_config, vae_config
from noisette.hub.known import clip_tokenizer, known
from noisette.hub.measured import measured_text, measured_unet, measured_vae
from noisette.hub.names import renamed, text_names, unet_names, vae_names
from noisette.hub.single import read_single, write_single

KINDS = ("sd1", "sd2", "xl", "xl_refiner")
PREFIXES = {
    "sd1": {"text_encoder": "cond_stage_model.transformer."},
    "sd2": {"text_encoder": "cond_stage_model.model."},
    "xl": {
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "xl_refiner": {"text_encoder_2": "conditioner.embedders.0.model."},
}


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as it comes back from its JSON."""
    return json.loads(json.dumps(dict(config)))


def small(kind: str, channels: int = 4) -> dict[str, dict[str, Any]]:
    """Configs of a kind with two or three narrow levels; what no tensor shows stays as published."""
    configs = known(kind).configs
    texts = [part for part in configs if part.startswith("text_encoder")]
    for width, part in zip((8, 16), texts, strict=False):
        configs[part] |= {"hidden_size": width, "intermediate_size": 24, "num_hidden_layers": 2}
        configs[part] |= {"num_attention_heads": 1, "projection_dim": width}
    if kind == "sd2":
        configs["text_encoder"]["projection_dim"] = 512
    levels = len(configs["unet"]["block_out_channels"])
    configs["unet"] |= {
        "in_channels": channels,
        "block_out_channels": [32, 64, 64, 64][:levels],
        "layers_per_block": 1,
        "cross_attention_dim": sum(configs[part]["hidden_size"] for part in texts),
    }
    if kind != "sd1":
        configs["unet"]["attention_head_dim"] = [1] * levels
    if "xl" in kind:
        numbers = 6 if kind == "xl" else 5
        pooled = configs["text_encoder_2"]["projection_dim"]
        configs["unet"]["projection_class_embeddings_input_dim"] = pooled + numbers * 256
        configs["unet"]["transformer_layers_per_block"] = [1, 2, 3] if kind == "xl" else 2
    configs["vae"] |= {"block_out_channels": [32, 64], "layers_per_block": 1}
    for side in ("down", "up"):
        configs["vae"][f"{side}_block_types"] = configs["vae"][f"{side}_block_types"][:2]
    return configs


def peer(part: str, config: Mapping[str, Any]) -> nn.Module:
    if part == "unet":
        return diffusers.UNet2DConditionModel.from_config(dict(config))
    if part == "vae":
        return diffusers.AutoencoderKL.from_config(dict(config))
    return getattr(transformers, config["architectures"][0])(transformers.CLIPTextConfig(**config))


def networks(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, nn.Module]:
    return {part: peer(part, config) for part, config in configs.items() if part != "scheduler"}


@cache
def pipeline(kind: str, channels: int = 4) -> Checkpoint:
    """A random pipeline of diffusers' and transformers' networks."""
    configs, published = small(kind, channels), known(kind)
    torch.manual_seed(0)
    tensors = {part: net.half().state_dict() for part, net in networks(configs).items()}
    tokenizers = {
        part.replace("text_encoder", "tokenizer"): clip_tokenizer(
            "!" if config["hidden_act"] == "gelu" else EOS
        )
        for part, config in configs.items()
        if part.startswith("text_encoder")
    }
    name = published.pipelines[str(channels - 4)]
    return Checkpoint(name, configs, tensors, tokenizers, published.options)


def as_v(checkpoint: Checkpoint) -> Checkpoint:
    scheduler = {**checkpoint.configs["scheduler"], "prediction_type": "v_prediction"}
    return replace(checkpoint, configs={**checkpoint.configs, "scheduler": scheduler})


def with_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder's state as files have it: this version of transformers has dropped a prefix."""
    return {
        key if key.startswith(("text_model.", "text_projection")) else f"text_model.{key}": tensor
        for key, tensor in state.items()
    }


def assert_same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype and torch.equal(found[key], tensor), key


CASES = [("sd1", 4), ("sd1", 9), ("sd1", 8), ("sd2", 4), ("xl", 4), ("xl", 9), ("xl_refiner", 4)]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Callable[[str, int], Path]:
    """The file of a pipeline, written once."""
    folder = tmp_path_factory.mktemp("single")
    return cache(
        lambda kind, channels: write_single(
            pipeline(kind, channels), folder / f"{kind}{channels}.safetensors"
        )
    )


@pytest.mark.parametrize(("kind", "channels"), CASES)
def test_diffusers_finds_every_tensor_of_what_is_written(kind, channels, files):
    """Its conversion is written by others: it checks our names in the direction that we do not use."""
    ours = pipeline(kind, channels)
    state = load_file(files(kind, channels))
    theirs = peers.convert_ldm_unet_checkpoint(dict(state), ours.configs["unet"])
    assert_same(theirs, ours.tensors["unet"])
    assert_same(peers.convert_ldm_vae_checkpoint(dict(state), ours.configs["vae"]), ours.tensors["vae"])
    for part, prefix in PREFIXES[kind].items():
        if prefix.endswith("transformer."):
            theirs = peers.convert_ldm_clip_checkpoint(dict(state))
        else:
            net = peer(part, ours.configs[part])
            theirs = peers.convert_open_clip_checkpoint(net, dict(state), prefix=prefix)
        assert_same(theirs, with_prefix(ours.tensors[part]))


@pytest.mark.parametrize(("kind", "channels"), CASES)
def test_what_is_written_is_read_again(kind, channels, files):
    ours = pipeline(kind, channels)
    again = read_single(files(kind, channels))
    assert again.pipeline == ours.pipeline and again.options == ours.options
    assert again.tokenizers == ours.tokenizers
    assert again.tensors.keys() == ours.tensors.keys()
    for part, state in ours.tensors.items():
        assert_same(again.tensors[part], with_prefix(state) if part.startswith("text") else state)
        peer(part, again.configs[part]).load_state_dict(state, strict=True)
    assert again.configs["scheduler"] == ours.configs["scheduler"]


def test_what_is_read_can_be_written_over_the_file_it_lies_in(tmp_path):
    path = written("xl", tmp_path)
    again = read_single(write_single(read_single(path), path, overwrite=True))
    for part, state in pipeline("xl").tensors.items():
        assert_same(again.tensors[part], with_prefix(state) if part.startswith("text") else state)


@pytest.mark.parametrize("kind", KINDS)
def test_published_sizes_are_what_their_tensors_measure(kind):
    """Diffusers' networks of full size, without storage, under our names for single files."""
    configs = known(kind).configs
    with torch.device("meta"):
        nets = networks(configs)
    pooled = configs.get("text_encoder_2", {}).get("projection_dim")
    unet = renamed(
        nets["unet"].state_dict(),
        list(unet_names(unet_config(configs["unet"], pooled_dim=pooled))),
        "diffusers",
        "ldm",
    )
    # Theirs understands these names, and finds all of its network in them.
    theirs = peers.convert_ldm_unet_checkpoint(
        {f"model.diffusion_model.{key}": tensor for key, tensor in unet.items()}, configs["unet"]
    )
    wanted = {key: tensor.shape for key, tensor in nets["unet"].state_dict().items()}
    assert {key: tensor.shape for key, tensor in theirs.items()} == wanted
    heads = configs["unet"]["attention_head_dim"]
    measured = measured_unet(unet, heads=heads if isinstance(heads, int) else None)
    assert configs["unet"] | measured == configs["unet"]
    vae = renamed(nets["vae"].state_dict(), vae_names(vae_config(configs["vae"])), "diffusers", "ldm")
    extra = {"mid_block_add_attention": True, "use_quant_conv": True, "use_post_quant_conv": True}
    assert configs["vae"] | measured_vae(vae) == configs["vae"] | extra
    for part in PREFIXES[kind]:
        text = with_prefix(nets[part].state_dict())
        assert configs[part] | measured_text(text) == configs[part]
        rows = {row.ldm for row in text_names(text_config(configs[part]))}
        assert {key.rpartition(".")[0] for key in text} == rows


def test_released_files_hold_these_names():
    """Taken down from the released files, whose shapes tell their kinds."""
    found = {
        kind: {row.ldm for row in unet_names(unet_config(known(kind).configs["unet"], pooled_dim=1280))}
        for kind in KINDS
    }
    assert {"output_blocks.11.0.skip_connection", "output_blocks.8.2.conv"} <= found["sd1"]
    assert {"input_blocks.2.1.transformer_blocks.0.attn2.to_k", "input_blocks.9.0.op"} <= found["sd2"]
    assert "output_blocks.2.2.conv" in found["xl"] and "label_emb.0.2" in found["xl"]
    assert "input_blocks.8.1.transformer_blocks.9.ff.net.0.proj" in found["xl"]
    assert "input_blocks.3.1.norm" not in found["xl"] and "input_blocks.9.0.op" in found["xl_refiner"]
    vae = {row.ldm for row in vae_names(vae_config(known("sd1").configs["vae"]))}
    assert {"encoder.mid.attn_1.q", "decoder.up.0.block.0.nin_shortcut", "post_quant_conv"} <= vae


def written(kind: str, tmp_path: Path, **changes: Tensor | None) -> Path:
    """A file of a kind without marks; ``changes`` are tensors to add, or to take out where None."""
    path = write_single(pipeline(kind), tmp_path / f"{kind}.safetensors", overwrite=True)
    state = {**load_file(path), **changes}
    save_file({key: tensor for key, tensor in state.items() if tensor is not None}, path)
    return path


def prediction_of(checkpoint: Checkpoint) -> str:
    return checkpoint.configs["scheduler"]["prediction_type"]


def test_what_a_network_predicts_is_told_by_marks_and_by_the_caller(tmp_path):
    assert prediction_of(read_single(written("sd1", tmp_path))) == "epsilon"
    unmarked = written("sd2", tmp_path)
    v = read_single(unmarked)
    assert prediction_of(v) == "v_prediction"
    assert v.configs["unet"]["sample_size"] == 96 and v.configs["vae"]["sample_size"] == 768
    assert prediction_of(read_single(unmarked, prediction="epsilon")) == "epsilon"
    torch.save({"state_dict": load_file(unmarked), "global_step": 875000}, tmp_path / "base.ckpt")
    torch.save({"state_dict": load_file(unmarked), "global_step": 140000}, tmp_path / "v.ckpt")
    assert prediction_of(read_single(tmp_path / "base.ckpt")) == "epsilon"
    assert prediction_of(read_single(tmp_path / "v.ckpt")) == "v_prediction"
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    marked = read_single(written("xl", tmp_path, **marks)).configs["scheduler"]
    assert marked["prediction_type"] == "v_prediction"
    assert marked["rescale_betas_zero_snr"] and marked["timestep_spacing"] == "trailing"


@pytest.mark.parametrize("kind", ["sd1", "sd2", "xl"])
def test_a_prediction_of_v_goes_through_a_file(kind, tmp_path):
    again = read_single(write_single(as_v(pipeline(kind)), tmp_path / "v.safetensors"))
    assert prediction_of(again) == "v_prediction"
    plain = read_single(write_single(pipeline(kind), tmp_path / "eps.safetensors"))
    assert prediction_of(plain) == "epsilon"


def test_what_training_left_behind_is_passed_over(tmp_path):
    left = {
        "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(2),
        "alphas_cumprod": torch.zeros(3),
        "betas": torch.zeros(3),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "first_stage_model.loss.logvar": torch.zeros(()),
        "cond_stage_model.logit_scale": torch.zeros(()),
        "cond_stage_model.transformer.text_projection.weight": torch.zeros(8, 8),
    }
    assert_same(
        read_single(written("sd1", tmp_path, **left)).tensors["unet"], pipeline("sd1").tensors["unet"]
    )
    # The last of OpenCLIP's 24 blocks is in the released files and never read.
    block = "cond_stage_model.model.transformer.resblocks."
    state = load_file(written("sd2", tmp_path))
    last = {
        key.replace(f"{block}1.", f"{block}23."): value for key, value in state.items() if f"{block}1." in key
    }
    more = {"cond_stage_model.model.text_projection": torch.zeros(8, 8, dtype=torch.half)}
    more |= {"cond_stage_model.model.logit_scale": torch.zeros(())}
    found = read_single(written("sd2", tmp_path, **last, **more)).tensors["text_encoder"]
    assert last and found.keys() == with_prefix(pipeline("sd2").tensors["text_encoder"]).keys()


def test_text_encoders_without_their_prefix_are_read(tmp_path):
    prefix = "cond_stage_model.transformer."
    state = {
        key.replace(f"{prefix}text_model.", prefix): tensor
        for key, tensor in load_file(written("sd1", tmp_path)).items()
    }
    save_file(state, tmp_path / "old.safetensors")
    found = read_single(tmp_path / "old.safetensors").tensors["text_encoder"]
    assert_same(found, with_prefix(pipeline("sd1").tensors["text_encoder"]))


def test_torch_files_are_read_nested_or_flat_and_nothing_in_them_runs_trap_23(tmp_path):
    state = load_file(written("sd1", tmp_path))
    for name, content in {"flat": state, "nested": {"state_dict": state, "epoch": 3}}.items():
        torch.save(content, tmp_path / f"{name}.ckpt")
        assert_same(read_single(tmp_path / f"{name}.ckpt").tensors["vae"], pipeline("sd1").tensors["vae"])
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert read_single(tmp_path / "old.pt").pipeline == "StableDiffusionPipeline"

    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": state, "trap": Trap()}, tmp_path / "trap.ckpt")
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps({"trap": Trap()}, protocol=2))
    for name in ("trap", "bare"):
        with pytest.raises(UserError, match=r"not run: .* ask for a safetensors file"):
            read_single(tmp_path / f"{name}.ckpt")
    assert not (tmp_path / "ran").exists()


def test_files_that_are_something_else_are_named_in_one_line(tmp_path):
    good = written("sd1", tmp_path).read_bytes()
    torch.save({"a": torch.zeros(3)}, tmp_path / "torch.ckpt")
    zipped = tmp_path / "other.ckpt"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("folder/hello.txt", "hello")
    cases = {
        "page.safetensors": (b"<!DOCTYPE html><html>", "is a web page"),
        "pointer.ckpt": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        "empty.safetensors": (b"", "is empty"),
        "short.safetensors": (good[: len(good) // 2], "is not a whole safetensors file"),
        "head.safetensors": (good[:100], "is not a whole safetensors file"),
        "misnamed.safetensors": ((tmp_path / "torch.ckpt").read_bytes(), "name it .ckpt"),
        "misnamed.ckpt": (good, "name it .safetensors"),
        "other.ckpt": (zipped.read_bytes(), "is not a whole file"),
        "torch.ckpt": ((tmp_path / "torch.ckpt").read_bytes(), "no text encoder"),
        "text.ckpt": (b"hello", "is not a whole file|more than tensors"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            read_single(tmp_path / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "none.ckpt", "there is no file")):
        with pytest.raises(UserError, match=message):
            read_single(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.diffusion_model.out.2.weight": None}, "lacks the tensor 'out.2.weight'"),
        ({"model.diffusion_model.time_embed.0.weight": None}, "misses 1 tensors, such as 'time_embedding"),
        (
            {"model.diffusion_model.more.weight": torch.zeros(2)},
            "1 tensors of no known network, such as 'more",
        ),
        (
            {"control_model.x": torch.zeros(2), "a.b": torch.zeros(2)},
            "2 tensors of no known part, such as 'a.b'",
        ),
        ({"first_stage_model.quant_conv.bias": torch.arange(8)}, "int64, which are not weights"),
        (
            {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 5, 3, 3)},
            "takes 1 channels beside",
        ),
        ({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2)}, r"of shape \[2\]"),
        (
            {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": torch.zeros(9, 8)},
            "knows 9 tokens, but CLIP's tokenizer has 49408",
        ),
    ],
)
def test_checkpoints_that_are_not_whole_are_refused(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_single(written("sd1", tmp_path, **change))


def test_a_file_without_an_autoencoder_is_refused(tmp_path):
    state = load_file(written("sd1", tmp_path))
    save_file({k: v for k, v in state.items() if "first_stage" not in k}, tmp_path / "no.safetensors")
    with pytest.raises(UserError, match="has no vae: no tensor begins with"):
        read_single(tmp_path / "no.safetensors")


def changed(part: str, **fields: Any) -> Checkpoint:
    checkpoint = pipeline("sd1")
    configs = {**checkpoint.configs, part: {**checkpoint.configs[part], **fields}}
    return replace(checkpoint, configs=configs)


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("unet", {"attention_head_dim": 4}, "the unet has num_heads"),
        ("unet", {"norm_num_groups": 16}, "the unet has norm_groups 16: it would be read with 32"),
        ("vae", {"scaling_factor": 0.5}, "the vae has scaling_factor 0.5"),
        ("text_encoder", {"layer_norm_eps": 1e-6}, "the text_encoder has layer_norm_eps"),
        ("scheduler", {"beta_schedule": "linear"}, "the noise schedule is not its kind's"),
    ],
)
def test_what_a_single_file_cannot_say_is_not_written(part, fields, message, tmp_path):
    given = changed(part, **fields)
    with pytest.raises(UserError, match=message):
        write_single(given, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_writing_keeps_to_the_rules_of_files_and_casts(tmp_path):
    path = write_single(pipeline("sd1"), tmp_path / "model.safetensors", dtype=torch.bfloat16)
    found = read_single(path).tensors
    assert {t.dtype for state in found.values() for t in state.values()} == {torch.bfloat16}
    with pytest.raises(UserError, match="exists already"):
        write_single(pipeline("sd1"), path)
    with pytest.raises(UserError, match=r"should end in \.safetensors"):
        write_single(pipeline("sd1"), tmp_path / "model.ckpt")
    given = pipeline("sd1")
    with pytest.raises(UserError, match="a DiTPipeline does not fit into a single file"):
        write_single(Checkpoint("DiTPipeline", {}, {"transformer": {}}), tmp_path / "x.safetensors")
    assert write_single(given, path, overwrite=True) == path
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_vocabulary_is_clips(tmp_path):
    ours = clip_tokenizer()
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(ours.tokens)}))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, ours.merges)]) + "\n")
    texts = ["a photo of a cat", "Ünïcode, 3.14 naïve café's 日本語 🦄!", "", "word " * 100]
    for pad in (EOS, "!"):
        theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path, pad_token=pad)
        told = theirs(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        assert torch.equal(clip_tokenizer(pad)(texts)[0], told["input_ids"])
    # What every tool gives for this prompt, and where padding goes.
    assert ours(texts[0])[0][0, :9].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 49407, 49407]
    assert clip_tokenizer("!")(texts[0])[0][0, 6:9].tolist() == [49407, 0, 0]


@cache
def bytes_of(suffix: str) -> bytes:
    """A small file of either form, to be broken; unlike the tests' own it lies in no folder of a test."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = write_single(pipeline("sd1"), Path(folder) / "model.safetensors")
        if suffix == ".ckpt":
            torch.save({"state_dict": load_file(path)}, path.with_suffix(".ckpt"))
        return path.with_suffix(suffix).read_bytes()


@settings(max_examples=60)
@given(
    suffix=st.sampled_from([".safetensors", ".ckpt"]),
    at=st.integers(0, 2**20),
    from_end=st.booleans(),
    value=st.integers(0, 255),
    cut=st.booleans(),
)
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path_factory, suffix, at, from_end, value, cut):
    whole = bytes_of(suffix)
    data = bytearray(whole)
    # The header of the one and the directory of the other: what is neither is only numbers.
    place = at % 60_000 if not from_end else len(data) - 1 - at % 60_000
    if cut:
        del data[place:]
    else:
        data[place] = value
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    try:
        found = read_single(path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert not cut and found.pipeline.startswith("StableDiffusion")
