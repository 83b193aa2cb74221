from __future__ import annotations

import pytest
import torch
from torch import Tensor

from noisette.conditioning.text import alike, drop_texts, negatives_of, text_cond, trimmed
from noisette.conditioning.tokenizer import Tokenizer
from noisette.core import Cond, Level, Prediction, given, guide
from noisette.errors import UserError
from noisette.nets.text import TextConfig, TextEncoder

TOKENIZER = Tokenizer.train(["a red cube", "a blue sphere"] * 2, 600, 8)


def test_texts_become_ids_of_one_shape() -> None:
    cond = text_cond(TOKENIZER, ["a red cube", ""])
    assert cond["ids"].shape == cond["token_mask"].shape == (2, 8)
    assert cond["token_mask"].sum(1).tolist() == [5, 2]
    assert torch.equal(cond["ids"], TOKENIZER(["a red cube", ""])[0])
    assert text_cond(TOKENIZER, ["a"], "meta")["ids"].device.type == "meta"


def test_dropped_texts_are_the_null_prompt() -> None:
    texts = ["a", "b", "c"]
    assert drop_texts(texts, torch.tensor([False, True, False])) == ["a", "", "c"]
    assert texts == ["a", "b", "c"]
    with pytest.raises(ValueError):
        drop_texts(texts, torch.tensor([True]))


def test_negatives_are_paired_with_prompts() -> None:
    assert negatives_of(["a", "b"]) == ["", ""]
    assert negatives_of(["a", "b"], "c") == ["c", "c"]
    assert negatives_of(["a", "b"], ["c", ""]) == ["c", ""]
    with pytest.raises(UserError, match="2 prompts but 1 negative prompts"):
        negatives_of(["a", "b"], ["c"])


def calls_of_guidance(cond: Cond, null: Cond) -> list[Cond]:
    """The conditions that a guided denoiser calls its network with."""
    calls = []

    def denoiser(x: Tensor, level: Level, cond: Cond) -> Prediction:
        calls.append(cond)
        return Prediction(x, x, level)

    level = Level(*(torch.tensor(0.5, dtype=torch.float64) for _ in range(3)))
    guide(denoiser, given(denoiser, lambda _: null), 3.0)(torch.zeros(2, 1, 1, 1), level, cond)
    return calls


@pytest.mark.parametrize("masks", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("lengths", [(5, 3), (3, 5), (4, 4)])
def test_alike_conditions_run_in_one_call(masks: tuple[bool, bool], lengths: tuple[int, int]) -> None:
    conds: list[Cond] = []
    for masked, length in zip(masks, lengths, strict=True):
        cond = {"tokens": torch.randn(2, length, 6), "pooled": torch.randn(2, 6)}
        conds.append(
            {**cond, "token_mask": torch.arange(length) < torch.tensor([[2], [1]])} if masked else cond
        )
    made = alike(*conds)
    (batched,) = calls_of_guidance(*made)
    assert batched["tokens"].shape == (4, max(lengths), 6)
    assert ("token_mask" in batched) == (any(masks) or lengths[0] != lengths[1])
    for before, after, length in zip(conds, made, lengths, strict=True):
        assert torch.equal(after["tokens"][:, :length], before["tokens"])
        assert after["pooled"] is before["pooled"]
        if "token_mask" in after:
            whole = torch.ones(2, length, dtype=torch.bool)
            assert torch.equal(after["token_mask"][:, :length], before.get("token_mask", whole))
            assert not after["token_mask"][:, length:].any()


def test_ids_are_alike_already() -> None:
    cond, null = text_cond(TOKENIZER, ["a", "b"]), text_cond(TOKENIZER, ["", "red"])
    assert alike(cond, null)[0] is cond and alike(cond, null)[1] is null
    assert len(calls_of_guidance(cond, null)) == 1


def test_a_trimmed_condition_is_read_as_the_whole_one() -> None:
    texts = ["a red cube", "a small red cube left of a blue sphere", ""]
    tokenizer = Tokenizer.train(texts * 3, 600, 40)
    whole = text_cond(tokenizer, texts)
    short = trimmed(whole)
    length = short["ids"].shape[1]
    assert length == int(whole["token_mask"].sum(1).max()) < 40
    encoder = TextEncoder(
        TextConfig(tokenizer.vocab_size, 16, 32, 2, 2, 40, eos_token_id=tokenizer.eos_token_id)
    )
    for long, cut in zip(encoder(whole["ids"]), encoder(short["ids"]), strict=True):
        assert torch.allclose(long[:, :length] if long.ndim == 3 else long, cut, atol=1e-6)
    assert trimmed({"label": torch.zeros(1)}).keys() == {"label"}
