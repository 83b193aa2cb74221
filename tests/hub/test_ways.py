"""Which solver and grid a model draws with, by the number of steps."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from noisette.core import IndexTime, V
from noisette.errors import UserError
from noisette.hub import embedded_models
from noisette.hub.folder import FORMAT, VERSION, parse_spec, read_spec
from noisette.hub.records import to_record
from noisette.hub.spec import Defaults, ModelSpec, Way
from noisette.nets import UNetConfig
from noisette.schedules import CosineVP

WAYS = (Way(4, "unipc", "shifted"), Way(8, "dpmpp-3m", "karras"), Way(15, "ddim", "leading"))
OWN = Defaults("dpmpp-2m", "trailing", ways=WAYS)
SPEC = ModelSpec("tiny", UNetConfig(1, 1, 16, (1, 2), norm_groups=8), CosineVP(), V(), IndexTime(), 8, 1)


def record(defaults: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "spec": {**to_record(SPEC), "defaults": defaults},
        "notes": {},
    }


@pytest.mark.parametrize(
    ("steps", "index"), [(1, 0), (3, 0), (4, 0), (7, 0), (8, 1), (14, 1), (15, 2), (16, 2), (1000, 2)]
)
def test_the_way_with_the_most_steps_that_are_not_too_many(steps: int, index: int) -> None:
    way = WAYS[index]
    assert OWN.names(steps) == (way.solver, way.grid)


def test_a_name_switches_the_table_off() -> None:
    assert OWN.names(4, solver="heun") == ("heun", "trailing")
    assert OWN.names(4, grid="quadratic") == ("dpmpp-2m", "quadratic")
    assert OWN.names(4, "unipc-3", "linspace") == ("unipc-3", "linspace")


def test_without_ways_the_defaults_are_the_same_for_all_steps() -> None:
    plain = replace(OWN, ways=())
    assert {plain.names(steps) for steps in (1, 4, 20, 500)} == {("dpmpp-2m", "trailing")}


@pytest.mark.parametrize("counts", [(4, 4), (8, 4), (4, 8, 6), (0, 4), (-1,)])
def test_steps_of_ways_grow(counts: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="the steps of ways grow"):
        Defaults(ways=tuple(Way(count, "ddim", "trailing") for count in counts))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="there is no solver 'dpm': take one of ddim"):
        Way(4, "dpm", "trailing")
    with pytest.raises(UserError, match="there is no grid 'exponential': take one of leading"):
        Way(4, "ddim", "exponential")  # pyright: ignore[reportArgumentType]


def test_ways_come_back_from_a_file_and_files_without_them_are_read() -> None:
    spec = replace(SPEC, defaults=OWN)
    assert parse_spec(json.dumps(record(to_record(OWN))), "model.json") == (spec, {})
    old = {"class": "Defaults", "solver": "ddim", "grid": "karras", "steps": 9, "guidance_scale": 1.0}
    found, _ = parse_spec(json.dumps(record(old)), "model.json")
    assert isinstance(found, ModelSpec)
    assert found.defaults == Defaults("ddim", "karras", 9)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ({"steps": 4, "solver": "magic", "grid": "karras"}, "there is no solver 'magic'"),
        ({"steps": 4, "solver": "ddim", "grid": "upwards"}, "grid should be 'leading' or"),
        ({"steps": 0, "solver": "ddim", "grid": "karras"}, "the steps of ways grow"),
        ({"solver": "ddim", "grid": "karras"}, "steps is missing"),
    ],
)
def test_files_with_wrong_ways_are_refused_in_one_line(way: dict[str, Any], words: str) -> None:
    wrong = {**to_record(OWN), "ways": [{"class": "Way", **way}]}
    with pytest.raises(UserError, match=words) as caught:
        parse_spec(json.dumps(record(wrong)), "model.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [listing.name for listing in embedded_models()])
def test_the_ways_of_a_model_that_ships_are_grids_of_its_schedule(name: str) -> None:
    from noisette.hub.embedded import find_model
    from noisette.hub.spec import GRIDS

    spec, _ = read_spec(find_model(name))
    if isinstance(spec, ModelSpec):
        for way in spec.defaults.ways:
            assert len(GRIDS[way.grid](spec.schedule, way.steps)) == way.steps + 1
