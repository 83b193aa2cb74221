from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

from noisette.core import attention
from noisette.errors import UserError
from noisette.nets import UNet, UNetConfig

SMALL = UNetConfig(
    in_channels=2,
    out_channels=2,
    model_channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_levels=(1,),
    num_heads=2,
    norm_groups=4,
)
EVERYTHING = replace(
    SMALL,
    time_embedding="fourier",
    scale_shift=True,
    resblock_updown=True,
    num_classes=3,
    context_dim=6,
    pooled_dim=5,
    concat_channels=1,
    learned_variance=True,
    patch_size=2,
)


def inputs(config: UNetConfig, batch: int = 3, height: int = 8, width: int = 12) -> tuple:
    """A random image, times and all the conditions a config may ask for."""
    cond = {
        "label": torch.randint(0, config.num_classes or 1, (batch,)),
        "tokens": torch.randn(batch, 5, config.context_dim or 1),
        "token_mask": torch.tensor([[True, True, True, False, False]]).expand(batch, -1),
        "pooled": torch.randn(batch, config.pooled_dim or 1),
        "concat": torch.randn(batch, config.concat_channels, height, width),
    }
    return torch.randn(batch, config.in_channels, height, width), torch.rand(batch) * 4, cond


configs = st.builds(
    UNetConfig,
    in_channels=st.integers(1, 3),
    out_channels=st.integers(1, 3),
    model_channels=st.just(8),
    channel_mult=st.sampled_from([(1,), (1, 2), (2, 1), (1, 2, 3)]),
    num_res_blocks=st.integers(1, 2),
    attention_levels=st.sampled_from([(), (0,)]),
    num_heads=st.sampled_from([1, 2]),
    head_channels=st.sampled_from([None, 4]),
    time_embedding=st.sampled_from(["sinusoidal", "fourier"]),
    scale_shift=st.booleans(),
    resblock_updown=st.booleans(),
    asymmetric_down=st.booleans(),
    num_classes=st.sampled_from([None, 3]),
    context_dim=st.sampled_from([None, 6]),
    pooled_dim=st.sampled_from([None, 5]),
    concat_channels=st.integers(0, 1),
    learned_variance=st.booleans(),
    patch_size=st.sampled_from([1, 2]),
    dropout=st.sampled_from([0.0, 0.1]),
    norm_groups=st.just(4),
)


