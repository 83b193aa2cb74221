from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace

import diffusers
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from noisette.errors import UserError
from noisette.hub.names import Name, dit_names, fitted, renamed, text_names, unet_names, vae_names
from noisette.nets import DiT, DiTConfig, UNet, UNetConfig
from noisette.nets.text import TextConfig, TextEncoder
from noisette.nets.vae import AutoencoderKL, AutoencoderKLConfig

PIXEL = UNetConfig(
    in_channels=2,
    out_channels=2,
    model_channels=8,
    channel_mult=(1, 2),
    num_res_blocks=2,
    attention_levels=(1,),
    head_channels=8,
    norm_groups=4,
    flip_sin_to_cos=True,
    freq_shift=0.0,
)
SD1 = replace(PIXEL, attention_levels=(0,), head_channels=None, num_heads=2, context_dim=6)
SDXL = replace(SD1, attention_levels=(1,), transformer_depth=(1, 2), pooled_dim=5, size_count=6, size_waves=4)
ADM = replace(PIXEL, scale_shift=True, resblock_updown=True, num_classes=3)
SHAPE = {
    "in_channels": 2,
    "out_channels": 2,
    "block_out_channels": (8, 16),
    "layers_per_block": 2,
    "norm_num_groups": 4,
}
PLAIN = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
CROSS = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
VAE = AutoencoderKLConfig(block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4)
TEXT = TextConfig(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=9,
    bos_token_id=37,
    eos_token_id=38,
    pad_token_id=0,
)
DIT = DiTConfig(in_channels=2, out_channels=2, dim=16, depth=2, num_heads=2, freq_shift=1.0, num_classes=3)


def read(net: nn.Module, state: dict[str, Tensor], names: Iterable[Name]) -> nn.Module:
    """Our network with a peer's weights, all of them and no others."""
    ours = fitted(
        renamed(state, names, "diffusers", "ours"), {k: v.shape for k, v in net.state_dict().items()}
    )
    net.load_state_dict(ours, strict=True)
    return net.double().eval()


def random(net: nn.Module) -> nn.Module:
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net.double().eval()


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def peer_pixel(**changes: object) -> nn.Module:
    down, up = PLAIN
    shape = {**SHAPE, "down_block_types": down, "up_block_types": up, "attention_head_dim": 8}
    return diffusers.UNet2DModel(**shape | {"flip_sin_to_cos": True, "freq_shift": 0} | changes)


def peer_cross(**changes: object) -> nn.Module:
    down, up = CROSS
    shape = {**SHAPE, "down_block_types": down, "up_block_types": up, "attention_head_dim": 2}
    return diffusers.UNet2DConditionModel(**shape | {"cross_attention_dim": 6} | changes)


