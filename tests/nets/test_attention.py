from __future__ import annotations

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention as PeerAttention
from diffusers.models.transformers.transformer_2d import Transformer2DModel

from noisette.nets.attention import (
    Attention,
    AttentionBlock,
    SpatialTransformer,
    TransformerBlock,
    to_image,
    to_sequence,
)

F64 = {"dtype": torch.float64}


def transformer_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    pairs = {
        "transformer_blocks": "blocks",
        "attn1": "self_attention",
        "attn2": "cross_attention",
        "to_out.0": "to_out",
        "ff.net.0.proj": "feed_forward.proj_in",
        "ff.net.2": "feed_forward.proj_out",
    }
    named = {}
    for key, weight in weights.items():
        for theirs, ours in pairs.items():
            key = key.replace(theirs, ours)
        named[key] = weight.squeeze(-1, -2) if weight.dim() == 4 else weight
    return named


def test_attention_is_its_formula():
    layer = Attention(8, 2, "here", context_dim=6).double()
    torch.nn.init.normal_(layer.to_out.weight)
    x, context = torch.randn(3, 5, 8, **F64), torch.randn(3, 4, 6, **F64)
    heads = []
    for h in range(2):
        rows = slice(4 * h, 4 * h + 4)
        q, k, v = layer.to_q(x)[..., rows], layer.to_k(context)[..., rows], layer.to_v(context)[..., rows]
        heads.append((torch.einsum("bnd,bmd->bnm", q, k) / 2).softmax(-1) @ v)
    torch.testing.assert_close(layer(x, context), layer.to_out(torch.cat(heads, -1)), rtol=1e-10, atol=1e-10)


def test_attention_block_equals_diffusers():
    theirs = PeerAttention(
        32, heads=4, dim_head=8, norm_num_groups=8, eps=1e-5, bias=True, residual_connection=True
    ).double()
    ours = AttentionBlock(32, 4, "mid", groups=8).double()
    weights = {}
    for key, weight in theirs.state_dict().items():
        name = key.replace("to_out.0", "to_out")
        weights[name.replace("group_norm", "norm") if "norm" in name else f"attention.{name}"] = weight
    ours.load_state_dict(weights)
    x = torch.randn(2, 32, 4, 6, **F64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)


def test_transformer_block_equals_diffusers():
    theirs = BasicTransformerBlock(32, 4, 8, cross_attention_dim=12).double().eval()
    ours = TransformerBlock(32, 4, 12, "mid").double()
    ours.load_state_dict(transformer_names(theirs.state_dict()))
    x, context = torch.randn(2, 9, 32, **F64), torch.randn(2, 5, 12, **F64)
    mask = torch.tensor([[True] * 5, [True, True, False, True, False]])
    torch.testing.assert_close(
        ours(x, context, mask),
        theirs(x, encoder_hidden_states=context, encoder_attention_mask=mask[:, None]),
        rtol=1e-10,
        atol=1e-10,
    )


def test_spatial_transformer_equals_diffusers():
    theirs = Transformer2DModel(4, 8, in_channels=32, cross_attention_dim=12, norm_num_groups=8)
    theirs = theirs.double().eval()
    ours = SpatialTransformer(32, 4, 12, "mid", groups=8).double()
    ours.load_state_dict(transformer_names(theirs.state_dict()))
    x, context = torch.randn(2, 32, 4, 6, **F64), torch.randn(2, 5, 12, **F64)
    torch.testing.assert_close(
        ours(x, context), theirs(x, encoder_hidden_states=context).sample, rtol=1e-10, atol=1e-10
    )


def test_new_blocks_are_the_identity():
    x, context = torch.randn(2, 16, 4, 6), torch.randn(2, 3, 8)
    assert torch.equal(AttentionBlock(16, 2, "mid", groups=4)(x), x)
    assert torch.equal(SpatialTransformer(16, 2, 8, "mid", groups=4)(x, context), x)


def test_a_text_that_is_masked_whole_says_nothing_and_stays_finite():
    layer = Attention(8, 2, "here", context_dim=6)
    torch.nn.init.normal_(layer.to_out.weight)
    out = layer(torch.randn(1, 5, 8), torch.randn(1, 4, 6), torch.zeros(1, 4, dtype=torch.bool))
    torch.testing.assert_close(out, layer.to_out.bias.expand_as(out))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_sequence_and_image_are_inverse(memory_format):
    x = torch.randn(2, 3, 4, 6).to(memory_format=memory_format)
    sequence = to_sequence(x)
    assert torch.equal(sequence[:, 1 * 6 + 2], x[:, :, 1, 2])
    assert torch.equal(to_image(sequence, 4), x)
    if memory_format is torch.channels_last:
        assert sequence.data_ptr() == x.data_ptr()
