from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import pytest
import torch
from diffusers import VQModel as Peer
from hypothesis import given
from hypothesis import strategies as st

from noisette.errors import UserError
from noisette.nets.vae import calibrated
from noisette.nets.vq import Quantizer, VQConfig, VQModel

SMALL = VQConfig(
    block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, num_vq_embeddings=32, vq_embed_dim=2
)


def renamed(weights: dict[str, torch.Tensor], levels: int) -> dict[str, torch.Tensor]:
    rules = [
        (r"^quantize\.embedding", "quantizer.codebook"),
        (r"^quant_conv", "encoder.quant"),
        (r"^post_quant_conv", "decoder.quant"),
        (r"up_blocks\.(\d)", lambda found: f"up.{levels - 1 - int(found[1])}"),
        (r"down_blocks", "down"),
        (r"mid_block\.resnets\.0", "mid.before"),
        (r"mid_block\.resnets\.1", "mid.after"),
        (r"attentions\.0\.group_norm", "attention.norm"),
        (r"attentions\.0", "attention.attention"),
        (r"mid_block", "mid"),
        (r"to_out\.0", "to_out"),
        (r"resnets", "blocks"),
        (r"(down|up)samplers\.0", "resample"),
        (r"conv_shortcut", "skip"),
        (r"conv_norm_out", "norm_out"),
    ]
    named = {}
    for key, weight in weights.items():
        for pattern, name in rules:
            key = re.sub(pattern, name, key)
        named[key] = weight
    return named


def peer(config: VQConfig) -> Peer:
    fields = asdict(config)
    del fields["patch_size"], fields["shift_factor"]
    levels = len(config.block_out_channels)
    return Peer(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **fields,
    )


@pytest.mark.parametrize(
    "config", [SMALL, replace(SMALL, vq_embed_dim=None, block_out_channels=(8, 8, 16))], ids=["own", "same"]
)
def test_equals_diffusers(config, shaken):
    theirs = shaken(peer(config)).double()
    ours = VQModel(config).double().eval()
    ours.load_state_dict(renamed(theirs.state_dict(), len(config.block_out_channels)))
    x = torch.rand(2, 3, 3 * config.factor, 2 * config.factor, dtype=torch.float64) * 2 - 1
    z = theirs.encode(x).latents
    torch.testing.assert_close(ours.encode(x), z, rtol=1e-9, atol=1e-9)
    codes, loss, (_, _, indices) = theirs.quantize(z)
    found = ours.quantizer(z)
    assert torch.equal(found.indices.flatten(), indices.flatten())
    assert found.indices.unique().numel() > 2
    torch.testing.assert_close(found.codes, codes, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.loss.mean(), loss, rtol=1e-9, atol=1e-9)
    image = theirs(x).sample
    torch.testing.assert_close(ours(x)[0], image, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.from_latents(ours.to_latents(x)), image, rtol=1e-9, atol=1e-9)


@given(size=st.integers(1, 9), dim=st.integers(1, 4), offset=st.sampled_from([0.0, 1e3]))
def test_quantising_finds_the_nearest_and_is_idempotent(size, dim, offset):
    quantizer = Quantizer(size, dim)
    book = torch.randn(size, dim) + offset
    quantizer.codebook.weight.data = book
    z = torch.randn(2, dim, 3, 4) + offset
    found = quantizer(z)
    distance = (z[:, None].double() - book[None, :, :, None, None].double()).square().sum(2)
    torch.testing.assert_close(distance.gather(1, found.indices[:, None])[:, 0], distance.amin(1))
    assert torch.equal(found.codes, quantizer.lookup(found.indices))
    again = quantizer(found.codes)
    assert torch.equal(again.indices, found.indices)
    assert torch.equal(again.loss, torch.zeros(2))


def test_gradients_go_straight_through_and_commitment_weighs_the_encoder():
    quantizer = Quantizer(2, 1, commitment=0.25)
    quantizer.codebook.weight.data = torch.tensor([[-1.0], [1.0]])
    z = torch.tensor([0.6, 2.0, -0.5, 1.0]).view(1, 1, 2, 2).requires_grad_()
    found = quantizer(z)
    assert found.indices.flatten().tolist() == [1, 1, 0, 1]
    assert found.loss.tolist() == pytest.approx([1.25 * (0.16 + 1 + 0.25 + 0) / 4])
    (grad,) = torch.autograd.grad(
        (found.codes * torch.arange(4.0).view(1, 1, 2, 2)).sum(), z, retain_graph=True
    )
    assert grad.flatten().tolist() == [0, 1, 2, 3]
    grad, book = torch.autograd.grad(found.loss.sum(), [z, quantizer.codebook.weight])
    assert grad.flatten().tolist() == pytest.approx([0.25 * 2 * gap / 4 for gap in (-0.4, 1.0, 0.5, 0.0)])
    assert book.flatten().tolist() == pytest.approx([2 * -0.5 / 4, 2 * (0.4 - 1.0) / 4])


def test_reconstruction_leaves_the_codebook_to_its_own_loss(shaken):
    net = shaken(VQModel(SMALL))
    image, quantized = net(torch.randn(2, 3, 8, 8))
    image.square().sum().backward(retain_graph=True)
    assert net.quantizer.codebook.weight.grad is None
    assert net.encoder.conv_in.weight.grad.any()
    quantized.loss.sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_perplexity_counts_the_codes_in_use():
    quantizer = Quantizer(8, 1)
    quantizer.codebook.weight.data = torch.arange(8.0)[:, None]
    assert quantizer(torch.arange(8.0).view(1, 1, 2, 4)).perplexity.item() == pytest.approx(8)
    assert quantizer(torch.full((2, 1, 3, 3), 5.0)).perplexity.item() == pytest.approx(1)
    assert quantizer(torch.tensor([0.0, 0, 3, 3]).view(4, 1, 1, 1)).perplexity.item() == pytest.approx(2)


def test_many_positions_are_searched_in_parts_with_the_same_result():
    quantizer = Quantizer(5, 2)
    z = torch.randn(3, 2, 48, 64)
    alone = torch.cat([quantizer.nearest(z[i : i + 1]) for i in range(3)])
    assert torch.equal(quantizer.nearest(z), alone)


def test_latents_are_taken_before_quantisation_and_scaled(shaken):
    net = shaken(VQModel(replace(SMALL, shift_factor=0.5, patch_size=2)))
    x = torch.randn(2, 3, 8, 12)
    z = net.encode(x)
    assert z.shape == (2, 2, 2, 3)
    torch.testing.assert_close(net.to_latents(x), (z - 0.5) * 0.18215)
    assert calibrated(net.config, z).scaling_factor == pytest.approx(1 / z.std(correction=0).item())
    codes = net.quantizer(z).codes
    torch.testing.assert_close(net.from_latents(net.to_latents(x)), net.decode(codes))


def test_config_travels_as_json_and_bad_ones_are_told():
    assert VQConfig(**json.loads(json.dumps(asdict(SMALL)))) == SMALL
    with pytest.raises(UserError, match="codebook"):
        replace(SMALL, num_vq_embeddings=0)
    with pytest.raises(UserError, match="codebook"):
        replace(SMALL, vq_embed_dim=0)
    with pytest.raises(UserError, match="norm_num_groups"):
        replace(SMALL, norm_num_groups=5)
