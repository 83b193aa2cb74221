from __future__ import annotations

from dataclasses import replace

import pytest

from noisette.errors import UserError
from noisette.hub import to_record
from noisette.training import MinSNR, Rows, Simple
from noisette.training.recipe import differences


def test_the_learning_rate_climbs_and_falls(tiny) -> None:
    recipe = tiny(steps=24, warmup=4, lr=1.0, decay="cosine")
    assert [recipe.lr_at(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert recipe.lr_at(14) == pytest.approx(0.5)
    assert recipe.lr_at(24) == pytest.approx(0.0) and recipe.lr_at(99) == pytest.approx(0.0)
    constant = replace(recipe, decay="constant")
    assert [constant.lr_at(step) for step in (1, 4, 99)] == [0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": -1}, "batch_size"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"ema": 1.0}, "ema"),
        ({"cond_dropout": 2.0}, "cond_dropout"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"warmup": -1}, "warmup must not be negative"),
    ],
)
def test_numbers_out_of_range_are_named(tiny, change, words) -> None:
    with pytest.raises(UserError, match=words):
        tiny(**change)


def test_differences_are_named_down_to_the_field_and_conveniences_pass(tiny) -> None:
    a = tiny()
    b = tiny(
        lr=1e-3,
        objective=Simple(times=Rows(100), space="eps", weighting=MinSNR()),
        net={"model_channels": 16},
        sample_every=7,
        checkpoint_every=3,
    )
    found = differences(to_record(a), to_record(b))
    assert [line.split(":")[0] for line in found] == [
        "lr",
        "spec.net.model_channels",
        "objective.space",
        "objective.weighting",
    ]
    assert differences(to_record(a), to_record(tiny())) == []
