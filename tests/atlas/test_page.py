from __future__ import annotations

import re

import pytest
import torch

from noisette.atlas.page import Page, Section, Verdict, number, percent, picture, spread, strips, table
from noisette.atlas.plots import Axes, Line, line_plot


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1.00"),
        (12.345, "12.3"),
        (1234.5, "1,234"),
        (0.01234, "0.0123"),
        (-0.5, "−0.500"),
        (0.000159, "1.59·10<sup>−4</sup>"),
        (2.5e7, "2.50·10<sup>7</sup>"),
        (float("nan"), "–"),
    ],
)
def test_numbers_read_as_people_write_them(value: float, text: str) -> None:
    assert number(value) == text


def test_a_deviation_decides_how_many_places_its_value_shows() -> None:
    assert spread(12.3456, 0.234).startswith("12.35 <small>±")
    assert "0.23" in spread(12.3456, 0.234)
    assert spread(120.4, 31.0).startswith("120 ")
    assert spread(2.0, 0.0) == "2.00"
    assert percent(0.975, 1).startswith("97.5")


def test_a_drawing_takes_its_colours_from_the_page_and_repeats_no_id() -> None:
    lines = [Line("a", [1, 10], [1.0, 2.0], 0, [0.1, 0.1]), Line("b", [1, 10], [3.0, 2.0], 1, dashed=True)]
    drawings = [
        line_plot(name, lines, Axes("x", "y", "xy", (1, 10), (1.5, "floor"))) for name in ("one", "two")
    ]
    for drawing in drawings:
        assert drawing.startswith('<svg role="img" aria-label=')
        assert "var(--series-1)" in drawing
        assert "floor" in drawing
        assert "http" not in drawing
        assert not re.search(r"#0000\d\d\b", drawing)
    ids = [re.findall(r' id="([^"]+)"', drawing) for drawing in drawings]
    assert not set(ids[0]) & set(ids[1])
    for drawing, own in zip(drawings, ids, strict=True):
        assert set(re.findall(r'[("]#([\w.]+)', drawing)) <= set(own)


def test_tiny_numbers_on_an_axis_are_told_apart() -> None:
    drawing = line_plot(
        "tiny", [Line("a", [5, 50], [7e-5, 8e-5], 0)], Axes("x", "y", "xy", (5, 50), (2e-5, "floor"))
    )
    labels = re.findall(r">([\d.]*·?10⁻⁵)</text>", drawing)
    assert len(labels) == len(set(labels)) >= 2


def test_pictures_are_inside_the_page() -> None:
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    images = torch.stack([torch.full((1, 4, 4), -1.0), torch.ones(1, 4, 4)])
    address = picture(images)
    assert address.startswith("data:image/png;base64,")
    image = Image.open(BytesIO(b64decode(address.split(",")[1])))
    assert image.size == (8, 4)
    assert (image.getpixel((0, 0)), image.getpixel((7, 3))) == (0, 255)
    assert address in strips({"5": address}, "Samples & more")
    assert "Samples &amp; more, 5" in strips({"5": address}, "Samples & more")


def test_a_page_shows_claims_findings_and_how_to_make_it_again() -> None:
    verdict = Verdict("does not hold", "It is not so.")
    section = Section(
        "one", "Title", "All is so.", verdict, [table(["a", "b"], [["1", "2"]], "c")], "By looking."
    )
    text = Page("A < B", "<p>Lead</p>", {"Model": "m"}, [section], "make <it>", "").html()
    assert "<title>A &lt; B</title>" in text
    body = text[text.index("<body>") :]
    assert body.count("badge does-not-hold") == 2
    assert "class='verdict does-not-hold'" in body
    assert "href='#one'" in text
    assert "id='one'" in text
    assert "make &lt;it&gt;" in text
    for part in ("All is so.", "It is not so.", "By looking.", "<td>2</td>"):
        assert part in text
