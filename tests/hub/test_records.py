"""The JSON reader: exact round trips, and nothing but UserError for whatever else it is fed."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisette.core import EDM, X0, Eps, Flow, IndexTime, LogSigmaTime, ScaledTime, V
from noisette.errors import UserError
from noisette.hub.folder import FORMAT, VERSION, parse_spec
from noisette.hub.records import from_record, parse_json, to_record
from noisette.hub.spec import Defaults, ModelSpec
from noisette.nets import DiTConfig, UNetConfig
from noisette.schedules import (
    VE,
    BetasVP,
    ContinuousCosineVP,
    ContinuousLinearVP,
    CosineVP,
    FlowMatching,
    LinearVP,
    ScaledLinearVP,
    ZeroTerminalSNR,
)

NETS = (
    UNetConfig(in_channels=1, out_channels=1, model_channels=16, channel_mult=(1, 2), norm_groups=8),
    UNetConfig(in_channels=1, out_channels=1, time_embedding="fourier", head_channels=32, num_classes=3),
    DiTConfig(in_channels=1, out_channels=1, dim=32, depth=1, num_heads=2, learned_variance=True),
)
SCHEDULES = (
    LinearVP(),
    ScaledLinearVP(500),
    CosineVP(max_beta=0.99),
    BetasVP((0.1, 0.25, 0.5)),
    ZeroTerminalSNR(BetasVP((0.1, 0.2))),
    ContinuousLinearVP(),
    ContinuousCosineVP(),
    VE(),
    FlowMatching(3.0),
)
WAYS = (Eps(), X0(), V(), Flow(), EDM(0.3))
TIMES = (IndexTime(), LogSigmaTime(), ScaledTime(10.0))


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    net, schedule, way = (draw(st.sampled_from(kinds)) for kinds in (NETS, SCHEDULES, WAYS))
    if isinstance(way, Eps) and float(schedule(1.0).alpha) == 0:
        way = V()
    labels = None
    if draw(st.booleans()):
        labels = tuple(draw(st.lists(st.text(max_size=8), min_size=1, max_size=5, unique=True)))
    net = replace(net, num_classes=None if labels is None else len(labels))
    grid: Any = draw(st.sampled_from(("leading", "trailing", "karras")))
    scale = draw(st.floats(allow_nan=False, allow_infinity=False))
    return ModelSpec(
        draw(st.text(max_size=20)), net, schedule, way, draw(st.sampled_from(TIMES)), 32, 1, labels,
        Defaults("ddim", grid, draw(st.integers(1, 1000)), scale),
    )  # fmt: skip


def wrapped(spec: Any) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "spec": spec, "notes": {}}


SPEC = ModelSpec("tiny", NETS[0], CosineVP(), V(), IndexTime(), 32, 1)


@given(specs())
def test_every_spec_comes_back_as_it_was(spec: ModelSpec) -> None:
    text = json.dumps(wrapped(to_record(spec)), allow_nan=False)
    assert parse_spec(text, "model.json") == (spec, {})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_bytes_give_a_user_error(data: bytes | str) -> None:
    with pytest.raises(UserError):
        parse_spec(data, "model.json")


@given(JSON)
def test_any_json_in_place_of_a_spec_gives_a_user_error(data: Any) -> None:
    with pytest.raises(UserError):
        parse_spec(json.dumps(wrapped(data)), "model.json")


def paths(record: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = (
        record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    )
    return [path, *(found for key, value in inner for found in paths(value, (*path, key)))]


@given(
    st.sampled_from(paths(wrapped(to_record(SPEC)))[1:]),
    JSON
    | st.sampled_from(
        [0, -1, 10**30, 1e308, "UNetConfig", {"class": "VE"}, {"class": "CosineVP", "steps": 0}]
    ),
)
def test_one_hostile_value_anywhere_gives_a_spec_or_a_user_error(path: tuple[Any, ...], value: Any) -> None:
    record = wrapped(to_record(SPEC))
    place: Any = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    try:
        spec, _ = parse_spec(json.dumps(record), "model.json")
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(spec, ModelSpec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": "Spec"}, "should be a ModelSpec, not a Spec"),
        ({"net": {"class": "Transformer"}}, "net should be a UNetConfig or a DiTConfig, not a Transformer"),
        ({"net": {"class": "os.system"}}, "not a os.system"),
        ({"colour": 1}, "colour is not a field of ModelSpec"),
        ({"image_size": "32"}, "image_size should be a whole number, not \"32\""),
        ({"image_size": True}, "image_size should be a whole number, not true"),
        ({"image_size": 33}, "sides divisible by 2"),
        ({"image_size": 2**40}, "numbers beyond 1048576 are refused"),
        ({"channels": 3}, "images have 3 channels, but the network takes 1"),
        ({"labels": ["a", "a"]}, "there are 2 labels, but the network knows no classes"),
        ({"labels": [1]}, r"labels\[0\] should be text"),
        ({"schedule": {"class": "LinearVP", "beta_end": 40.0}}, "no noise schedule"),
        ({"schedule": {"class": "ZeroTerminalSNR"}}, "base is missing"),
        ({"parameterization": {"class": "Eps"}, "schedule": {"class": "FlowMatching"}}, "without signal"),
        ({"defaults": {"class": "Defaults", "grid": "upwards"}}, "grid should be 'leading' or"),
    ],
)  # fmt: skip
def test_the_message_names_the_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_spec(json.dumps(wrapped({**to_record(SPEC), **change})), "model.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"format": NaN}', "NaN is not a JSON number"),
        ('{"format": "x", "format": "y"}', "twice"),
        ("1" * 10_000, "not valid JSON"),
        ("[]", "format is not"),
        (json.dumps({**wrapped({}), "version": 2}), "version 2; this noisette reads 1"),
        (json.dumps({**wrapped({}), "extra": 2}), "'extra' is not a part"),
        (json.dumps({**wrapped({}), "notes": {"a": []}}), "notes"),
    ],
)
def test_broken_files_are_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_spec(text, "model.json")
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Point:
    at: tuple[float, float]
    kind: Literal["a", "b"] = "a"
    inner: Point | int | None = None


def test_tuples_unions_and_nesting_outside_models() -> None:
    point = Point((1.0, 2.5), "b", Point((0.0, 0.0), inner=7))
    assert from_record(Point, parse_json(json.dumps(to_record(point)), ""), "point") == point
    assert from_record(Point, {"class": "Point", "at": [1, 2]}, "point") == Point((1.0, 2.0))
    with pytest.raises(UserError, match="at should have 2 entries, not 1"):
        from_record(Point, {"class": "Point", "at": [1]}, "point")
    with pytest.raises(TypeError, match="no place in a JSON record"):
        to_record({1, 2})
