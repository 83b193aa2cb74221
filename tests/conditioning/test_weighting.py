from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noisette.conditioning.tokenizer import Tokenizer
from noisette.conditioning.weighting import weighted, windows
from noisette.errors import UserError

TOKENIZER = Tokenizer.train(["a red cube, a blue sphere, two green cones (small)"] * 2, 600, 77)
SMALL = replace(TOKENIZER, max_length=8)
SD2 = replace(TOKENIZER, pad="!")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a (red:1.2) cat", [("a ", 1), ("red", 1.2), (" cat", 1)]),
        ("(a (b:1.2) c:1.5)", [("a ", 1.5), ("b", 1.2 * 1.5), (" c", 1.5)]),
        ("((a:1.2):0.5)b", [("a", 0.6), ("b", 1)]),
        ("(a (b) [c]: 1.5 )", [("a (b) [c]", 1.5)]),
        ("(a (b:.5))", [("(a ", 1), ("b", 0.5), (")", 1)]),
        ("((a:2)", [("(", 1), ("a", 2)]),
        ("(a:2))", [("a", 2), (")", 1)]),
        ("(a:1.2:1.3)", [("a:1.2", 1.3)]),
        ("(a:0)(b:10)", [("a", 0), ("b", 10)]),
        ("x (a:1) y", [("x a y", 1)]),
        (r"\(a:1.2\) (b\):1.2) (c\:1.2)", [("(a:1.2) ", 1), ("b)", 1.2), (" (c:1.2)", 1)]),
        (r"a\b \\(c", [(r"a\b \(c", 1)]),
        ("", []),
    ],
)
def test_only_a_colon_and_a_number_weigh(text: str, pieces: list[tuple[str, float]]) -> None:
    found = weighted(text)
    assert [words for words, _ in found] == [words for words, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces])


PLAIN = """(a)|((a))|[a]|[a:1.2]|(a:|(a:b)|(a:1.2|a:1.2)|(a:)|(:1.2)|( :1)|(1.2)|()|)(|a (b|:-) :(|(a:1.2.3)
|(a:(2))|{a}|a, (b c), [d], 4:3|(a:1.2 b)"""


@pytest.mark.parametrize("text", PLAIN.replace("\n", "").split("|"))
def test_all_other_brackets_are_text_as_they_stand(text: str) -> None:
    assert weighted(text) == [(text, 1.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a (John 3:16)",
            r"the weight 16 of '\(John 3:16\)' must lie in 0 to 10; write \\: for a plain colon",
        ),
        ("(a:-1)", "the weight -1 of"),
        ("(a:nan)", "the weight nan of"),
        ("(a:inf)", "the weight inf of"),
        ("(a:1e999)", "the weight inf of"),
        ("(x (a:5):4)", "the weight 20 of 'a'"),
        ("(" + "a" * 500 + ":11)", r"a\.\.\.' must lie"),
    ],
)
def test_a_weight_out_of_range_is_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        weighted(text)
    assert len(str(raised.value)) < 150


@given(st.text("ab ():.12\\,", max_size=24))
def test_any_text_is_pieces_or_refused_in_one_line(text: str) -> None:
    try:
        pieces = weighted(text)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert all(words and 0 <= weight <= 10 for words, weight in pieces)
    assert all(a[1] != b[1] for a, b in pairwise(pieces))
    # Nothing is lost but the marks: with them taken out, the pieces are the text.
    marks = re.compile(r"[():\\.\d ]")
    assert marks.sub("", "".join(words for words, _ in pieces)) == marks.sub("", text)


@given(st.text(max_size=30))
def test_escaped_text_is_itself(text: str) -> None:
    escaped = re.sub(r"([():])", r"\\\1", text)
    assert "".join(words for words, _ in weighted(escaped)) == text
    assert weighted(f"({escaped}x:1.5)") == [(f"{text}x", 1.5)]


@settings(max_examples=60)
@given(st.text(max_size=40).filter(lambda text: ":" not in text and "\\" not in text))
def test_a_plain_text_that_fits_has_the_tokenizers_ids(text: str) -> None:
    for tokenizer in (TOKENIZER, SD2):
        ids, weights, mask = windows(tokenizer, text)
        if len(tokenizer.encode(text)) <= 75:
            wanted, seen = tokenizer(text)
            assert torch.equal(ids[:, 0], wanted) and torch.equal(mask[:, 0], seen) and ids.shape[1] == 1
        assert (weights == 1).all()


