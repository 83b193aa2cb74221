"""Texts as a condition, and texts left out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from noisette.conditioning.tokenizer import Tokenizer
from noisette.core import Cond
from noisette.errors import UserError

NO_TEXT = ""


def text_cond(tokenizer: Tokenizer, texts: Sequence[str], device: torch.device | str | None = None) -> Cond:
    """The condition ``{"ids": LongTensor [B, L], "token_mask": bool [B, L]}``, L the tokenizer's length.

    It is for a network with a text encoder of its own. All texts give the same shape, the null prompt ""
    too, so prompts and negative prompts run in one batched call.
    """
    ids, mask = tokenizer(texts)
    return {"ids": ids.to(device), "token_mask": mask.to(device)}


def trimmed(cond: Cond) -> Cond:
    """The condition without the places at its end that "token_mask" hides in every row.

    For training, where a batch is encoded once and its length does not matter afterwards; the encoder and
    the network then work on the longest text of the batch, not on the longest there may be.
    """
    ids = cond.get("ids")
    if not isinstance(ids, Tensor) or ids.ndim != 2:  # none, or windows, whose length is the encoder's own
        return cond
    length = int(cond["token_mask"].sum(1).max())
    return {**cond, "ids": ids[:, :length], "token_mask": cond["token_mask"][:, :length]}


def drop_texts(texts: Sequence[str], dropped: Tensor) -> list[str]:
    """The texts with the null prompt "" where ``dropped`` [B] is True.

    Whoever trains draws ``dropped``, each with probability 0.1 to 0.2: without it a model has no
    unconditional half to guide with. Source: arXiv:2207.12598, Algorithm 1.
    """
    return [NO_TEXT if gone else text for text, gone in zip(texts, dropped.tolist(), strict=True)]


def negatives_of(prompts: Sequence[str], negative_prompt: str | Sequence[str] | None = None) -> list[str]:
    """One negative prompt for each prompt: None is the null prompt "", and a single text serves all.

    Raises UserError for a list of another length.
    """
    if negative_prompt is None or isinstance(negative_prompt, str):
        return [negative_prompt or NO_TEXT] * len(prompts)
    if len(negative_prompt) != len(prompts):
        raise UserError(
            f"there are {len(prompts)} prompts but {len(negative_prompt)} negative prompts: "
            "give one for all, or one for each"
        )
    return list(negative_prompt)


def alike(cond: Cond, null: Cond) -> tuple[Cond, Cond]:
    """Two conditions with their "tokens" made equally long, so that guidance batches both in one call.

    The shorter one is filled up with zeros that its "token_mask" hides. Masks are only made where they are
    needed: where the lengths differ, or where one of the two has a mask already.
    """
    tokens = cond.get("tokens"), null.get("tokens")
    if tokens[0] is None or tokens[1] is None:
        return cond, null
    length = max(tokens[0].shape[1], tokens[1].shape[1])
    masked = tokens[0].shape[1] != tokens[1].shape[1] or "token_mask" in cond or "token_mask" in null
    return _padded(cond, length, masked), _padded(null, length, masked)


def _padded(cond: Cond, length: int, masked: bool) -> Cond:
    if not masked:
        return cond
    tokens = cond["tokens"]
    mask = cond.get("token_mask")
    if mask is None:
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    missing = length - tokens.shape[1]
    return {
        **cond,
        "tokens": F.pad(tokens, (0, 0, 0, missing)),
        "token_mask": F.pad(mask, (0, missing)),
    }
