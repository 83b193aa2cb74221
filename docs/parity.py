"""The table of parity with diffusers, from what the tests recorded. Imports nothing that takes time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
RECORDS = DOCS / "parity.json"
"""What `NOISETTE_PARITY=docs/parity.json pytest tests/models/test_parity.py` wrote."""
PAGE = DOCS / "guide" / "parity.md"
MARKED = re.compile(r"(<!-- parity -->\n).*?(<!-- /parity -->)", re.S)

PIPELINES = {
    "sd": "Stable Diffusion 1",
    "sd-2": "Stable Diffusion 2",
    "inpainting": "Stable Diffusion, inpainting",
    "xl": "SDXL",
    "refiner": "SDXL refiner",
    "ddpm": "DDPM, pixels",
    "ddim": "DDIM, pixels",
    "dit": "DiT",
}


def table() -> str:
    """A row for every pipeline and option, with the largest difference of each solver."""
    rows: dict[tuple[str, str], list[str]] = {}
    records: list[dict[str, Any]] = json.loads(RECORDS.read_text(encoding="utf-8"))
    for record in records:
        found = rows.setdefault((PIPELINES[record["pipeline"]], record["option"]), [])
        found.append(f"{record['solver'] or 'its own'} {short(record['difference'])}")
    lines = [
        "| pipeline | option | solver and largest difference |",
        "|---|---|---|",
        *(f"| {pipeline} | {option} | {', '.join(found)} |" for (pipeline, option), found in rows.items()),
    ]
    return "\n".join(lines) + "\n"


def numbers() -> dict[str, str]:
    """How many comparisons there are, and the largest difference."""
    records: list[dict[str, Any]] = json.loads(RECORDS.read_text(encoding="utf-8"))
    largest = max(record["difference"] for record in records)
    return {"parity_count": str(len(records)), "parity_largest": short(largest)}


def short(number: float) -> str:
    """Two digits: 2.1e-6."""
    mantissa, _, exponent = f"{number:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if number else "0"


def filled(page: str) -> str:
    """The page with the table between its marks."""
    return MARKED.sub(lambda found: f"{found[1]}\n{table()}\n{found[2]}", page)


def write() -> None:
    """Put the table into its page."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
