from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn

from noisette.core import attention
from noisette.errors import UserError
from noisette.nets.text import Prompted, TextConfig, TextEncoder, TextTowers, TowersConfig, weigh
from noisette.nets.unet import UNet, UNetConfig

SMALL = TextConfig(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=9,
    bos_token_id=37,
    eos_token_id=38,
    pad_token_id=0,
)
BAG = replace(SMALL, num_hidden_layers=0, positions=False)
# Two ends in the first row (padding by the end token), and in the second an id above the end.
IDS = torch.tensor([[37, 5, 6, 38, 38, 38, 38], [37, 8, 39, 7, 9, 38, 0], [37, 38, 0, 0, 0, 0, 0]])

RENAMED = (
    (r"^text_model\.", ""),
    (r"^embeddings\.", ""),
    (r"^encoder\.layers", "layers"),
    (r"self_attn\.([qkv])_proj", r"to_\1"),
    (r"self_attn\.out_proj", "to_out"),
    (r"mlp\.", ""),
    (r"layer_norm([12])", r"norm\1"),
    (r"final_layer_norm", "final_norm"),
)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for pattern, new in RENAMED:
        state = {re.sub(pattern, new, key): value for key, value in state.items()}
    return state


def peer(config: TextConfig) -> nn.Module:
    """The encoder of transformers with this config, every parameter random, and no rounding to float32."""
    import transformers

    record = asdict(config)
    del record["positions"]
    theirs = transformers.CLIPTextConfig(**record, attn_implementation="sdpa")
    kind = "CLIPTextModel" if config.projection_dim is None else "CLIPTextModelWithProjection"
    model = getattr(transformers, kind)(theirs).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("projection", [None, 11])
@pytest.mark.parametrize("eos", [38, 2])
def test_gives_what_clip_gives_with_its_weights(act: str, projection: int | None, eos: int) -> None:
    config = replace(SMALL, hidden_act=act, projection_dim=projection, eos_token_id=eos)
    theirs = peer(config)
    ours = TextEncoder(config).double()
    ours.load_state_dict(renamed(theirs.state_dict()), strict=True)
    with torch.no_grad():
        wanted = theirs(IDS, output_hidden_states=True)
        tokens, pooled = ours(IDS)
        penultimate, same = ours(IDS, layer=-2, final_norm=False)
    assert (tokens - wanted.last_hidden_state).abs().max() < 1e-12
    wanted_pooled = wanted.pooler_output if projection is None else wanted.text_embeds
    assert pooled.shape == (3, config.pooled_size) and (pooled - wanted_pooled).abs().max() < 1e-12
    assert (penultimate - wanted.hidden_states[-2]).abs().max() < 1e-12
    assert torch.equal(same, pooled)


def test_starts_with_weights_as_clip_starts() -> None:
    import transformers

    config = replace(SMALL, vocab_size=200, hidden_size=64, intermediate_size=128, projection_dim=48)
    record = asdict(config)
    del record["positions"]
    theirs = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**record))
    state = renamed(theirs.state_dict())
    for name, tensor in TextEncoder(config).state_dict().items():
        if tensor.std() == 0:
            assert torch.equal(tensor, state[name]), name
        else:
            assert tensor.std() == pytest.approx(float(state[name].std()), rel=0.15), name


def test_is_causal_and_reads_order() -> None:
    encoder = TextEncoder(SMALL)
    other = IDS.clone()
    other[:, 4:] = 1
    (before, _), (after, _) = encoder(IDS), encoder(other)
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert not torch.allclose(before[:, 4:], after[:, 4:], atol=1e-3)
    swapped = IDS[:, [0, 2, 1, 3, 4, 5, 6]]
    assert not torch.allclose(encoder(swapped)[1][:2], encoder(IDS)[1][:2], atol=1e-4)


def test_layer_counts_states_from_either_end() -> None:
    encoder = TextEncoder(SMALL)
    for layer in range(4):
        for norm in (True, False):
            forward, _ = encoder(IDS, layer=layer, final_norm=norm)
            assert torch.equal(forward, encoder(IDS, layer=layer - 4, final_norm=norm)[0])
    words, _ = encoder(IDS, layer=0, final_norm=False)
    assert torch.equal(words, encoder.token_embedding(IDS) + encoder.position_embedding.weight[:7])
    with pytest.raises(UserError, match="has 3 layers, so layer -5"):
        encoder(IDS, layer=-5)


