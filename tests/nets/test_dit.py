from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noisette.errors import UserError
from noisette.nets import DiT, DiTConfig
from noisette.nets.dit import DiTBlock

SMALL = DiTConfig(in_channels=2, out_channels=2, dim=16, depth=2, num_heads=2, time_channels=16)
EVERYTHING = replace(
    SMALL,
    num_classes=3,
    context_dim=6,
    pooled_dim=5,
    concat_channels=1,
    learned_variance=True,
    time_embedding="fourier",
)
F64 = {"dtype": torch.float64}


def inputs(config: DiTConfig, batch: int = 3, height: int = 8, width: int = 12) -> tuple:
    cond = {
        "label": torch.randint(0, config.num_classes or 1, (batch,)),
        "tokens": torch.randn(batch, 5, config.context_dim or 1),
        "token_mask": torch.tensor([[True, True, True, False, False]]).expand(batch, -1),
        "pooled": torch.randn(batch, config.pooled_dim or 1),
        "concat": torch.randn(batch, config.concat_channels, height, width),
    }
    return torch.randn(batch, config.in_channels, height, width), torch.rand(batch) * 4, cond


configs = st.builds(
    DiTConfig,
    in_channels=st.integers(1, 3),
    out_channels=st.integers(1, 3),
    patch_size=st.sampled_from([1, 2, 3]),
    dim=st.sampled_from([8, 16]),
    depth=st.integers(1, 2),
    num_heads=st.sampled_from([1, 2]),
    time_embedding=st.sampled_from(["sinusoidal", "fourier"]),
    num_classes=st.sampled_from([None, 3]),
    context_dim=st.sampled_from([None, 6]),
    pooled_dim=st.sampled_from([None, 5]),
    concat_channels=st.integers(0, 1),
    learned_variance=st.booleans(),
)


@settings(max_examples=30)
@given(config=configs, rows=st.integers(1, 3))
def test_every_config_keeps_the_size_and_starts_at_zero(config, rows):
    height, width = rows * config.patch_size, 4 * config.patch_size
    out = DiT(config)(*inputs(config, 2, height, width))
    assert out.shape == (2, config.out_channels * (1 + config.learned_variance), height, width)
    assert not out.any()
    assert DiTConfig(**json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize("config", [SMALL, EVERYTHING], ids=["small", "everything"])
def test_a_new_block_is_the_identity_and_can_leave_it(config):
    block = DiTBlock(config, "block.0")
    x, emb = torch.randn(2, 6, 16), torch.randn(2, 16)
    out = block(x, emb, torch.randn(2, 5, 6), None)
    assert torch.equal(out, x)
    out.square().sum().backward()
    assert block.modulation.weight.grad[32:48].any(), "the gate of attention must feel a gradient"
    assert block.modulation.weight.grad[80:].any(), "the gate of the mlp must feel a gradient"


def attention(layer, x, source, keep=None):
    """Scaled dot products, head by head."""
    q, k, v = layer.to_q(x), layer.to_k(source), layer.to_v(source)
    size = q.shape[-1] // layer.heads
    heads = []
    for h in range(layer.heads):
        rows = slice(h * size, (h + 1) * size)
        logits = q[..., rows] @ k[..., rows].mT / size**0.5
        if keep is not None:
            logits = logits.masked_fill(~keep[:, None], -torch.inf)
        heads.append(logits.softmax(-1) @ v[..., rows])
    return layer.to_out(torch.cat(heads, -1))


def test_block_is_its_formula(shaken):
    block = shaken(DiTBlock(EVERYTHING, "block.0")).double()
    x, emb, context = torch.randn(2, 6, 16, **F64), torch.randn(2, 16, **F64), torch.randn(2, 5, 6, **F64)
    keep = torch.tensor([[True, True, False, True, False], [True] * 5])
    parts = (emb @ block.modulation.weight.T + block.modulation.bias).view(2, 6, 1, 16).unbind(1)
    beta1, gamma1, alpha1, beta2, gamma2, alpha2 = parts

    def norm(z):
        return (z - z.mean(-1, keepdim=True)) / (z.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()

    h = norm(x) * (1 + gamma1) + beta1
    y = x + alpha1 * attention(block.attention, h, h)
    y = y + attention(block.cross_attention, y, context, keep)
    h = block.mlp_in(norm(y) * (1 + gamma2) + beta2)
    y = y + alpha2 * block.mlp_out(0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3))))
    torch.testing.assert_close(block(x, emb, context, keep), y, rtol=1e-10, atol=1e-10)