@settings(max_examples=60)
@given(st.lists(st.text("ab, ", max_size=30), max_size=3), st.integers(3, 40))
def test_windows_hold_every_token_in_order(texts: list[str], length: int) -> None:
    tokenizer = replace(SD2, max_length=length)
    ids, weights, mask = windows(tokenizer, texts)
    assert ids.shape == weights.shape == mask.shape and ids.shape[::2] == (len(texts), length)
    for text, rows, seen in zip(texts, ids, mask, strict=True):
        inner = [row[keep].tolist() for row, keep in zip(rows, seen, strict=True)]
        assert [token for row in inner for token in row[1:-1]] == tokenizer.encode(text)
        for row, keep, shown in zip(rows, seen, inner, strict=True):
            assert not shown or (shown[0], shown[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
            empty = torch.tensor([tokenizer.bos_token_id, tokenizer.eos_token_id])
            assert shown or torch.equal(row[:2], empty)
            assert (row[max(len(shown), 2) :] == tokenizer.pad_token_id).all()
            assert keep.tolist() == [True] * len(shown) + [False] * (length - len(shown))
        assert inner[0] and len(rows) == max(len(windows(tokenizer, one)[0][0]) for one in texts)


def words_of(tokenizer: Tokenizer, ids: torch.Tensor) -> str:
    return "".join(tokenizer.tokens[i] for i in ids[1:] if i < tokenizer.bos_token_id).replace("</w>", " ")


@pytest.mark.parametrize(
    ("length", "text", "cut"),
    [
        (8, "a red cube, a blue sphere", ["a red cube , ", "a blue sphere "]),
        (8, "a red cube a blue sphere, a", ["a red cube a blue sphere ", ", a "]),
        (8, "a red cube a blue sphere a", ["a red cube a blue sphere ", "a "]),
        (7, "a, red cube, a blue", ["a , red cube , ", "a blue "]),
    ],
)
def test_a_window_ends_after_a_comma_trap_16(length: int, text: str, cut: list[str]) -> None:
    tokenizer = replace(TOKENIZER, max_length=length)
    assert [words_of(tokenizer, row) for row in windows(tokenizer, text)[0][0]] == cut


def test_a_comma_far_from_the_end_does_not_break_the_window() -> None:
    for before, first in ((54, 75), (55, 56), (74, 75)):
        text = "a " * before + "," + " a" * 60
        mask = windows(TOKENIZER, text)[2]
        assert mask.sum(2).tolist() == [[first + 2, before + 61 - first + 2]]


def test_tokens_carry_the_weight_of_their_piece() -> None:
    ids, weights, mask = windows(TOKENIZER, ["a (red cube:1.5) and", "a (red cube:1.0) and"])
    assert torch.equal(ids[0], ids[1]) and torch.equal(ids[1], TOKENIZER(["a red cube and"])[0])
    inner = TOKENIZER.encode("and")
    assert weights[0, 0, : 4 + len(inner)].tolist() == [1, 1, 1.5, 1.5] + [1] * len(inner)
    assert (weights[0, 0, 4:] == 1).all() and (weights[1] == 1).all() and weights.dtype == torch.float32
    assert mask[0].sum() == 5 + len(inner)


def test_count_fills_up_with_empty_windows_and_loses_nothing() -> None:
    long, short = "a red cube a blue sphere a green cone", "a cube"
    ids, _, mask = windows(SMALL, [long, short], count=4)
    assert ids.shape == (2, 4, 8) and mask.any(2).sum(1).tolist() == [2, 1]
    assert torch.equal(ids[1, 1], SMALL("")[0][0]) and torch.equal(ids[1, 0], SMALL(short)[0][0])
    assert torch.equal(windows(SMALL, short)[0][0], ids[1, :1])
    with pytest.raises(UserError, match="a text needs 2 windows of 6 tokens, not 1"):
        windows(SMALL, [short, long], count=1)
    with pytest.raises(UserError, match="leaves no room for a word"):
        windows(replace(SMALL, max_length=2), "a")
    assert windows(SMALL, [])[0].shape == (0, 1, 8)
