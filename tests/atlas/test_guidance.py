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
from torch import Tensor

from noisette.atlas.guidance import alignment, encoders, gaussian, levels, remedies, run, scales
from noisette.atlas.guidance.bench import QUICK, Bench, Plan, Way, quantiles
from noisette.atlas.guidance.drawn import Answer, ways
from noisette.atlas.guidance.estimates import Estimate, highest, lowest, points, resamples
from noisette.conditioning.tokenizer import Tokenizer
from noisette.core import Cond, Level, NetDenoiser, Prediction
from noisette.errors import UserError
from noisette.hub import read_spec
from noisette.models import Defaults, Model
from noisette.models.texts import LearnedTexts, told_by
from noisette.nets import UNetConfig
from noisette.nets.text import TextConfig
from noisette.nets.vae import AutoencoderKL, AutoencoderKLConfig
from noisette.recipes.scenes import recipe
from noisette.scenes.quiz import KINDS, quiz
from noisette.scenes.reader import Reader
from noisette.training import Recipe, ScenesWorld

COUNT = 8
FEW = replace(QUICK, scales=(1, 3, 7.5, 15), strong=(3, 15), each=2, resamples=8)
CODEC = AutoencoderKLConfig(
    block_out_channels=(4, 4), layers_per_block=1, latent_channels=2, norm_num_groups=2, patch_size=4,
    mid_block_add_attention=False, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.0,
)  # fmt: skip
NET = UNetConfig(2, 2, 8, (1,), 1, (), norm_groups=4, context_dim=8, pooled_dim=8, head_channels=4)
TEXT = TextConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                  max_position_embeddings=40, vocab_size=700)  # fmt: skip
SPEC = replace(recipe.spec, net=NET, text=TEXT, codec=CODEC, defaults=Defaults(guidance_scale=3.0, steps=3))
SECTIONS = {"accuracy", "distance", "diversity", "levels", "interval", "rescale", "threshold", "gaussian"}


def tiny(seed: int = 0, **changes: Any) -> Model:
    """A model of scenes that knows nothing, and whose every weight matters."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer.train([question.text for question in quiz("test", 40)], 700, 40)
    spec = replace(SPEC, text=replace(told_by(tokenizer, TEXT), **changes))
    model = Model.new(
        spec, notes={"steps": 5}, codec=AutoencoderKL(CODEC).eval(), texts=LearnedTexts(tokenizer)
    )
    with torch.no_grad():
        for parameter in model.denoiser.net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.denoiser.eval()
    return model


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny()


@pytest.fixture(scope="module", autouse=True)
def quicker() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("noisette.atlas.guidance.QUICK", FEW)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models that differ in their text encoders."""
    folder = tmp_path_factory.mktemp("runs")
    bag = {"num_hidden_layers": 0, "positions": False}
    for name, changes in {"bag": bag, "small": {}, "large": {"num_hidden_layers": 2}}.items():
        tiny(**changes).save(folder / name / "model")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model: Model, runs: Path) -> Path:
    folder = tmp_path_factory.mktemp("guidance")
    page = run(folder, quick=True, count=COUNT, model=model, encoders=runs)
    assert page == folder / "guidance.html"
    return folder


def cells(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "guidance.json").read_text()
    return json.loads(text, parse_constant=lambda name: pytest.fail(name))["cells"]


def steady(value: float) -> Estimate:
    return Estimate(value, (value,) * 40)


def shaky(value: float, by: float = 0.5) -> Estimate:
    return Estimate(value, tuple(value + by * (-1) ** k for k in range(40)))


def answer(**changes: Any) -> Answer:
    plain = dict.fromkeys(
        ("right", "frechet", "clipped", "beyond", "size", "features", "pixels"), steady(0.5)
    )
    return Answer(**{"marks": {}, "pictures": (), **plain, **changes})


def test_the_page_needs_no_other_file_and_no_network(made: Path) -> None:
    text = (made / "guidance.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://", text)
    assert not re.search(r"<(script|link|iframe|object)\b|@import|url\((?!#)", text)
    assert all(address.startswith("data:image/png;base64,") for address in re.findall(r"src='([^']*)'", text))
    bare = re.sub(r"base64,[^']*", "", text)
    assert not re.search(r"\b(nan|inf|None)\b", bare)
    assert set(re.findall(r"<section id='([^']*)'", text)) == SECTIONS | {"encoders"}
    assert set(re.findall(r"href='#([^']*)'", text)) == SECTIONS | {"encoders"}
    assert bare.count("<img") == bare.count("alt='")
    assert "quick" in text
    for tag in ("div", "table", "figure", "span", "td", "ol", "li", "i", "small"):
        assert len(re.findall(rf"<{tag}\b", bare)) == bare.count(f"</{tag}>"), tag