def test_pixel_networks_are_named_as_unet2dmodel():
    x, time = torch.randn(2, 2, 8, 8).double(), torch.tensor([3.0, 700.0])
    theirs = random(peer_pixel())
    ours = read(UNet(PIXEL), theirs.state_dict(), unet_names(PIXEL))
    close(ours(x, time), theirs(x, time).sample)
    blocks = ("ResnetDownsampleBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "ResnetUpsampleBlock2D")
    theirs = random(
        peer_pixel(
            down_block_types=blocks[0],
            up_block_types=blocks[1],
            resnet_time_scale_shift="scale_shift",
            downsample_type="resnet",
            upsample_type="resnet",
            num_class_embeds=4,
            attn_norm_num_groups=4,
        )
    )
    label = torch.tensor([0, 2])
    ours = read(UNet(ADM), theirs.state_dict(), unet_names(ADM))
    close(ours(x, time, {"label": label}), theirs(x, time, class_labels=label).sample)


@pytest.mark.parametrize("linear", [False, True], ids=["SD 1, convolutions", "SD 2, linear"])
def test_text_networks_are_named_as_unet2dconditionmodel(linear):
    down, up = CROSS[0][::-1], CROSS[1][::-1]
    theirs = random(peer_cross(down_block_types=down, up_block_types=up, use_linear_projection=linear))
    ours = read(UNet(SD1), theirs.state_dict(), unet_names(SD1))
    x, time, tokens = torch.randn(2, 2, 8, 8).double(), torch.tensor([3.0, 700.0]), torch.randn(2, 5, 6)
    wanted = theirs(x, time, encoder_hidden_states=tokens.double()).sample
    close(ours(x, time, {"tokens": tokens.double()}), wanted)


def test_xl_networks_are_named_as_unet2dconditionmodel():
    theirs = random(
        peer_cross(
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=5 + 6 * 4,
        )
    )
    ours = read(UNet(SDXL), theirs.state_dict(), unet_names(SDXL))
    x, time, tokens = torch.randn(2, 2, 8, 8).double(), torch.tensor([3.0, 700.0]), torch.randn(2, 5, 6)
    pooled, sizes = torch.randn(2, 5).double(), torch.tensor([[1024.0, 768, 0, 0, 512, 640]] * 2)
    added = {"text_embeds": pooled, "time_ids": sizes.double()}
    wanted = theirs(x, time, tokens.double(), added_cond_kwargs=added).sample
    close(ours(x, time, {"tokens": tokens.double(), "pooled": pooled, "sizes": sizes}), wanted)


def peer_vae() -> nn.Module:
    fields = {key: value for key, value in asdict(VAE).items() if key != "patch_size"}
    types = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    return random(diffusers.AutoencoderKL(**fields, **types))


@pytest.mark.parametrize("old", [False, True], ids=["to_q", "query"])
def test_autoencoders_are_named_as_autoencoderkl_in_both_spellings(old):
    theirs, state = peer_vae(), {}
    for key, tensor in theirs.state_dict().items():
        for new, before in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            key = key.replace(new, before) if old else key
        state[key] = tensor
    assert old == any("query" in key for key in state)
    ours = read(AutoencoderKL(VAE), state, vae_names(VAE))
    x, z = torch.rand(1, 3, 8, 12).double(), torch.randn(1, 4, 2, 3).double()
    close(ours.encode(x).mean, theirs.encode(x).latent_dist.mean)
    close(ours.decode(z), theirs.decode(z).sample)
    with pytest.raises(UserError, match="twice, under an old and a new name"):
        renamed(
            state | theirs.state_dict() | {"encoder.mid_block.attentions.0.query.bias": x},
            vae_names(VAE),
            "diffusers",
            "ours",
        )


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("projection", [None, 5])
def test_text_encoders_are_named_as_cliptextmodel_with_and_without_its_prefix(prefix, projection):
    config = replace(TEXT, projection_dim=projection)
    fields = {key: value for key, value in asdict(config).items() if key != "positions"}
    kind = "CLIPTextModel" if projection is None else "CLIPTextModelWithProjection"
    theirs = random(getattr(transformers, kind)(transformers.CLIPTextConfig(**fields)))
    state = {key.removeprefix("text_model."): tensor for key, tensor in theirs.state_dict().items()}
    if prefix:
        state = {k if k.startswith("text_projection") else f"text_model.{k}": v for k, v in state.items()}
    ours = read(TextEncoder(config), state, text_names(config))
    ids = torch.tensor([[37, 5, 6, 38, 38], [37, 8, 9, 7, 38]])
    wanted = theirs(ids)
    tokens, pooled = ours(ids)
    close(tokens, wanted.last_hidden_state)
    close(pooled, wanted.pooler_output if projection is None else wanted.text_embeds)


def test_transformers_are_named_as_dittransformer2dmodel_with_one_embedding_for_all_blocks():
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=2,
        out_channels=2,
        num_layers=2,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=3,
        norm_eps=1e-6,
    )
    random(theirs)
    blocks = theirs.transformer_blocks
    blocks[1].norm1.emb.load_state_dict(blocks[0].norm1.emb.state_dict())
    named = renamed(theirs.state_dict(), dit_names(DIT), "diffusers", "ours")
    left = [key for key in named if key.startswith("transformer_blocks.")]
    assert left and all(key.startswith("transformer_blocks.1.norm1.emb.") for key in left)
    ours = DiT(DIT)
    ours.load_state_dict({key: tensor for key, tensor in named.items() if key not in left}, strict=True)
    x, time, label = torch.randn(2, 2, 4, 4).double(), torch.tensor([3.0, 700.0]), torch.tensor([2, 0])
    # Their position vectors are float32.
    wanted = theirs(x, time, class_labels=label).sample
    torch.testing.assert_close(ours.double()(x, time, {"label": label}), wanted, rtol=1e-6, atol=1e-6)