def test_a_bag_of_words_forgets_order_and_padding() -> None:
    encoder = TextEncoder(BAG)
    tokens, pooled = encoder(IDS)
    swapped, same = encoder(IDS[:, [0, 2, 1, 3, 4, 5, 6]])
    assert torch.allclose(pooled[0], same[0]) and torch.equal(swapped[:, 1], tokens[:, 2])
    assert torch.allclose(pooled[0], tokens[0, :4].mean(0), atol=1e-6)
    assert torch.allclose(pooled[1], tokens[1, :6].mean(0), atol=1e-6)
    assert torch.allclose(pooled[2], encoder(IDS[2:, :2])[1][0], atol=1e-6)
    assert set(encoder.state_dict()) == {"token_embedding.weight", "final_norm.weight", "final_norm.bias"}


def test_every_softmax_has_a_site() -> None:
    seen = []

    def watch(call: attention.Attention, proceed: attention.Proceed) -> Tensor:
        seen.append(call.site)
        return call.output(call.probabilities())

    encoder = TextEncoder(SMALL)
    with attention.attention_lanes(((watch,),)):
        watched, _ = encoder(IDS)
    assert seen == ["text.0.self", "text.1.self", "text.2.self"]
    assert torch.allclose(watched, encoder(IDS)[0], atol=1e-5)


def test_a_row_does_not_depend_on_its_batch() -> None:
    encoder = TextEncoder(replace(SMALL, projection_dim=5)).double()
    tokens, pooled = encoder(IDS)
    for i in range(3):
        alone_tokens, alone_pooled = encoder(IDS[i : i + 1])
        assert torch.allclose(alone_tokens[0], tokens[i], atol=1e-12)
        assert torch.allclose(alone_pooled[0], pooled[i], atol=1e-12)


def test_bad_input_is_told_in_one_line() -> None:
    encoder = TextEncoder(SMALL)
    with pytest.raises(UserError, match="the text has 10 tokens, but this text encoder reads 9"):
        encoder(torch.zeros(1, 10, dtype=torch.long))
    with pytest.raises(UserError, match="token 40 is out of range: this text encoder knows 0 to 39"):
        encoder(torch.tensor([[1, 40]]))
    with pytest.raises(UserError, match="token -3"):
        encoder(torch.tensor([[-3, 4]]))
    with pytest.raises(UserError, match="hidden_act 'relu' is not one of quick_gelu, gelu"):
        replace(SMALL, hidden_act="relu")
    with pytest.raises(UserError, match="16 channels do not split into 3 heads"):
        replace(SMALL, num_attention_heads=3)
    with pytest.raises(UserError, match="1 or more of everything"):
        replace(SMALL, projection_dim=0)


def test_config_goes_through_json() -> None:
    for config in (SMALL, BAG, replace(SMALL, projection_dim=4)):
        assert TextConfig(**json.loads(json.dumps(asdict(config)))) == config


def prompted() -> Prompted:
    net = UNet(
        UNetConfig(
            model_channels=8,
            channel_mult=(1, 2),
            num_res_blocks=1,
            attention_levels=(1,),
            norm_groups=4,
            context_dim=16,
        )
    )
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return Prompted(net, TextEncoder(SMALL))


def test_prompted_encodes_ids_and_leaves_the_rest() -> None:
    net = prompted()
    label = torch.tensor([1, 2, 3])
    cond = {"ids": IDS, "token_mask": IDS != 0, "label": label}
    encoded = net.encode(cond)
    assert set(encoded) == {"tokens", "pooled", "token_mask", "label"} and set(cond) == {
        "ids",
        "token_mask",
        "label",
    }
    assert torch.equal(encoded["tokens"], net.text(IDS)[0])
    assert torch.equal(encoded["pooled"], net.text(IDS)[1])
    assert encoded["label"] is label and encoded["token_mask"] is cond["token_mask"]
    assert net.encode(encoded) is encoded
    assert net.encode({"label": label}) == {"label": label}


def test_prompted_is_its_net_on_encoded_text_and_trains_both() -> None:
    net = prompted()
    x, time = torch.randn(3, 3, 8, 8), torch.rand(3)
    cond = {"ids": IDS, "token_mask": IDS != 0}
    out = net(x, time, cond)
    assert torch.equal(out, net(x, time, net.encode(cond)))
    assert not torch.allclose(out, net(x, time, {**cond, "ids": IDS.flip(0)}))
    out.square().mean().backward()
    used = [p.grad is not None and bool(p.grad.any()) for p in net.text.layers.parameters() if p.dim() > 1]
    assert all(used) and net.net.conv_in.weight.grad is not None


def test_an_encoder_reads_the_state_it_was_made_for() -> None:
    net = prompted()
    skipping = TextEncoder(SMALL, layer=-2, final_norm=False)
    skipping.load_state_dict(net.text.state_dict())
    wanted = net.text(IDS, layer=-2, final_norm=False)[0]
    assert torch.equal(Prompted(net.net, skipping).encode({"ids": IDS})["tokens"], wanted)
    assert torch.equal(skipping(IDS)[0], wanted)


