"""The contact sheet: everything is on it, nothing runs over."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from noisette.errors import UserError
from noisette.scenes import sheet as module
from noisette.scenes.scene import (
    CAMERA_MOTIONS,
    COLORS,
    FLOOR_COLORS,
    FLOOR_PATTERNS,
    LIGHTS,
    MATERIALS,
    MOTIONS,
    POSES,
    SHAPES,
    SIZES,
    STYLES,
)
from noisette.scenes.sheet import COLUMNS, PAPER, Page, Panel, sheet


@pytest.fixture(scope="module")
def drawn() -> tuple[Image.Image, list[list[Panel]]]:
    rows: list[list[Panel]] = []
    before = Page.row

    def row(page: Page, *panels: Panel) -> None:
        rows.append(list(panels))
        before(page, *panels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Page, "row", row)
        return sheet(32, samples=1), rows


def test_every_word_of_the_world_is_shown(drawn: tuple[Image.Image, list[list[Panel]]]) -> None:
    labels = [label for row in drawn[1] for panel in row for label in panel.labels]
    for words in (COLORS, SHAPES, MATERIALS, POSES, SIZES, LIGHTS, STYLES, MOTIONS[1:]):
        assert set(words) <= set(labels)
    assert {f"the camera {way}" for way in CAMERA_MOTIONS[1:]} <= set(labels)
    for words in (FLOOR_COLORS, FLOOR_PATTERNS):
        assert set(words) <= {word for name in module.FLOORS for word in name.split()}


def test_panels_fill_their_rows_and_do_not_meet(drawn: tuple[Image.Image, list[list[Panel]]]) -> None:
    for row in drawn[1]:
        taken = [panel.column + k for panel in row for k in range(len(panel.pictures) * panel.width)]
        assert taken == list(range(COLUMNS))


def test_pictures_of_a_panel_differ(drawn: tuple[Image.Image, list[list[Panel]]]) -> None:
    for panel in (panel for row in drawn[1] for panel in row):
        flat = panel.pictures.flatten(1)
        distance = torch.cdist(flat, flat) + 1e3 * torch.eye(len(flat))
        assert distance.min() > 0.5, panel.title or panel.labels


def test_the_margin_is_left_free(drawn: tuple[Image.Image, list[list[Panel]]]) -> None:
    page = np.asarray(drawn[0])
    assert page.shape[1] == Page(32).width
    for edge in (page[:, :16], page[:, -16:], page[:16], page[-8:]):
        assert (edge == PAPER).all()
    assert (page != PAPER).any()


def test_labels_are_no_wider_than_their_tiles() -> None:
    page = Page(64)
    panel = Panel("", 0, torch.zeros(2, 3, 64, 64), ["one", "two"])
    for line in page._wrapped("checkered white and a good deal more", panel):
        assert page.fonts["label"].getlength(line) <= 64


def test_sizes_that_make_no_page() -> None:
    with pytest.raises(UserError, match="32 to 512"):
        sheet(16)
