from __future__ import annotations

import torch

from noisette.conditioning import NO_LABEL, drop_labels, label_cond, to_null


def test_to_null_takes_the_label_and_leaves_the_rest() -> None:
    tokens = torch.randn(2, 3, 4)
    cond = {**label_cond([3, 7]), "tokens": tokens}
    null = to_null(cond)
    assert null["label"].tolist() == [NO_LABEL, NO_LABEL]
    assert null["label"].dtype == torch.long
    assert null["tokens"] is tokens
    assert cond["label"].tolist() == [3, 7]


def test_to_null_of_a_condition_without_a_label_is_itself() -> None:
    cond = {"tokens": torch.zeros(1, 2, 3)}
    assert to_null(cond) is cond


def test_dropped_labels_are_gone_and_the_rest_stays() -> None:
    cond = {**label_cond([3, 7, 9]), "tokens": torch.zeros(3, 1, 1)}
    dropped = drop_labels(cond, torch.tensor([False, True, False]))
    assert dropped["label"].tolist() == [3, NO_LABEL, 9]
    assert dropped["tokens"] is cond["tokens"] and cond["label"].tolist() == [3, 7, 9]
