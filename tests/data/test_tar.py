from __future__ import annotations

import gzip
import io
import logging
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noisette.data import open_dataset
from noisette.errors import UserError


def pack(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["set.tar", "set.tar.gz"])
def test_examples_share_a_stem(tmp_path: Path, png: Callable[..., bytes], name: str) -> None:
    members = {
        "b.png": png(0),
        "b.txt": b"second\n",
        "b.cls": b"2",
        "a.txt": b"first",
        "a.png": png(1),
        "a.cls": b"0\n",
        "a.json": b'{"author": "me", "text": "unused"}',
        "lonely.txt": b"no image",
        "c.png": png(2),
        "c.json": b'{"caption": "third", "label": 1}',
        "c.seg.png": b"a second image of the same stem is not used",
    }
    data = open_dataset(pack(tmp_path / name, members), cache=False)
    assert [data[i]["text"] for i in range(len(data))] == ["second", "first", "third"]
    assert [data[i]["label"] for i in range(3)] == [2, 0, 1]
    assert data.labels == ("0", "1", "2")
    assert data.metadata[1]["author"] == "me"
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "x.png").write_bytes(png(2))
    assert torch.equal(data[2]["image"], open_dataset(tmp_path / "one")[0]["image"])


def test_class_names_from_cls_or_folders(tmp_path: Path, png: Callable[..., bytes]) -> None:
    named = pack(tmp_path / "a.tar", {"1.png": png(0), "1.cls": b"dog", "2.png": png(1), "2.cls": b"cat"})
    assert open_dataset(named).labels == ("cat", "dog")
    folders = pack(tmp_path / "b.tar", {"./dog/1.png": png(0), "./cat/1.png": png(1)})
    data = open_dataset(folders)
    assert (data.labels, data[0]["label"]) == (("cat", "dog"), 1)


def test_shards_and_splits_of_a_folder(tmp_path: Path, png: Callable[..., bytes]) -> None:
    for k, name in enumerate(["train-001.tar", "train-000.tar.gz", "test.tar"]):
        pack(tmp_path / name, {f"{k}.png": png(k), f"{k}.txt": name.encode()})
    data = open_dataset(tmp_path)
    assert [data[i]["text"] for i in range(len(data))] == ["train-000.tar.gz", "train-001.tar"]
    assert len(open_dataset(tmp_path, split="test")) == 1


def test_paths_that_lead_out_are_passed_over(
    tmp_path: Path, png: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    path = pack(tmp_path / "a.tar", {"../evil.png": png(0), "/abs.png": png(1), "good.png": png(2)})
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with caplog.at_level(logging.WARNING):
        assert len(open_dataset(path)) == 1
    assert {"'../evil.png'", "'/abs.png'", "'link.png'"} <= set(caplog.text.split())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar"]


@pytest.mark.parametrize("name", ["set.tar", "set.tar.gz"])
def test_truncation_anywhere_is_a_user_error(tmp_path: Path, png: Callable[..., bytes], name: str) -> None:
    whole = pack(tmp_path / name, {f"{k}.png": png(k) for k in range(4)}).read_bytes()
    end = len(whole) if name.endswith("gz") else 4 * 1024
    for cut in {end * k // 16 for k in range(16)} | {1024, 1025, 1536}:
        if cut < end:
            (tmp_path / name).write_bytes(whole[:cut])
            with pytest.raises(UserError, match=r"truncated or damaged"):
                open_dataset(tmp_path / name)


def test_damage_inside(tmp_path: Path, png: Callable[..., bytes]) -> None:
    whole = bytearray(pack(tmp_path / "a.tar", {f"{k}.png": png(k) for k in range(4)}).read_bytes())
    whole[1024:1100] = b"\xff" * 76  # the second header
    (tmp_path / "a.tar").write_bytes(whole)
    with pytest.raises(UserError, match="damaged at byte 1024"):
        open_dataset(tmp_path / "a.tar")
    packed = bytearray(gzip.compress(pack(tmp_path / "b.tar", {"0.png": png(0)}).read_bytes()))
    packed[-6] ^= 1  # its checksum
    (tmp_path / "b.tar.gz").write_bytes(packed)
    with pytest.raises(UserError, match=r"truncated or damaged \(CRC"):
        open_dataset(tmp_path / "b.tar.gz")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"readme.md": b"x"}, "no image"),
        ({"a.png": b"", "a.json": b"{oops"}, r"beside a\.png cannot be read"),
        ({"a.png": b"", "a.json": b"[1]"}, r"beside a\.png is not an object"),
        ({"a.png": b"", "a.txt": b"\xff\xfe\xff"}, r"beside a\.png cannot be read"),
        ({"a.png": b"", "a.txt": b"x" * 1_048_577}, "at most 1 MiB"),
        ({"a.png": b"", "a.cls": b"-3"}, "label -3"),
        ({"a.png": b"", "a.cls": b"99999999999999999999999"}, "label 99999999999999999999 is not in"),
        ({"a.png": b"", "a.cls": b"1", "b.png": b"", "b.cls": b"cat"}, "mix numbers and names"),
    ],
)
def test_bad_members(tmp_path: Path, members: Mapping[str, bytes], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_dataset(pack(tmp_path / "a.tar", members))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 2047), st.integers(0, 255)), min_size=1, max_size=8), st.booleans())
def test_damaged_archives_open_or_are_user_errors(
    tmp_path: Path, png: Callable[..., bytes], edits: list[tuple[int, int]], zipped: bool
) -> None:
    path = tmp_path / ("a.tar.gz" if zipped else "a.tar")
    data = bytearray(pack(path, {"a.png": png(0), "a.cls": b"1"}).read_bytes())
    for position, value in edits:
        data[position % len(data)] = value
    path.write_bytes(data)
    try:
        assert len(open_dataset(path)) == 1
    except UserError as error:
        assert "\n" not in str(error)


def test_real_cifar(real_data: Path) -> None:
    data = open_dataset(real_data / "cifar10", split="test", cache=False)
    assert len(data) == 10_000
    assert data.labels == (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    batch = data.fetch(range(1000))
    assert torch.equal(torch.bincount(batch["label"]), torch.full((10,), 100))
    assert batch["image"].shape == (1000, 3, 32, 32)
    mean = (batch["image"].mean((0, 2, 3)) + 1) / 2
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.02)  # of the whole set
