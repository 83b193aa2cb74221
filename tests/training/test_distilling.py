"""Students: runs of tiny ones, told and untold, whole and as a LoRA, stopped and gone on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import noisette
from noisette.core import Eps, IndexTime, V
from noisette.errors import UserError
from noisette.models import Defaults, Model, ModelSpec
from noisette.nets import DiTConfig, UNetConfig
from noisette.nets.text import TextConfig
from noisette.schedules import CosineVP
from noisette.training import ConsistencyDistillation, ConsistencyTraining, Match, Progressive, Recipe, fit
from noisette.training.drawn import DrawnImages
from noisette.training.halving import halve, student_of
from noisette.training.kept import kept

NET = UNetConfig(1, 1, 8, (1,), 1, (), norm_groups=4, num_classes=2, dropout=0.1)
SPEC = ModelSpec(
    "tiny",
    NET,
    CosineVP(),
    V(),
    IndexTime(1000),
    8,
    1,
    ("dark", "light"),
    Defaults(guidance_scale=2.0),
)
QUICK: dict[str, Any] = {"steps": 3, "batch_size": 4, "sample_every": 0}


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = Model.new(SPEC)
    with torch.no_grad():
        for weight in model.denoiser.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model.save(tmp_path / "teacher")


def drawn(model: Model, **options: Any) -> torch.Tensor:
    return model.generate(label=[0, 1, 1], seed=0, output_type="torch", **options).images


def test_a_student_begins_as_its_teacher_and_is_an_ordinary_model(
    teacher: Path, images: Path, tmp_path: Path
) -> None:
    model = noisette.load(teacher)
    recipe = student_of(str(teacher), model, Progressive(4), inference_steps=4, lr=1e-12, **QUICK)
    fit(recipe, images, tmp_path / "run")
    student = noisette.load(tmp_path / "run")
    assert student.spec.defaults == Defaults("ddim", "trailing", 4, 1.0)
    # One that has learned nothing draws what the teacher, unguided, draws in as many steps.
    expected = drawn(model, num_inference_steps=4, solver="ddim", guidance_scale=1.0)
    torch.testing.assert_close(drawn(student), expected, rtol=1e-4, atol=1e-4)
    assert "Progressive(steps=4" in str(student.notes["lesson"])


@pytest.mark.parametrize(
    "lesson",
    [Progressive(2), Progressive(2, weighting="truncated"), Match(4), ConsistencyDistillation(4)],
    ids=lambda lesson: type(lesson).__name__,
)
def test_every_lesson_is_learned(lesson: Any, teacher: Path, images: Path, tmp_path: Path) -> None:
    """Losses fall on what a guided teacher says."""
    recipe = student_of(
        str(teacher), noisette.load(teacher), lesson, **{**QUICK, "steps": 60, "batch_size": 24, "lr": 3e-3}
    )
    losses: list[float] = []
    fit(recipe, images, tmp_path / "run", on_step=lambda step: losses.append(float(step.loss)))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_a_student_that_is_told_the_scale_hears_it(teacher: Path, images: Path, tmp_path: Path) -> None:
    recipe = student_of(
        str(teacher), noisette.load(teacher), Match(8), (1.0, 5.0), **{**QUICK, "steps": 40, "lr": 1e-2}
    )
    fit(recipe, images, tmp_path / "run")
    student = noisette.load(tmp_path / "run")
    assert student.spec.net.guidance_dim and student.spec.defaults.guidance_scale == 2.0  # pyright: ignore
    one, four = drawn(student, guidance_scale=1.0), drawn(student, guidance_scale=4.0)
    assert not torch.allclose(one, four, atol=1e-3)
    assert torch.equal(drawn(student), drawn(student, guidance_scale=2.0))
    with pytest.raises(UserError, match="told its guidance as one number"):
        drawn(student, guidance_rescale=0.5)


@pytest.mark.parametrize("lesson", [Progressive(2), ConsistencyDistillation(4, target=0.9)])
def test_a_student_goes_on_exactly_where_it_was_stopped(
    lesson: Any, teacher: Path, images: Path, tmp_path: Path
) -> None:
    recipe = student_of(
        str(teacher), noisette.load(teacher), lesson, **{**QUICK, "steps": 6, "checkpoint_every": 3}
    )
    whole = fit(recipe, images, tmp_path / "whole").model
    fit(recipe, images, tmp_path / "parts", max_train_steps=3)
    parts = fit(recipe, images, tmp_path / "parts", resume=True).model
    for a, b in zip(whole.denoiser.parameters(), parts.denoiser.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_lora_of_a_student_makes_its_teacher_the_student(
    teacher: Path, images: Path, tmp_path: Path
) -> None:
    recipe = student_of(
        str(teacher),
        noisette.load(teacher),
        ConsistencyDistillation(4),
        inference_steps=2,
        lora=2,
        **{**QUICK, "steps": 20, "lr": 1e-2},
    )
    fit(recipe, images, tmp_path / "run")
    student, base = noisette.load(tmp_path / "run"), noisette.load(teacher)
    asked: dict[str, Any] = {"num_inference_steps": 2, "solver": "consistency", "guidance_scale": 1.0}
    plain = drawn(base, **asked)
    base.load_lora(tmp_path / "run" / "model" / "lora.safetensors")
    torch.testing.assert_close(drawn(base, **asked), drawn(student), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain, drawn(student), atol=1e-3)
    base.unload_lora()
    assert torch.equal(drawn(base, **asked), plain)


def test_halving_keeps_every_student_and_goes_on_in_the_middle(
    teacher: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = noisette.load(teacher), tmp_path / "out"
    asked: dict[str, Any] = {"first": 4, "last": 1, **QUICK}
    whole = halve(str(teacher), model, images, out, **asked)
    assert {path.name for path in (out / "halvings").iterdir()} == {"4", "2", "1"}
    assert noisette.load(out).spec.defaults.steps == 1 and whole.folder == out / "model"
    with pytest.raises(UserError, match="exists already"):
        halve(str(teacher), model, images, out, **asked)
    # The third run is taken away as if it had never begun: what comes of the rest is the same.
    other = tmp_path / "other"
    halve(str(teacher), model, images, other, **{**asked, "last": 2})
    again = halve(str(teacher), model, images, other, resume=True, **asked)
    for key, value in whole.model.denoiser.state_dict().items():
        assert torch.equal(value, again.model.denoiser.state_dict()[key])
    with pytest.raises(UserError, match="nothing to resume"):
        halve(str(teacher), model, images, tmp_path / "new", resume=True, **asked)
    with pytest.raises(UserError, match="take a power of two times 3"):
        halve(str(teacher), model, images, tmp_path / "new", **{**asked, "first": 8, "last": 3})


def test_halving_a_range_of_scales_is_told_them_first(teacher: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    halve(str(teacher), noisette.load(teacher), images, out, first=2, last=1, guidance=(1.0, 3.0), **QUICK)
    assert {path.name for path in (out / "halvings").iterdir()} == {"guided", "2", "1"}
    student = noisette.load(out)
    assert student.spec.net.guidance_dim == 256 and student.spec.defaults.guidance_scale == 2.0  # pyright: ignore


def test_a_teacher_draws_what_is_missing(teacher: Path, tmp_path: Path) -> None:
    model = noisette.load(teacher)
    made = kept(DrawnImages(model, 6), tmp_path / "kept")
    batch = made.fetch([0, 5])
    alone = model.generate(label=1, seed=5, output_type="torch").images
    assert batch["label"].tolist() == [0, 1]
    assert (batch["image"][1] - alone[0]).abs().max().item() <= 1 / 127  # kept as bytes
    other = Model.new(SPEC)
    assert DrawnImages(other, 6).fingerprint != DrawnImages(model, 6).fingerprint
    text = TextConfig(
        vocab_size=530, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    told = replace(NET, num_classes=None, context_dim=8, pooled_dim=8)
    with pytest.raises(UserError, match="pictures with captions"):
        DrawnImages(Model.new(replace(SPEC, net=told, labels=None, text=text)), 6)


def test_a_consistency_model_learns_from_data_alone(images: Path, tmp_path: Path) -> None:
    """No teacher: an objective of an ordinary recipe."""
    for kind in ("growing", "doubling"):
        objective = ConsistencyTraining(6, kind, first=2, last=16)  # pyright: ignore[reportArgumentType]
        recipe = Recipe(spec=SPEC, objective=objective, **{**QUICK, "steps": 6}, warmup=0, cond_dropout=0.0)
        model = fit(recipe, images, tmp_path / kind).model
        assert drawn(model, num_inference_steps=1, solver="consistency").isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": None}, "name a model as start"),
        ({"guidance": (3.0, 1.0)}, "a lowest and a highest scale"),
        ({"guidance": (-1.0, 1.0)}, "a lowest and a highest scale"),
        ({"inference_steps": 0}, "1 or more"),
        ({"lora": -1}, "a rank, or 0 for none"),
    ],
)
def test_what_makes_no_student_is_told(change: dict[str, Any], message: str, teacher: Path) -> None:
    recipe = student_of(str(teacher), noisette.load(teacher), Progressive(2))
    with pytest.raises(UserError, match=message):
        replace(recipe, **change)


def test_teachers_that_cannot_be_taken_are_told(teacher: Path, images: Path, tmp_path: Path) -> None:
    model = noisette.load(teacher)
    plain = replace(SPEC, net=replace(NET, num_classes=None), labels=None)
    with pytest.raises(UserError, match="nothing to guide"):
        student_of("tiny", Model.new(plain), Match(2), (2.0, 2.0))
    uneven = student_of(str(teacher), model, Progressive(3, "quadratic"), **QUICK)
    with pytest.raises(UserError, match="take trailing or shifted"):
        fit(uneven, images, tmp_path / "uneven")
    net = DiTConfig(in_channels=1, out_channels=1, patch_size=2, dim=8, depth=1, num_heads=2, num_classes=2)
    dit = Model.new(replace(SPEC, net=net))
    told = student_of(str(dit.save(tmp_path / "dit")), dit, Match(2), (1.0, 2.0), **QUICK)
    with pytest.raises(UserError, match="no place to be told"):
        fit(told, images, tmp_path / "told")


def test_a_student_of_noise_prediction_is_taught_too(images: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = Model.new(replace(SPEC, parameterization=Eps())).save(tmp_path / "eps")
    recipe = student_of(str(folder), noisette.load(folder), ConsistencyDistillation(4), **QUICK)
    assert drawn(fit(recipe, images, tmp_path / "run").model).isfinite().all()


def test_the_lora_file_holds_the_network_alone(teacher: Path, images: Path, tmp_path: Path) -> None:
    recipe = student_of(str(teacher), noisette.load(teacher), Progressive(2), lora=1, **QUICK)
    fit(recipe, images, tmp_path / "run")
    keys = load_file(tmp_path / "run" / "model" / "lora.safetensors").keys()
    assert keys and all(key.startswith("unet.") for key in keys)
