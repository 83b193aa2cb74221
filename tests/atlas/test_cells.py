from __future__ import annotations

import json
from pathlib import Path

import pytest

from noisette.atlas.cells import Cell, Store, complete
from noisette.errors import UserError


def cell(k: int, log: list[int], fail: bool = False) -> Cell:
    def measure(tick):
        if fail:
            raise KeyboardInterrupt
        log.append(k)
        tick(1)
        return {"value": k * k}

    return Cell({"what": "square", "k": k}, 1, measure)


def test_what_is_measured_is_on_disk_at_once_and_not_measured_again(tmp_path: Path) -> None:
    log: list[int] = []
    path = tmp_path / "squares.json"
    with pytest.raises(KeyboardInterrupt):
        complete([cell(1, log), cell(2, log), cell(3, log, fail=True)], Store(path, "squares"))
    assert [entry["result"]["value"] for entry in json.loads(path.read_text())["cells"]] == [1, 4]
    store = Store(path, "squares")
    complete([cell(k, log) for k in (1, 2, 3)], store)
    assert log == [1, 2, 3]
    assert [store[{"k": k, "what": "square"}]["value"] for k in (1, 2, 3)] == [1, 4, 9]


def test_results_under_other_settings_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    Store(path, "a").put({"k": 1}, {"value": 1})
    Store(path, "a").put({"k": 2}, {"value": 2})
    store = Store(path, "a")
    assert {"k": 1} in store
    assert {"k": 2} in store
    assert {"k": 3} not in store


@pytest.mark.parametrize(
    "text", ['{"page": "other", "cells": []}', "{", "[]", '{"page": "a", "cells": [1]}', "NaN"]
)
def test_a_file_of_something_else_is_refused_in_one_line_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        Store(path, "a")
    assert "\n" not in str(caught.value)
    assert path.read_text() == text


def test_a_number_that_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    store = Store(path, "a")
    store.put({"k": 1}, {"value": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        store.put({"k": 2}, {"value": float("nan")})
    assert len(json.loads(path.read_text())["cells"]) == 1
