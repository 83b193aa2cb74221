from __future__ import annotations

import hashlib
import multiprocessing
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from noisette.conditioning.cache import cached
from noisette.core import Cond
from noisette.errors import UserError

TEXTS = ["a red cube", "", "a blue sphere", "été 🎉", "half a pair \ud83d", "a red cube"]


class Counting:
    """An encoder whose output is random but decided by the text, and which knows what it was asked."""

    def __init__(self, identity: str = "one", *, masked: bool = True, scale: float = 1.0) -> None:
        self.identity, self.masked, self.scale = identity, masked, scale
        self.device = torch.device("cpu")
        self.asked: list[list[str]] = []

    def _row(self, text: str) -> Tensor:
        seed = hashlib.sha256((self.identity + text).encode("utf-8", "surrogatepass")).digest()
        return torch.randn(5, 4, generator=torch.Generator().manual_seed(int.from_bytes(seed[:7], "big")))

    def __call__(self, texts: Sequence[str]) -> Cond:
        self.asked.append(list(texts))
        tokens = torch.stack([self._row(text) for text in texts]) * self.scale
        cond = {"tokens": tokens, "pooled": tokens.mean(1).bfloat16()}
        return {**cond, "token_mask": tokens[..., 0] > 0} if self.masked else cond


def same(a: Cond, b: Cond) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.safetensors"))


def test_the_second_run_asks_nothing_and_gives_the_same(tmp_path: Path) -> None:
    encoder = Counting()
    wanted = Counting()(TEXTS)
    assert same(cached(encoder, tmp_path)(TEXTS), wanted)
    assert encoder.asked == [TEXTS[:5]]
    again = cached(encoder, tmp_path)
    assert same(again(TEXTS), wanted) and same(again(TEXTS[::-1]), Counting()(TEXTS[::-1]))
    assert len(encoder.asked) == 1


def test_only_what_is_missing_is_asked_in_batches(tmp_path: Path) -> None:
    encoder = Counting()
    memory = cached(encoder, tmp_path, batch_size=2)
    assert memory.fill(iter(["b", "a", "b", "c"])) == 3
    assert memory.fill(["a"]) == 0
    assert same(memory(["d", "a", "e", "c"]), Counting()(["d", "a", "e", "c"]))
    assert encoder.asked == [["b", "a"], ["c"], ["d", "e"]] and len(shards(tmp_path)) == 3


def test_another_encoder_or_another_text_is_not_found(tmp_path: Path) -> None:
    cached(Counting("one"), tmp_path)(["a"])
    other, near = Counting("two"), Counting("one")
    assert same(cached(other, tmp_path)(["a"]), Counting("two")(["a"]))
    assert other.asked == [["a"]]
    cached(near, tmp_path)(["a", "a ", "A"])
    assert near.asked == [["a ", "A"]]
    halved = Counting("one")
    cached(halved, tmp_path, half=True)(["a"])
    assert halved.asked == [["a"]]


def test_half_is_smaller_rounded_alike_and_of_the_same_precision(tmp_path: Path) -> None:
    texts = [str(i) for i in range(200)]
    whole, halved = cached(Counting(masked=False), tmp_path / "whole"), Counting(masked=False)
    whole(texts)
    first = cached(halved, tmp_path / "half", half=True)(texts)
    second = cached(halved, tmp_path / "half", half=True)(texts)
    exact = Counting(masked=False)(texts)
    assert same(first, second) and len(halved.asked) == 4
    assert first["tokens"].dtype == torch.float32 and first["pooled"].dtype == torch.bfloat16
    assert torch.equal(first["tokens"], exact["tokens"].half().float())
    sizes = [sum(path.stat().st_size for path in shards(tmp_path / kind)) for kind in ("whole", "half")]
    assert sizes[1] < 0.75 * sizes[0]


def test_half_does_not_overflow(tmp_path: Path) -> None:
    memory = cached(Counting(scale=1e6), tmp_path, half=True)
    assert same(memory(TEXTS), Counting(scale=1e6)(TEXTS))
    assert same(cached(Counting(scale=1e6), tmp_path, half=True)(TEXTS), memory(TEXTS))


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def damage_header(path: Path) -> None:
    path.write_bytes(b"\xff" * 9 + path.read_bytes()[9:])


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_other(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"keys": torch.zeros(3)}, path)