@settings(max_examples=40)
@given(config=configs, rows=st.integers(1, 3))
def test_every_config_keeps_the_size_and_starts_at_zero(config, rows):
    height, width = rows * config.stride, 2 * config.stride
    out = UNet(config)(*inputs(config, 2, height, width))
    assert out.shape == (2, config.out_channels * (1 + config.learned_variance), height, width)
    assert not out.any()
    assert UNetConfig(**json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize("config", [SMALL, EVERYTHING], ids=["small", "everything"])
def test_every_parameter_learns(config, shaken):
    net = shaken(UNet(config))
    net(*inputs(config)).square().sum().backward()
    # Row "no label" of the class table is only reached by label -1.
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def renamed(weights: dict[str, torch.Tensor], levels: int) -> dict[str, torch.Tensor]:
    """A peer's names as ours: the same blocks in the same order, so renaming is all it takes."""
    rules = [
        (r"time_embedding\.linear_", "time.linear"),
        (r"class_embedding", "label.table"),
        (r"add_embedding\.linear_1", "pooled.0"),
        (r"add_embedding\.linear_2", "pooled.2"),
        (r"conv_norm_out", "norm_out"),
        (r"mid_block\.resnets\.(\d)", r"mid.\1.res"),
        (r"mid_block\.attentions\.0", "mid.0.attention"),
        (r"down_blocks\.(\d)", r"down.\1"),
        (r"up_blocks\.(\d)", lambda found: f"up.{levels - 1 - int(found[1])}"),
        (r"resnets\.(\d)", r"stages.\1.res"),
        (r"attentions\.(\d)", r"stages.\1.attention"),
        (r"(down|up)samplers\.0", "resample"),
        (r"time_emb_proj", "emb"),
        (r"conv_shortcut", "skip"),
        (r"attention\.to_", "attention.attention.to_"),
        (r"group_norm", "norm"),
        (r"transformer_blocks", "blocks"),
        (r"attn1", "self_attention"),
        (r"attn2", "cross_attention"),
        (r"to_out\.0", "to_out"),
        (r"ff\.net\.0\.proj", "feed_forward.proj_in"),
        (r"ff\.net\.2", "feed_forward.proj_out"),
    ]
    named = {}
    for key, weight in weights.items():
        for pattern, name in rules:
            key = re.sub(pattern, name, key)
        pointwise = weight.ndim == 4 and re.search(r"attention\.proj_(in|out)\.weight", key)
        named[key] = weight[..., 0, 0] if pointwise else weight
    return named


def assert_equal_networks(ours: UNet, theirs: torch.nn.Module, x, time, cond, **condition) -> None:
    ours, theirs = ours.double().eval(), theirs.double().eval()
    ours.load_state_dict(renamed(theirs.state_dict(), len(ours.config.channel_mult)))
    expected = theirs(x.double(), time, **condition).sample
    torch.testing.assert_close(ours(x.double(), time, cond), expected, rtol=1e-9, atol=1e-9)


def peer(**changes: object) -> UNet2DModel:
    shape = {
        "in_channels": 2,
        "out_channels": 2,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    return UNet2DModel(**shape | changes)


def test_ddpm_network_equals_diffusers_trap_19():
    theirs = peer(flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6, downsample_padding=0)
    config = replace(SMALL, num_heads=1, head_channels=8, norm_eps=1e-6, asymmetric_down=True)
    x, time, _ = inputs(config)
    assert_equal_networks(UNet(config), theirs, x, time * 200, {})


def test_adm_network_equals_diffusers():
    """Adaptive group norm, residual blocks between the levels, a class embedding, two blocks per level."""
    theirs = peer(
        layers_per_block=2,
        flip_sin_to_cos=True,
        freq_shift=0,
        resnet_time_scale_shift="scale_shift",
        downsample_type="resnet",
        upsample_type="resnet",
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        num_class_embeds=4,
        attn_norm_num_groups=4,
    )
    config = replace(
        SMALL,
        num_res_blocks=2,
        head_channels=8,
        scale_shift=True,
        resblock_updown=True,
        flip_sin_to_cos=True,
        freq_shift=0.0,
        num_classes=3,
    )
    x, time, _ = inputs(config)
    label = torch.tensor([0, 2, -1])
    rows = torch.tensor([0, 2, 3])
    assert_equal_networks(UNet(config), theirs, x, time * 200, {"label": label}, class_labels=rows)


def test_latent_diffusion_network_equals_diffusers_traps_18_19():
    """What their config calls attention_head_dim is the number of heads."""
    theirs = UNet2DConditionModel(
        in_channels=2,
        out_channels=2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=6,
        norm_num_groups=4,
    )
    config = replace(SMALL, attention_levels=(0,), context_dim=6, flip_sin_to_cos=True, freq_shift=0.0)
    x, time, cond = inputs(config)
    asked = {"encoder_hidden_states": cond["tokens"].double(), "encoder_attention_mask": cond["token_mask"]}
    assert_equal_networks(UNet(config), theirs, x, time * 200, cond, **asked)


def test_sdxl_network_equals_diffusers():
    """Several blocks in a transformer, heads level by level, and sizes beside the pooled vector."""
    theirs = UNet2DConditionModel(
        in_channels=2,
        out_channels=2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 3),
        cross_attention_dim=6,
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=5 + 6 * 4,
    )
    config = replace(
        SMALL,
        attention_levels=(0, 1),
        num_heads=(2, 4),
        transformer_depth=(1, 3),
        context_dim=6,
        pooled_dim=5,
        size_count=6,
        size_waves=4,
        flip_sin_to_cos=True,
        freq_shift=0.0,
    )
    x, time, cond = inputs(config)
    sizes = torch.tensor([[1024.0, 768, 0, 0, 512, 640]]).expand(len(x), -1)
    added = {"text_embeds": cond["pooled"].double(), "time_ids": sizes.double()}
    asked = {"encoder_hidden_states": cond["tokens"].double(), "encoder_attention_mask": cond["token_mask"]}
    told = {**cond, "sizes": sizes}
    assert_equal_networks(UNet(config), theirs, x, time * 200, told, **asked, added_cond_kwargs=added)
    with pytest.raises(UserError, match=r"cond\['sizes'\] of shape \[3, 6\], and got nothing"):
        UNet(config)(x, time, cond)


def test_the_concatenated_image_comes_behind_the_noisy_one(shaken):
    net = shaken(UNet(replace(SMALL, concat_channels=1)))
    wider = UNet(replace(SMALL, in_channels=3)).eval()
    wider.load_state_dict(net.state_dict())
    x, time, cond = inputs(net.config)
    torch.testing.assert_close(net(x, time, cond), wider(torch.cat([x, cond["concat"]], 1), time))


def test_each_condition_reaches_the_output(shaken):
    net = shaken(UNet(EVERYTHING))
    x, time, cond = inputs(EVERYTHING)
    before = net(x, time, cond)
    changes = {
        "label": (cond["label"] + 1) % 3,
        "tokens": cond["tokens"] + torch.tensor([[[1.0], [0], [0], [0], [0]]]),
        "pooled": cond["pooled"] + 1,
        "concat": cond["concat"] + 1,
        "token_mask": torch.ones(3, 5, dtype=torch.bool),
    }
    for key, value in changes.items():
        assert (net(x, time, cond | {key: value}) - before).flatten(1).abs().amax(1).min() > 1e-4, key
    assert (net(x, time + 1, cond) - before).abs().max() > 1e-3


def test_masked_tokens_do_not_matter(shaken):
    net = shaken(UNet(EVERYTHING))
    x, time, cond = inputs(EVERYTHING)
    hidden = cond | {"tokens": cond["tokens"] + 9 * ~cond["token_mask"][..., None]}
    torch.testing.assert_close(net(x, time, hidden), net(x, time, cond), rtol=0, atol=1e-6)


def test_minus_one_is_the_null_row(shaken):
    net = shaken(UNet(replace(SMALL, num_classes=3)))
    x, time, _ = inputs(SMALL)
    null = net(x, time, {"label": torch.full((3,), -1)})
    for parameter_row in range(3):
        with torch.no_grad():
            net.label.table.weight[parameter_row] = 7
    assert torch.equal(net(x, time, {"label": torch.full((3,), -1)}), null)


@pytest.mark.parametrize("config", [SMALL, EVERYTHING], ids=["small", "everything"])
def test_an_image_alone_is_the_image_in_its_batch_trap_30(config, shaken):
    net = shaken(UNet(config)).double()
    x, time, cond = inputs(config)
    x = x.double()
    together = net(x, time, cond)
    for i in range(3):
        alone = net(x[i : i + 1], time[i : i + 1], {key: value[i : i + 1] for key, value in cond.items()})
        torch.testing.assert_close(alone[0], together[i], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("config", [SMALL, EVERYTHING], ids=["small", "everything"])
def test_channels_last_changes_nothing(config, shaken):
    net = shaken(UNet(config))
    x, time, cond = inputs(config)
    before = net(x, time, cond)
    after = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), time, cond)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_recomputing_stages_gives_the_same_gradients(shaken):
    net = shaken(UNet(EVERYTHING)).train()
    x, time, cond = inputs(EVERYTHING)
    gradients = []
    for net.gradient_checkpointing in (False, True):
        net.zero_grad()
        net(x, time, cond).square().mean().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_recomputing_draws_the_same_dropout(shaken):
    net = shaken(UNet(replace(SMALL, dropout=0.5))).train()
    x, time, _ = inputs(SMALL)
    gradients = []
    for net.gradient_checkpointing in (False, True):
        torch.manual_seed(1)
        net.zero_grad()
        net(x, time).square().mean().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("config", [SMALL, EVERYTHING], ids=["small", "everything"])
