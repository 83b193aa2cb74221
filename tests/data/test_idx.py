from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from noisette.data import open_dataset, read_idx
from noisette.data.idx import DTYPES
from noisette.errors import UserError

CODES = {np.dtype(name): code for code, name in DTYPES.items()}
arrays = st.sampled_from(list(DTYPES.values())).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=4, max_side=5, min_side=0))
)


def idx(array: np.ndarray) -> bytes:
    big = array.astype(array.dtype.newbyteorder(">"))
    head = bytes([0, 0, CODES[big.dtype], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + big.tobytes()


def mnist(folder: Path, split: str, pixels: np.ndarray, labels: np.ndarray, gz: bool) -> None:
    for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
        data = idx(array)
        name = f"{split}-{kind}-ubyte" + (".gz" if gz else "")
        (folder / name).write_bytes(gzip.compress(data) if gz else data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(arrays, st.booleans())
def test_round_trip(tmp_path: Path, array: np.ndarray, zipped: bool) -> None:
    path = tmp_path / "a.idx"
    path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    back = read_idx(path)
    assert back.shape == array.shape
    assert back.dtype == array.dtype.newbyteorder("=")
    assert np.array_equal(back, array, equal_nan=array.dtype.kind == "f")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.one_of(st.binary(max_size=64), st.binary(max_size=40).map(lambda b: b"\0\0\x08" + b)), st.booleans()
)
def test_random_bytes_are_an_array_or_a_user_error(tmp_path: Path, data: bytes, zipped: bool) -> None:
    path = tmp_path / "a.idx"
    path.write_bytes(gzip.compress(data) if zipped else data)
    try:
        array = read_idx(path)
    except UserError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
    else:
        assert idx(array) == data


def test_a_lying_header_and_a_cut_gzip(tmp_path: Path) -> None:
    data = idx(np.arange(60, dtype=np.uint8).reshape(3, 4, 5))
    path = tmp_path / "train-images-idx3-ubyte"
    for bad, message in (
        (data[:-1], "promises 60 bytes of values, only 59"),
        (data + b"x", "promises 60 bytes of values, more"),
        (data[:4] + b"\xff" * 12, "too many"),
        (gzip.compress(data)[:-9], "truncated or damaged"),
        (gzip.compress(data)[:-8] + b"\0" * 8, "truncated or damaged"),
        (b"GIF89a", "not an IDX file"),
    ):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=message):
            open_dataset(path)


@pytest.mark.parametrize("gz", [False, True])
def test_mnist_layout_pads_and_splits(tmp_path: Path, gz: bool) -> None:
    rng = np.random.default_rng(0)
    for split, n in (("train", 12), ("t10k", 5)):
        mnist(
            tmp_path,
            split,
            rng.integers(0, 256, (n, 28, 28), np.uint8),
            np.arange(n, dtype=np.uint8) % 10,
            gz,
        )
    train, test = open_dataset(tmp_path, size=32, channels=1, fit="pad"), open_dataset(tmp_path, split="test")
    assert (len(train), len(test)) == (12, 5)
    assert train.labels == tuple("0123456789")
    assert test.shape == (3, 28, 28)
    x, small = train[3]["image"], open_dataset(tmp_path, channels=1)[3]["image"]
    assert train[11]["label"] == 1
    assert torch.equal(x[:, 2:-2, 2:-2], small)
    assert (x[:, :2] == -1).all()
    assert open_dataset(tmp_path, size=16)[0]["image"].shape == (3, 16, 16)
    with pytest.raises(UserError, match="no split 'validation'; found test, train"):
        open_dataset(tmp_path, split="validation")


def test_labels_must_fit(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 6), np.uint8)
    mnist(tmp_path, "train", pixels, np.array([0, 1, 2, 9], np.uint8), False)
    with pytest.raises(UserError, match=r"label 9 of .* is none of the 3 classes a, b, c"):
        open_dataset(tmp_path, labels="abc")
    mnist(tmp_path, "train", pixels, np.zeros(3, np.uint8), False)
    with pytest.raises(UserError, match="one whole number for each of 4 images"):
        open_dataset(tmp_path)


def test_real_mnist(real_data: Path) -> None:
    train = open_dataset(real_data / "mnist", size=32, channels=1, fit="pad")
    test = open_dataset(real_data / "mnist", split="test")
    assert (len(train), len(test)) == (60_000, 10_000)
    counts = torch.bincount(train.fetch(range(60_000))["label"])
    assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert [train[i]["label"] for i in range(5)] == [5, 0, 4, 1, 9]
    inner = (train.fetch(range(1000))["image"][:, :, 2:-2, 2:-2] + 1) / 2
    assert abs(float(inner.mean()) - 0.1307) < 0.005  # the well-known mean of the whole set
