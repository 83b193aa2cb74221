from __future__ import annotations

import copy
import math
import re

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisette.adapters import (
    LowRank,
    attach,
    attached,
    detach,
    fresh,
    fuse,
    lora_state,
    projections,
    set_adapters,
    updates_of,
)
from noisette.errors import UserError
from noisette.nets import UNet, UNetConfig

TINY = UNetConfig(
    in_channels=2,
    out_channels=2,
    model_channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_levels=(1,),
    num_heads=2,
    norm_groups=4,
    context_dim=6,
)
COND = {"tokens": torch.linspace(-1, 1, 2 * 3 * 6).reshape(2, 3, 6)}


def everywhere(path: str) -> bool:
    return True


def shaken(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return net.eval()


def tiny() -> UNet:
    net = shaken(UNet(TINY))
    assert isinstance(net, UNet)
    return net


def drawn(net: nn.Module, rank: int = 3, alpha: float = 2.0) -> dict[str, LowRank]:
    """Updates of every layer whose `up` is not zero, so that they matter."""
    return {
        path: LowRank(update.down, torch.randn_like(update.up) * 0.3, alpha)
        for path, update in fresh(net, rank, where=everywhere).items()
    }


def call(net: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.linspace(-1, 1, 2 * 2 * 8 * 8).reshape(2, 2, 8, 8).to(dtype)
    cond = {"tokens": COND["tokens"].to(dtype)}
    with torch.no_grad():
        return net(x, torch.tensor([3.0, 40.0]).to(dtype), cond)


def test_a_fresh_adapter_changes_the_output_by_exactly_zero():
    net = tiny()
    before = call(net)
    attach(net, fresh(net, 4, where=everywhere))
    assert torch.equal(call(net), before)


def test_fresh_updates_are_drawn_as_peft_draws_them():
    net = tiny()
    updates = fresh(net, 4, alpha=1)
    assert {path.rpartition(".")[2] for path in updates} == {"to_q", "to_k", "to_v", "to_out"}
    assert len(updates) == 8 * 4  # self- and cross-attention at one level: 1 down, 2 up, 1 in the middle
    layer = nn.Linear(300, 200)
    (update,) = fresh(nn.ModuleDict({"to_q": layer}), 64).values()
    bound = 300**-0.5  # sqrt(6 / ((1 + 5) * fan_in))
    assert update.down.abs().max() < bound and update.down.std() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not update.up.any() and (update.alpha, update.scale) == (64, 1)
    assert next(iter(updates.values())).scale == 1 / 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_detaching_leaves_weights_outputs_and_keys_bit_identical_trap_22(dtype):
    net = tiny().to(dtype)
    state, output = copy.deepcopy(net.state_dict()), call(net, dtype)
    parameters, kinds = dict(net.named_parameters()), [type(module) for module in net.modules()]
    attach(net, drawn(net), name="a")
    attach(net, drawn(net), name="b")
    assert all(net.get_parameter(key) is parameter for key, parameter in parameters.items())
    assert state.keys() < net.state_dict().keys()
    assert (call(net, dtype) - output).abs().max() > 0.1
    detach(net, "a")
    assert list(attached(net)) == ["b"]
    detach(net)
    after = net.state_dict()
    assert list(after) == list(state) and all(torch.equal(after[key], state[key]) for key in state)
    assert [type(module) for module in net.modules()] == kinds
    assert torch.equal(call(net, dtype), output)


@pytest.mark.parametrize("layer", [
    nn.Linear(5, 7),
    nn.Conv2d(5, 7, 1),
    nn.Conv2d(5, 7, 3, stride=2, padding=1, bias=False),
    nn.Conv2d(5, 7, (1, 3), padding=(0, 1)),
])  # fmt: skip
def test_a_layer_computes_what_peft_computes(layer):
    net = nn.Sequential(layer).double()
    theirs = peft.inject_adapter_in_model(
        peft.LoraConfig(r=2, lora_alpha=3, target_modules=["0"], init_lora_weights=False), copy.deepcopy(net)
    )
    halves = {key.split(".")[1]: value.detach() for key, value in theirs.named_parameters() if "lora_" in key}
    attach(net, {"0": LowRank(halves["lora_A"], halves["lora_B"], 3.0)}, weight=0.7)
    theirs[0].set_scale("default", 0.7)
    x = torch.randn(2, 6, 6, 5).double() if isinstance(layer, nn.Linear) else torch.randn(2, 5, 6, 6).double()
    torch.testing.assert_close(net(x), theirs(x), rtol=1e-12, atol=1e-12)
    fuse(net)
    torch.testing.assert_close(net(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_fused_equals_live_and_restores_bit_for_bit():
    net = tiny()
    attach(net, drawn(net), name="a", weight=0.6)
    attach(net, drawn(net, rank=2), name="b", weight=-0.3)
    live, state = call(net), copy.deepcopy(net.state_dict())
    parameters = dict(net.named_parameters())
    restore = fuse(net)
    fused = call(net)
    assert attached(net) == {} and not any(".lora." in key for key in net.state_dict())
    assert (fused - live).norm() / live.norm() < 1e-5
    restore()
    assert all(net.get_parameter(key) is parameter for key, parameter in parameters.items())
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert torch.equal(call(net), live)


def test_a_convolution_keeps_its_stride_dilation_and_kind_of_padding():
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=(2, 1), dilation=2, padding_mode="circular")
    net, x = nn.ModuleDict({"c": layer}).double(), torch.randn(2, 3, 9, 8).double()
    attach(net, {"c": LowRank(torch.randn(2, 3, 3, 3), torch.randn(4, 2, 1, 1), 2.0)})
    live = layer(x)
    fuse(net)
    torch.testing.assert_close(live, layer(x), rtol=1e-12, atol=1e-12)


def test_fusing_in_half_precision_rounds_once():
    layer = nn.Linear(64, 64).half()
    # Each update alone is below half a step of float16 at these weights; together they are not.
    layer.weight.data.fill_(1.0)
    part = LowRank(torch.full((1, 64), 0.02), torch.full((64, 1), 0.02), 1.0)
    for name in ("a", "b"):
        attach(layer_net := nn.ModuleDict({"l": layer}), {"l": part}, name=name)
    fuse(layer_net)
    assert torch.equal(layer.weight, torch.full((64, 64), 1 + 2 * 0.02 * 0.02).half())
    assert layer.weight[0, 0] != (torch.tensor(1.0).half() + torch.tensor(0.0004).half()) + 0.0004


def test_alpha_over_rank_is_the_scale_trap_22():
    layer = nn.ModuleDict({"l": nn.Linear(4, 4, bias=False)})
    nn.init.zeros_(layer["l"].weight)
    down, up, x = torch.randn(2, 4), torch.randn(4, 2), torch.randn(3, 4)
    attach(layer, {"l": LowRank(down, up, 1.0)})
    torch.testing.assert_close(layer["l"](x), x @ (up @ down).T / 2)
    torch.testing.assert_close(LowRank(down, up, 1.0).delta(), up @ down / 2)


def test_adapters_add_up_and_are_switched_by_name():
    net = nn.ModuleDict({"l": nn.Linear(4, 5)})
    x, updates = torch.randn(3, 4), {}
    for name, weight in (("a", 1.0), ("b", 0.5)):
        updates[name] = LowRank(torch.randn(2, 4), torch.randn(5, 2), 2.0)
        attach(net, {"l": updates[name]}, name=name, weight=weight)
    plain, deltas = (
        F.linear(x, net["l"].weight, net["l"].bias),
        {k: x @ u.delta().T for k, u in updates.items()},
    )
    torch.testing.assert_close(net["l"](x), plain + deltas["a"] + 0.5 * deltas["b"])
    set_adapters(net, {"b": 2.0})
    assert attached(net) == {"a": 0.0, "b": 2.0}
    torch.testing.assert_close(net["l"](x), plain + 2 * deltas["b"])
    set_adapters(net, {})
    assert torch.equal(net["l"](x), plain)


def test_pointwise_convolutions_and_linear_layers_take_each_others_updates():
    net = nn.ModuleDict({"linear": nn.Linear(4, 6), "conv": nn.Conv2d(4, 6, 1)})
    down, up = torch.randn(2, 4), torch.randn(6, 2)
    flat, deep = LowRank(down, up, 2.0), LowRank(down[..., None, None], up[..., None, None], 2.0)
    attach(net, {"linear": deep, "conv": flat})
    made = updates_of(net)
    assert made["linear"].down.shape == (2, 4) and made["conv"].up.shape == (6, 2, 1, 1)
    assert torch.equal(made["linear"].delta(), flat.delta())


@pytest.mark.parametrize("base", [torch.float16, torch.bfloat16])
def test_trained_parameters_stay_float32_over_a_half_precision_network_trap_25(base):
    net = tiny().to(base).requires_grad_(False)
    attach(net, fresh(net, 2), trainable=True)
    trained = {key: p for key, p in net.named_parameters() if p.requires_grad}
    assert trained.keys() == lora_state(net).keys() and len(trained) == 2 * 8 * 4
    with torch.no_grad():
        for key, parameter in trained.items():
            parameter.add_(0.01 if key.endswith("up") else 0)
    x, tokens = torch.randn(2, 2, 8, 8).to(base), COND["tokens"].to(base)
    out = net(x, torch.tensor([1.0, 2.0]).to(base), {"tokens": tokens})
    assert out.dtype == base
    out.float().square().mean().backward()
    for key, parameter in trained.items():
        assert parameter.dtype == parameter.grad.dtype == torch.float32 and parameter.grad.any(), key


def test_trained_parameters_stay_float32_under_autocast_trap_25():
    net = tiny().requires_grad_(False)
    attach(net, drawn(net), trainable=True)
    with torch.autocast("cpu", torch.bfloat16):
        net(torch.randn(2, 2, 8, 8), torch.tensor([1.0, 2.0]), COND).float().square().mean().backward()
    grads = [p.grad for p in net.parameters() if p.requires_grad]
    assert grads and all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)


def test_training_moves_the_adapter_alone_and_not_the_tensors_it_came_from():
    net = tiny().requires_grad_(False)
    updates = drawn(net)
    held = {path: (u.down.clone(), u.up.clone()) for path, u in updates.items()}
    base = copy.deepcopy(net.state_dict())
    attach(net, updates, trainable=True)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.01)
    target, losses = torch.randn(2, 2, 8, 8), []
    for _ in range(5):
        optimizer.zero_grad()
        loss = (net(torch.ones(2, 2, 8, 8), torch.tensor([1.0, 2.0]), COND) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(net.state_dict()[key], value) for key, value in base.items())
    assert all(torch.equal(u.down, held[p][0]) and torch.equal(u.up, held[p][1]) for p, u in updates.items())
    moved = updates_of(net)
    assert all(not torch.equal(moved[path].up, update.up) for path, update in updates.items())


def test_a_networks_adapters_travel_in_their_own_state():
    net, other = tiny(), tiny()
    other.load_state_dict(net.state_dict())
    attach(net, drawn(net), name="style")
    attach(other, drawn(other), name="style")
    assert not torch.equal(call(net), call(other))
    report = other.load_state_dict(lora_state(net), strict=False)
    assert not report.unexpected_keys and torch.equal(call(net), call(other))
    assert all(".lora.style." in key for key in lora_state(net))
    attach(other, updates_of(net, "style"), name="again")
    set_adapters(other, {"again": 1.0})
    assert torch.equal(call(net), call(other))


def test_a_copy_of_an_adapted_network_is_its_own():
    net = tiny()
    attach(net, drawn(net))
    other = copy.deepcopy(net)
    adapted = call(net)
    detach(net)
    assert torch.equal(call(other), adapted) and not torch.equal(call(net), adapted)


def test_a_compiled_network_notices_adapters():
    torch.compiler.reset()
    net = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4))
    compiled, x = torch.compile(net, backend="eager", fullgraph=True), torch.randn(3, 4)
    before = compiled(x)
    attach(net, drawn(net))
    torch.testing.assert_close(compiled(x), net(x))
    assert not torch.allclose(compiled(x), before)
    set_adapters(net, {"default": 0.25})
    torch.testing.assert_close(compiled(x), net(x))
    detach(net)
    assert torch.equal(compiled(x), before)


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ({"m": ((2, 4), (5, 2))}, "1 updates are for layers that this network does not have, such as 'm'"),
        ({"l": ((2, 3), (5, 2))}, "'l' has down [2, 3] and up [5, 2], but its weight is [5, 4]"),
        ({"l": ((2, 4), (6, 2))}, "but its weight is [5, 4]"),
        ({"l": ((2, 4, 3, 3), (5, 2, 1, 1))}, "but its weight is [5, 4]"),
        ({"c": ((2, 4, 1, 1), (5, 2, 3, 3))}, "but its weight is [5, 4, 3, 3]"),
        ({"c": ((2, 4, 3), (5, 2))}, "but its weight is [5, 4, 3, 3]"),
    ],
)  # fmt: skip
def test_updates_that_do_not_fit_are_named_and_nothing_is_attached(updates, message):
    net = nn.ModuleDict({"l": nn.Linear(4, 5), "c": nn.Conv2d(4, 5, 3)})
    good = LowRank(torch.ones(2, 4), torch.ones(5, 2), 1.0)
    wrong = {path: LowRank(torch.ones(down), torch.ones(up), 1.0) for path, (down, up) in updates.items()}
    with pytest.raises(UserError, match=re.escape(message)):
        attach(net, {"l": good, **wrong})
    assert attached(net) == {} and type(net["l"]) is nn.Linear


