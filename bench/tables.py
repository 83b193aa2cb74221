"""Tables of the report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def met(yes: bool) -> str:
    """Whether a goal is met."""
    return "yes" if yes else "no"


def table(heads: tuple[str, ...], rows: list[Any]) -> Iterator[str]:
    """The lines of a table in Markdown, and an empty one."""
    yield "| " + " | ".join(heads) + " |"
    yield "|" + " --- |" * len(heads)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""
