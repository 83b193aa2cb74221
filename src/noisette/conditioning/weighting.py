"""Prompts in which words carry weights, and prompts longer than the encoder reads at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from noisette.conditioning.tokenizer import Tokenizer
from noisette.errors import UserError

HEAVIEST = 10.0
COMMA_REACH = 20  # tokens at the end of a window among which a comma is looked for, as the web interfaces do

_PART = re.compile(r"\\[():]|[():]|[^\\():]+|\\")


def weighted(text: str) -> list[tuple[str, float]]:
    """A prompt as pieces with their weights, in order: `a (red:1.2) cat` has 1.2 on "red" and 1 elsewhere.

    Only brackets that close on a colon and a number carry a weight; within others of the kind the weights
    multiply. `\\(`, `\\)` and `\\:` are the bare characters. All other brackets are text as they stand, where
    the web interfaces would read "(a)" as 1.1 and "[a]" as 1 / 1.1: a plain prompt means here what it means
    in diffusers. Neighbours of equal weight are one piece; a text without weights is one piece, "" is none.
    Raises UserError for a weight, written or multiplied, that is not a number in [0, 10].
    """
    pieces: list[tuple[str, float]] = []
    opened: list[_Open] = []
    for found in _PART.finditer(text):
        part, group = found.group(), opened[-1] if opened else None
        if part == "(":
            opened.append(_Open(found.start(), len(pieces), found.start(), len(pieces)))
        elif part == ":" and group:
            group.colon, group.words = found.start(), len(pieces)
        elif part == ")" and group:
            opened.pop()
            weight = _number(text[group.colon + 1 : found.start()])
            if weight is not None and text[group.start + 1 : group.colon].strip():
                inner = pieces[group.first + 1 : group.words]
                _check(weight, text[group.start : found.end()])
                pieces[group.first :] = [(words, weight * own) for words, own in inner]
                continue
        pieces.append((part[-1] if len(part) == 2 and part[0] == "\\" else part, 1.0))
    return _joined(pieces)


@dataclass
class _Open:
    """A bracket that may come to carry a weight: where it and its last colon stand, in text and pieces.

    Before there is a colon the bracket stands for it, so that no words are found between the two.
    """

    start: int
    first: int
    colon: int
    words: int


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _check(weight: float, piece: str) -> None:
    if not 0 <= weight <= HEAVIEST:
        shown = piece if len(piece) <= 60 else f"{piece[:57]}..."
        raise UserError(
            rf"the weight {weight:g} of {shown!r} must lie in 0 to {HEAVIEST:g}; write \: for a plain colon"
        )


def _joined(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    runs: list[tuple[list[str], float]] = []
    for words, weight in pieces:
        _check(weight, words)
        if not runs or runs[-1][1] != weight:
            runs.append(([], weight))
        runs[-1][0].append(words)
    return [("".join(parts), weight) for parts, weight in runs]


def windows(
    tokenizer: Tokenizer, texts: str | Sequence[str], count: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts of any length and with weights: ids, weights and a mask, all [B, W, L].

    The tokens of a text, piece by piece as `weighted` gives them, are cut into windows of L - 2, L =
    `tokenizer.max_length`, and every window gets its two ends and is filled up as the tokenizer does. So a
    plain text that fits has the tokenizer's own ids. Where a text goes on, a window ends after a comma among
    its last 20 tokens if there is one, or full if the comma comes next: the web interfaces' habit. W is the
    most that any text needs, or ``count``; shorter texts get empty windows, which only hold the two ends.

    ids: LongTensor; weights: float32, 1 on the ends and what fills up; mask: bool, False on what fills up
    and on all of an empty window, but not of the first. Networks that were trained to see their padding, as
    Stable Diffusion's, are not to be given the mask. Each further window makes cross-attention longer.
    Raises UserError for a weight out of range, and for a text that needs more windows than ``count``.
    """
    texts = [texts] if isinstance(texts, str) else texts
    cut = [_cut(*_tokens(tokenizer, text), tokenizer) for text in texts]
    most = max((len(rows) for rows in cut), default=1)
    total = most if count is None else count
    if total < most:
        raise UserError(f"a text needs {most} windows of {tokenizer.max_length - 2} tokens, not {total}")
    shape = len(texts), total, tokenizer.max_length
    ids = torch.full(shape, tokenizer.pad_token_id)
    ids[..., 0], ids[..., 1] = tokenizer.bos_token_id, tokenizer.eos_token_id
    weights, mask = torch.ones(shape), torch.zeros(shape, dtype=torch.bool)
    for text, rows in enumerate(cut):
        for window, (tokens, heavy) in enumerate(rows):
            end = len(tokens) + 1
            ids[text, window, 1:end] = torch.tensor(tokens, dtype=torch.long)
            ids[text, window, end] = tokenizer.eos_token_id
            weights[text, window, 1:end] = torch.tensor(heavy)
            mask[text, window, : end + 1] = True
    return ids, weights, mask


def _tokens(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[float]]:
    tokens: list[int] = []
    weights: list[float] = []
    for words, weight in weighted(text):
        found = tokenizer.encode(words)
        tokens += found
        weights += [weight] * len(found)
    return tokens, weights


def _cut(
    tokens: list[int], weights: list[float], tokenizer: Tokenizer
) -> list[tuple[list[int], list[float]]]:
    room, commas = tokenizer.max_length - 2, tokenizer.encode(",")
    if tokens and room < 1:
        raise UserError("this tokenizer's max_length 2 leaves no room for a word")
    rows, start = [], 0
    while len(tokens) - start > room:
        end = start + room
        if tokens[end] not in commas:
            reach = range(end, max(end - COMMA_REACH, start), -1)
            end = next((place for place in reach if tokens[place - 1] in commas), end)
        rows.append((tokens[start:end], weights[start:end]))
        start = end
    return [*rows, (tokens[start:], weights[start:])]
