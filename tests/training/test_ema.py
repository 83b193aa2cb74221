from __future__ import annotations

import pytest
import torch
from torch import nn

from noisette.training import EMA


def line(value: float) -> nn.Linear:
    net = nn.Linear(1, 1)
    with torch.no_grad():
        net.weight.fill_(value)
        net.bias.fill_(-value)
    return net


def test_closed_form_with_warm_up() -> None:
    net, expected = line(0.0), 0.0
    ema = EMA(net, decay=0.6)
    for n in range(1, 30):
        with torch.no_grad():
            net.weight.fill_(n)
        ema.update(net)
        decay = min(0.6, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
        assert ema.shadow["weight"].item() == pytest.approx(expected, rel=1e-5)


def test_trap_25_the_average_is_float32_whatever_the_weights_are() -> None:
    net = line(0.0).to(torch.bfloat16)
    ema = EMA(net, decay=0.999)
    ema.updates = 10**6
    with torch.no_grad():
        net.weight.fill_(1.0)
    for _ in range(10):
        ema.update(net)
    assert ema.shadow["weight"].dtype == torch.float32
    # In bfloat16 an average this close to 0 would still move, but 1 - 0.999 of it near 1 would be lost.
    assert ema.shadow["weight"].item() == pytest.approx(1 - 0.999**10, rel=1e-4)
    for _ in range(5000):
        ema.update(net)
    assert ema.shadow["weight"].item() > 0.993


def test_buffers_are_copied() -> None:
    net = nn.BatchNorm1d(2)
    ema = EMA(net, 0.5)
    net.train()(torch.randn(8, 2) + 3)
    ema.update(net)
    assert torch.equal(ema.shadow["running_mean"], net.running_mean)
    assert ema.shadow["num_batches_tracked"].item() == 1


def test_swapping_in_and_out_leaves_the_weights_bit_identical() -> None:
    net = line(1.0)
    ema = EMA(net, 0.5)
    with torch.no_grad():
        net.weight.fill_(1 / 3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(RuntimeError), ema.swapped_into(net):
        assert net.weight.item() == 1.0
        raise RuntimeError
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_going_on_from_a_saved_average_is_the_same_average() -> None:
    net = line(0.0)
    a = EMA(net, 0.9)
    with torch.no_grad():
        net.weight.fill_(2.0)
    a.update(net)
    b = EMA(net, 0.9)
    b.load({name: value.clone() for name, value in a.shadow.items()}, a.updates)
    a.update(net)
    b.update(net)
    assert torch.equal(a.shadow["weight"], b.shadow["weight"]) and a.updates == b.updates == 2