def test_every_way_is_measured_and_what_knows_nothing_meets_no_claim_of_accuracy(made: Path) -> None:
    found = cells(made)
    for what in ("quiz", "diversity"):
        told = [
            (c["settings"]["scale"], c["settings"]["remedy"]) for c in found if c["settings"]["what"] == what
        ]
        assert sorted(told) == sorted((way.scale, way.remedy) for way in ways(FEW))
    assert len(set(ways(Plan()))) == 9 + 3 * 3
    answers = [c["result"] for c in found if c["settings"]["what"] == "quiz"]
    for result in answers:
        assert all(
            total == COUNT / len(KINDS) for kind, (_, total) in result["marks"].items() if kind in KINDS
        )
        right = sum(right for kind, (right, _) in result["marks"].items() if kind in KINDS)
        assert result["right"]["value"] == pytest.approx(right / COUNT)
        assert result["frechet"]["value"] > 0
    [truth] = [c["result"] for c in found if c["settings"]["what"] == "truth"]
    assert truth["true"]["right"]["value"] > 0.8
    assert truth["true"]["frechet"]["value"] < 1e-6 < truth["floor"]
    assert truth["true"]["clipped"]["value"] == 0
    text = (made / "guidance.html").read_text(encoding="utf-8")
    for section in ("accuracy", "encoders"):
        [badge] = re.findall(rf"<section id='{section}'.*?class='verdict ([^']*)'", text, re.DOTALL)
        assert badge != "holds"


