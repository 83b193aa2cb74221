"""The JSON reader: exact round trips, and nothing but UserError for whatever else it is fed."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisette.conditioning.pretrained import PretrainedText
from noisette.core import EDM, X0, Eps, Flow, IndexTime, LogSigmaTime, ScaledTime, V
from noisette.errors import UserError
from noisette.hub.folder import FORMAT, VERSION, parse_spec
from noisette.hub.generator import GeneratorSpec
from noisette.hub.records import from_record, parse_json, to_record
from noisette.hub.spec import AutoencoderSpec, Defaults, ModelSpec
from noisette.nets import DiTConfig, UNetConfig
from noisette.nets.text import TextConfig
from noisette.nets.vae import AutoencoderKLConfig
from noisette.nets.vq import VQConfig
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
TEXTS = (
    TextConfig(vocab_size=520, hidden_size=24, intermediate_size=16, num_hidden_layers=0, positions=False),
    TextConfig(hidden_size=24, num_attention_heads=3, projection_dim=40, hidden_act="gelu"),
    PretrainedText("someone/clip", layer=-2, final_norm=False, dtype="float16"),
)
CODECS = (
    AutoencoderKLConfig(1, 1, (8, 8), 1, 1, 4, scaling_factor=0.3, shift_factor=-0.1, use_quant_conv=False),
    AutoencoderKLConfig(1, 1, (8,), 2, 1, 8, mid_block_add_attention=False, patch_size=2),
    VQConfig(1, 1, (8, 16), 1, 4, 8, num_vq_embeddings=99, vq_embed_dim=1),
)


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    net, schedule, way = (draw(st.sampled_from(kinds)) for kinds in (NETS, SCHEDULES, WAYS))
    if isinstance(way, Eps) and float(schedule(1.0).alpha) == 0:
        way = V()
    labels = None
    if draw(st.booleans()):
        labels = tuple(draw(st.lists(st.text(max_size=8), min_size=1, max_size=5, unique=True)))
    text = None if labels is not None else draw(st.none() | st.sampled_from(TEXTS))
    net = replace(net, num_classes=None if labels is None else len(labels))
    if text is not None:
        pooled = text.pooled_size if isinstance(text, TextConfig) else 768
        wide, whole = draw(st.sampled_from([(24, None), (None, pooled), (24, pooled)]))
        net = replace(net, context_dim=wide, pooled_dim=whole)
    grid: Any = draw(st.sampled_from(("leading", "trailing", "karras")))
    scale = draw(st.floats(allow_nan=False, allow_infinity=False))
    codec = draw(st.none() | st.sampled_from(CODECS))
    return ModelSpec(
        draw(st.text(max_size=20)), net, schedule, way, draw(st.sampled_from(TIMES)), 32, 1, labels,
        Defaults("ddim", grid, draw(st.integers(1, 1000)), scale), text, codec,
    )  # fmt: skip


autoencoders = st.builds(
    AutoencoderSpec,
    name=st.text(max_size=20),
    codec=st.sampled_from(CODECS),
    image_size=st.sampled_from([2, 64]),
)


def wrapped(spec: Any) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "spec": spec, "notes": {}}


SPEC = ModelSpec("tiny", NETS[0], CosineVP(), V(), IndexTime(), 32, 1)
LATENT = replace(SPEC, net=replace(NETS[0], context_dim=24, pooled_dim=40), text=TEXTS[1], codec=CODECS[2])
VAE = AutoencoderSpec("vae", CODECS[0], 32)


@given(specs() | autoencoders)
def test_every_spec_comes_back_as_it_was(spec: ModelSpec | AutoencoderSpec) -> None:
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
    st.sampled_from(
        [(spec, path) for spec in (SPEC, LATENT, VAE) for path in paths(wrapped(to_record(spec)))[1:]]
    ),
    JSON
    | st.sampled_from(
        [0, -1, 10**30, 1e308, "UNetConfig", {"class": "VE"}, {"class": "CosineVP", "steps": 0}]
    ),
)
def test_one_hostile_value_anywhere_gives_a_spec_or_a_user_error(
    where: tuple[Any, tuple[Any, ...]], value: Any
) -> None:
    spec, path = where
    record = wrapped(to_record(spec))
    place: Any = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    try:
        spec, _ = parse_spec(json.dumps(record), "model.json")
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(spec, ModelSpec | AutoencoderSpec | GeneratorSpec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": "Spec"}, "should be a ModelSpec or a AutoencoderSpec or a GeneratorSpec, not a Spec"),
        ({"net": {"class": "Transformer"}}, "net should be a UNetConfig or a DiTConfig, not a Transformer"),
        ({"net": {"class": "os.system"}}, "not a os.system"),
        ({"colour": 1}, "colour is not a field of ModelSpec"),
        ({"image_size": "32"}, "image_size should be a whole number, not \"32\""),
        ({"image_size": True}, "image_size should be a whole number, not true"),
        ({"image_size": 0}, "sides of whole pixels, 1 or more, not 0x0"),
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
    ("spec", "change", "message"),
    [
        (LATENT, {"codec": {"class": "Zip"}}, "codec should be a AutoencoderKLConfig or a VQConfig"),
        (LATENT, {"codec": None, "channels": 3}, "images have 3 channels, but the network takes 1"),
        (LATENT, {"channels": 3}, "images have 3 channels, but the codec takes 1"),
        (LATENT, {"image_size": 33}, "pictures of tiny have sides divisible by 2, not 33x33"),
        (LATENT, {"text": None}, "the network reads tokens, but no text encoder is described"),
        (LATENT, {"labels": ["a"]}, "there are 1 labels, but the network knows no classes"),
        (SPEC, {"text": to_record(TEXTS[0])}, "the network reads no tokens: set context_dim"),
        (LATENT, {"text": to_record(TEXTS[0])}, "the network reads texts 40 wide, but the encoder makes 24"),
        (VAE, {"image_size": 33}, "images of vae have sides divisible by 2"),
        (VAE, {"codec": None}, "codec should be"),
        (VAE, {"labels": ["a"]}, "labels is not a field of AutoencoderSpec"),
    ],
)
def test_latents_and_texts_that_do_not_fit_are_named(spec: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        parse_spec(json.dumps(wrapped({**to_record(spec), **change})), "model.json")
    assert "\n" not in str(told.value)


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
