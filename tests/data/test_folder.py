from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noisette.data import open_dataset
from noisette.data.folder import parse_metadata
from noisette.errors import UserError

Make = Callable[..., Path]
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(
    lambda s: not s.startswith("/") and ".." not in s.split("/")
)
values = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.integers()))


def test_a_flat_folder(folder: Make) -> None:
    data = open_dataset(folder(3))
    assert len(data) == 3
    assert data.labels is None
    assert data.shape == (3, 8, 8)
    assert set(data[0]) == {"image"}
    assert data[0]["image"].dtype == torch.float32
    assert torch.equal(data[-1]["image"], data[2]["image"])
    with pytest.raises(IndexError):
        data[3]


def test_class_folders_are_sorted_labels(tmp_path: Path, png: Callable[..., bytes]) -> None:
    for k, name in enumerate(
        ["zebra/1.png", "ant/2.png", "ant/deep/3.png", "test_set/4.PNG", ".hidden/5.png"]
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(k))
    data = open_dataset(tmp_path)
    assert data.labels == ("ant", "test_set", "zebra")
    assert [data[i]["label"] for i in range(len(data))] == [0, 0, 1, 2]
    assert open_dataset(tmp_path, labels=["zebra", "ant", "test_set"])[3]["label"] == 0
    with pytest.raises(UserError, match="label 'zebra' of zebra"):
        open_dataset(tmp_path, labels=["ant", "test_set"])


def test_split_folders(tmp_path: Path, png: Callable[..., bytes]) -> None:
    for split, count in (("train", 3), ("val", 2)):
        for label in "ab":
            (tmp_path / split / label).mkdir(parents=True)
            for k in range(count):
                (tmp_path / split / label / f"{k}.png").write_bytes(png(k))
    assert len(open_dataset(tmp_path)) == 6
    assert len(open_dataset(tmp_path, split="validation")) == 4
    assert open_dataset(tmp_path, split="val").labels == ("a", "b")
    with pytest.raises(UserError, match="no split 'test'; found train, validation"):
        open_dataset(tmp_path, split="test")


def test_captions_beside_images(folder: Make) -> None:
    root = folder(3)
    (root / "000.txt").write_text("a red hat\n")
    (root / "002.txt").write_text("ein grüner Hut", encoding="utf-8")
    data = open_dataset(root)
    assert [data[i]["text"] for i in range(3)] == ["a red hat", "", "ein grüner Hut"]
    lazily = open_dataset(root, cache=False)
    assert lazily.fetch([2, 0])["text"] == ["ein grüner Hut", "a red hat"]


def test_metadata_rows(folder: Make) -> None:
    root = folder(3)
    rows = [
        {"file_name": "002.png", "caption": "two", "kind": "b", "size": 4},
        {"file_name": "000.png", "caption": "zero", "kind": "a", "note": "x"},
    ]
    (root / "metadata.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    data = open_dataset(root)
    assert [data[i]["text"] for i in range(2)] == ["two", "zero"]
    assert data.labels is None
    assert data.metadata[0]["size"] == 4
    (root / "metadata.jsonl").rename(root / "rows.jsonl")
    assert torch.equal(data[0]["image"], open_dataset(root)[2]["image"])
    (root / "rows.jsonl").rename(root / "metadata.jsonl")
    by_kind = open_dataset(root / "metadata.jsonl", label_field="kind", text_field="note")
    assert (by_kind.labels, by_kind[0]["label"]) == (("a", "b"), 1)
    assert [by_kind[i]["text"] for i in range(2)] == ["", "x"]
    with pytest.raises(UserError, match="field 'colour'; there are caption, file_name, kind"):
        open_dataset(root, label_field="colour")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", "line 2: not a JSON object"),
        ("[1]", "line 2: needs an object with a string file_name"),
        ('{"text": "x"}', "line 2: needs"),
        ('{"file_name": "../../etc/passwd.png"}', "line 2: .* leads out of the folder"),
        ('{"file_name": "/etc/passwd.png"}', "line 2: .* leads out of the folder"),
    ],
)
def test_a_bad_metadata_line_is_named(folder: Make, line: str, message: str) -> None:
    root = folder(1)
    (root / "metadata.jsonl").write_text('{"file_name": "000.png"}\n' + line)
    with pytest.raises(UserError, match=message):
        open_dataset(root)


@given(st.lists(st.tuples(names, st.dictionaries(st.text(), values)), min_size=1))
def test_metadata_round_trip(rows: list[tuple[str, dict[str, object]]]) -> None:
    expected = [fields | {"file_name": name} for name, fields in rows]
    data = "\n".join(json.dumps(row, ensure_ascii=False) for row in expected)
    assert parse_metadata(data.encode(), "m") == expected


@given(st.one_of(st.binary(), st.text('{}[]":,\n\\ufile_name01.-e').map(str.encode)))
def test_random_metadata_is_rows_or_a_user_error(data: bytes) -> None:
    try:
        rows = parse_metadata(data, "m.jsonl")
    except UserError as error:
        assert str(error).startswith("m.jsonl")
        assert "\n" not in str(error)
    else:
        assert all(isinstance(row["file_name"], str) for row in rows)


def test_deep_nesting_is_a_user_error() -> None:
    with pytest.raises(UserError, match="line 1"):
        parse_metadata(b"[" * 100_000, "m")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no images found \(\.png \.jpg"):
        open_dataset(tmp_path)
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(UserError, match="not a data set"):
        open_dataset(tmp_path / "notes.md")


def test_sizes_that_differ_need_a_size(tmp_path: Path, png: Callable[..., bytes]) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    (tmp_path / "b.png").write_bytes(png(1, width=9))
    with pytest.raises(UserError, match=r"b\.png is 9 x 8 pixels, others are 8 x 8: give a size"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, size=4).fetch([0, 1])["image"].shape == (2, 3, 4, 4)


@pytest.mark.parametrize("bad", [{"size": 0}, {"channels": 2}, {"fit": "stretch"}])
def test_impossible_options(folder: Make, bad: dict[str, object]) -> None:
    with pytest.raises(UserError):
        open_dataset(folder(1), **bad)  # type: ignore[arg-type]


def test_a_data_set_saved_by_datasets(tmp_path: Path, folder: Make) -> None:
    import datasets

    root = folder(3)
    table = datasets.Dataset.from_dict(
        {"picture": [str(p) for p in sorted(root.iterdir())], "animal": [1, 0, 1], "caption": ["x", "y", "z"]}
    )
    table = table.cast_column("picture", datasets.Image())
    table = table.cast_column("animal", datasets.ClassLabel(names=["zebra", "ant"]))
    datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "saved")
    data, direct = open_dataset(tmp_path / "saved"), open_dataset(root)
    assert data.labels == ("zebra", "ant")
    assert [(data[i]["label"], data[i]["text"]) for i in range(3)] == [(1, "x"), (0, "y"), (1, "z")]
    assert torch.equal(data[1]["image"], direct[1]["image"])
    with pytest.raises(UserError, match="no split 'test'; there are train"):
        open_dataset(tmp_path / "saved", split="test")


def test_real_emoji(real_data: Path) -> None:
    data = open_dataset(real_data / "emoji", size=32, label_field="group", cache=False)
    assert len(data) == 3582
    assert data.labels is not None
    assert len(data.labels) == 11
    first = data[0]
    assert first["text"] == "number sign"
    assert data.labels[first["label"]] == "Character"
    corner = data.fetch(range(0, 3582, 200))["image"][:, :, 0, 0]
    assert (corner > 0.9).float().mean() > 0.7  # transparent corners are white
    assert sum(row["base"] is not None for row in data.metadata) == 1885
