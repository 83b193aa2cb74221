from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noisette.cli import weights
from noisette.cli.weights import Lora, dtype_named, weights_hash
from noisette.errors import UserError

NAME = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20)


@given(NAME, st.floats(allow_nan=False, allow_infinity=False))
def test_a_name_and_a_weight_come_back_whatever_the_name(name: str, weight: float) -> None:
    assert Lora.parsed(str(Lora(name, weight))) == Lora(name, weight)


@pytest.mark.parametrize(
    ("text", "file", "weight"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-2", "a.safetensors", -2.0),
        ("C:\\loras\\a.safetensors", "C:\\loras\\a.safetensors", 1.0),
        ("C:\\loras\\a.safetensors:.5", "C:\\loras\\a.safetensors", 0.5),
        ("a:b:c", "a:b:c", 1.0),
        ("a:b:0", "a:b", 0.0),
        (":0.5", ":0.5", 1.0),
        ("a:", "a:", 1.0),
    ],
)
def test_only_a_number_behind_the_last_colon_is_a_weight(text: str, file: str, weight: float) -> None:
    assert Lora.parsed(text) == Lora(file, weight)


def test_precisions_have_short_names_and_torchs() -> None:
    for short, long in (("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")):
        assert dtype_named(short) is dtype_named(long) is getattr(torch, long)
    with pytest.raises(UserError, match="take fp32, bf16, fp16"):
        dtype_named("int8")


def test_the_hash_hangs_on_all_that_makes_a_picture(made: Path) -> None:
    sd, ink = str(made / "sd"), str(made / "ink.safetensors")
    found = [weights_hash(sd), weights_hash(sd, loras=[ink]), weights_hash(sd, loras=[f"{ink}:0.5"])]
    # A weight stands in the settings, the hash is of files.
    assert found[1] == found[2] != found[0]
    assert found[0] == weights_hash(sd) != weights_hash(str(made / "sd.safetensors"))
    scheduler = made / "sd" / "scheduler" / "scheduler_config.json"
    kept = scheduler.read_bytes()
    try:
        scheduler.write_bytes(kept.replace(b"PNDM", b"DDIM"))
        assert weights_hash(sd) != found[0]
    finally:
        scheduler.write_bytes(kept)


def test_a_large_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISETTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "LARGE", 4)
    file, reads, digest = tmp_path / "a.ckpt", [0], hashlib.file_digest

    def counted(*args: object) -> object:
        reads[0] += 1
        return digest(*args)  # pyright: ignore

    monkeypatch.setattr(hashlib, "file_digest", counted)
    file.write_bytes(b"first")
    first = [weights_hash(str(file)) for _ in range(3)]
    assert len(set(first)) == 1 and reads == [1]
    file.write_bytes(b"other")
    os.utime(file, ns=(0, 0))
    assert weights_hash(str(file)) != first[0] and reads == [2]
    # A cache that cannot be written, or was cut short, is none.
    for kept in (tmp_path / "cache" / "digests").iterdir():
        kept.write_bytes(b"")
    assert weights_hash(str(file)) != first[0] and reads == [3]
    (tmp_path / "note").touch()
    monkeypatch.setenv("NOISETTE_CACHE", str(tmp_path / "note"))
    assert weights_hash(str(file)) != first[0] and reads == [4]