def test_bfloat16_and_autocast_stay_close(config, shaken):
    net = shaken(UNet(config))
    x, time, cond = inputs(config)
    expected = net(x, time, cond)
    scale = expected.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        assert (net(x, time, cond) - expected).abs().max() < 0.05 * scale
    assert (net.bfloat16()(x.bfloat16(), time, cond) - expected).abs().max() < 0.05 * scale


def test_compiled_is_the_same(shaken):
    net = shaken(UNet(EVERYTHING))
    x, time, cond = inputs(EVERYTHING)
    torch.compiler.reset()
    compiled = torch.compile(net, backend="eager")
    torch.testing.assert_close(compiled(x, time, cond), net(x, time, cond))


def test_sites_name_level_block_and_kind(monkeypatch):
    seen = []

    def watch(q, k, v, site, mask=None):
        seen.append((site, q.shape[1], q.shape[2], mask is not None))
        return attention.attend(q, k, v, site, mask=mask)

    monkeypatch.setattr("noisette.nets.attention.attend", watch)
    config = replace(EVERYTHING, patch_size=1)
    UNet(config)(*inputs(config))
    sites = ["down.1.0", "mid", "up.1.0", "up.1.1"]
    expected = [(f"{site}.{kind}", 2, 24, kind == "cross") for site in sites for kind in ("self", "cross")]
    assert seen == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_groups": 5}, "norm_groups 5 does not divide the 8 channels of a level"),
        ({"attention_levels": (2,)}, r"attention_levels \(2,\) must lie in 0 to 1"),
        ({"num_heads": 3}, "16 channels at level 1 do not split into 3 heads"),
        ({"head_channels": 6}, "16 channels at level 1 do not split into heads of 6 channels"),
        ({"time_embedding": "learned"}, "time_embedding 'learned' is not one of sinusoidal, fourier"),
        ({"channel_mult": ()}, "at least one level"),
        ({"num_heads": 0}, "1 or more of everything"),
        ({"model_channels": 9}, "must be even"),
    ],
)
def test_numbers_that_do_not_fit_are_named(change, message):
    with pytest.raises(UserError, match=message):
        replace(SMALL, **change)


