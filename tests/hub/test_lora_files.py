"""Low-rank updates in other tools' files: what diffusers and PEFT compute from a file is what we compute."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.training_utils import _collate_lora_metadata
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from noisette.adapters import LowRank, attach, fresh, set_adapters, updates_of
from noisette.errors import UserError
from noisette.hub.lora_files import LoraFile, read_lora, write_lora
from noisette.hub.names import Name, fitted, renamed, text_names, unet_names
from noisette.nets import TextConfig, TextEncoder, UNet, UNetConfig

NET = UNetConfig(
    in_channels=2,
    out_channels=2,
    model_channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_levels=(0,),
    num_heads=2,
    norm_groups=4,
    context_dim=6,
    flip_sin_to_cos=True,
    freq_shift=0.0,
)
SIZES = {"vocab_size": 50, "hidden_size": 6, "intermediate_size": 10, "num_hidden_layers": 2}
ENDS = {"bos_token_id": 48, "eos_token_id": 49, "pad_token_id": 49}
TEXT = TextConfig(**SIZES, **ENDS, num_attention_heads=2, max_position_embeddings=7)
TABLES = {"unet": list(unet_names(NET)), "text_encoder": list(text_names(TEXT))}
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "proj_in", "ff.net.0.proj", "ff.net.2",
           "downsamplers.0.conv", "conv_shortcut", "time_emb_proj", "linear_1"]  # fmt: skip
DIALECTS = ("kohya", "diffusers", "peft")


def their_unet(linear: bool = False) -> UNet2DConditionModel:
    net = UNet2DConditionModel(
        in_channels=2,
        out_channels=2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=6,
        norm_num_groups=4,
        use_linear_projection=linear,
    )
    return net.double().eval()


def their_text() -> CLIPTextModel:
    config = CLIPTextConfig(**SIZES, **ENDS, num_attention_heads=2, max_position_embeddings=7)
    return CLIPTextModel(config).double().eval()


def ours_of(theirs: nn.Module, net: nn.Module, names: list[Name]) -> nn.Module:
    state = renamed(theirs.state_dict(), names, "diffusers", "ours")
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    state = {key: value for key, value in fitted(state, shapes).items() if key in shapes}
    net.double().eval().load_state_dict(state)
    return net


def our_unet(theirs: nn.Module) -> nn.Module:
    return ours_of(theirs, UNet(NET), TABLES["unet"])


def our_text(theirs: nn.Module) -> nn.Module:
    return ours_of(theirs, TextEncoder(TEXT), TABLES["text_encoder"])


def random_text(config: TextConfig) -> dict[str, LowRank]:
    return drawn(TextEncoder(config), where=lambda path: True)


def drawn(
    net: nn.Module, where: Callable[[str], bool], alphas: tuple[float, ...] = (1.0, 0.3)
) -> dict[str, LowRank]:
    """Updates of several ranks and alphas, which matter."""
    updates = {}
    for i, (path, update) in enumerate(fresh(net, 4, where=where).items()):
        rank, up = 2 + i % 3, torch.randn_like(update.up) * 0.2
        alpha = alphas[i % len(alphas)]
        updates[path] = LowRank(update.down[:rank].clone(), up[:, :rank].float(), alpha)
    return {path: LowRank(u.down.float(), u.up, u.alpha) for path, u in updates.items()}


X = torch.linspace(-1, 1, 2 * 2 * 8 * 8).reshape(2, 2, 8, 8).double()
TIME = torch.tensor([3.0, 400.0]).double()
TOKENS = torch.linspace(-1, 1, 2 * 5 * 6).reshape(2, 5, 6).double()
IDS = torch.tensor([[48, 3, 9, 49, 49, 49, 49], [48, 1, 2, 3, 4, 5, 49]])


@torch.no_grad()
def ours(net: nn.Module) -> Tensor:
    return net(IDS)[0] if isinstance(net, TextEncoder) else net(X, TIME, {"tokens": TOKENS})


@torch.no_grad()
def theirs(net: Any) -> Tensor:
    return net(IDS).last_hidden_state if isinstance(net, CLIPTextModel) else net(X, TIME, TOKENS).sample


def assert_same(mine: Tensor, other: Tensor, plain: Tensor) -> None:
    torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)
    assert (mine - plain).abs().max() > 1e-2


def adapted(net: Any, **changes: Any) -> Any:
    """A network with a PEFT adapter in float32, whose `up` is not zero."""
    shape = {"r": 3, "lora_alpha": 2, "init_lora_weights": False}
    net.add_adapter(peft.LoraConfig(**shape | changes))
    return net


def halves_of(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.float() for key, value in peft.get_peft_model_state_dict(net).items()}


def load_into(unet: Any, path: Path, text: Any = None, name: str = "default", pipeline: Any = None) -> None:
    pipeline = pipeline or StableDiffusionPipeline
    state, alphas, metadata = pipeline.lora_state_dict(
        str(path), unet_config=unet.config, return_lora_metadata=True
    )
    pipeline.load_lora_into_unet(state, alphas, unet, adapter_name=name, metadata=metadata)
    if text is not None:
        pipeline.load_lora_into_text_encoder(state, alphas, text, adapter_name=name, metadata=metadata)


@pytest.mark.parametrize(
    "changes",
    [{}, {"use_rslora": True}, {"rank_pattern": {"conv1": 2}, "alpha_pattern": {"to_q": 9, "conv1": 1}}],
    ids=["plain", "rank-stabilised", "patterns"],
)
def test_the_file_that_diffusers_saves_computes_what_diffusers_computes_trap_22(tmp_path, changes):
    unet, text = their_unet(), their_text()
    nets, plain = (our_unet(unet), our_text(text)), (theirs(unet), theirs(text))
    adapted(unet, target_modules=TARGETS, **changes)
    adapted(text, target_modules=["q_proj", "out_proj", "fc1", "fc2"], lora_alpha=5)
    for net in (unet, text):  # the file is float32
        for key, value in net.named_parameters():
            value.data = value.data.float().double() if "lora_" in key else value.data
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=halves_of(unet),
        text_encoder_lora_layers=halves_of(text),
        **_collate_lora_metadata({"unet": unet, "text_encoder": text}),
    )
    updates = read_lora(tmp_path).updates(TABLES)
    assert list(updates) == ["unet", "text_encoder"]
    for part, net, other, before in zip(updates, nets, (unet, text), plain, strict=True):
        attach(net, updates[part])
        assert_same(ours(net), theirs(other), before)


def test_a_file_without_an_alpha_has_scale_one_trap_22(tmp_path):
    unet, other = their_unet(), their_unet()
    other.load_state_dict(unet.state_dict())
    net, plain = our_unet(unet), theirs(unet)
    adapted(unet, target_modules=TARGETS)
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=halves_of(unet))
    load_into(other, tmp_path)
    updates = read_lora(tmp_path).updates(TABLES)["unet"]
    assert {update.scale for update in updates.values()} == {1.0}
    attach(net, updates)
    assert_same(ours(net), theirs(other), plain)


# Diffusers loses the alphas of attention layers in a kohya file where they differ: what is compared with it
# there has one alpha.
ONE_ALPHA = (1.5,)


@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
def test_diffusers_reads_what_we_write_trap_22(tmp_path, dialect):
    unet, text = their_unet(linear=True), their_text()
    mine, words = our_unet(unet), our_text(text)
    plain, still = ours(mine), ours(words)
    alphas = ONE_ALPHA if dialect == "kohya" else (1.0, 0.3)
    updates = {
        "unet": drawn(mine, lambda path: "attention" in path or "res" in path, alphas),
        "text_encoder": drawn(words, lambda path: path.startswith("layers"), alphas),
    }
    load_into(unet, write_lora(tmp_path / "lora.safetensors", updates, TABLES, dialect), text)
    attach(mine, updates["unet"])
    attach(words, updates["text_encoder"])
    assert_same(ours(mine), theirs(unet), plain)
    assert_same(ours(words), theirs(text), still)


def test_peft_reads_what_we_write(tmp_path):
    unet = their_unet(linear=True)
    mine, plain = our_unet(unet), theirs(unet)
    updates = drawn(mine, lambda path: "attention" in path or "conv" in path)
    write_lora(tmp_path / "adapter", {"unet": updates}, TABLES, "peft")
    wrapped = peft.PeftModel.from_pretrained(unet, tmp_path / "adapter", autocast_adapter_dtype=False)
    attach(mine, read_lora(tmp_path / "adapter").updates(TABLES)["unet"])
    assert_same(ours(mine), theirs(wrapped), plain)


def test_what_peft_saves_is_read_with_its_alpha(tmp_path):
    unet = their_unet()
    mine, plain = our_unet(unet), theirs(unet)
    config = peft.LoraConfig(r=2, lora_alpha=7, target_modules=["to_k", "conv1"], init_lora_weights=False)
    wrapped = peft.get_peft_model(unet, config)
    wrapped.save_pretrained(tmp_path)
    attach(mine, read_lora(tmp_path).updates(TABLES)["unet"])
    assert_same(ours(mine), theirs(wrapped), plain)


def flat(key: str) -> str:
    module, _, leaf = key.partition(".lora_")
    return f"lora_unet_{module.replace('.', '_')}.lora_{leaf}"


def test_a_kohya_file_by_the_first_releases_names_trap_22(tmp_path):
    """SDXL's LoRAs come so; diffusers maps these names by its own rules."""
    unet = their_unet(linear=True)
    mine, plain = our_unet(unet), theirs(unet)
    ldm = {row.ours: row.ldm for row in TABLES["unet"]}
    updates = drawn(mine, lambda path: ".attention." in path, ONE_ALPHA)
    state = {}
    for path, update in updates.items():
        state[flat(f"{ldm[path]}.lora_down.weight")] = update.down.float()
        state[flat(f"{ldm[path]}.lora_up.weight")] = update.up.float()
        state[flat(f"{ldm[path]}.lora_down.weight").replace("lora_down.weight", "alpha")] = torch.tensor(
            update.alpha
        )
    assert any(key.startswith("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.") for key in state)
    save_file(state, tmp_path / "xl.safetensors")
    load_into(unet, tmp_path / "xl.safetensors", pipeline=StableDiffusionXLPipeline)
    attach(mine, read_lora(tmp_path / "xl.safetensors").updates(TABLES)["unet"])
    assert_same(ours(mine), theirs(unet), plain)