@pytest.mark.parametrize("damage", [damage_cut, damage_header, damage_empty, damage_other])
def test_a_damaged_file_is_made_again_with_one_warning(tmp_path: Path, damage) -> None:
    cached(Counting(), tmp_path)(["a", "b"])
    cached(Counting(), tmp_path)(["c"])
    good, bad = sorted(shards(tmp_path), key=lambda path: path.stat().st_size)
    damage(bad)
    encoder = Counting()
    memory = cached(encoder, tmp_path)
    with pytest.warns(UserWarning, match="is damaged") as caught:
        assert same(memory(["a", "b", "c"]), Counting()(["a", "b", "c"]))
    assert len(caught) == 1 and str(bad) in str(caught[0].message)
    assert encoder.asked == [["a", "b"]] and not bad.exists() and good.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(cached(Counting(), tmp_path)(["b"]), Counting()(["b"]))


@pytest.mark.parametrize("opened", [False, True])
def test_a_flipped_bit_is_found(tmp_path: Path, opened: bool) -> None:
    from safetensors.torch import load_file

    writer = cached(Counting(), tmp_path)
    writer(["a", "b"])
    (path,) = shards(tmp_path)
    value = load_file(path)["tokens"][1].numpy().tobytes()
    data = path.read_bytes()
    at = data.index(value) + 5
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    memory = writer if opened else cached(Counting(), tmp_path)
    assert same(memory(["a"]), Counting()(["a"]))
    with pytest.warns(UserWarning, match="does not match its checksum"):
        assert same(memory(["b"]), Counting()(["b"]))


def test_a_writer_that_dies_loses_nothing_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    encoder, calls = Counting(), []
    whole = safetensors.torch.save_file

    def dying(tensors, path, metadata) -> None:
        calls.append(path)
        whole(tensors, path, metadata)
        if len(calls) == 3:
            damage_cut(path)
            raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", dying)
    with pytest.raises(KeyboardInterrupt):
        cached(encoder, tmp_path, batch_size=1).fill("abcd")
    monkeypatch.undo()
    # What a killed process, which cannot tidy up, leaves behind: the half-written temporary file.
    (first, _) = shards(tmp_path)
    first.with_name(f".{first.stem}-0123abcd.safetensors").write_bytes(first.read_bytes()[:-9])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        survivor = Counting()
        assert same(cached(survivor, tmp_path)(list("abcd")), Counting()(list("abcd")))
    assert survivor.asked == [["c", "d"]]


def test_what_another_process_adds_or_removes_is_noticed(tmp_path: Path) -> None:
    encoder = Counting()
    early, late = cached(encoder, tmp_path), cached(Counting(), tmp_path)
    early(["a"])
    late(["b"])
    early(["a", "b"])
    assert encoder.asked == [["a"]]
    for path in shards(tmp_path):
        path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(early(["a", "b"]), Counting()(["a", "b"]))
    assert encoder.asked == [["a"], ["a", "b"]]


def fill(folder: Path, start: int) -> None:
    cached(Counting(), folder, batch_size=3).fill(str(i) for i in range(start, start + 30))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_processes_share_a_folder(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=fill, args=(tmp_path, start)) for start in (0, 10, 20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    encoder, texts = Counting(), [str(i) for i in range(50)]
    assert same(cached(encoder, tmp_path)(texts), Counting()(texts)) and encoder.asked == []


def test_no_text_is_left_to_the_encoder_and_bad_sizes_are_refused(tmp_path: Path) -> None:
    memory = cached(Counting("one"), tmp_path)
    assert memory.identity == "one" and memory.device.type == "cpu" and memory.fill([]) == 0
    with pytest.raises(UserError, match="batch_size 0 must be at least 1"):
        cached(Counting(), tmp_path, batch_size=0)


def test_keeps_what_a_pretrained_encoder_gives(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from noisette.conditioning.pretrained import PretrainedText

    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((c, -2.0) for c in "abc")]
    transformers.T5Tokenizer(vocab=vocab, extra_ids=0).save_pretrained(tmp_path / "t5")
    config = transformers.T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path / "t5")
    encoder = PretrainedText(str(tmp_path / "t5"), max_length=6).load()
    wanted = encoder(["a b", "c", ""])
    assert same(cached(encoder, tmp_path / "cache")(["a b", "c", ""]), wanted)
    again = PretrainedText(str(tmp_path / "t5"), max_length=6).load()
    memory = cached(again, tmp_path / "cache")
    again.model.encoder.forward = None  # whoever calls the network now gets an error
    assert same(memory(["c", "a b", "c", ""]), {key: wanted[key][[1, 0, 1, 2]] for key in wanted})
