"""Muon: its matrices against torch's own Muon, the rest against AdamW, and runs that go on exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisette.training import fit
from noisette.training.checkpoint import load_latest
from noisette.training.muon import Muon, matrices, orthogonal


def gradients(shape: tuple[int, ...], steps: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator) * 0.01 for _ in range(steps)]


def moved(weight: nn.Parameter, optimizer: torch.optim.Optimizer) -> Tensor:
    for grad in gradients(tuple(weight.shape)):
        weight.grad = grad.clone()
        optimizer.step()
    return weight.detach()


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("shape", [(48, 48), (40, 96), (96, 40)])
def test_orthogonal_keeps_the_singular_vectors_and_levels_the_values(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    levelled = u.T @ orthogonal(x) @ v.T
    values = levelled.diagonal()
    assert values.min() > 0.55 and values.max() < 1.3
    assert (levelled - values.diag()).norm() < 0.05 * values.norm()
    other = torch.randn(shape)
    assert torch.equal(orthogonal(torch.stack([other, x]))[1], orthogonal(x[None])[0])


@pytest.mark.parametrize("shape", [(48, 48), (40, 96), (96, 40)])
def test_a_matrix_moves_as_with_the_muon_of_torch(shape: tuple[int, int]) -> None:
    ours, theirs = parameter(*shape), parameter(*shape)
    start = ours.detach().clone()
    options: Any = {"lr": 0.02, "weight_decay": 0.1}
    reference = torch.optim.Muon([theirs], momentum=0.95, adjust_lr_fn="match_rms_adamw", **options)
    moved(theirs, reference)
    moved(ours, Muon([ours], [ours], **options))
    difference = (ours - theirs).detach().norm() / (theirs.detach() - start).norm()
    assert difference < 0.03  # both work in bfloat16, in another order


def test_filters_move_as_the_matrix_they_are() -> None:
    filters = parameter(40, 12, 3, 3)
    flat = nn.Parameter(filters.detach().flatten(1).clone())
    optimizer = Muon([flat], [flat], lr=0.02)
    for grad in gradients(tuple(filters.shape)):
        flat.grad = grad.flatten(1)
        optimizer.step()
    last = nn.Parameter(filters.detach().clone(memory_format=torch.channels_last))
    assert torch.equal(moved(filters, Muon([filters], [filters], lr=0.02)).flatten(1), flat)
    torch.testing.assert_close(moved(last, Muon([last], [last], lr=0.02)), filters.detach())


def test_what_is_no_matrix_moves_as_in_adamw() -> None:
    ours, theirs, matrix = parameter(7), parameter(7), parameter(32, 32)
    options: Any = {"lr": 0.02, "weight_decay": 0.1, "betas": (0.8, 0.9)}
    both = Muon([matrix, ours], [matrix], **options)
    assert torch.equal(moved(ours, both), moved(theirs, torch.optim.AdamW([theirs], **options)))
    assert torch.equal(matrix, parameter(32, 32))  # it had no gradient


def test_an_entry_moves_about_as_far_as_with_adamw() -> None:
    ours, theirs = parameter(64, 200), parameter(64, 200)
    start = ours.detach().clone()
    far = [
        float((moved(weight, optimizer) - start).square().mean().sqrt())
        for weight, optimizer in (
            (ours, Muon([ours], [ours], lr=0.01, weight_decay=0.0)),
            (theirs, torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.0)),
        )
    ]
    assert 0.1 < far[0] / far[1] < 0.6  # 0.2, up to how steps add up


def test_matrices_are_the_large_weights_of_layers_that_learn() -> None:
    net = nn.ModuleDict(
        {
            "words": nn.Embedding(100, 64),
            "first": nn.Conv2d(3, 64, 1),
            "filters": nn.Conv2d(64, 32, 3),
            "linear": nn.Linear(64, 64),
            "frozen": nn.Linear(64, 64).requires_grad_(False),
            "norm": nn.GroupNorm(4, 64),
            "last": nn.Linear(64, 8),
        }
    )
    found = {id(weight) for weight in matrices(net)}
    assert {name for name, w in net.named_parameters() if id(w) in found} == {
        "filters.weight",
        "linear.weight",
    }


def test_a_run_goes_on_exactly(tiny: Callable[..., Any], images: Path, tmp_path: Path) -> None:
    recipe = tiny(steps=6, optimizer="muon")
    net = replace(recipe.spec.net, model_channels=32)
    recipe = replace(recipe, spec=replace(recipe.spec, net=net))
    fit(recipe, images, tmp_path / "straight")
    for stop in (2, 4, None):
        fit(recipe, images, tmp_path / "parts", max_train_steps=stop, resume=stop != 2)
    straight, parts = (load_latest(tmp_path / name / "checkpoints") for name in ("straight", "parts"))
    assert any(name.endswith(".average") for name in parts.tensors["optimizer"])
    for group, tensors in straight.tensors.items():
        for name, value in tensors.items():
            assert torch.equal(value, parts.tensors[group][name]), (group, name)