@pytest.mark.parametrize("prefix", ["", "unet."])
@pytest.mark.parametrize("first", [True, False], ids=["processor", "lora"])
def test_older_diffusers_names(tmp_path, prefix, first):
    unet = their_unet()
    mine, plain = our_unet(unet), theirs(unet)
    names = {row.ours: row.diffusers for row in TABLES["unet"]}
    updates = drawn(mine, lambda path: path.rpartition(".")[2] in ("to_q", "to_v", "to_out"))
    state = {}
    for path, update in updates.items():
        block, _, kind = names[path].removesuffix(".0").rpartition(".")
        name = f"{block}.processor.{kind}_lora" if first else f"{names[path]}.lora"
        state[f"{prefix}{name}.down.weight"] = update.down.float()
        state[f"{prefix}{name}.up.weight"] = update.up.float()
    save_file(state, tmp_path / "old.safetensors")
    load_into_state = {f"unet.{key.removeprefix('unet.')}": value for key, value in state.items()}
    StableDiffusionPipeline.load_lora_into_unet(load_into_state, None, unet, adapter_name="default")
    attach(mine, read_lora(tmp_path / "old.safetensors").updates(TABLES)["unet"])
    assert_same(ours(mine), theirs(unet), plain)


@pytest.mark.parametrize("leaf", ["self_attn.to_q_lora", "self_attn.q_proj.lora_linear_layer"])
def test_older_names_of_text_encoders(tmp_path, leaf):
    update = LowRank(torch.randn(2, 6), torch.randn(6, 2), 2.0)
    for name in ("text_model.encoder.layers.1", "encoder.layers.1"):
        halves = {"down": update.down, "up": update.up}
        state = {f"text_encoder.{name}.{leaf}.{half}.weight": value for half, value in halves.items()}
        save_file(state, tmp_path / "text.safetensors")
        (found,) = read_lora(tmp_path / "text.safetensors").updates(TABLES)["text_encoder"].items()
        assert found[0] == "layers.1.to_q" and torch.equal(found[1].down, update.down)


