"""How a model hears its prompts: by an encoder of its own, or by one that others have trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from noisette.conditioning.cache import cached
from noisette.conditioning.pretrained import PretrainedText
from noisette.conditioning.text import text_cond
from noisette.conditioning.tokenizer import FILE, Tokenizer
from noisette.conditioning.weighting import windows
from noisette.core import Cond
from noisette.errors import UserError
from noisette.files import cache_folder
from noisette.nets.text import TextConfig, TowersConfig

__all__ = ["ClipTexts", "LearnedTexts", "PretrainedTexts", "Texts", "fitted", "texts_in"]


class Texts(Protocol):
    """From prompts to a condition, and what can be said of a prompt before."""

    def knowing(self, captions: Iterable[str]) -> Texts: ...
    def cond(self, texts: Sequence[str], device: torch.device | str) -> Cond: ...
    def pair(
        self, prompts: Sequence[str], negatives: Sequence[str], device: torch.device | str
    ) -> tuple[Cond, Cond]: ...
    def unknown(self, text: str) -> dict[str, list[str]]: ...
    def cut(self, text: str) -> str: ...
    def save(self, folder: Path) -> None: ...


class _Apart:
    """Two sets of prompts, each read by itself."""

    def pair(
        self, prompts: Sequence[str], negatives: Sequence[str], device: torch.device | str
    ) -> tuple[Cond, Cond]:
        """The conditions of prompts and of what guidance leads away from."""
        texts: Any = self
        return texts.cond(prompts, device), texts.cond(negatives, device)


@dataclass(frozen=True)
class LearnedTexts(_Apart):
    """Token ids, for a network that carries its own text encoder."""

    tokenizer: Tokenizer

    def knowing(self, captions: Iterable[str]) -> LearnedTexts:
        """The same, for a model that goes on to learn from these captions."""
        return LearnedTexts(self.tokenizer.knowing(captions))

    def cond(self, texts: Sequence[str], device: torch.device | str) -> Cond:
        """{"ids" [B, L], "token_mask" [B, L]}."""
        return text_cond(self.tokenizer, texts, device)

    def unknown(self, text: str) -> dict[str, list[str]]:
        """Words that training never showed, each with known words that are near."""
        return self.tokenizer.unknown(text)

    def cut(self, text: str) -> str:
        """The end of a prompt that the encoder does not see; "" where it sees all."""
        return self.tokenizer.cut(text)

    def save(self, folder: Path) -> None:
        """Write the tokenizer beside the weights."""
        self.tokenizer.save(folder / FILE, overwrite=True)


@dataclass(frozen=True)
class ClipTexts:
    """Token ids for CLIP's towers as Stable Diffusion reads them: weights, any length, padding seen.

    One tokenizer for each of the ``towers``, or one for an encoder without any. `(word:1.2)` weighs a word;
    what is longer than a window takes several: see `noisette.conditioning.weighting.windows`.
    """

    tokenizers: tuple[Tokenizer, ...]
    towers: bool = False

    def knowing(self, captions: Iterable[str]) -> ClipTexts:
        """Itself: it keeps no list of words."""
        return self

    def cond(self, texts: Sequence[str], device: torch.device | str) -> Cond:
        """{"ids" [B, W, L]}, of several towers a tuple; "token_weights", "token_mask" where needed."""
        return self._told(texts, self._windows(texts), device)

    def pair(
        self, prompts: Sequence[str], negatives: Sequence[str], device: torch.device | str
    ) -> tuple[Cond, Cond]:
        """Both in as many windows as the longer of each two needs."""
        counts = list(map(max, self._windows(prompts), self._windows(negatives)))
        return self._told(prompts, counts, device), self._told(negatives, counts, device)

    def _windows(self, texts: Sequence[str]) -> list[int]:
        return [
            max(windows(tokenizer, [text])[0].shape[1] for tokenizer in self.tokenizers) for text in texts
        ]

    def _told(self, texts: Sequence[str], counts: Sequence[int], device: torch.device | str) -> Cond:
        found = [windows(tokenizer, texts, max(counts, default=1)) for tokenizer in self.tokenizers]
        ids, weights = (tuple(part[i].to(device) for part in found) for i in (0, 1))
        cond: dict[str, Any] = {"ids": ids if self.towers else ids[0]}
        if any(bool((weight != 1).any()) for weight in weights):
            cond["token_weights"] = weights if self.towers else weights[0]
        if min(counts, default=1) < max(counts, default=1):
            # Of its neighbours in a batch a picture sees nothing, not even how long their prompts are.
            used = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
            cond["token_mask"] = used[..., None].expand(ids[0].shape).to(device)
        return cond

    def unknown(self, text: str) -> dict[str, list[str]]:
        """{}: such an encoder has read more than a list of words could hold."""
        return {}

    def cut(self, text: str) -> str:
        """ "": nothing is cut."""
        return ""

    def save(self, folder: Path) -> None:
        """Nothing to write: a checkpoint writes its tokenizers."""


@dataclass(frozen=True)
class PretrainedTexts(_Apart):
    """Embeddings from a frozen encoder, kept on disk: a caption is read once, however many epochs."""

    source: PretrainedText
    loaded: dict[str, Any] = field(default_factory=dict[str, Any], repr=False, compare=False)

    def knowing(self, captions: Iterable[str]) -> PretrainedTexts:
        """Itself: it keeps no list of words."""
        return self

    def cond(self, texts: Sequence[str], device: torch.device | str) -> Cond:
        """{"tokens" [B, L, D], and "token_mask" or "pooled" where the encoder has them}."""
        place = str(device)
        if place not in self.loaded:
            encoder: Any = self.source.load(device)
            self.loaded[place] = cached(encoder, cache_folder() / "texts", half=True)
        return self.loaded[place](texts)

    def unknown(self, text: str) -> dict[str, list[str]]:
        """{}: such an encoder has read more than a list of words could hold."""
        return {}

    def cut(self, text: str) -> str:
        """ "": what its tokenizer cuts is not known before it is loaded."""
        return ""

    def save(self, folder: Path) -> None:
        """Nothing to write: the model names the encoder."""


def fitted(
    config: TextConfig | TowersConfig | PretrainedText, captions: Iterable[str]
) -> tuple[TextConfig | PretrainedText, Texts]:
    """Texts for a model that has none yet: the tokenizer learns its words from ``captions``.

    Returns the config with what the tokenizer decides: its number of tokens, and which of them are marks.
    """
    if isinstance(config, PretrainedText):
        return config, PretrainedTexts(config)
    if isinstance(config, TowersConfig):
        raise UserError("text encoders of several towers are not trained here: describe one, by TextConfig")
    tokenizer = Tokenizer.train(captions, config.vocab_size, config.max_position_embeddings)
    return told_by(tokenizer, config), LearnedTexts(tokenizer)


def told_by(tokenizer: Tokenizer, config: TextConfig) -> TextConfig:
    """A config whose numbers of tokens are the tokenizer's."""
    return replace(
        config,
        vocab_size=tokenizer.vocab_size,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def texts_in(folder: Path, config: TextConfig | TowersConfig | PretrainedText | None) -> Texts | None:
    """The texts of a model folder, None for a model that is told none."""
    if config is None:
        return None
    if isinstance(config, PretrainedText):
        return PretrainedTexts(config)
    return LearnedTexts(Tokenizer.load(folder / FILE))
