from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from noisette.conditioning.tokenizer import Tokenizer
from noisette.errors import UserError

TEXTS = [
    "A small red cube left of a shiny blue sphere, at night.",
    "a large red sphere behind a small green cone",
    "two blue cubes and a red cone; it's a sunny day!",
    "the café's naïve 42 pictures, 7 of them 🎉",
] * 2
TOKENIZER = Tokenizer.train(TEXTS, 560, 16)
AWKWARD = [
    "",
    " ",
    "A  red\tcube\n\nLEFT of   it",
    "café CAFÉ cafe\u0301 naïve Ünïcödé",
    "it's we're they'll I'd I'm don't 'sphere' ’s",
    "🎉🎉 a 👩‍👩‍👧‍👦 family 🇫🇷!?",
    "42 cubes, 3.14 & ½ — “quoted” ...",
    "漢字とかな русский ελληνικά İstanbul ǅ",
    "a <|endoftext|> b <|startoftext|> <|ENDOFTEXT|>",
    "hello! world!!! !",
    "\x00\x7f\u200b\u2028\xa0end\ufeff",
    "word" * 40,
]


def clip_folder(folder: Path, pad: str | None = None) -> Path:
    """The trained vocabulary in the two files that CLIP's tokenizers come in."""
    folder.mkdir(exist_ok=True)
    ids = {token: i for i, token in enumerate(TOKENIZER.tokens)}
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in TOKENIZER.merges)])
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (folder / "merges.txt").write_text(merges + "\n", encoding="utf-8")
    if pad is not None:
        (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": pad}}))
        (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 24}))
    return folder


def peer(pad: str):
    ids = {token: i for i, token in enumerate(TOKENIZER.tokens)}
    return CLIPTokenizer(vocab=ids, merges=list(TOKENIZER.merges), pad_token=pad)


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_gives_the_ids_that_clip_gives(tmp_path: Path, pad: str) -> None:
    ours = Tokenizer.load(clip_folder(tmp_path / "clip", pad))
    assert ours.max_length == 24 and ours.pad == pad
    theirs = peer(pad)(AWKWARD, padding="max_length", truncation=True, max_length=24, return_tensors="pt")
    ids, mask = ours(AWKWARD)
    assert ids.tolist() == theirs["input_ids"].tolist()
    assert mask.tolist() == theirs["attention_mask"].bool().tolist()


@settings(max_examples=60)
@given(st.text(max_size=30))
def test_gives_the_ids_that_clip_gives_for_any_text(text: str) -> None:
    theirs = PEER(text, padding="max_length", truncation=True, max_length=16)
    assert TOKENIZER(text)[0][0].tolist() == theirs["input_ids"]


PEER = peer("<|endoftext|>")


def test_reads_the_one_file_that_newer_clip_folders_have(tmp_path: Path) -> None:
    theirs = CLIPTokenizer(vocab=dict(PEER.get_vocab()), merges=list(TOKENIZER.merges), model_max_length=20)
    theirs.save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.json").exists()
    assert Tokenizer.load(tmp_path) == replace(TOKENIZER, max_length=20, words=())


