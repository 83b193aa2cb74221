from __future__ import annotations

import math

import pytest
import torch
from torch.func import jacrev

from noisette.errors import UserError
from noisette.nets.flow import (
    ActNorm,
    Coupling,
    Glow,
    GlowConfig,
    Mixing,
    Split,
    dequantised,
    flow_bits,
)

SMALL = GlowConfig(image_size=8, steps=2, widths=(8, 12), num_classes=3)
TINY = GlowConfig(image_size=4, steps=2, widths=(6, 6), num_classes=2)


def stirred(module: torch.nn.Module, by: float = 0.2) -> torch.nn.Module:
    """With all that begins at zero away from it."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("label", [0, 1])
def test_the_log_determinant_is_that_of_the_jacobian(label):
    flow = stirred(Glow(TINY)).double()
    told, y = torch.tensor([label]), torch.randn(1, 1, 4, 4, dtype=torch.float64)
    matrix = jacrev(lambda y: flow(y.view(1, 1, 4, 4), told)[0].flatten())(y.flatten())
    _, log_det = flow(y, told)
    assert log_det.abs() > 1
    torch.testing.assert_close(torch.linalg.slogdet(matrix)[1], log_det[0], rtol=0, atol=1e-8)
    in_float = flow.float()(y.float(), told)[1]
    torch.testing.assert_close(in_float.double(), log_det, rtol=0, atol=1e-4)


@pytest.mark.parametrize("layer", [ActNorm(4), Mixing(4), Coupling(4, 8, 2)], ids=["norm", "mix", "couple"])
def test_every_layer_has_its_own_determinant_and_inverse(layer):
    layer, told = stirred(layer).double(), torch.tensor([1])
    x = torch.randn(1, 4, 2, 2, dtype=torch.float64)
    y, log_det = layer(x, told)
    matrix = jacrev(lambda x: layer(x.view(1, 4, 2, 2), told)[0].flatten())(x.flatten())
    torch.testing.assert_close(torch.linalg.slogdet(matrix)[1], log_det[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(layer.inverse(y, told), x, rtol=0, atol=1e-9)


def test_a_split_hands_out_half_and_takes_it_back():
    split, x = stirred(Split(6)).double(), torch.randn(2, 6, 3, 3, dtype=torch.float64)
    on, done, log_det = split(x)
    assert torch.equal(on, x[:, :3]) and done.shape == on.shape and log_det.shape == (2,)
    torch.testing.assert_close(split.inverse(on, done), x)


def test_what_goes_through_comes_back():
    flow = stirred(Glow(SMALL), 0.1)
    y, label = torch.rand(16, 1, 8, 8) - 0.5, torch.arange(16) % 3
    z, _ = flow(y, label)
    assert z.shape == (16, 64) and flow.noise_shapes == ((64,),)
    assert (flow.inverse(z, label) - y).abs().max() <= 1e-4
    assert (flow.inverse(z, (label + 1) % 3) - y).abs().max() > 1e-2  # it is told the class
    pictures = flow.draw([z], label)
    torch.testing.assert_close(pictures, 2 * y, rtol=0, atol=2e-4)


def test_a_new_flow_turns_and_changes_nothing_else():
    flow, y = Glow(SMALL), torch.randn(4, 1, 8, 8)
    z, log_det = flow(y, torch.tensor([0, 1, 2, 0]))
    assert log_det.abs().max() < 1e-4
    torch.testing.assert_close(z.square().sum(1), y.square().flatten(1).sum(1))
    assert (Coupling(4, 8, 2)(torch.ones(1, 4, 2, 2), torch.tensor([0]))[0] - 1).abs().max() < 1e-6


def test_a_coupling_is_bounded_both_ways_and_a_picture_is_finite():
    layer, x = Coupling(4, 8, 2), torch.ones(1, 4, 2, 2)
    for raw, scale in ((-1e6, 0.05 / (0.05 + 0.95 / (1 + math.exp(-2)))), (1e6, None)):
        with torch.no_grad():
            layer.conv3.bias[2:] = raw
        y, _ = layer(x, torch.tensor([0]))
        assert y[0, 2, 0, 0].item() == pytest.approx(scale or 1.1278, rel=1e-3)
    flow = stirred(Glow(SMALL), 3.0)
    assert flow.draw([1e30 * torch.randn(2, 64)], torch.tensor([0, 1])).isfinite().all()


def test_actnorm_is_set_by_the_first_batch():
    norm, x = ActNorm(3), torch.randn(8, 3, 4, 4) * torch.tensor([5.0, 0.1, 1.0]).view(3, 1, 1) + 2
    norm.fit(x)
    y, log_det = norm(x, torch.zeros(8, dtype=torch.long))
    assert y.mean((0, 2, 3)).abs().max() < 1e-5
    assert (y.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    scales = x.std((0, 2, 3), correction=0)
    assert log_det[0].item() == pytest.approx(-16 * float(scales.log().sum()), rel=1e-5)


def test_a_fitted_flow_gives_unit_numbers_whatever_the_scale_of_the_data():
    flow, label = Glow(SMALL), torch.arange(64) % 3
    y = 0.003 * torch.randn(64, 1, 8, 8) - 0.4
    flow.fit(y, label)
    z, log_det = flow(y, label)
    assert 0.7 < z.std().item() < 1.3 and log_det.mean().item() > 64 * math.log(100)
    torch.testing.assert_close(flow.inverse(z, label), y, rtol=0, atol=1e-5)


def test_mixing_starts_as_a_rotation_and_keeps_its_determinant():
    mixing = Mixing(8)
    weight = mixing.weight
    torch.testing.assert_close(weight @ weight.mT, torch.eye(8), rtol=0, atol=1e-5)
    stirred(mixing)
    log_det = mixing(torch.zeros(1, 8, 3, 5), torch.tensor([0]))[1]
    assert float(log_det) == pytest.approx(15 * float(torch.linalg.slogdet(mixing.weight)[1]), rel=1e-4)


def test_bits_of_a_flow_that_is_the_identity_are_known():
    values = torch.tensor([[0, 255, 128, 7]]).view(1, 1, 2, 2)
    u = torch.tensor([[0.0, 0.5, 0.25, 0.75]]).view(1, 1, 2, 2)
    y = dequantised(values / 127.5 - 1, u)
    torch.testing.assert_close(y.flatten(), torch.tensor([0.0, 255.5, 128.25, 7.75]) / 256 - 0.5)
    found = flow_bits(y.flatten(1), torch.zeros(1))
    # Each bin of width 1/256 about y has probability N(y) / 256.
    wanted = -torch.log2(torch.exp(-y.square() / 2) / math.sqrt(2 * math.pi) / 256).mean()
    assert float(found) == pytest.approx(float(wanted), abs=1e-5) and 9 < float(found) < 9.5
    uniform = flow_bits(torch.zeros(1, 4), torch.tensor([2 * math.log(2 * math.pi)]))
    assert float(uniform) == pytest.approx(8)  # density 1 on [-1/2, 1/2): eight bits, no more and no less


def test_bits_depend_on_the_label_and_the_generator_alone():
    flow, x = stirred(Glow(SMALL), 0.1), (torch.randint(0, 256, (3, 1, 8, 8)) / 127.5 - 1)
    bits = [
        flow.bits_per_dim(x, torch.tensor([k] * 3), torch.Generator().manual_seed(s))
        for k, s in ((0, 0), (0, 0), (1, 0), (0, 1))
    ]
    assert bits[0].shape == (3,) and torch.equal(bits[0], bits[1])
    assert (bits[2] - bits[0]).abs().max() > 1e-4 and (bits[3] - bits[0]).abs().max() > 1e-6


def test_numbers_that_do_not_fit_are_told():
    with pytest.raises(UserError, match="sides divisible by 8, not 36"):
        GlowConfig(image_size=36)
    with pytest.raises(UserError, match="at least one level"):
        GlowConfig(widths=())
    with pytest.raises(UserError, match=r"takes \[B, 1, 8, 8\], not \[1, 3, 8, 8\]"):
        Glow(SMALL)(torch.zeros(1, 3, 8, 8), torch.tensor([0]))
    with pytest.raises(UserError, match="label 3 is out of range"):
        Glow(SMALL)(torch.zeros(1, 1, 8, 8), torch.tensor([3]))