def assert_equal_updates(
    a: Mapping[str, Mapping[str, LowRank]], b: Mapping[str, Mapping[str, LowRank]]
) -> None:
    assert a.keys() == b.keys()
    for part in a:
        assert a[part].keys() == b[part].keys()
        for path, update in a[part].items():
            other = b[part][path]
            assert torch.equal(update.down, other.down) and torch.equal(update.up, other.up), path
            assert update.down.dtype == other.down.dtype and update.alpha == other.alpha, path


def test_round_trip_of_the_dialects_is_bit_exact_trap_22(tmp_path):
    updates = {"unet": drawn(UNet(NET), lambda path: True)}
    updates["unet"] = {
        path: LowRank(u.down.half(), u.up.half(), float(torch.tensor(u.alpha)))
        for path, u in updates["unet"].items()
    }
    first = write_lora(tmp_path / "0.safetensors", updates, TABLES, "kohya")
    peft_folder = write_lora(tmp_path / "1", read_lora(first).updates(TABLES), TABLES, "peft")
    dotted = write_lora(tmp_path / "2.safetensors", read_lora(peft_folder).updates(TABLES), TABLES)
    last = write_lora(tmp_path / "3.safetensors", read_lora(dotted).updates(TABLES), TABLES, "kohya")
    assert_equal_updates(read_lora(last).updates(TABLES), updates)
    before, after = load_file(first), load_file(last)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert len({update.alpha for update in updates["unet"].values()}) == 2


