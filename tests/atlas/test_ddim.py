from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from noisette.atlas import PAGES, page_named
from noisette.atlas.ddim import run
from noisette.atlas.ddim.bench import QUICK, Bench, Plan, Way
from noisette.atlas.ddim.distance import ways
from noisette.atlas.ddim.gaussian import EXPECTED, TOLERANCE
from noisette.core import NetDenoiser
from noisette.errors import UserError
from noisette.metrics import Judge, Statistics
from noisette.models import Model
from noisette.nets import UNetConfig
from noisette.recipes.digits import recipe


def tiny() -> Model:
    torch.manual_seed(0)
    net = replace(recipe.spec.net, model_channels=4, channel_mult=(1, 1), attention_levels=(), norm_groups=2,
                  head_channels=None)  # fmt: skip
    assert isinstance(net, UNetConfig)
    model = Model.new(replace(recipe.spec, net=net))
    # A fresh network predicts zero; random last weights make it a function of its input and of time.
    torch.nn.init.normal_([p for p in model.denoiser.net.parameters() if p.ndim == 4][-1], std=0.3)
    model.denoiser.eval()
    return model


@pytest.fixture(scope="module")
def judged() -> dict[str, Any]:
    torch.manual_seed(1)
    judge = Judge().eval().requires_grad_(False)
    with torch.no_grad():
        features = judge.features(torch.rand(200, 1, 32, 32) * 2 - 1)
    return {"judge": judge, "reference": Statistics.of(features)}


@pytest.fixture(scope="module", autouse=True)
def quicker() -> Iterator[None]:
    """The quick plan with fewer steps still: what is tested is the page, not the model."""
    few = replace(QUICK, steps=(5, 20, 25), grid_steps=(20,), trip_steps=(4, 8), path_steps=4, resamples=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("noisette.atlas.ddim.QUICK", few)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, judged: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("atlas")
    tiny().save(folder / "model")
    page = run(folder / "out", quick=True, model=folder / "model", **judged)
    assert page == folder / "out" / "ddim.html"
    return folder


def test_the_page_needs_no_other_file_and_no_network(made: Path) -> None:
    text = (made / "out" / "ddim.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://", text)
    assert not re.search(r"<(script|link|iframe|object)\b|@import|url\((?!#)", text)
    assert all(address.startswith("data:image/png;base64,") for address in re.findall(r"src='([^']*)'", text))
    assert all(address.startswith("#") for address in re.findall(r"href=['\"]([^'\"]*)", text))
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"base64,[^']*", "", text))
    assert text.count("<section") == 6
    assert "quick" in text
    assert "prefers-color-scheme: dark" in text
    targets = set(re.findall(r"href='#([^']*)'", text))
    assert targets == set(re.findall(r"<section id='([^']*)'", text))


def test_every_number_is_in_the_json_and_finite(made: Path) -> None:
    record = json.loads(
        (made / "out" / "ddim.json").read_text(), parse_constant=lambda name: pytest.fail(name)
    )
    whats = [cell["settings"]["what"] for cell in record["cells"]]
    assert set(whats) == {"floor", "distance", "same noise", "interpolation", "inversion", "gaussian"}
    found = [cell for cell in record["cells"] if cell["settings"]["what"] == "distance"]
    assert {cell["settings"]["grid"] for cell in found} == {"trailing", "leading"}
    for cell in found:
        assert 0 <= cell["result"]["accuracy"] <= 1
        assert cell["result"]["frechet"] > 0
    paths = {
        c["settings"]["path"]: c["result"]
        for c in record["cells"]
        if c["settings"]["what"] == "interpolation"
    }
    middle = len(paths["lerp"]["deviation"]) // 2
    assert paths["slerp"]["deviation"][middle] == pytest.approx(1.0, abs=0.04)
    assert paths["lerp"]["deviation"][middle] == pytest.approx(math.sqrt(0.5), abs=0.04)


def test_the_closed_form_is_met_in_every_cell(made: Path) -> None:
    record = json.loads((made / "out" / "ddim.json").read_text())
    [ratios] = [c["result"]["ratios"] for c in record["cells"] if c["settings"]["what"] == "gaussian"]
    for expected, ours in zip(EXPECTED.values(), ratios, strict=True):
        assert ours == pytest.approx(expected, abs=TOLERANCE)
    assert "40 of 40 cells" in (made / "out" / "ddim.html").read_text(encoding="utf-8")


