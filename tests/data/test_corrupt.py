from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch

from noisette.data import dataset as module
from noisette.data import loader, open_dataset
from noisette.errors import UserError

Make = Callable[..., Path]


@pytest.fixture
def lazily(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every folder as too large to be checked at the start."""
    monkeypatch.setattr(module, "CHECKED_AT_ONCE", 0)


def test_a_corrupt_image_is_named_counted_and_skipped(folder: Make, caplog: pytest.LogCaptureFixture) -> None:
    root = folder(120)
    (root / "007.png").write_bytes(b"not a picture")
    with caplog.at_level(logging.WARNING):
        data = open_dataset(root)
    assert len(data) == 119
    assert dict(data.corrupt) == {"007.png": "not a PNG, JPEG or WebP image"}
    assert caplog.text.count("007.png") == 1
    whole = open_dataset(folder(120, "whole"))
    assert torch.equal(data[7]["image"], whole[8]["image"])


@pytest.mark.parametrize("cache", [True, False])
def test_more_than_one_percent_is_an_error(folder: Make, cache: bool) -> None:
    root = folder(120)
    for name in ("007.png", "009.png"):
        (root / name).write_bytes((root / name).read_bytes()[:60])
    with pytest.raises(UserError, match=r"more than 1 % of 120 images are corrupt: 007\.png .*009\.png"):
        open_dataset(root, cache=cache)


def test_labels_stay_with_their_images(tmp_path: Path, png: Callable[..., bytes]) -> None:
    for k in range(110):
        path = tmp_path / f"class{k % 2}" / f"{k:03d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"bad" if k == 4 else png(k))
    data = open_dataset(tmp_path)
    assert torch.bincount(data.fetch(range(109))["label"]).tolist() == [54, 55]


@pytest.mark.usefixtures("lazily")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_large_set_skips_as_it_goes(folder: Make, caplog: pytest.LogCaptureFixture, workers: int) -> None:
    root = folder(120)
    whole = open_dataset(root)
    (root / "007.png").write_bytes(b"")
    data = open_dataset(root, cache=False)
    assert len(data) == 120
    with caplog.at_level(logging.WARNING):
        batches = list(islice(loader(data, 10, seed=0, shuffle=False, num_workers=workers), 24))
    assert caplog.text.count("007.png") == 1
    assert list(data.corrupt) == ["007.png"]
    for epoch in (0, 12):
        assert torch.equal(batches[epoch]["image"][7], whole[8]["image"])  # the next one takes its place
        assert torch.equal(batches[epoch]["image"][8], whole[8]["image"])
        assert torch.equal(batches[epoch]["image"][6], whole[6]["image"])


@pytest.mark.usefixtures("lazily")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_large_set_stops_above_one_percent(folder: Make, workers: int) -> None:
    root = folder(120)
    for name in ("003.png", "110.png"):
        (root / name).write_bytes(b"")
    data = open_dataset(root, cache=False)
    batches = loader(data, 10, seed=0, shuffle=False, num_workers=workers, epochs=1)
    with pytest.raises(UserError, match=r"more than 1 % of 120 images are corrupt: 003\.png"):
        list(batches)
    assert batches.position == 11


def test_a_listed_file_that_is_missing_counts(folder: Make) -> None:
    root = folder(2)
    (root / "metadata.jsonl").write_text('{"file_name": "000.png"}\n{"file_name": "gone.png"}\n')
    with pytest.raises(UserError, match=r"gone\.png \(cannot be read"):
        open_dataset(root)


def test_a_caption_that_is_no_text_counts(folder: Make) -> None:
    root = folder(101)
    (root / "005.txt").write_bytes(b"\xff\xfe\xff")
    assert list(open_dataset(root).corrupt) == ["005.png"]


def test_a_folder_of_nothing_but_corrupt_images(folder: Make) -> None:
    root = folder(3)
    for path in root.iterdir():
        path.write_bytes(b"x")
    for size in (None, 8):
        with pytest.raises(UserError, match="more than 1 % of 3"):
            open_dataset(root, size=size)