def test_what_is_no_update_is_refused():
    for down, up, alpha, message in (
        (torch.ones(2, 4), torch.ones(5, 3), 1.0, "different ranks, 2 and 3"),
        (torch.ones(2, 4).int(), torch.ones(5, 2), 1.0, "torch.int32 and torch.float32 are not the weights"),
        (torch.ones(2, 4), torch.ones(5, 2), math.nan, "alpha nan is not a finite number"),
        (torch.ones(2, 4).to(torch.float8_e4m3fn), torch.ones(5, 2), 1.0, "are not the weights"),
        (torch.ones(4), torch.ones(5, 2), 1.0, "not the two halves"),
        (torch.ones(0, 4), torch.ones(5, 0), 1.0, "not the two halves"),
    ):
        with pytest.raises(UserError, match=message):
            LowRank(down, up, alpha)


def test_names_that_cannot_be_are_told():
    net = tiny()
    attach(net, fresh(net, 1), name="style")
    with pytest.raises(UserError, match="an adapter named 'style' is attached already"):
        attach(net, fresh(net, 1), name="style")
    for name in ("", "a.b", "items"):
        with pytest.raises(UserError, match="cannot be the name of an adapter"):
            attach(net, fresh(net, 1), name=name)
    for act in (detach, updates_of, lambda net, name: set_adapters(net, {name: 1.0})):
        with pytest.raises(UserError, match=r"no adapter 'stile' is attached .*those attached are: style"):
            act(net, "stile")
    with pytest.raises(UserError, match="weight of adapter 'ink' is nan: it must be a finite number"):
        attach(net, fresh(net, 1), name="ink", weight=math.nan)
    with pytest.raises(UserError, match="it must be a finite number"):
        set_adapters(net, {"style": math.inf})
    with pytest.raises(UserError, match="rank 0"):
        fresh(net, 0)
    with pytest.raises(UserError, match="no linear layer or convolution"):
        fresh(net, 1, where=lambda path: False)
    assert projections("mid.0.attention.blocks.0.self_attention.to_q") and not projections("to_q.norm")
