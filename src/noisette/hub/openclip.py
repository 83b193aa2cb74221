"""OpenCLIP's names for CLIP's text tower, which Stable Diffusion 2 and XL keep in their single files.

Beside the names, two things lie otherwise than in transformers: q, k and v are stacked in one tensor, and
the projection of the pooled vector is a matrix to multiply by from the right.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from noisette.errors import UserError

__all__ = ["from_openclip", "to_openclip"]

_BLOCK, _THEIR_BLOCK = "transformer.resblocks.", "text_model.encoder.layers."
_MODULES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_WHOLE = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_PROJECTION, _THEIR_PROJECTION = "text_projection", "text_projection.weight"
_STACKED = ("q_proj", "k_proj", "v_proj")


def from_openclip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's text tower under transformers' names; q, k and v are views of what was stacked.

    A key that is not OpenCLIP's stays as it is, for the caller to report.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        layer, _, inner = key.removeprefix(_BLOCK).partition(".")
        module, _, leaf = inner.rpartition(".")
        theirs = f"{_THEIR_BLOCK}{layer}"
        if key in _WHOLE:
            found[_WHOLE[key]] = tensor
        elif key == _PROJECTION:
            found[_THEIR_PROJECTION] = tensor.mT.contiguous() if tensor.ndim == 2 else tensor
        elif key.startswith(_BLOCK) and module in _MODULES:
            found[f"{theirs}.{_MODULES[module]}.{leaf}"] = tensor
        elif tensor.ndim and key.startswith(_BLOCK) and inner in ("attn.in_proj_weight", "attn.in_proj_bias"):
            leaf = inner.removeprefix("attn.in_proj_")
            parts = zip(_STACKED, tensor.tensor_split(3), strict=True)
            found |= {f"{theirs}.self_attn.{name}.{leaf}": part for name, part in parts}
        else:
            found[key] = tensor
    return found


def to_openclip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_openclip`; q, k and v are copied into one tensor.

    Raises UserError where one of the three is missing.
    """
    whole = {theirs: key for key, theirs in _WHOLE.items()}
    modules = {theirs: ours for ours, theirs in _MODULES.items()}
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        layer, _, inner = key.removeprefix(_THEIR_BLOCK).partition(".")
        module, _, leaf = inner.rpartition(".")
        if key in whole:
            found[whole[key]] = tensor
        elif key == _THEIR_PROJECTION:
            found[_PROJECTION] = tensor.mT.contiguous()
        elif key.startswith(_THEIR_BLOCK) and module in modules:
            found[f"{_BLOCK}{layer}.{modules[module]}.{leaf}"] = tensor
        elif key.startswith(_THEIR_BLOCK) and module == f"self_attn.{_STACKED[0]}":
            names = [f"{_THEIR_BLOCK}{layer}.self_attn.{name}.{leaf}" for name in _STACKED]
            if missing := [name for name in names if name not in state]:
                raise UserError(f"the text encoder lacks the tensor {missing[0]!r}")
            found[f"{_BLOCK}{layer}.attn.in_proj_{leaf}"] = torch.cat([state[name] for name in names])
        elif not (key.startswith(_THEIR_BLOCK) and module.removeprefix("self_attn.") in _STACKED):
            found[key] = tensor
    return found
