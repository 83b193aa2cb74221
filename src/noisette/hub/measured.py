"""What tensors say of the network they belong to, as far as their names and shapes go.

A single file holds no config. The published one of its kind is overlaid with what is measured here, so that
a network of another size is read as what it is; of the published sizes, both say the same. Heads, groups of
norms and waves cannot be seen in a shape and follow the kind's rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from torch import Tensor

from noisette.errors import UserError

__all__ = ["measured_text", "measured_unet", "measured_vae"]

State = Mapping[str, Tensor]

HEAD_CHANNELS = 64
"""Width of a head in every network of these kinds, but for the first Stable Diffusion's U-Net."""


def measured_unet(state: State, *, heads: int | None) -> dict[str, Any]:
    """Fields of a UNet2DConditionModel's config from a U-Net in LDM's names; ``heads`` None: 64 wide each.

    Raises UserError where a tensor that tells something is missing or has too few dimensions, and for
    levels and blocks that differ in ways no config has a field for.
    """
    widths, depths, blocks = _levels(state)
    middle = _depth(state, "middle_block.1")
    attends = [depth > 0 for depth in depths]
    if attends[-1] and depths[-1] != middle:
        raise UserError("its U-Net is irregular: the middle has other transformers than the last level")
    depths[-1] = middle
    same = len({depth for depth in depths if depth}) == 1
    fields: dict[str, Any] = {
        "in_channels": _size(state, "input_blocks.0.0.weight", 1),
        "out_channels": _size(state, "out.2.weight", 0),
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "down_block_types": [("CrossAttn" if attend else "") + "DownBlock2D" for attend in attends],
        "up_block_types": [("CrossAttn" if attend else "") + "UpBlock2D" for attend in reversed(attends)],
        "transformer_layers_per_block": middle if same else [depth or 1 for depth in depths],
        "attention_head_dim": heads or [max(1, width // HEAD_CHANNELS) for width in widths],
        "cross_attention_dim": _size(state, "middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1),
        "use_linear_projection": len(_shape(state, "middle_block.1.proj_in.weight")) == 2,
    }
    if "label_emb.0.0.weight" in state:
        fields["projection_class_embeddings_input_dim"] = _size(state, "label_emb.0.0.weight", 1)
    return fields


def _levels(state: State) -> tuple[list[int], list[int], int]:
    """Widths and numbers of transformer blocks, level by level, and how many stages each level has."""
    widths: list[set[int]] = [set()]
    depths: list[list[int]] = [[]]
    for index in count(1):
        place = f"input_blocks.{index}"
        if f"{place}.0.op.weight" in state:
            widths.append(set())
            depths.append([])
        elif f"{place}.0.in_layers.2.weight" in state:
            widths[-1].add(_size(state, f"{place}.0.in_layers.2.weight", 0))
            depths[-1].append(_depth(state, f"{place}.1"))
        else:
            break
    regular = all(
        len(width) == 1 and len(set(depth)) == 1 for width, depth in zip(widths, depths, strict=True)
    )
    if not regular or len({len(depth) for depth in depths}) != 1:
        raise UserError("its U-Net is irregular: the blocks of a level differ, or some are missing")
    return [width.pop() for width in widths], [depth[0] for depth in depths], len(depths[0])


def _depth(state: State, place: str) -> int:
    """How many transformer blocks stand at a place."""
    return next(i for i in count() if f"{place}.transformer_blocks.{i}.norm1.weight" not in state)


def measured_vae(state: State) -> dict[str, Any]:
    """Fields of an AutoencoderKL's config from an autoencoder in LDM's names. Raises likewise."""
    levels = _counted(state, "encoder.down.{}.block.0.conv1.weight")
    return {
        "in_channels": _size(state, "encoder.conv_in.weight", 1),
        "out_channels": _size(state, "decoder.conv_out.weight", 0),
        "latent_channels": _size(state, "decoder.conv_in.weight", 1),
        "block_out_channels": [
            _size(state, f"encoder.down.{i}.block.0.conv1.weight", 0) for i in range(levels)
        ],
        "layers_per_block": _counted(state, "encoder.down.0.block.{}.conv1.weight"),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in state,
        "use_quant_conv": "quant_conv.weight" in state,
        "use_post_quant_conv": "post_quant_conv.weight" in state,
    }


def measured_text(state: State) -> dict[str, Any]:
    """Fields of a CLIPTextModel's config from a text encoder in transformers' names. Raises likewise."""
    words = "text_model.embeddings.token_embedding.weight"
    fields = {
        "vocab_size": _size(state, words, 0),
        "hidden_size": _size(state, words, 1),
        "intermediate_size": _size(state, "text_model.encoder.layers.0.mlp.fc1.weight", 0),
        "num_hidden_layers": _counted(state, "text_model.encoder.layers.{}.mlp.fc1.weight"),
        "num_attention_heads": max(1, _size(state, words, 1) // HEAD_CHANNELS),
        "max_position_embeddings": _size(state, "text_model.embeddings.position_embedding.weight", 0),
    }
    if "text_projection.weight" in state:
        fields["projection_dim"] = _size(state, "text_projection.weight", 0)
    return fields


def _counted(state: State, pattern: str) -> int:
    return next(i for i in count() if pattern.format(i) not in state)


def _size(state: State, name: str, axis: int) -> int:
    shape = _shape(state, name)
    if len(shape) <= axis or not shape[axis]:
        raise UserError(f"its tensor {name!r} of shape {list(shape)} is none of such a network's")
    return shape[axis]


def _shape(state: State, name: str) -> tuple[int, ...]:
    if name not in state:
        raise UserError(f"it lacks the tensor {name!r}")
    return tuple(state[name].shape)