def test_inputs_that_do_not_fit_are_named():
    net = UNet(EVERYTHING)
    x, time, cond = inputs(EVERYTHING)
    with pytest.raises(UserError, match="the image is 12x6, but this network needs sides divisible by 4"):
        net(x[:, :, :6], time, cond)
    with pytest.raises(UserError, match="the image has 1 channels, but this network takes 2"):
        net(x[:, :1], time, cond)
    for key, message in {
        "label": r"this network needs cond\['label'\].*-1 means unconditional",
        "tokens": r"this network needs cond\['tokens'\]",
        "pooled": r"this network needs cond\['pooled'\] of shape \[.*5\], and got nothing",
        "concat": r"this network needs cond\['concat'\] of shape \[3, 1, 8, 12\], and got nothing",
    }.items():
        with pytest.raises(UserError, match=message):
            net(x, time, {name: value for name, value in cond.items() if name != key})
    with pytest.raises(UserError, match=r"cond\['label'\] has shape \[1\], but the batch needs \[3\]"):
        net(x, time, cond | {"label": torch.zeros(1, dtype=torch.long)})
    with pytest.raises(UserError, match=r"cond\['tokens'\] is 4 wide, but this network reads 6"):
        net(x, time, cond | {"tokens": torch.randn(3, 5, 4)})
    with pytest.raises(UserError, match=r"of shape \[3, 5\], and got \[3, 4\]"):
        net(x, time, cond | {"pooled": torch.randn(3, 4)})


def test_recomputing_stages_keeps_their_attention_rules(shaken):
    net = shaken(UNet(SMALL).double())
    x, time, _ = inputs(SMALL)
    x = x.double()
    gradients = []
    for recompute in (False, True):
        net.gradient_checkpointing = recompute
        net.zero_grad()
        with attention.attention_lanes(((lambda call, proceed: 3 * proceed(call),),)):
            out = net(x, time, {})
        out.square().sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
