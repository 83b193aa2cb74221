"""What every checkpoint of a kind has in common and its file does not say: configs, and CLIP's vocabulary."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from noisette.conditioning.tokenizer import BOS, EOS, WORD_END, Tokenizer

__all__ = ["Known", "clip_tokenizer", "known"]


@dataclass(frozen=True)
class Known:
    """The published configs of one kind, in diffusers' and transformers' fields.

    ``pipelines`` are the classes by how many channels the network takes beside the noisy latent: none, 4 of
    an image, or 5 of a mask and an image.
    """

    pipelines: dict[str, str]
    configs: dict[str, dict[str, Any]]
    options: dict[str, Any]


def known(kind: str) -> Known:
    """The configs of "sd1", "sd2", "xl" or "xl_refiner", each time anew."""
    return Known(**json.loads((files(__name__) / f"{kind}.json").read_text(encoding="utf-8")))


def clip_tokenizer(pad: str = EOS) -> Tokenizer:
    """The tokenizer of CLIP, 49408 tokens, 77 at once.

    CLIP's own text encoder and SDXL's first pad with the end token; OpenCLIP's, which Stable Diffusion 2 and
    SDXL's second are, pad with "!", the token 0.
    """
    return _clip(pad)


@cache
def _clip(pad: str) -> Tokenizer:
    from tokenizers import pre_tokenizers

    text = gzip.decompress((files(__name__) / "clip_merges.txt.gz").read_bytes()).decode("utf-8")
    merges = tuple((left, right) for left, right in (line.split(" ") for line in text.splitlines()))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    base = (*letters, *(letter + WORD_END for letter in letters))
    return Tokenizer((*base, *(left + right for left, right in merges), BOS, EOS), merges, pad=pad)
