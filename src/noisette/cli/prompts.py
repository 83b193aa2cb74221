"""Prompts: read from a file, and held against what a model knows."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from noisette.errors import UserError

if TYPE_CHECKING:
    from noisette.models import Model

__all__ = ["check_words", "known_words", "note", "parse_prompts", "read_prompts", "tell_cut"]

SHOWN = 5


def note(line: str) -> None:
    """Something a person should know, while the work goes on."""
    print(f"noisette: {' '.join(line.split())}", file=sys.stderr)


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file: see `parse_prompts`. Raises UserError for a file without any."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"there is no file of prompts {path}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: its byte {error.start} is none") from None
    prompts = parse_prompts(text)
    if not prompts:
        raise UserError(f"{path} holds no prompt: write one on each line")
    return prompts


def parse_prompts(text: str) -> list[str]:
    """One prompt on each line; blank lines, and lines that begin with #, are none.

    >>> parse_prompts("a red cube\\n\\n# and now\\n  two cones ")
    ['a red cube', 'two cones']
    """
    lines = (line.strip() for line in text.split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


def check_words(model: Model, texts: Iterable[str]) -> None:
    """Raises UserError, naming words that the model's training never showed, and known ones like them."""
    strange: dict[str, list[str]] = {}
    for text in dict.fromkeys(texts):
        if model.texts is not None:
            strange |= model.texts.unknown(text)
    if not strange:
        return
    named = [f'"{word}" (near: {", ".join(near)})' if near else f'"{word}"' for word, near in strange.items()]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    raise UserError(
        f"{model.spec.name} does not know {', '.join(named[:SHOWN])}{more}: "
        "--words lists what it knows, --anyway draws nevertheless"
    )


def tell_cut(model: Model, texts: Iterable[str]) -> None:
    """Say which ends of prompts are not seen, because they are too long."""
    if model.texts is None:
        return
    ends = [end for text in dict.fromkeys(texts) if (end := model.texts.cut(text))]
    for end in ends[:SHOWN]:
        note(f'the prompt is too long, its end is not seen: "{textwrap.shorten(end, 200)}"')
    if len(ends) > SHOWN:
        note(f"so it is with {len(ends) - SHOWN} more")


def known_words(model: Model) -> str:
    """The words of a model's training texts, in lines. Raises UserError for a model without such a list."""
    from noisette.models.texts import LearnedTexts

    words = model.texts.tokenizer.words if isinstance(model.texts, LearnedTexts) else ()
    if not words:
        what = "takes no prompt" if model.texts is None else "has no list of words: it was told any"
        raise UserError(f"{model.spec.name} {what}")
    return textwrap.fill(" ".join(words), 100)
