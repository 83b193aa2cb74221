"""A pipeline as it lies in files: the common ground of diffusers folders and single files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from noisette.conditioning.tokenizer import Tokenizer

__all__ = ["Checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """What diffusers would find in the folder of a pipeline, read and not yet built.

    ``pipeline`` is the class that model_index.json names; ``configs`` are the parts' own files ("unet",
    "transformer", "vae", "text_encoder", "text_encoder_2", "scheduler") and ``tensors`` their weights, in
    diffusers' and transformers' names; ``options`` are what else model_index.json says
    (force_zeros_for_empty_prompt, requires_aesthetics_score, id2label).
    """

    pipeline: str
    configs: Mapping[str, Mapping[str, Any]]
    tensors: Mapping[str, Mapping[str, Tensor]] = field(repr=False)
    tokenizers: Mapping[str, Tokenizer] = field(default_factory=dict[str, Tokenizer], repr=False)
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