def test_a_second_run_calls_the_network_only_for_what_is_missing(
    made: Path, judged: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = made / "out"
    before, results = (out / "ddim.html").read_text(encoding="utf-8"), (out / "ddim.json").read_text()
    calls: list[int] = []
    forward = NetDenoiser.forward

    def counted(self, x, level, cond):
        calls.append(len(x))
        return forward(self, x, level, cond)

    monkeypatch.setattr(NetDenoiser, "forward", counted)
    run(out, quick=True, model=made / "model", **judged)
    assert not calls
    assert (out / "ddim.html").read_text(encoding="utf-8") == before

    record = json.loads(results)
    lost = next(
        c for c in record["cells"] if c["settings"].get("steps") == 5 and c["settings"].get("eta") == 0.5
    )
    record["cells"].remove(lost)
    (out / "ddim.json").write_text(json.dumps(record))
    run(out, quick=True, model=made / "model", **judged)
    assert sum(calls) == 5 * 40
    again = json.loads((out / "ddim.json").read_text())["cells"]
    [found] = [c for c in again if c["settings"] == lost["settings"]]
    assert found["result"]["frechet"] == lost["result"]["frechet"]


def test_an_image_is_that_of_the_front_door_and_does_not_depend_on_its_batch(
    judged: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    bench = Bench(model, judged["judge"], judged["reference"], None, 0, Plan())
    way = Way(4, "trailing", 1.0)
    drawn = bench.draw([7, 8, 9], [1, 2, 3], way, lambda n: None)
    same = model.generate(label=[1, 2, 3], num_inference_steps=4, grid="trailing", solver="ddpm", seed=7,
                          guidance_scale=1.0, output_type="torch")  # fmt: skip
    torch.testing.assert_close(drawn.clamp(-1, 1), same.images, atol=2e-5, rtol=0)
    monkeypatch.setattr("noisette.atlas.ddim.bench.BATCH", 2)
    torch.testing.assert_close(
        bench.draw([7, 8, 9], [1, 2, 3], way, lambda n: None), drawn, atol=1e-5, rtol=0
    )


def test_every_sampler_that_the_claim_names_is_measured(judged: dict[str, Any]) -> None:
    bench = Bench(tiny(), judged["judge"], judged["reference"], None, 0, Plan())
    on_grid = [way for way in ways(bench) if way.grid == "trailing"]
    assert {way.steps for way in on_grid} == {5, 10, 20, 50, 100, 200, 500, 1000}
    assert {(way.eta, way.variance) for way in on_grid} == {
        (0.0, "small"), (0.2, "small"), (0.5, "small"), (1.0, "small"), (1.0, "large"),
    }  # fmt: skip
    assert len(set(ways(bench))) == len(ways(bench))


def test_other_settings_are_other_measurements(judged: dict[str, Any]) -> None:
    bench = Bench(tiny(), judged["judge"], judged["reference"], None, 0, Plan())
    other = tiny()
    next(other.denoiser.net.parameters()).data.flatten()[0] += 1
    assert replace(bench, model=other).fingerprint != bench.fingerprint
    assert replace(bench, model=tiny()).fingerprint == bench.fingerprint


def test_a_page_is_found_by_its_name() -> None:
    for name in PAGES:
        assert callable(page_named(name).run)
    with pytest.raises(UserError, match="its pages are collapse, ddim"):
        page_named("dimm")


def test_what_cannot_be_measured_is_told_before_anything_is(tmp_path: Path, judged: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="multiple of ten"):
        run(tmp_path / "a", quick=True, model=tiny(), count=15, **judged)
    words = Model.new(replace(tiny().spec, labels=tuple("abcdefghij")))
    with pytest.raises(UserError, match="digits 0 to 9"):
        run(tmp_path / "a", quick=True, model=words, **judged)
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "ddim.html").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        run(tmp_path / "b", quick=True, model=tiny(), **judged)
    assert (tmp_path / "b" / "ddim.html").read_text() == "mine"