WINDOWS = torch.tensor(
    [[[37, 5, 6, 38, 38], [37, 8, 9, 38, 38]], [[37, 7, 38, 38, 38], [37, 38, 38, 38, 38]]]
)
WEIGHTS = torch.tensor([[[1, 1.5, 1, 1, 1], [1, 1, 1, 1, 1]], [[1, 0.5, 1, 1, 1], [1, 1, 1, 1, 1]]])


def speaking(encoder: TextEncoder) -> TextEncoder:
    """With the means of a trained encoder's tokens, which a layer norm that has not learned keeps at 0."""
    nn.init.normal_(encoder.final_norm.bias, mean=0.5)
    return encoder.double()


def test_windows_are_read_one_by_one_and_laid_in_a_row() -> None:
    encoder = TextEncoder(SMALL).double()
    tokens, pooled = encoder.read(WINDOWS)
    assert tokens.shape == (2, 10, 16) and pooled.shape == (2, 16)
    for text in range(2):
        for window in range(2):
            alone, first = encoder(WINDOWS[text, window][None])
            place = slice(5 * window, 5 * window + 5)
            assert torch.allclose(tokens[text, place], alone[0], atol=1e-12)
            assert window or torch.allclose(pooled[text], first[0], atol=1e-12)
    for ours, plain in zip(encoder.read(WINDOWS[:, 0]), encoder(WINDOWS[:, 0]), strict=True):
        assert torch.equal(ours, plain)


@torch.no_grad()
def test_weights_scale_tokens_and_each_window_keeps_its_mean() -> None:
    encoder = speaking(TextEncoder(SMALL))
    plain, pooled = encoder.read(WINDOWS)
    tokens, same = encoder.read(WINDOWS, WEIGHTS)
    assert torch.equal(same, pooled)
    for text, weight in ((0, 1.5), (1, 0.5)):
        z = plain[text, :5].clone()
        z[1] *= weight
        z *= plain[text, :5].mean() / z.mean()
        assert torch.allclose(tokens[text, :5], z, atol=1e-12)
        assert tokens[text, :5].mean() == pytest.approx(float(plain[text, :5].mean()))
        assert (tokens[text, :5] - plain[text, :5]).abs().max() > 0.1
        assert torch.equal(tokens[text, 5:], plain[text, 5:])
    assert torch.equal(encoder.read(WINDOWS, torch.ones_like(WEIGHTS))[0], plain)


