"""Training what draws in one call: its losses, whole runs, and what is left of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisette.data import open_dataset
from noisette.errors import UserError
from noisette.hub.generator import GeneratorSpec
from noisette.models import Generator
from noisette.nets.adversarial import (
    ResDiscriminator,
    ResDiscriminatorConfig,
    ResGenerator,
    ResGeneratorConfig,
)
from noisette.nets.flow import ActNorm, GlowConfig, dequantised, flow_bits
from noisette.nets.hvae import LadderConfig
from noisette.training import Adversarial, ExactLikelihood, FreeBits, GeneratorRecipe, fit
from noisette.training.checkpoint import load_latest
from noisette.training.generators import Duel, duel_loss, skip_long
from noisette.training.setup import batches, begin

LABELS = ("dark", "light")
GAN = ResGeneratorConfig(8, 1, 4, (4, 8), num_classes=2, patch_size=2, norm_groups=4)
JUDGE = ResDiscriminatorConfig(8, 1, (4, 6), num_classes=2)
FLOW = GlowConfig(image_size=8, steps=2, widths=(6, 8), num_classes=2)
LADDER = LadderConfig(
    image_size=8,
    sides=(4, 2, 1),
    widths=(8, 8, 8),
    blocks=(1, 1, 0),
    groups=(1, 1, 1),
    latents=(2, 2, 4),
    num_classes=2,
    norm_groups=4,
)
KINDS: dict[str, tuple[Any, Any]] = {
    "gan": (GAN, Adversarial(JUDGE, gamma=0.5, every=3)),
    "flow": (FLOW, ExactLikelihood()),
    "vae": (replace(LADDER, groups=(0, 0, 1)), FreeBits()),
    "hvae": (LADDER, FreeBits(0.05)),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def recipe_of(kind: str, **changes: Any) -> GeneratorRecipe:
    net, objective = KINDS[kind]
    recipe = GeneratorRecipe(
        spec=GeneratorSpec(f"tiny-{kind}", net, LABELS),
        objective=objective,
        steps=6,
        batch_size=8,
        lr=2e-3,
        warmup=0,
        ema=0.9,
        precision="fp32",
        sample_every=0,
        checkpoint_every=0,
    )
    return replace(recipe, **changes)


def gradients(net: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    names = [name for name, _ in net.named_parameters()]
    return {name: grad for name, grad in zip(names, found, strict=True) if grad is not None}


def duel() -> Duel:
    net = Duel(ResGenerator(GAN), ResDiscriminator(JUDGE))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def test_neither_player_feels_the_loss_of_the_other() -> None:
    net, objective = duel(), Adversarial(JUDGE, gamma=0.7, every=4)
    x, label, z = torch.randn(6, 1, 8, 8), torch.arange(6) % 2, torch.randn(6, 4)
    both = gradients(net, duel_loss(objective, net, x, label, z, 8))
    drawn = net.generator(z, label)
    fools = nn.functional.softplus(-net.adversary(drawn, label)).mean()
    own = torch.autograd.grad(fools, list(net.generator.parameters()))
    for (name, _), grad in zip(net.generator.named_parameters(), own, strict=True):
        torch.testing.assert_close(both[f"generator.{name}"], grad, rtol=1e-4, atol=1e-6)
    seen = x.clone().requires_grad_()
    real = net.adversary(seen, label)
    (slope,) = torch.autograd.grad(real.sum(), seen, create_graph=True)
    penalty = 4 * 0.7 / 2 * slope.flatten(1).square().sum(1).mean()
    fake = net.adversary(drawn.detach(), label)
    tells = nn.functional.softplus(-real).mean() + nn.functional.softplus(fake).mean() + penalty
    theirs = torch.autograd.grad(tells, list(net.adversary.parameters()))
    for (name, _), grad in zip(net.adversary.named_parameters(), theirs, strict=True):
        torch.testing.assert_close(both[f"adversary.{name}"], grad, rtol=1e-4, atol=1e-5)


def test_the_penalty_comes_lazily() -> None:
    net, objective = duel(), Adversarial(JUDGE, gamma=0.7, every=4)
    x, label, z = torch.randn(6, 1, 8, 8), torch.arange(6) % 2, torch.randn(6, 4)
    losses = [duel_loss(objective, net, x, label, z, step).item() for step in range(9)]
    assert losses[0] == losses[4] == losses[8] > losses[1] + 1e-3
    assert len(set(losses)) == 2
    assert duel_loss(replace(objective, gamma=0.0), net, x, label, z, 0).item() == losses[1]


@kinds
def test_resume_is_bit_for_bit(kind: str, images: Path, tmp_path: Path) -> None:
    fit(recipe_of(kind), images, tmp_path / "straight")
    for stop in (2, None):
        fit(recipe_of(kind), images, tmp_path / "parts", max_train_steps=stop, resume=stop != 2)
        torch.manual_seed(99)
    one, other = (load_latest(tmp_path / name / "checkpoints") for name in ("straight", "parts"))
    assert dict(one.facts) == dict(other.facts)
    for group, tensors in one.tensors.items():
        assert all(torch.equal(value, other.tensors[group][name]) for name, value in tensors.items()), group


@kinds
def test_a_run_leaves_a_generator_of_its_average(kind: str, images: Path, tmp_path: Path) -> None:
    result = fit(recipe_of(kind, sample_every=6), images, tmp_path / "run")
    saved = Generator.load(tmp_path / "run")
    assert saved.spec == recipe_of(kind).spec and saved.notes["steps"] == 6
    average = load_latest(tmp_path / "run" / "checkpoints").tensors["ema"]
    for name, value in saved.net.state_dict().items():
        assert torch.equal(value, average[f"generator.{name}" if kind == "gan" else name])
    drawn, again = (g.generate(1, seed=5, output_type="torch").images for g in (result.model, saved))
    torch.testing.assert_close(drawn, again, rtol=0, atol=1e-6)
    assert (tmp_path / "run" / "samples" / "step-00000006.png").is_file()


@pytest.mark.parametrize("kind", ["flow", "vae", "hvae"])
def test_bits_fall(kind: str, images: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    recipe = recipe_of(kind, steps=25, lr=1e-2)
    fit(recipe, images, tmp_path / "run", on_step=lambda s: losses.append(float(s.loss)))
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.1


def test_a_generator_learns_the_brightness_of_its_class(images: Path, tmp_path: Path) -> None:
    objective = Adversarial(JUDGE, gamma=0.1, every=4)
    recipe = recipe_of("gan", steps=80, lr=5e-3, betas=(0.0, 0.99), objective=objective, max_grad_norm=1e6)
    model = fit(recipe, images, tmp_path / "run").model
    drawn = model.generate(["dark", "light"], num_images_per_prompt=20, seed=0, output_type="torch").images
    assert float(drawn[20:].mean() - drawn[:20].mean()) > 0.3  # 1 in the data


def test_a_flow_is_normalised_by_the_data_before_its_first_step(images: Path) -> None:
    recipe = recipe_of("flow")
    state, again = begin(recipe, images), begin(recipe, images)
    assert all(torch.equal(v, again.net.state_dict()[k]) for k, v in state.net.state_dict().items())
    assert torch.equal(state.ema.shadow["levels.0.0.shift"], state.net.state_dict()["levels.0.0.shift"])
    data = open_dataset(images, size=8, channels=1)
    batch = data.fetch(range(len(data)))
    z, _ = state.net(dequantised(batch["image"], torch.rand(24, 1, 8, 8)), torch.as_tensor(batch["label"]))
    assert 0.8 < z.std().item() < 1.2
    norms = [part for part in state.net.modules() if isinstance(part, ActNorm)]
    assert len(norms) == 4 and all(float(norm.log_scale.abs().min()) > 0 for norm in norms)


def test_the_loss_is_in_bits_for_a_flow_and_in_nats_for_a_vae(images: Path) -> None:
    for kind in ("flow", "vae"):
        state = begin(recipe_of(kind), images)
        batch, draws = next(batches(state, torch.device("cpu")))
        loss = state.task.loss(state.net, batch, draws, 0)
        x, label = batch["image"], torch.as_tensor(batch["label"])
        net: Any = state.net
        if kind == "flow":
            wanted = flow_bits(*net(dequantised(x, torch.rand(x.shape)), label)).mean()
            assert float(loss) == pytest.approx(float(wanted), abs=0.05)
        else:
            bits = net.bits_per_dim(x, label, torch.Generator().manual_seed(0)).mean()
            assert float(loss) == pytest.approx(float(bits) * math.log(2), abs=0.05)


def test_the_weight_of_the_divergence_climbs() -> None:
    objective = FreeBits(climb=4)
    assert [objective.weight(step) for step in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]
    assert FreeBits().weight(0) == 1


def test_a_gradient_that_is_too_long_moves_nothing() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5)
    skip_long(optimizer, 1.0)
    for length, moves in ((0.5, True), (30.0, False), (0.9, True)):
        before = weight.detach().clone()
        weight.grad = torch.tensor([length, 0.0, 0.0])
        nn.utils.clip_grad_norm_([weight], 1.0)
        state = {k: v.clone() for k, v in optimizer.state[weight].items()} if optimizer.state[weight] else {}
        optimizer.step()
        assert torch.equal(weight, before) != moves
        assert all(torch.equal(v, optimizer.state[weight][k]) != moves for k, v in state.items())


@pytest.mark.parametrize("bound", [1e-6, 1e6])
def test_a_run_may_skip_every_long_update(bound: float, images: Path, tmp_path: Path) -> None:
    recipe = recipe_of("hvae", skip_long=True, max_grad_norm=bound, steps=2)
    first = {k: v.clone() for k, v in begin(recipe, images).net.state_dict().items()}
    fit(recipe, images, tmp_path / "run")
    after = load_latest(tmp_path / "run" / "checkpoints").tensors["weights"]
    assert all(torch.equal(value, after[name]) for name, value in first.items()) == (bound < 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: recipe_of("gan", objective=FreeBits()), "ResGeneratorConfig, which FreeBits does not train"),
        (lambda: recipe_of("flow", objective=Adversarial(JUDGE)), "Adversarial does not train"),
        (
            lambda: recipe_of("gan", objective=Adversarial(replace(JUDGE, num_classes=3))),
            "judges 1x8x8 of 3 classes, which is not what is drawn",
        ),
        (lambda: Adversarial(JUDGE, gamma=-1.0), "gamma is a weight from 0 up"),
        (lambda: Adversarial(JUDGE, every=0), "every a count of steps"),
        (lambda: FreeBits(-0.1), "free is in nats and climb in steps"),
        (lambda: FreeBits(climb=-1), "each from 0 up"),
        (lambda: recipe_of("vae", lr=0.0), "lr must be positive"),
    ],
)
def test_what_does_not_fit_is_told(change: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        change()
    assert "\n" not in str(told.value)


def test_other_classes_are_refused(images: Path, tmp_path: Path) -> None:
    recipe = recipe_of("vae")
    other = replace(recipe, spec=replace(recipe.spec, labels=("cold", "warm")))
    with pytest.raises(UserError, match=r"classes are \('dark', 'light'\), but tiny-vae learns"):
        fit(other, open_dataset(images, size=8, channels=1), tmp_path / "run")