def test_patches_come_back_where_they_were():
    """With one patch-sized delta per weight row, the network's last map is a pure rearrangement."""
    config = replace(SMALL, patch_size=2, out_channels=3)
    net = DiT(config)
    row, column, channel = 1, 0, 2
    with torch.no_grad():
        net.linear_out.bias[(row * 2 + column) * 3 + channel] = 1
    out = net(*inputs(config, 1, 4, 6)[:2])
    expected = torch.zeros(1, 3, 4, 6)
    expected[:, channel, row::2, column::2] = 1
    assert torch.equal(out, expected)


def test_without_positions_a_shift_by_a_patch_would_commute_so_positions_are_read(shaken, monkeypatch):
    """Attention knows no order: rolling whole patches rolls the output, unless positions are added."""
    net = shaken(DiT(SMALL))
    x, time, _ = inputs(SMALL)

    def rolled(y):
        return torch.roll(y, (2, 4), dims=(2, 3))

    assert (net(rolled(x), time) - rolled(net(x, time))).abs().max() > 1e-3
    monkeypatch.setattr("noisette.nets.dit.position_2d", lambda h, w, dim, device: torch.zeros(h * w, dim))
    torch.testing.assert_close(net(rolled(x), time), rolled(net(x, time)), rtol=1e-5, atol=1e-5)


def test_each_condition_reaches_the_output(shaken):
    net = shaken(DiT(EVERYTHING))
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
    hidden = cond | {"tokens": cond["tokens"] + 9 * ~cond["token_mask"][..., None]}
    torch.testing.assert_close(net(x, time, hidden), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [SMALL, EVERYTHING], ids=["small", "everything"])
def test_an_image_alone_is_the_image_in_its_batch_trap_30(config, shaken):
    net = shaken(DiT(config)).double()
    x, time, cond = inputs(config)
    x = x.double()
    together = net(x, time, cond)
    for i in range(3):
        alone = net(x[i : i + 1], time[i : i + 1], {key: value[i : i + 1] for key, value in cond.items()})
        torch.testing.assert_close(alone[0], together[i], rtol=1e-10, atol=1e-10)


def test_recomputing_blocks_gives_the_same_gradients_and_all_learn(shaken):
    net = shaken(DiT(EVERYTHING)).train()
    x, time, cond = inputs(EVERYTHING)
    gradients = []
    for net.gradient_checkpointing in (False, True):
        net.zero_grad()
        net(x, time, cond).square().mean().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(g.any() for g in gradients[0])


def test_bfloat16_and_channels_last_stay_close(shaken):
    net = shaken(DiT(EVERYTHING))
    x, time, cond = inputs(EVERYTHING)
    expected = net(x, time, cond)
    turned = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), time, cond)
    torch.testing.assert_close(turned, expected, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert (net(x, time, cond) - expected).abs().max() < 0.05 * expected.abs().max()


def test_compiled_is_the_same(shaken):
    net = shaken(DiT(EVERYTHING))
    x, time, cond = inputs(EVERYTHING)
    torch.compiler.reset()
    compiled = torch.compile(net, backend="eager")
    torch.testing.assert_close(compiled(x, time, cond), net(x, time, cond))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 18}, "dim 18 must be divisible by 4"),
        ({"num_heads": 3}, "and by num_heads 3"),
        ({"depth": 0}, "at least one block"),
        ({"time_channels": 7}, "time_channels 7 must be even"),
        ({"time_embedding": "none"}, "'none' is not one of sinusoidal, fourier"),
    ],
)
def test_numbers_that_do_not_fit_are_named(change, message):
    with pytest.raises(UserError, match=message):
        replace(SMALL, **change)


def test_inputs_that_do_not_fit_are_named():
    net = DiT(EVERYTHING)
    x, time, cond = inputs(EVERYTHING)
    with pytest.raises(UserError, match="the image is 12x7, but this network needs sides divisible by 2"):
        net(x[:, :, :7], time, cond)
    with pytest.raises(UserError, match=r"needs cond\['label'\].*-1 means unconditional"):
        net(x, time, {})
    with pytest.raises(UserError, match=r"needs cond\['pooled'\] of shape \[.*5\], and got nothing"):
        net(x, time, {key: value for key, value in cond.items() if key != "pooled"})
    with pytest.raises(UserError, match=r"of shape \[.*5\], and got \[3, 4\]"):
        net(x, time, cond | {"pooled": cond["pooled"][:, :4]})