def test_two_text_encoders_have_names_of_their_own(tmp_path):
    second = TextConfig(**SIZES, **ENDS, num_attention_heads=2, max_position_embeddings=7, projection_dim=5)
    tables = {**TABLES, "text_encoder_2": list(text_names(second))}
    updates = {
        "unet": drawn(UNet(NET), lambda path: "attention" in path),
        "text_encoder": random_text(TEXT),
        "text_encoder_2": random_text(second),
    }
    for dialect in ("kohya", "diffusers"):
        path = write_lora(tmp_path / f"{dialect}.safetensors", updates, tables, dialect)
        assert_equal_updates(read_lora(path).updates(tables), updates)
    prefixes = {key.partition("_text_model")[0] for key in load_file(tmp_path / "kohya.safetensors")}
    assert {"lora_te1", "lora_te2"} < prefixes
    assert "lora_te2_text_projection.alpha" in load_file(tmp_path / "kohya.safetensors")
    one = write_lora(tmp_path / "one", {"text_encoder_2": updates["text_encoder_2"]}, tables, "peft")
    with pytest.raises(UserError, match=r"may be text_encoder's .* or text_encoder_2's .*: name only"):
        read_lora(one).updates(tables)
    alone = {"text_encoder_2": tables["text_encoder_2"]}
    assert len(read_lora(one).updates(alone)["text_encoder_2"]) == len(updates["text_encoder_2"])


def test_several_adapters_with_weights_equal_diffusers(tmp_path):
    unet = their_unet(linear=True)
    mine, plain = our_unet(unet), theirs(unet)
    chosen = ("to_q", "to_v", "conv1")
    for name in ("ink", "gold"):
        updates = {"unet": drawn(mine, lambda path: path.rpartition(".")[2] in chosen, ONE_ALPHA)}
        path = write_lora(tmp_path / f"{name}.safetensors", updates, TABLES, "kohya")
        load_into(unet, path, name=name)
        attach(mine, read_lora(path).updates(TABLES)["unet"], name=name)
    for weights in ({"ink": 0.7, "gold": -0.4}, {"gold": 1.5}):
        unet.set_adapters(list(weights), list(weights.values()))
        set_adapters(mine, weights)
        assert_same(ours(mine), theirs(unet), plain)


def test_an_alpha_of_zero_counts_as_none_and_one_of_float64_is_kept(tmp_path):
    path = tmp_path / "a.safetensors"
    state = {f"lora_unet_conv_in.lora_{half}.weight": torch.ones(3, 3) for half in ("down", "up")}
    for alpha, read in ((0.0, 3.0), (1.0, 1.0)):
        save_file({**state, "lora_unet_conv_in.alpha": torch.tensor([alpha])}, path)
        assert read_lora(path).modules["lora_unet_conv_in"].alpha == read
    update = {"unet": {"conv_in": LowRank(torch.ones(1, 2, 3, 3), torch.ones(8, 1, 1, 1), 0.1)}}
    for dialect in DIALECTS:
        there = write_lora(tmp_path / dialect, update, TABLES, dialect)
        if dialect != "peft":
            there = there.rename(there.with_suffix(".safetensors"))
        assert read_lora(there).updates(TABLES)["unet"]["conv_in"].alpha == 0.1


