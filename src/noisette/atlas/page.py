"""A page of the atlas: claims, verdicts, figures and tables as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Literal, TypeAlias

from torch import Tensor

Finding: TypeAlias = Literal["holds", "holds in part", "does not hold"]


@dataclass(frozen=True)
class Verdict:
    """What the numbers say of a claim: in a word, and in sentences (HTML)."""

    finding: Finding
    text: str


@dataclass(frozen=True)
class Section:
    """One claim, what became of it, the evidence, and how it was measured. All but ``name`` is HTML."""

    name: str
    title: str
    claim: str
    verdict: Verdict
    evidence: Sequence[str]
    method: str


@dataclass(frozen=True)
class Page:
    """A whole page; ``facts`` are the settings at its head, ``reproduce`` the command that makes it."""

    title: str
    lead: str
    facts: Mapping[str, str]
    sections: Sequence[Section]
    reproduce: str
    colophon: str

    def html(self) -> str:
        """The page as one self-contained document."""
        style = (files("noisette.atlas") / "page.css").read_text(encoding="utf-8")
        facts = "".join(f"<div><dt>{escape(k)}</dt><dd>{v}</dd></div>" for k, v in self.facts.items())
        findings = "".join(_line(k, section) for k, section in enumerate(self.sections, 1))
        sections = "".join(_section(k, section) for k, section in enumerate(self.sections, 1))
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
            f"<header>\n<p class='kicker'>noisette · atlas</p>\n<h1>{escape(self.title)}</h1>\n{self.lead}\n"
            f"<dl class='facts'>{facts}</dl>\n</header>\n"
            f"<nav aria-label='Findings'><h2>Findings</h2><ol>{findings}</ol></nav>\n{sections}"
            f"<footer><h2>Make this page again</h2><pre><code>{escape(self.reproduce)}</code></pre>\n"
            f"{self.colophon}</footer>\n</main>\n</body>\n</html>\n"
        )


def _badge(finding: Finding) -> str:
    return f"<span class='badge {finding.replace(' ', '-')}'>{finding}</span>"


def _line(number: int, section: Section) -> str:
    link = f"<a href='#{section.name}'><span class='n'>{number}</span> {section.title}</a>"
    return f"<li>{link} {_badge(section.verdict.finding)}</li>"


def _section(number: int, section: Section) -> str:
    return (
        f"<section id='{section.name}'>\n<h2><span class='n'>{number}</span> {section.title}</h2>\n"
        f"<p class='claim'><b>Claim.</b> {section.claim}</p>\n"
        f"<div class='verdict {section.verdict.finding.replace(' ', '-')}'>"
        f"<p>{_badge(section.verdict.finding)} {section.verdict.text}</p></div>\n"
        + "\n".join(section.evidence)
        + f"\n<p class='method'><b>How.</b> {section.method}</p>\n</section>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table of HTML cells; the first of each row is its head."""
    top = "".join(f"<th scope='col'>{cell}</th>" for cell in head)
    body = "".join(
        f"<tr><th scope='row'>{row[0]}</th>" + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return (
        f"<figure class='table'><figcaption>{caption}</figcaption><div class='scroll' tabindex='0'>"
        f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div></figure>"
    )


def figure(content: str, caption: str) -> str:
    """A drawing or pictures with a caption beneath."""
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


def abreast(*contents: str, wide: bool = False) -> str:
    """Side by side where the screen is wide enough; ``wide`` may leave the column of the text."""
    return (
        f"<div class='abreast{' wide' * wide}'>"
        + "".join(f"<div>{content}</div>" for content in contents)
        + "</div>"
    )


def strips(rows: Mapping[str, str], alt: str) -> str:
    """Rows of pictures, each an image address (`picture`), with a label before each."""
    lines = "".join(
        f"<span>{label}</span><img class='ink' src='{address}' alt='{escape(f'{alt}, {label}')}'>"
        for label, address in rows.items()
    )
    return f"<div class='strips'>{lines}</div>"


def picture(images: Tensor) -> str:
    """Images [N, C, H, W] in [-1, 1] side by side, as a PNG in an address that holds all of it."""
    from noisette.data.images import to_pil

    buffer = io.BytesIO()
    [strip] = to_pil(images.permute(1, 2, 0, 3).flatten(2), batch=True)
    strip.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def number(value: float, digits: int = 3) -> str:
    """A number as people read it: so many digits that count, powers of ten where it is tiny or huge."""
    if not math.isfinite(value):
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        places = 0 if value == 0 else max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{places}f}"
    else:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{mantissa}·10<sup>{int(exponent)}</sup>"
    return text.replace("-", "−")


def percent(share: float, digits: int = 0) -> str:
    """A share of one in percent."""
    return f"{100 * share:.{digits}f}\N{NARROW NO-BREAK SPACE}%"


def spread(value: float, deviation: float) -> str:
    """``value ± deviation``, both to the places that the deviation leaves."""
    if not deviation > 0:
        return number(value)
    places = max(0, min(6, 1 - math.floor(math.log10(deviation))))
    return f"{value:.{places}f} <small>±\N{NARROW NO-BREAK SPACE}{deviation:.{places}f}</small>"
