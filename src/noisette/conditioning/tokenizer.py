"""Texts as token ids: byte-pair encoding in CLIP's dialect, trained here or read from CLIP's files."""

from __future__ import annotations

import difflib
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from noisette.errors import UserError
from noisette.files import atomic_write, ensure_writable

if TYPE_CHECKING:
    import tokenizers

BOS, EOS, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
PIECE = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

FILE, FORMAT, VERSION = "tokenizer.json", "noisette tokenizer", 1
LARGEST_FILE, LONGEST = 2**26, 2**16


@dataclass(frozen=True)
class Tokenizer:
    """Byte-pair encoding as CLIP does it: NFC, lower case, split into words, numerals and marks, "</w>" ends.

    A text becomes `<|startoftext|> ... <|endoftext|>`, cut to `max_length` with both ends kept, and filled up
    with `pad`. `tokens[i]` is the token with id i; `merges` are the pairs in the order they were learned;
    `words` are the words of the training texts, sorted (none for a tokenizer read from CLIP's files).
    Raises UserError for parts that do not fit together. Source: arXiv:1508.07909; arXiv:2103.00020, Sec. 2.4.
    """

    tokens: tuple[str, ...] = field(repr=False)
    merges: tuple[tuple[str, str], ...] = field(repr=False)
    max_length: int = 77
    pad: str = EOS
    words: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if len(self._ids) < len(self.tokens):
            raise UserError("this tokenizer has a token twice")
        for token in (BOS, EOS, self.pad):
            if token not in self._ids:
                raise UserError(f"this tokenizer lacks the token {token[:40]!r}")
        if not 2 <= self.max_length <= LONGEST:
            raise UserError(
                f"max_length {self.max_length} must lie in 2 to {LONGEST}: both ends take a place"
            )
        for left, right in self.merges:
            if not {left, right, left + right} <= self._ids.keys():
                raise UserError(f"this tokenizer merges {left[:20]!r} and {right[:20]!r} to an unknown token")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, max_length: int, *, pad: str = EOS) -> Tokenizer:
        """Learn merges from texts: the most frequent pair first, as long as it is seen twice.

        Ids are laid out as CLIP's: the 256 bytes, the 256 bytes that end a word, the merges, the two ends.
        There is no unknown text, because every byte has its token. The same texts give the same tokenizer.
        Fewer than `vocab_size` tokens are made when the texts have no more pairs to give.
        Raises UserError for a `vocab_size` under 514 and for no text at all.
        """
        from tokenizers import models, pre_tokenizers, trainers

        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        base = [*letters, *(letter + WORD_END for letter in letters)]
        if vocab_size < len(base) + 2:
            raise UserError(
                f"vocab_size {vocab_size} must be at least {len(base) + 2}: all bytes and two ends"
            )
        texts = [without_surrogates(text) for text in texts]
        if not any(text.strip() for text in texts):
            raise UserError("there is no text to train a tokenizer on")
        engine = _pipeline(models.BPE(end_of_word_suffix=WORD_END))
        # All of the base is "special", so that it gets its ids in this order: the trainer would hand them out
        # in the order of a hash table, and break ties between pairs differently in every run.
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 2,
            min_frequency=2,
            special_tokens=base,
            end_of_word_suffix=WORD_END,
            show_progress=False,
        )
        with _one_thread():
            engine.train_from_iterator(texts, trainer)
        merges = tuple((left, right) for left, right in json.loads(engine.to_str())["model"]["merges"])
        tokens = dict.fromkeys([*base, *(left + right for left, right in merges), BOS, EOS])
        words = {word for text in set(texts) for word in _words(engine, text)}
        return cls(tuple(tokens), merges, max_length, pad, tuple(sorted(words)))

    def knowing(self, texts: Iterable[str]) -> Tokenizer:
        """The same tokenizer, whose `words` are those of the texts too: what a model goes on to learn."""
        words = {word for text in set(texts) for word in _words(self._engine, without_surrogates(text))}
        return replace(self, words=tuple(sorted(words.union(self.words))))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read what `save` wrote, or CLIP's vocab.json with merges.txt, or CLIP's own tokenizer.json.

        ``path`` is a folder, or the JSON file itself. For CLIP's, `tokenizer_config.json` and
        `special_tokens_map.json` beside it, where present, give the padding and the length (77 unless they
        say otherwise). Raises UserError for whatever is wrong.
        """
        path = Path(path)
        if (path / "vocab.json").is_file():
            lines = [
                line.rstrip("\r") for line in _read_text(path / "merges.txt").split("\n") if line.strip()
            ]
            merges = lines[1:] if lines and lines[0].startswith("#version") else lines
            return cls(**_read_clip(path / "vocab.json", _read_json(path / "vocab.json"), merges))
        path = path / FILE if path.is_dir() else path
        record = _read_json(path)
        if record.get("format") == FORMAT:
            return cls(**_read_own(path, record))
        match record.get("model"):
            case {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": ids, "merges": merges}:
                return cls(**_read_clip(path, ids, merges))
        raise UserError(f"{path} is neither a tokenizer of noisette's nor one of CLIP's")

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the tokenizer to a file of JSON, atomically; UserError if it exists, unless `overwrite`."""
        path = ensure_writable(path, overwrite=overwrite)
        record = {
            "format": FORMAT,
            "version": VERSION,
            "max_length": self.max_length,
            "pad": self.pad,
            "words": self.words,
            "merges": [" ".join(pair) for pair in self.merges],
            "tokens": self.tokens,
        }
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(record, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
        return path

    def __call__(self, texts: str | Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids, LongTensor [B, max_length], and a mask, bool [B, max_length], False where a text is over."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        ids = torch.full((len(texts), self.max_length), self.pad_token_id)
        lengths = torch.zeros(len(texts), 1, dtype=torch.long)
        for i, text in enumerate(texts):
            inner = self.encode(text)[: self.max_length - 2]
            row = [self.bos_token_id, *inner, self.eos_token_id]
            ids[i, : len(row)] = torch.tensor(row)
            lengths[i] = len(row)
        return ids, torch.arange(self.max_length) < lengths

    def encode(self, text: str) -> list[int]:
        """The ids of a text as long as it is: no ends, nothing cut, nothing filled up."""
        return self._encode(text).ids

    def cut(self, text: str) -> str:
        """The end of a text that does not fit into `max_length` and is left out; '' if it all fits."""
        starts = [start for start, _ in self._encode(text).offsets]
        room = self.max_length - 2
        return text[starts[room] :] if len(starts) > room else ""

    def unknown(self, text: str) -> dict[str, list[str]]:
        """The words of a text that no training text had, in order, each with up to 3 known ones like it.

        Punctuation is not counted among words. Empty for a tokenizer without a list of words.
        """
        known = set(self.words)
        if not known:
            return {}
        strange = dict.fromkeys(word for word in _words(self._engine, text) if word not in known)
        return {word: difflib.get_close_matches(word, self.words) for word in strange}

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return len(self.tokens)

    @property
    def bos_token_id(self) -> int:
        """The id that begins every text."""
        return self._ids[BOS]

    @property
    def eos_token_id(self) -> int:
        """The id that ends every text."""
        return self._ids[EOS]

    @property
    def pad_token_id(self) -> int:
        """The id that follows the end."""
        return self._ids[self.pad]

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    @cached_property
    def _engine(self) -> tokenizers.Tokenizer:
        from tokenizers import models

        merges = list(self.merges)
        engine = _pipeline(models.BPE(self._ids, merges, end_of_word_suffix=WORD_END, unk_token=EOS))
        engine.add_special_tokens(list(dict.fromkeys([BOS, EOS, self.pad])))
        return engine

    def _encode(self, text: str) -> tokenizers.Encoding:
        # One at a time: a batch would start threads, which must not be there when data workers are forked.
        return self._engine.encode(without_surrogates(text), add_special_tokens=False)


def _pipeline(model: tokenizers.models.BPE) -> tokenizers.Tokenizer:
    """CLIP's way from a text to the pieces that are merged; the bytes of a piece are letters to the model."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

    engine = Tokenizer(model)
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    engine.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.pre_tokenizer = pre_tokenizers.Sequence([_splitter(), bytes_])
    return engine


@cache
def _splitter() -> tokenizers.pre_tokenizers.Split:
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(PIECE), behavior="removed", invert=True)


def _words(engine: tokenizers.Tokenizer, text: str) -> list[str]:
    """The words, numerals and pictographs of a text, as the model will see them; no marks, no "'s"."""
    normal = engine.normalizer.normalize_str(without_surrogates(text))
    pieces = _splitter().pre_tokenize_str(normal)
    return [piece for piece, _ in pieces if piece[0] != "'" and any(map(_tells, piece))]


def _tells(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] in "LN" or category == "So"


def without_surrogates(text: str) -> str:
    """Halves of broken characters, which no encoding has, as question marks: every place stays the same."""
    return text.encode("utf-8", "replace").decode("utf-8")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep the trainer from starting threads, with which later forks of this process would be warned of."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _read_own(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    if record.get("version") != VERSION:
        raise UserError(f"{path} has version {record.get('version')!r:.40}; this noisette reads {VERSION}")
    length, pad = record.get("max_length"), record.get("pad")
    if type(length) is not int or not isinstance(pad, str):
        raise UserError(f"{path}: max_length must be a whole number and pad a token")
    return {
        "tokens": _texts(record.get("tokens"), path),
        "merges": _pairs(record.get("merges"), path),
        "max_length": length,
        "pad": pad,
        "words": _texts(record.get("words"), path),
    }


def _texts(items: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(items, list) or any(not isinstance(item, str) for item in items):
        raise UserError(f"{path}: tokens and words must be lists of texts")
    return tuple(items)


def _read_clip(path: Path, ids: Any, merges: Any) -> dict[str, Any]:
    """A tokenizer of CLIP's from its ids and merges, found at ``path``, and the settings beside that."""
    if not isinstance(ids, dict) or sorted(ids.values(), key=repr) != sorted(range(len(ids)), key=repr):
        raise UserError(f"{path} must give the ids 0, 1, 2, ... to its tokens, each once")
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if path.with_name(name).is_file():
            settings |= _read_json(path.with_name(name))
    pad, length = settings.get("pad_token", EOS), settings.get("model_max_length", 77)
    pad = pad.get("content") if isinstance(pad, Mapping) else pad
    if not isinstance(pad, str):
        raise UserError(f"{path.parent}: pad_token must be a token")
    return {
        "tokens": tuple(sorted(ids, key=lambda token: ids[token])),
        "merges": _pairs(merges, path),
        # Folders that set no length carry a huge number in its place.
        "max_length": length if type(length) is int and length <= LONGEST else 77,
        "pad": pad,
    }


def _pairs(lines: Any, path: Path) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for line in lines if isinstance(lines, list) else [lines]:
        match line.split(" ") if isinstance(line, str) else line:
            case [str(left), str(right)]:
                pairs.append((left, right))
            case _:
                raise UserError(f"{path}: {str(line)[:40]!r} is not a pair to merge")
    return tuple(pairs)


def _read_json(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(record, dict):
        raise UserError(f"{path} must hold one JSON object")
    return record


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"there is no tokenizer at {path}")
    if path.stat().st_size > LARGEST_FILE:
        raise UserError(f"{path} is too large to be a part of a tokenizer")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8") from None