GOOD = {
    "lora_unet_conv_in.lora_down.weight": torch.ones(2, 2, 3, 3),
    "lora_unet_conv_in.lora_up.weight": torch.ones(8, 2, 1, 1),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_unet_conv_in.dora_scale": (8, 1)}, "not plain LoRA but DoRA (1 tensors, such as"),
        ({"unet.conv_in.lora_magnitude_vector.weight": (8,)}, "not plain LoRA but DoRA"),
        ({"lora_unet_conv_out.hada_w1_a": (8, 1)}, "not plain LoRA but LoHa"),
        ({"lora_unet_conv_out.lokr_w1": (8, 1)}, "not plain LoRA but LoKr"),
        ({"lora_unet_conv_in.lora_mid.weight": (2, 2, 3, 3)}, "a Tucker decomposition"),
        ({"emb_params": (8, 1), "b": (1,)}, "holds 2 tensors that are no part of a LoRA, such as 'b'"),
        (
            {"lora_unet_conv_out.lora_up.weight": (2, 1)},
            "1 updates lack one of their halves, such as 'lora_un",
        ),
        ({"lora_unet_conv_out.alpha": (1,)}, "1 updates lack one of their halves"),
        ({"lora_unet_conv_in.lora_up.weight": (8, 3, 1, 1)}, "have different ranks, 2 and 3"),
        ({"lora_unet_conv_in.lora_up.weight": ()}, "are not the two halves of a low-rank update"),
        ({"lora_unet_conv_in.alpha": (2,)}, "alpha nan is not a finite number"),
        ({"lora_unet_conv_in.lora.up.weight": (8, 2)}, "holds two updates of 'lora_unet_conv_in'"),
        ({".alpha": (1,)}, "holds 1 tensors that are no part"),
    ],
)
def test_keys_that_are_not_lora_are_told_in_one_line_trap_22(tmp_path, changes, message):
    made = {key: torch.ones(shape) for key, shape in changes.items()}
    save_file({**GOOD, **made}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read_lora(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value) and "a.safetensors" in str(caught.value)


def test_modules_of_another_model_are_an_error_trap_22(tmp_path):
    pairs = {f"lora_{part}.lora_{half}.weight": torch.ones(2, 2) for half in ("up", "down")
             for part in ("unet_conv_in", "unet_down_blocks_7_conv", "te2_text_projection")}  # fmt: skip
    save_file(pairs, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"2 of 3 updates are for modules .*'lora_.*another kind of model\?"):
        read_lora(tmp_path / "a.safetensors").updates(TABLES)
    twice = LowRank(torch.ones(1, 2), torch.ones(2, 1), 1.0)
    modules = {"lora_unet_conv_in": twice, "lora_unet_input_blocks_0_0": twice}
    with pytest.raises(UserError, match="two updates of unet's conv_in"):
        LoraFile("x", modules).updates(TABLES)


def test_underscores_that_two_modules_share_are_not_guessed_trap_22():
    update = LowRank(torch.ones(1, 2), torch.ones(2, 1), 1.0)
    table = [Name("one", "a.b_c", ""), Name("two", "a_b.c", "")]
    with pytest.raises(UserError, match="'lora_unet_a_b_c' may be unet's one or unet's two"):
        LoraFile("x", {"lora_unet_a_b_c": update}).updates({"unet": table})
    assert list(LoraFile("x", {"unet.a_b.c": update}).updates({"unet": table})["unet"]) == ["two"]


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_read_as_tensors_and_never_run_trap_23(tmp_path):
    torch.save({"state_dict": GOOD}, tmp_path / "good.ckpt")
    assert list(read_lora(tmp_path / "good.ckpt").updates(TABLES)["unet"]) == ["conv_in"]
    torch.save({**GOOD, "x": Bomb(tmp_path / "ran")}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="which was not run"):
        read_lora(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "bad.pt").rename(tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_lora(tmp_path / "bad.safetensors")


def test_files_that_are_not_there_and_folders_that_hold_none(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        read_lora(tmp_path / "gone.safetensors")
    with pytest.raises(UserError, match=r"holds no LoRA: there is no adapter_model\.safetensors"):
        read_lora(tmp_path)
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(UserError, match="it is empty"):
        read_lora(tmp_path / "empty.safetensors")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[]", "not a JSON object"),
        ("{", "not valid JSON"),
        ('{"lora_alpha": "8"}', "lora_alpha is '8', not a number"),
        ('{"lora_alpha": true}', "lora_alpha is True, not a number"),
        ('{"lora_alpha": 1, "alpha_pattern": [1]}', r"alpha_pattern is \[1\], not a JSON object"),
        ('{"lora_alpha": 1, "alpha_pattern": {"(a+)+": 2}}', "is a rule, and only names of modules are read"),
    ],
)
def test_descriptions_that_cannot_be_used_are_told_in_one_line(tmp_path, config, message):
    pairs = {f"base_model.model.conv_in.lora_{half}.weight": torch.ones(2, 2) for half in "AB"}
    save_file(pairs, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(UserError, match=message) as caught:
        read_lora(tmp_path)
    assert "\n" not in str(caught.value)


def test_alpha_patterns_mean_ends_of_names_and_whole_names(tmp_path):
    names = ("conv_in", "mid_block.conv_in", "conv_out")
    save_file(
        {f"unet.{name}.lora_{half}.weight": torch.ones(2, 2) for name in names for half in "AB"},
        tmp_path / "a.safetensors",
        {
            "lora_adapter_metadata": json.dumps(
                {"unet.lora_alpha": 1, "unet.alpha_pattern": {"^conv_in": 5, "conv_in": 6}}
            )
        },
    )
    modules = read_lora(tmp_path / "a.safetensors").modules
    assert [modules[f"unet.{name}"].alpha for name in names] == [5, 6, 1]


def test_nothing_is_overwritten_unasked_and_notes_are_kept(tmp_path):
    updates, path = {"unet": {"conv_in": LowRank(*GOOD.values(), 2.0)}}, tmp_path / "a.safetensors"
    write_lora(path, updates, TABLES, "kohya", metadata={"ss_tag": "fox"})
    assert read_lora(path).metadata["ss_tag"] == "fox"
    with pytest.raises(UserError, match="exists already"):
        write_lora(path, updates, TABLES)
    write_lora(path, updates, TABLES, overwrite=True)
    assert list(load_file(path)) == ["unet.conv_in.lora_A.weight", "unet.conv_in.lora_B.weight"]
    other: Any = "a1111"
    for found, dialect, message in (
        ({}, "kohya", "no updates to write"),
        ({"unet": {"here": updates["unet"]["conv_in"]}}, "kohya", "have no name elsewhere, such as 'here'"),
        (
            updates | {"text_encoder": random_text(TEXT)},
            "peft",
            "for one network, not for unet, text_encoder",
        ),
        (updates, other, "'a1111' is no dialect"),
    ):
        with pytest.raises(UserError, match=message):
            write_lora(tmp_path / "b", found, TABLES, dialect)
        assert not (tmp_path / "b").exists()


def test_a_trained_adapter_is_written_and_comes_back(tmp_path):
    net = UNet(NET)
    attach(net, drawn(net, lambda path: "attention" in path), trainable=True)
    path = write_lora(tmp_path / "a.safetensors", {"unet": updates_of(net)}, TABLES, "kohya")
    assert_equal_updates(read_lora(path).updates(TABLES), {"unet": updates_of(net)})


def pieces() -> Iterator[str]:
    yield from (
        "lora_unet_",
        "lora_te_",
        "unet.",
        "text_encoder.",
        "base_model.model.",
        "conv_in",
        "mid_block",
    )
    yield from ("_", ".", "lora", ".lora_A", ".lora_B", ".lora_down", ".lora_up", ".weight", ".alpha", ".up")
    yield from ("dora_scale", "processor", "to_q_lora", ".default", "é", "\n", "")


keys = st.one_of(st.text(max_size=12), st.lists(st.sampled_from(list(pieces())), max_size=6).map("".join))
tensors = st.sampled_from(
    [
        *(torch.ones(shape) for shape in ((2, 2), (2, 2, 1, 1), (3, 1), (0, 2), ())),
        *(torch.ones(2, 2, dtype=dtype) for dtype in (torch.int8, torch.complex64, torch.float8_e4m3fn)),
        torch.tensor(float("nan")),
    ]
)


@settings(max_examples=150)
@given(state=st.dictionaries(keys, tensors, max_size=6), config=st.text(max_size=20))
def test_whatever_the_keys_are_it_is_a_result_or_one_line(tmp_path_factory, state, config):
    folder = tmp_path_factory.mktemp("any")
    try:
        save_file(
            {k: v.clone() for k, v in state.items()},
            folder / "a.safetensors",
            {"lora_adapter_metadata": config},
        )
    except Exception:
        return  # a name that safetensors itself refuses
    try:
        found = read_lora(folder / "a.safetensors")
        assert all(isinstance(update, LowRank) for update in found.modules.values())
        assert set(found.updates(TABLES)) <= set(TABLES)
    except UserError as error:
        assert "\n" not in str(error)


@settings(max_examples=100)
@given(data=st.data())
def test_broken_files_are_a_result_or_one_line(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("broken")
    path = folder / data.draw(st.sampled_from(["a.safetensors", "a.pt"]))
    save_file(GOOD, path) if path.suffix == ".safetensors" else torch.save(GOOD, path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, min(len(raw) - 1, 400)))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    try:
        read_lora(path).updates(TABLES)
    except UserError as error:
        assert "\n" not in str(error)