def test_a_clip_folder_without_settings_has_77_places(tmp_path: Path) -> None:
    ours = Tokenizer.load(clip_folder(tmp_path / "clip"))
    assert ours.max_length == 77 and ours.pad == "<|endoftext|>" and ours.words == ()
    (tmp_path / "clip" / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    assert Tokenizer.load(tmp_path / "clip").max_length == 77


def test_training_learns_the_words_it_saw() -> None:
    assert TOKENIZER.vocab_size == 560 == len(set(TOKENIZER.tokens))
    assert TOKENIZER.bos_token_id == 558 and TOKENIZER.eos_token_id == TOKENIZER.pad_token_id == 559
    large = Tokenizer.train(TEXTS, 2000, 16)
    assert large.vocab_size < 2000
    ids, mask = large("A small RED cube")
    assert [large.tokens[i] for i in ids[0, :6]] == [
        "<|startoftext|>",
        "a</w>",
        "small</w>",
        "red</w>",
        "cube</w>",
        "<|endoftext|>",
    ]
    assert mask[0].tolist() == [True] * 6 + [False] * 10 and (ids[0, 6:] == large.pad_token_id).all()
    assert {"cube", "café", "42"} & set(large.words) == {"cube", "café"}
    assert {"4", "2", "7", "🎉"} <= set(large.words) and "s" not in large.words
    assert (
        large.tokens[:600] != TOKENIZER.tokens and large.merges[: len(TOKENIZER.merges)] == TOKENIZER.merges
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_another_process_learns_the_same_and_can_be_forked() -> None:
    code = (
        "import json, os; from noisette.conditioning.tokenizer import Tokenizer;"
        f"t = Tokenizer.train({TEXTS!r}, 560, 16); t(['a', 'b']); pid = os.fork(); t(['a']);"
        "pid and os.waitpid(pid, 0); pid and print(json.dumps(t.merges))"
    )
    env = {key: value for key, value in os.environ.items() if key != "TOKENIZERS_PARALLELISM"}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert [tuple(pair) for pair in json.loads(done.stdout)] == list(TOKENIZER.merges)


@pytest.mark.parametrize("folder", [False, True])
def test_comes_back_from_its_file(tmp_path: Path, folder: bool) -> None:
    tokenizer = replace(TOKENIZER, max_length=20, pad="!")
    path = tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path if folder else path)
    assert again == tokenizer and again.words == tokenizer.words
    assert torch.equal(again(AWKWARD)[0], tokenizer(AWKWARD)[0])
    with pytest.raises(UserError, match="exists already"):
        tokenizer.save(path)
    assert Tokenizer.load(TOKENIZER.save(path, overwrite=True)) == TOKENIZER


@given(st.lists(st.text(st.characters(), max_size=40), max_size=4), st.integers(2, 12))
def test_any_text_becomes_a_row_of_the_right_shape(texts: list[str], length: int) -> None:
    tokenizer = replace(TOKENIZER, max_length=length)
    ids, mask = tokenizer(texts)
    assert ids.shape == mask.shape == (len(texts), length)
    assert ids.dtype == torch.long and mask.dtype == torch.bool
    for i, text in enumerate(texts):
        count = int(mask[i].sum())
        assert mask[i].tolist() == [True] * count + [False] * (length - count)
        assert ids[i, 0] == tokenizer.bos_token_id and ids[i, count - 1] == tokenizer.eos_token_id
        assert (ids[i, count:] == tokenizer.pad_token_id).all()
        alone, alone_mask = tokenizer(text)
        assert torch.equal(alone[0], ids[i]) and torch.equal(alone_mask[0], mask[i])
        lost = tokenizer.cut(text)
        assert text.endswith(lost) and (lost == "" or count == length)
        assert all(isinstance(near, list) for near in tokenizer.unknown(text).values())


def test_half_a_surrogate_pair_is_a_question_mark() -> None:
    assert torch.equal(TOKENIZER("red \ud83d cube")[0], TOKENIZER("red ? cube")[0])
    assert replace(TOKENIZER, max_length=3).cut("a\ud83d\ud83d b") == "\ud83d\ud83d b"


def test_cut_names_what_is_lost() -> None:
    text = "A small red cube  left of a shiny blue SPHERE"
    tokenizer = Tokenizer.train(TEXTS, 2000, 8)
    assert tokenizer.cut(text) == "a shiny blue SPHERE"
    assert tokenizer.cut("A small red cube  left of") == ""
    assert tokenizer.cut("") == ""
    kept = text.removesuffix(tokenizer.cut(text))
    assert torch.equal(tokenizer(kept)[0], tokenizer(text)[0])


def test_unknown_words_come_with_near_ones() -> None:
    found = TOKENIZER.unknown("A Smal red cub, left of the 9 dragons 🎈 it's")
    assert list(found) == ["smal", "cub", "9", "dragons", "🎈"]
    assert found["smal"] == ["small"] and "cube" in found["cub"] and found["dragons"] == []
    assert TOKENIZER.unknown("a red CAFE\u0301!") == {}
    assert replace(TOKENIZER, words=()).unknown("dragons") == {}


def test_bad_input_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vocab_size 100 must be at least 514"):
        Tokenizer.train(TEXTS, 100, 16)
    with pytest.raises(UserError, match="no text to train"):
        Tokenizer.train([" "], 600, 16)
    with pytest.raises(UserError, match="max_length 1 must lie in 2"):
        replace(TOKENIZER, max_length=1)
    with pytest.raises(UserError, match="lacks the token 'nothing'"):
        replace(TOKENIZER, pad="nothing")
    with pytest.raises(UserError, match="there is no tokenizer at"):
        Tokenizer.load(tmp_path)
    for text in ("{", "[]", "{}", '{"format": "noisette tokenizer", "version": 1}', "[" * 100000):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(UserError, match=r"tokenizer\.json"):
            Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not text in UTF-8"):
        Tokenizer.load(tmp_path)


RECORD = json.dumps(
    {
        "format": "noisette tokenizer",
        "version": 1,
        "max_length": 5,
        "pad": "a",
        "words": ["b"],
        "merges": ["a b"],
        "tokens": ["a", "b", "ab", "<|startoftext|>", "<|endoftext|>"],
    }
)


@given(st.integers(0, len(RECORD)), st.integers(0, 12), st.text(max_size=3))
def test_a_damaged_file_is_refused_or_still_works(at: int, length: int, put: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(RECORD[:at] + put + RECORD[at + length :], encoding="utf-8")
        try:
            tokenizer = Tokenizer.load(path)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert tokenizer("ab ba")[0].shape == (1, tokenizer.max_length)


def test_a_damaged_clip_folder_is_refused(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    vocab = (folder / "vocab.json").read_text(encoding="utf-8")
    for damaged in (vocab.replace(": 7,", ": 8,"), vocab.replace(": 7,", ": 1000,")):
        (folder / "vocab.json").write_text(damaged, encoding="utf-8")
        with pytest.raises(UserError, match="must give the ids 0, 1, 2"):
            Tokenizer.load(folder)
    (folder / "vocab.json").write_text(vocab, encoding="utf-8")
    (folder / "merges.txt").write_text("a b c\n")
    with pytest.raises(UserError, match="'a b c' is not a pair"):
        Tokenizer.load(folder)
    (folder / "merges.txt").write_text("zzz q\n")
    with pytest.raises(UserError, match="merges 'zzz' and 'q' to an unknown token"):
        Tokenizer.load(folder)
    (folder / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"there is no tokenizer at .*merges\.txt"):
        Tokenizer.load(folder)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordLevel", "vocab": {}}}')
    with pytest.raises(UserError, match="neither a tokenizer of noisette's nor one of CLIP's"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_gets_to_know_words_without_changing_an_id() -> None:
    plain = Tokenizer.train(["a red cube"] * 2, 600, 12)
    more = plain.knowing(["a Grinning face!", "a red cube"])
    assert plain.unknown("a grinning cube").keys() == {"grinning"}
    assert not more.unknown("a grinning cube, a red face")
    assert set(plain.words) < set(more.words)
    assert more.tokens == plain.tokens
    assert more("a grinning cube")[0].tolist() == plain("a grinning cube")[0].tolist()