def test_a_weighted_text_does_not_hear_of_its_neighbours_trap_30() -> None:
    encoder = speaking(TextEncoder(SMALL))
    together, _ = encoder.read(WINDOWS, WEIGHTS)
    short, _ = encoder.read(WINDOWS[1:, :1], WEIGHTS[1:, :1])
    assert torch.allclose(together[1, :5], short[0], atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_mean_of_zero_neither_blows_up_nor_turns_signs(dtype: torch.dtype) -> None:
    z = torch.tensor([[[1.0, -1], [2, -2], [3, -3]], [[1, 0], [1, 0], [-2, 0]], [[1, 0], [1, 0], [-1.5, 0]]])
    out = weigh(z.to(dtype), torch.tensor([[1, 2.0, 1]]).expand(3, -1))
    assert out.dtype == dtype and out.isfinite().all()
    ratio = out.float()[z != 0] / z[z != 0]
    assert ratio.min() >= 0.5 - 1e-3 and ratio.max() <= 2 + 1e-3


SECOND = replace(
    SMALL, hidden_size=24, intermediate_size=32, hidden_act="gelu", projection_dim=11, num_hidden_layers=4
)
TOWERS = TowersConfig((SMALL, SECOND))


def sdxl() -> tuple[TextTowers, nn.Module, nn.Module]:
    """Two towers as SDXL has them, with the weights of transformers' own."""
    first, second = peer(SMALL), peer(SECOND)
    ours = TextTowers(TOWERS).double()
    for tower, theirs in zip(ours.towers, (first, second), strict=True):
        tower.load_state_dict(renamed(theirs.state_dict()), strict=True)
    return ours, first, second


@torch.no_grad()
@pytest.mark.parametrize("skip", [0, 1, 2])
def test_towers_give_what_sdxl_reads_trap_16(skip: int) -> None:
    ours, first, second = sdxl()
    other = torch.where(IDS == 38, 0, IDS).scatter(1, (IDS == 38).int().argmax(1, keepdim=True), 38)
    tokens, pooled = ours.read((IDS, other), skip=skip)
    of_first = first(IDS, output_hidden_states=True)
    of_second = second(other, output_hidden_states=True)
    states = [out.hidden_states[-(skip + 2)] for out in (of_first, of_second)]
    assert tokens.shape == (3, 7, TOWERS.hidden_size) and pooled.shape == (3, TOWERS.pooled_size)
    assert (tokens - torch.cat(states, dim=-1)).abs().max() < 1e-10
    assert (pooled - of_second.text_embeds).abs().max() < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("skip", [0, 1, 3])
def test_clip_skip_counts_as_diffusers_does_trap_16(skip: int) -> None:
    theirs, net = peer(SMALL), prompted().double()
    net.text.load_state_dict(renamed(theirs.state_dict()))
    encoded = net.encode({"ids": IDS, "layer": skip})
    states = theirs(IDS, output_hidden_states=True).hidden_states
    norm = getattr(theirs, "text_model", theirs).final_layer_norm
    assert (encoded["tokens"] - norm(states[-(skip + 1)])).abs().max() < 1e-10
    assert torch.equal(encoded["pooled"], net.text(IDS)[1]) and "layer" not in encoded


def test_prompted_brings_windows_weights_and_towers_to_its_net() -> None:
    net = prompted().double()
    speaking(net.text)
    cond = {"ids": WINDOWS, "token_weights": WEIGHTS, "token_mask": WINDOWS != 0}
    encoded = net.encode(cond)
    assert set(encoded) == {"tokens", "pooled", "token_mask"} and encoded["token_mask"].shape == (2, 10)
    assert torch.equal(encoded["tokens"], net.text.read(WINDOWS, WEIGHTS)[0])
    out = net(torch.randn(2, 3, 8, 8).double(), torch.rand(2), cond)
    assert out.shape == (2, 3, 8, 8)
    towers = Prompted(net.net, TextTowers(TowersConfig((SMALL, SMALL), -1, True)).double())
    for tower in towers.text.towers:
        tower.load_state_dict(net.text.state_dict())
    pair = {"ids": (WINDOWS, WINDOWS), "token_weights": (WEIGHTS, WEIGHTS)}
    both = towers.encode(pair)["tokens"]
    assert torch.allclose(both, encoded["tokens"].repeat(1, 1, 2), atol=1e-12)
    towers.gradient_checkpointing = True
    assert towers.gradient_checkpointing and all(tower.gradient_checkpointing for tower in towers.text.towers)


def test_sites_of_towers_differ() -> None:
    towers = TextTowers(TOWERS)
    sites = [block.site for tower in towers.towers for block in tower.layers]
    assert sites[:2] == ["text.0.0.self", "text.0.1.self"] and sites[3] == "text.1.0.self"
    assert len(set(sites)) == len(sites) == 7


def test_bad_windows_and_towers_are_told_in_one_line() -> None:
    encoder, towers = TextEncoder(SMALL), TextTowers(TOWERS)
    for skip in (-1, 4):
        with pytest.raises(UserError, match=f"clip skip {skip} must lie in 0 to 3"):
            encoder.read(IDS, skip=skip)
    with pytest.raises(UserError, match="clip skip 3 must lie in 0 to 2"):
        towers.read((IDS, IDS), skip=3)
    with pytest.raises(UserError, match=r"\[2, 2, 5\] weights do not fit token ids \[2, 5\]"):
        encoder.read(WINDOWS[:, 0], WEIGHTS)
    for ids in (IDS[:2], (IDS,)):
        with pytest.raises(UserError, match="a tuple of 2 tensors, one per tower"):
            towers.read(ids)
    with pytest.raises(UserError, match="a tuple of 2 tensors, one per tower"):
        towers.read((IDS, IDS), torch.ones(2, 3, 7))
    with pytest.raises(UserError, match="as many windows for each"):
        towers.read((IDS, IDS[:, :5]))
    with pytest.raises(UserError, match="has 0 layers, so layer -2 is none"):
        TextTowers(TowersConfig((BAG,)))
    with pytest.raises(UserError, match="needs at least one"):
        TowersConfig(())


def test_towers_config_goes_through_its_record() -> None:
    from noisette.hub.records import from_record, to_record

    assert from_record(TowersConfig, json.loads(json.dumps(to_record(TOWERS))), "here") == TOWERS


def test_recomputing_changes_no_gradient() -> None:
    net = prompted().double()
    x, time, cond = torch.randn(3, 3, 8, 8).double(), torch.rand(3), {"ids": IDS, "token_mask": IDS != 0}
    gradients = []
    for recompute in (False, True):
        net.gradient_checkpointing = recompute
        assert net.text.gradient_checkpointing is net.net.gradient_checkpointing is recompute
        assert net.gradient_checkpointing is recompute
        net.zero_grad()
        net(x, time, cond).square().sum().backward()
        gradients.append(net.text.token_embedding.weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-10)
