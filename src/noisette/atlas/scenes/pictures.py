"""Coloured pictures on the page: rows and columns with their names, and tables drawn as heat."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from torch import Tensor

from noisette.atlas.page import picture

SMALL = "font:.72rem/1.35 system-ui,-apple-system,Segoe UI,Roboto,Liberation Sans,sans-serif"
MANY = 7
"""Columns from which pictures would be too small on a narrow screen: there they are scrolled."""

PIXELATED = "image-rendering:pixelated;"


def shown(address: str, alt: str, style: str = "") -> str:
    """One picture, as wide as its place."""
    return (
        f"<img src='{address}' alt='{escape(alt, quote=True)}' "
        f"style='display:block;width:100%;border-radius:3px;{style}'>"
    )


def each(images: Tensor) -> list[str]:
    """An address for each of images [N, 3, H, W]."""
    return [picture(image[None]) for image in images]


def matrix(columns: Sequence[str], rows: Mapping[str, Sequence[str]], alt: str) -> str:
    """Picture addresses in rows, each row and each column with its name (rows may have none)."""
    named = any(rows)
    lead = "max-content " if named else ""
    head = ["<span></span>" * named + "".join(f"<span>{name}</span>" for name in columns)] if columns else []
    lines = [
        f"<span style='text-align:right'>{name}</span>" * named
        + "".join(
            shown(address, f"{alt}: {' '.join(filter(None, (name, word)))}")
            for address, word in zip(addresses, columns or [""] * len(addresses), strict=True)
        )
        for name, addresses in rows.items()
    ]
    count = max(len(addresses) for addresses in rows.values())
    least = "2.2rem" if count < MANY else "3.2rem" if columns else "1.8rem"
    return (
        "<div class='scroll' tabindex='0'><div style='display:grid;"
        f"grid-template-columns:{lead}repeat({count},minmax({least},1fr));gap:3px .25rem;"
        f"align-items:center;text-align:center;color:var(--muted);{SMALL}'>"
        + "".join(head + lines)
        + "</div></div>"
    )


def gallery(tiles: Sequence[tuple[str, str]], least: str = "6.5rem", style: str = "") -> str:
    """Pictures with a text (HTML) below each, as many abreast as there is room for."""
    cells = (
        f"<div>{shown(address, _plain(text), style)}<div style='margin-top:.3rem'>{text}</div></div>"
        for address, text in tiles
    )
    return (
        f"<div style='display:grid;grid-template-columns:repeat(auto-fill,minmax({least},1fr));"
        f"gap:.8rem .6rem;color:var(--muted);{SMALL}'>{''.join(cells)}</div>"
    )


def _plain(text: str) -> str:
    return text.split("<")[0].strip()


def flowing(*contents: str) -> str:
    """Side by side, each as wide as it is."""
    style = "display:flex;flex-wrap:wrap;gap:1.4rem 2rem"
    return f"<div class='abreast' style='{style}'>{''.join(f'<div>{c}</div>' for c in contents)}</div>"


def heat(title: str, words: Sequence[str], last: str, counts: Sequence[Sequence[int]]) -> str:
    """A confusion table: rows are true, columns read, the last of them `last`; coloured by share of the row.

    Every row is named by its word; the colour of what is right is that of good, of what is wrong that of bad.
    """
    head = "".join(
        "<th scope='col' style='padding:.2rem .1rem;height:5.2rem;vertical-align:bottom;text-align:center;"
        f"font-weight:400'><span style='writing-mode:vertical-rl;transform:rotate(180deg)'>{word}</span></th>"
        for word in (*words, last)
    )
    body = "".join(
        f"<tr style='border:0'><th scope='row' style='padding:.1rem .4rem .1rem 0;text-align:right;"
        f"font-weight:400'>{word}</th>{''.join(_hot(row, k))}</tr>"
        for k, (word, row) in enumerate(zip(words, counts, strict=True))
    )
    return (
        f"<h3>{title}</h3><div class='scroll' tabindex='0'><table style='width:auto;border-collapse:separate;"
        f"border-spacing:1px;font-size:.7rem'><thead><tr><td style='border:0'></td>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _hot(row: Sequence[int], right: int) -> Iterator[str]:
    total = max(1, sum(row))
    for k, count in enumerate(row):
        color = "--good" if k == right else "--bad"
        # The root shows one in a hundred beside ninety-nine.
        strength = round(70 * math.sqrt(count / total))
        yield (
            "<td style='min-width:1.75rem;padding:.25rem .2rem;text-align:center;border-radius:2px;"
            f"background:color-mix(in srgb,var({color}) {strength}%,var(--wash))'>{count or ''}</td>"
        )