unets = st.builds(
    UNetConfig,
    model_channels=st.just(8),
    channel_mult=st.sampled_from([(1,), (1, 2), (2, 1), (1, 2, 3)]),
    num_res_blocks=st.integers(1, 2),
    attention_levels=st.sampled_from([(), (0,)]),
    transformer_depth=st.integers(1, 2),
    time_embedding=st.sampled_from(["sinusoidal", "fourier"]),
    resblock_updown=st.booleans(),
    num_classes=st.sampled_from([None, 3]),
    context_dim=st.sampled_from([None, 6]),
    pooled_dim=st.just(5),
    size_count=st.sampled_from([0, 6]),
    norm_groups=st.just(4),
)
vaes = st.builds(
    AutoencoderKLConfig,
    block_out_channels=st.sampled_from([(8,), (8, 8), (8, 16), (16, 8, 8)]),
    layers_per_block=st.integers(1, 2),
    norm_num_groups=st.just(4),
    mid_block_add_attention=st.booleans(),
    use_quant_conv=st.booleans(),
    use_post_quant_conv=st.booleans(),
)
texts = st.builds(
    replace,
    st.just(TEXT),
    num_hidden_layers=st.integers(0, 2),
    projection_dim=st.sampled_from([None, 5]),
    positions=st.booleans(),
)
dits = st.builds(
    replace,
    st.just(DIT),
    num_classes=st.sampled_from([None, 3]),
    context_dim=st.sampled_from([None, 6]),
    pooled_dim=st.sampled_from([None, 5]),
)


@settings(max_examples=40)
@given(
    st.one_of(
        st.tuples(st.just(UNet), st.just(unet_names), unets),
        st.tuples(st.just(AutoencoderKL), st.just(vae_names), vaes),
        st.tuples(st.just(TextEncoder), st.just(text_names), texts),
        st.tuples(st.just(DiT), st.just(dit_names), dits),
    )
)
def test_every_parameter_is_named_once_and_comes_back(case: tuple[type, Callable, object]):
    kind, walk, config = case
    with torch.device("meta"):
        net = kind(config)
    rows = list(walk(config))
    owners = {name.rpartition(".")[0] for name, _ in net.named_parameters()}
    assert Counter(row.ours for row in rows) == Counter(owners)
    for column in ("diffusers", "ldm"):
        names = [getattr(row, column) for row in rows if getattr(row, column)]
        assert len(set(names)) == len(names)
    # Of parameters alone: a buffer has no module of another's to be in.
    state = dict(net.named_parameters())
    for column in ("diffusers", "ldm"):
        there = renamed(state, rows, "ours", column)
        back = renamed(there, rows, column, "ours")
        assert list(back) == list(state) and all(back[key] is state[key] for key in state)


def test_fitted_changes_nothing_but_trailing_ones():
    state = {name: torch.randn(3, 2) for name in ("conv", "same", "other", "unknown")}
    shapes = {"conv": (3, 2, 1, 1), "same": (3, 2), "other": (2, 3)}
    found = fitted(state, shapes)
    assert found["conv"].shape == (3, 2, 1, 1) and torch.equal(found["conv"][..., 0, 0], state["conv"])
    assert found["conv"].data_ptr() == state["conv"].data_ptr()
    assert all(found[name] is state[name] for name in ("other", "unknown"))
    assert torch.equal(fitted(found, {"conv": (3, 2)})["conv"], state["conv"])