def test_a_second_run_draws_only_what_is_missing(
    made: Path, model: Model, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (made / "guidance.html").read_text(encoding="utf-8")
    record = json.loads((made / "guidance.json").read_text())
    wanted = {"what": "quiz", "scale": 15, "remedy": "rescale"}
    lost = next(c for c in record["cells"] if wanted.items() <= c["settings"].items())
    record["cells"].remove(lost)
    (made / "guidance.json").write_text(json.dumps(record))
    calls: list[int] = []
    forward = NetDenoiser.forward

    def counted(self: Any, x: Any, level: Any, cond: Any) -> Any:
        calls.append(len(x))
        return forward(self, x, level, cond)

    monkeypatch.setattr(NetDenoiser, "forward", counted)
    run(made, quick=True, count=COUNT, model=model, encoders=runs)
    assert sum(calls) == 2 * 3 * COUNT
    [found] = [c for c in cells(made) if c["settings"] == lost["settings"]]
    del found["result"]["seconds"], lost["result"]["seconds"]
    assert found == lost
    pages = (before, (made / "guidance.html").read_text(encoding="utf-8"))
    first, second = (re.sub(r"<dt>Time</dt><dd>[^<]*", "", text) for text in pages)
    assert first == second


def test_without_encoders_the_page_says_what_is_left_out(
    made: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NetDenoiser, "forward", lambda *_: pytest.fail("drawn again"))
    text = run(made, quick=True, count=COUNT, model=model).read_text(encoding="utf-8")
    assert set(re.findall(r"<section id='([^']*)'", text)) == SECTIONS
    assert "Left out: whether larger text encoders align better" in text


def test_pictures_are_those_of_the_front_door(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(model, Reader(), 0, Plan())
    texts, seeds = [question.text for question in quiz("test", 4)], range(5, 9)
    for way, options in (
        (Way(7.5), {"guidance_scale": 7.5}),
        (Way(1.0), {"guidance_scale": 1.0}),
        (Way(4.0, "rescale"), {"guidance_scale": 4.0, "guidance_rescale": 0.7}),
    ):
        drawn = bench.draw(texts, seeds, way, lambda _: None)
        same = model.generate(texts, seed=5, output_type="latent", **options).images
        torch.testing.assert_close(drawn, same, atol=2e-5, rtol=1e-4)
    monkeypatch.setattr("noisette.atlas.guidance.bench.BATCH", 3)
    torch.testing.assert_close(bench.draw(texts, seeds, Way(1.0), lambda _: None),
                               model.generate(texts, seed=5, guidance_scale=1.0, output_type="latent").images,
                               atol=2e-5, rtol=1e-4)  # fmt: skip


def test_remedies_change_what_they_are_for(model: Model) -> None:
    texts, seeds = [question.text for question in quiz("test", 4)], range(4)

    def draw(way: Way, **changes: Any) -> torch.Tensor:
        return Bench(model, Reader(), 0, replace(Plan(), **changes)).draw(texts, seeds, way, lambda _: None)

    alone, held = draw(Way(15.0)), draw(Way(15.0, "threshold"))
    # The last prediction is the picture: divided by its own quantile, which then is 1 at most.
    assert quantiles(held).max() <= 1 + 1e-5 < quantiles(alone).max()
    everywhere, nowhere = {"low": 0.0, "high": math.inf}, {"low": 100.0, "high": math.inf}
    torch.testing.assert_close(draw(Way(4.0, "interval"), **everywhere), draw(Way(4.0)))
    # With the noise of t = 1 inside, only the first step is guided; outside of all, none is.
    torch.testing.assert_close(draw(Way(4.0, "interval"), low=math.inf), draw(Way(1.0)))
    assert not torch.allclose(draw(Way(4.0, "interval"), **nowhere), draw(Way(4.0)))


def test_other_settings_are_other_measurements(model: Model) -> None:
    bench = Bench(model, Reader(), 0, Plan())
    assert Way(3.0, "rescale").settings(bench.plan) != Way(3.0, "rescale").settings(Plan(phi=0.5))
    assert Way(3.0, "interval").settings(bench.plan) != Way(3.0, "interval").settings(Plan(high=2.0))
    assert Way(3.0).settings(Plan(phi=0.5)) == Way(3.0).settings(Plan())
    assert replace(bench, model=tiny(1)).settings["model"] != bench.settings["model"]
    assert replace(bench, seed=1).seeds(3)[0] > bench.seeds(3)[-1]


def test_diversity_is_one_of_true_scenes_and_zero_of_one_picture(model: Model) -> None:
    bench = Bench(model, Reader(), 0, replace(FEW, count=COUNT))
    assert [question.kind for question in bench.asked_again] == list(KINDS)
    features, pixels = bench.truly_apart
    assert features.shape == pixels.shape == (4,) and float(pixels.min()) > 0.05
    images = torch.stack([torch.full((3, 64, 64), v) for v in (-0.5, 0.5, 0.2, 0.2, 0.0, 0.1, 0.0, 0.0)])
    _, pixels = bench.apart(images)
    torch.testing.assert_close(pixels, torch.tensor([1.0, 0.0, 0.1, 0.0]), atol=1e-3, rtol=0)


def test_estimates_are_paired() -> None:
    rows = resamples(100, 400, 0)
    values = torch.randn(100, generator=torch.Generator().manual_seed(1))
    values -= values.mean()
    a, b = Estimate.mean(values, rows), Estimate.mean(values + 0.1, rows)
    assert not a.above(0) and not a.below(0)
    # Each is uncertain by ten times their difference, which is certain.
    assert (b - a).above(0.0999) and (b - a).below(0.1001)
    assert a.deviation == pytest.approx(float(values.std()) / 10, rel=0.15)
    assert (b / b).interval == pytest.approx((1, 1))
    assert math.isnan((steady(0) / steady(0)).value)
    assert Estimate.of(a.record()).value == pytest.approx(a.value)
    assert points(steady(-0.05)) == "−5.0 points (−5.0 to −5.0)"
    assert lowest([steady(2), steady(1), steady(3)]) == (1, (1,) * 40)
    assert highest([steady(2), steady(1), steady(3)])[0] == 2


def test_accuracy_has_to_rise_and_to_end() -> None:
    def finding(*values: Estimate) -> str:
        return scales.rising((1, 2, 3, 4), values).finding

    assert finding(*map(steady, (0.2, 0.6, 0.8, 0.7))) == "holds"
    assert finding(*map(steady, (0.2, 0.6, 0.7, 0.8))) == "holds in part"
    assert finding(*map(steady, (0.4, 0.2, 0.8, 0.7))) == "holds in part"
    assert finding(*map(steady, (0.8, 0.6, 0.5, 0.4))) == "does not hold"
    assert finding(shaky(0.2), steady(0.6), steady(0.5), steady(0.5)) == "does not hold"


def test_the_optima_are_ordered_in_the_resamples_too() -> None:
    rights = list(map(steady, (0.2, 0.5, 0.9)))

    def finding(*distances: Estimate) -> str:
        return scales.optima((1, 2, 3), rights, distances).finding

    assert finding(*map(steady, (3, 1, 2))) == "holds"
    assert finding(*map(steady, (3, 2, 1))) == "does not hold"
    assert finding(steady(3), steady(1), Estimate(1.2, (0.8, 1.4) * 20)) == "holds in part"


def test_diversity_has_to_fall_at_every_step() -> None:
    def finding(*values: float) -> str:
        curve = list(map(steady, values))
        return scales.falling((1, 2, 3), {"features": curve, "pixels": curve}).finding

    assert finding(0.9, 0.7, 0.5) == "holds"
    assert finding(0.9, 0.4, 0.5) == "holds in part"
    assert finding(0.5, 0.4, 0.5) == "does not hold"


def test_remedies_are_judged_at_the_pessimistic_end() -> None:
    alone = answer(right=steady(0.8), frechet=steady(2.0), clipped=steady(0.1), size=steady(1.5))

    def both(**changes: Any) -> dict[float, remedies.Pair]:
        return {3.0: (alone, answer(**changes)), 15.0: (alone, answer(**changes))}

    near = {"right": steady(0.77), "frechet": steady(1.5)}
    assert remedies.keeping(both(**near)).finding == "holds"
    assert remedies.keeping(both(**near | {"right": steady(0.7)})).finding == "holds in part"
    assert remedies.keeping(both(**near | {"right": shaky(0.77, 0.1)})).finding == "holds in part"
    assert remedies.keeping(both(**near | {"frechet": steady(2.5)})).finding == "does not hold"
    small = {"size": steady(0.4), "frechet": steady(3.0)}
    assert remedies.shrinking(both(**small)).finding == "holds"
    assert remedies.shrinking(both(**small | {"frechet": shaky(2.1)})).finding == "holds in part"
    assert remedies.shrinking(both(size=steady(1.1), frechet=steady(1.0))).finding == "does not hold"


def test_a_binding_gain_has_to_be_certain() -> None:
    up, flat = list(map(steady, (0.2, 0.5, 0.7))), [steady(0.2), shaky(0.2), steady(0.2)]
    assert alignment.aligning({"two objects": up, "relation": up}).finding == "holds"
    assert alignment.aligning({"two objects": up, "relation": flat}).finding == "holds in part"
    assert alignment.aligning({"two objects": flat, "relation": flat}).finding == "does not hold"


@pytest.mark.parametrize("w", list(gaussian.EXPECTED))
def test_guided_gaussians_are_the_closed_form(w: float) -> None:
    drawn, power = gaussian.EXPECTED[w]
    assert gaussian.guided(w) == pytest.approx(drawn, abs=1e-3)
    assert gaussian.power(w) == pytest.approx(power, abs=1e-4)


def test_what_cannot_be_measured_is_told_before_anything_is(tmp_path: Path, model: Model, runs: Path) -> None:
    with pytest.raises(UserError, match="leave --data out"):
        run(tmp_path / "a", model=model, data=tmp_path)
    for count in (4, 10):
        with pytest.raises(UserError, match="8 captions or more, a number that 4 divides"):
            run(tmp_path / "a", model=model, count=count)
    with pytest.raises(UserError, match="latent text-to-image models"):
        run(tmp_path / "a", model="digits")
    strange = Tokenizer.train(["what is this", "nothing of ours"] * 3, 530, 10)
    with pytest.raises(UserError, match="does not know the words of scenes"):
        run(tmp_path / "a", model=replace(model, texts=LearnedTexts(strange)))
    (tmp_path / "some" / "bag").mkdir(parents=True)
    with pytest.raises(UserError, match="bag holds no model"):
        run(tmp_path / "a", model=model, encoders=tmp_path / "some")
    with pytest.raises(UserError, match="lacks 'bag'"):
        run(tmp_path / "a", model=model, encoders=tmp_path)
    assert not (tmp_path / "a").exists()


def test_models_of_other_lengths_of_training_are_not_compared(tmp_path: Path, model: Model) -> None:
    for name in alignment.NAMES:
        replace(model, notes={"steps": len(name)}).save(tmp_path / name)
    with pytest.raises(UserError, match="differ in more than their text encoders"):
        alignment.load(tmp_path)


def test_encoders_differ_and_nothing_else_does() -> None:
    three = encoders.recipes(4000)
    texts = {name: one.spec.text for name, one in three.items()}
    assert [(t.num_hidden_layers, t.positions) for t in texts.values()] == [(0, False), (1, True), (3, True)]
    assert len({one.spec.net for one in three.values()}) == 1
    same = [replace(one, spec=replace(one.spec, name="", text=None, net=replace(
        one.spec.net, context_dim=None, pooled_dim=None))) for one in three.values()]  # fmt: skip
    assert same[0] == same[1] == same[2] and same[0].steps == 4000
    with pytest.raises(UserError, match="nothing to exchange"):
        encoders.recipes(10, replace(recipe, spec=replace(recipe.spec, text=None, net=replace(
            recipe.spec.net, context_dim=None, pooled_dim=None))))  # fmt: skip


@pytest.fixture
def base(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The recipe `scenes`, of nothing but a few steps on a few scenes."""
    monkeypatch.setenv("NOISETTE_CACHE", str(tmp_path / "cache"))
    for module in ("setup", "denoising"):
        monkeypatch.setattr(f"noisette.training.{module}.cores", lambda: 0)
    monkeypatch.setattr("noisette.training.denoising.MOST_CAPTIONS", 40)
    model.save(tmp_path / "codec")
    return replace(
        recipe, spec=SPEC, codec=str(tmp_path / "codec"), world=ScenesWorld(8), batch_size=4, sample_every=0,
        precision="fp32",
    )  # fmt: skip


def test_encoders_are_trained_and_gone_on_with(tmp_path: Path, base: Recipe) -> None:
    # One that was stopped before its first checkpoint, and one that is whole.
    (tmp_path / "runs" / "bag").mkdir(parents=True)
    (tmp_path / "runs" / "bag" / "recipe.json").write_text("{}")
    assert encoders.train(tmp_path / "runs", 2, base, text_steps=2)
    before = {name: one.denoiser.net.state_dict() for name, one in alignment.load(tmp_path / "runs").items()}
    assert encoders.train(tmp_path / "runs", 2, base, text_steps=2)
    after = {name: one.denoiser.net.state_dict() for name, one in alignment.load(tmp_path / "runs").items()}
    for name, weights in before.items():
        assert all(torch.equal(value, after[name][key]) for key, value in weights.items())
    with pytest.raises(UserError, match="steps: 2 -> 3"):
        encoders.train(tmp_path / "runs", 3, base, text_steps=2)


def test_encoders_may_begin_before_a_unet_that_can_draw(tmp_path: Path, base: Recipe, model: Model) -> None:
    runs, slow = tmp_path / "runs", replace(base, lr=1e-9)
    assert encoders.train(runs, 1, slow, model, text_steps=2)
    known: Any = model.denoiser.net
    layers = set()
    for name, one in alignment.load(runs).items():
        net: Any = one.denoiser.net
        layers.add(net.text.config.num_hidden_layers)
        assert one.notes["start"] == name and one.spec.codec == model.spec.codec
        for key, value in known.net.state_dict().items():
            torch.testing.assert_close(net.net.state_dict()[key], value, rtol=0, atol=1e-6)
        start = read_spec(runs / "text" / name / "model")[1]
        assert start["steps"] == 2 and start["start"] == name
        words = "token_embedding.weight"
        assert not torch.allclose(net.text.state_dict()[words], known.text.state_dict()[words], atol=1e-3)
    assert layers == {0, 1, 3}
    assert encoders.train(runs, 1, slow, model, text_steps=2), "what is whole is not begun again"
    wider = replace(SPEC, net=replace(NET, model_channels=16))
    with pytest.raises(UserError, match="has another U-Net than the recipe"):
        encoders.train(tmp_path / "more", 1, replace(base, spec=wider), model, 2)


def test_the_part_a_caption_takes_away_is_measured(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a denoiser that errs by 1, and by 1/2 where it is told something and noise prevails."""
    bench = Bench(model, Reader.load(), 0, FEW)
    truth = bench.truth.latents[:8]

    def erring(x: Tensor, level: Level, cond: Cond) -> Prediction:
        helped = bool(cond["token_mask"].sum(1).max() > 2) and bool(level.sigma > level.alpha)
        return Prediction(truth + (0.5 if helped else 1.0), x, level)

    monkeypatch.setattr(model.denoiser, "forward", erring)
    gains = levels.measure(bench, lambda n: None)["gains"]
    for ratio, gain in zip(levels.RATIOS, gains, strict=True):
        assert gain["value"] == pytest.approx(0.75 if ratio > 1 else 0.0, abs=1e-5)


def gained(*values: float) -> list[Estimate]:
    return [steady(value) for value in values]


def test_where_a_caption_is_heard_is_judged() -> None:
    low, high = [0.001] * 5, [0.05, 0.1, 0.14, 0.14, 0.1]
    assert levels.heard(gained(*low, *high)).finding == "holds"
    assert levels.heard(gained(*[0.08] * 5, *high)).finding == "holds in part"
    assert levels.heard(gained(*high, *low)).finding == "does not hold"
    told = levels.heard(gained(*low, *high)).text
    assert "14.0" in told and "= 10," in told and "0.1" in told
