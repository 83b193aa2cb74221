"""Training autoencoders: their loss, the contest with the discriminator, and whole runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisette.errors import UserError
from noisette.metrics.perceptual import perceptual_distance
from noisette.models import Autoencoder, AutoencoderSpec
from noisette.nets.gan import PatchDiscriminator, PatchDiscriminatorConfig
from noisette.nets.vae import AutoencoderKL, AutoencoderKLConfig
from noisette.nets.vq import VQConfig, VQModel
from noisette.pixels import to_uint8
from noisette.scenes.dataset import SceneDataset
from noisette.training import AutoencoderRecipe, Reconstruction, ScenesWorld, fit
from noisette.training.checkpoint import Checkpoint, load_latest
from noisette.training.kept import KeptImages
from noisette.training.reconstruction import Contest, contest_loss
from noisette.training.setup import batches, begin

SMALL: dict[str, Any] = {
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
}
KL = AutoencoderKLConfig(latent_channels=2, **SMALL)
VQ = VQConfig(latent_channels=2, num_vq_embeddings=16, **SMALL)
ADVERSARY = PatchDiscriminatorConfig(channels=4, layers=1, norm_groups=4)
EVERYTHING = Reconstruction(perceptual=0.7, kl=0.01, adversarial=0.3, adversary_from=0, adversary=ADVERSARY)
RECIPE = AutoencoderRecipe(
    spec=AutoencoderSpec("tiny-vae", KL, 16),
    objective=replace(EVERYTHING, adversary_from=3),
    steps=6,
    batch_size=4,
    lr=1e-3,
    warmup=0,
    max_grad_norm=1e4,
    ema=0.9,
    precision="fp32",
    sample_every=0,
    checkpoint_every=0,
)


def pictures(count: int = 20) -> KeptImages:
    images = SceneDataset(16, samples=1).fetch(range(count))["image"]
    return KeptImages("pictures", to_uint8(images), {}, None, "pictures")


@pytest.fixture(scope="module")
def data() -> KeptImages:
    return pictures()


def contest(config: AutoencoderKLConfig | VQConfig = KL) -> Contest:
    torch.manual_seed(5)
    codec = AutoencoderKL(config) if isinstance(config, AutoencoderKLConfig) else VQModel(config)
    return Contest(codec, PatchDiscriminator(ADVERSARY))


def loss_of(net: Contest, objective: Reconstruction, x: Tensor, noise: Tensor, contested: bool) -> Tensor:
    return contest_loss(objective, net, net.codec.decoder.conv_out.weight, x, noise, contested)


def gradients(net: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, retain_graph=True)
    names = [name for name, _ in net.named_parameters()]
    return {name: grad for name, grad in zip(names, found, strict=True) if grad is not None}


def by_hand(net: Contest, objective: Reconstruction, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The autoencoder's loss and the discriminator's, each from its definition."""
    codec, adversary = net.codec, net.adversary
    assert isinstance(codec, AutoencoderKL) and adversary is not None
    moments = codec.encoder(x)
    mean, logvar = moments[:, :2], moments[:, 2:]
    back = codec.decoder(mean + (logvar / 2).exp() * noise)
    values = 3 * 16 * 16
    plain = sum(
        (x[i] - back[i]).abs().sum()
        + objective.perceptual * values * perceptual_distance(x[i : i + 1], back[i : i + 1])[0]
        for i in range(len(x))
    ) / len(x)
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / len(x)
    fooled = -adversary(back).mean()
    last = codec.decoder.conv_out.weight
    pull, push = (torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in (plain, fooled))
    own = plain + objective.kl * kl + objective.adversarial * (pull / (push + 1e-4)).detach() * fooled
    real, fake = adversary(x), adversary(back.detach())
    return own, ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()) / 2


def test_the_loss_is_the_sum_of_both_by_hand(data: KeptImages) -> None:
    x, noise = data.fetch(range(3))["image"], torch.randn(3, 2, 8, 8)
    net = contest()
    own, judging = by_hand(net, EVERYTHING, x, noise)
    torch.testing.assert_close(loss_of(net, EVERYTHING, x, noise, True), own + judging, rtol=1e-5, atol=1e-4)
    alone, _ = by_hand(net, replace(EVERYTHING, adversarial=0.0), x, noise)
    torch.testing.assert_close(loss_of(net, EVERYTHING, x, noise, False), alone, rtol=1e-5, atol=1e-4)
    plain = Reconstruction(perceptual=0, kl=0, adversarial=0)
    back, _ = net.codec(x, noise)
    torch.testing.assert_close(
        loss_of(net, plain, x, noise, False), (x - back).abs().sum() / 3, rtol=1e-5, atol=1e-4
    )


def test_neither_side_feels_the_loss_of_the_other(data: KeptImages) -> None:
    x, noise = data.fetch(range(3))["image"], torch.randn(3, 2, 8, 8)
    net = contest()
    both = gradients(net, loss_of(net, EVERYTHING, x, noise, True))
    own, judging = (gradients(net, part) for part in by_hand(net, EVERYTHING, x, noise))
    mine = {name for name in both if name.startswith("codec.")}
    theirs = both.keys() - mine
    assert len(mine) == len(list(net.codec.parameters())) and len(theirs) == len(ADVERSARY.widths) * 3 + 1
    assert not mine & judging.keys()
    for names, wanted in ((mine, own), (theirs, judging)):
        atol = 1e-4 * max(float(wanted[name].abs().max()) for name in names)
        for name in names:
            torch.testing.assert_close(both[name], wanted[name], rtol=1e-4, atol=atol)
    before = gradients(net, loss_of(net, EVERYTHING, x, noise, False))
    assert before.keys() == mine
    assert (both["codec.encoder.conv_in.weight"] - before["codec.encoder.conv_in.weight"]).abs().max() > 1e-3


def test_a_codebook_takes_the_place_of_kl(data: KeptImages) -> None:
    x = data.fetch(range(3))["image"]
    net = contest(VQ)
    objective = Reconstruction(perceptual=0, kl=2.0, adversarial=0)
    back, quantized = net.codec(x)
    wanted = (x - back).abs().sum() / 3 + 2.0 * quantized.loss.mean() * 3 * 16 * 16
    torch.testing.assert_close(loss_of(net, objective, x, x, False), wanted, rtol=1e-5, atol=1e-3)


def same(a: Checkpoint, b: Checkpoint) -> None:
    assert a.step == b.step and dict(a.facts) == dict(b.facts) and a.tensors.keys() == b.tensors.keys()
    for group, tensors in a.tensors.items():
        assert tensors.keys() == b.tensors[group].keys()
        assert all(torch.equal(value, b.tensors[group][name]) for name, value in tensors.items()), group


@pytest.mark.parametrize("codec", [KL, VQ], ids=["kl", "vq"])
def test_resume_is_bit_for_bit_through_the_entry_of_the_adversary(
    codec: Any, data: KeptImages, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, spec=replace(RECIPE.spec, codec=codec))
    fresh = {name: value.clone() for name, value in begin(recipe, data).net.state_dict().items()}
    fit(recipe, data, tmp_path / "straight")
    for stop in (2, 4, None):
        fit(recipe, data, tmp_path / "parts", max_train_steps=stop, resume=stop != 2)
        at = load_latest(tmp_path / "parts" / "checkpoints")
        moved = {name for name, value in fresh.items() if not torch.equal(value, at.tensors["weights"][name])}
        assert any(name.startswith("codec.") for name in moved)
        assert any(name.startswith("adversary.") for name in moved) == (at.step > 3)
        torch.manual_seed(99)
    same(*(load_latest(tmp_path / name / "checkpoints") for name in ("straight", "parts")))


@pytest.mark.parametrize("codec", [KL, VQ], ids=["kl", "vq"])
def test_the_saved_latents_have_unit_variance(codec: Any, data: KeptImages, tmp_path: Path) -> None:
    recipe = replace(RECIPE, spec=replace(RECIPE.spec, codec=codec), sample_every=6)
    result = fit(recipe, data, tmp_path / "run")
    assert isinstance(result.model, Autoencoder)
    saved = Autoencoder.load(tmp_path / "run")
    assert saved.spec.codec.scaling_factor != codec.scaling_factor
    latents = saved.encode(data.fetch(range(len(data)))["image"])
    assert latents.shape == (20, 2, 8, 8)
    assert float(latents.std(correction=0)) == pytest.approx(1, abs=1e-4)
    assert float(latents.mean()) == pytest.approx(0, abs=1e-4)
    average = load_latest(tmp_path / "run" / "checkpoints").tensors["ema"]
    for name, value in saved.codec.state_dict().items():
        assert torch.equal(value, average[f"codec.{name}"])
    assert saved.notes["steps"] == 6 and "20 images" in str(saved.notes["trained_on"])
    assert (tmp_path / "run" / "samples" / "step-00000006.png").is_file()


def test_it_learns_to_give_back(data: KeptImages, tmp_path: Path) -> None:
    losses: list[float] = []
    objective = Reconstruction(perceptual=0.1, adversarial=0)
    recipe = replace(RECIPE, steps=60, lr=4e-3, objective=objective, spec=replace(RECIPE.spec, codec=KL))
    fit(recipe, data, tmp_path / "run", on_step=lambda s: losses.append(float(s.loss)))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.parametrize("codec", [KL, VQ], ids=["kl", "vq"])
def test_a_frozen_encoder_keeps_its_latents_while_the_decoder_learns(
    codec: Any, data: KeptImages, tmp_path: Path
) -> None:
    images = data.fetch(range(len(data)))["image"]
    first = replace(RECIPE, spec=replace(RECIPE.spec, codec=codec))
    fit(first, data, tmp_path / "first")
    before = Autoencoder.load(tmp_path / "first")
    losses: list[float] = []
    more = replace(
        first,
        start=str(tmp_path / "first"),
        freeze_encoder=True,
        objective=Reconstruction(perceptual=0.1, adversarial=0),
        steps=40,
        lr=4e-3,
        weight_decay=0.1,  # which moves what an optimizer holds, gradient or not
    )
    fit(more, data, tmp_path / "more", on_step=lambda s: losses.append(float(s.loss)))
    after = Autoencoder.load(tmp_path / "more")
    assert after.spec.codec == before.spec.codec
    assert torch.equal(after.encode(images), before.encode(images))
    for name, value in after.codec.state_dict().items():
        moves = name.startswith("decoder.")
        assert torch.equal(value, before.codec.state_dict()[name]) != moves, name
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_jitter_widens_what_is_decoded_and_not_what_is_charged(data: KeptImages) -> None:
    x, noise = data.fetch(range(3))["image"], torch.randn(3, 2, 8, 8)
    net, spread = contest(), torch.tensor([0.0, 0.5, 2.0]).view(3, 1, 1, 1)
    codec = net.codec
    assert isinstance(codec, AutoencoderKL)
    rebuilt, charged, _ = net(x, noise, False, spread)
    mean, logvar = codec.encoder(x).chunk(2, 1)
    torch.testing.assert_close(rebuilt, codec.decoder(mean + (logvar.exp() + spread**2).sqrt() * noise))
    assert torch.equal(charged, net(x, noise, False)[1])
    recipe = replace(RECIPE, objective=Reconstruction(perceptual=0, adversarial=0, jitter=0.8))
    losses: list[Tensor] = []
    for _ in range(2):
        state = begin(recipe, data)
        losses.append(state.task.loss(state.net, *next(batches(state, torch.device("cpu"))), 0))
    assert losses[0] == losses[1]  # drawn from the seed, as all that is random
    with pytest.raises(UserError, match="tiny-vae has a codebook"):
        replace(recipe, spec=replace(recipe.spec, codec=VQ))


def test_training_goes_on_from_an_autoencoder(data: KeptImages, tmp_path: Path) -> None:
    fit(RECIPE, data, tmp_path / "first")
    before = Autoencoder.load(tmp_path / "first").codec
    net = begin(replace(RECIPE, start=str(tmp_path / "first")), data).net
    for name, value in net.codec.named_parameters():  # pyright: ignore
        assert value.requires_grad and torch.equal(value, before.state_dict()[name]), name


@pytest.mark.parametrize(("count", "size"), [(5, (70, 34)), (12, (142, 34)), (20, (142, 70))])
def test_originals_stand_above_what_came_back(count: int, size: tuple[int, int]) -> None:
    data = pictures(count)
    task = begin(replace(RECIPE, batch_size=2), data).task
    shown = task.pictures()
    width, height = size
    assert shown.shape == (3, height, width + (count == 5) * 18)
    originals = data.fetch(range(2))["image"]
    assert torch.equal(shown[:, :16, :16], originals[0]) and torch.equal(shown[:, :16, 18:34], originals[1])
    back = task.net.codec(originals, None)[0].clamp(-1, 1)  # pyright: ignore
    torch.testing.assert_close(shown[:, 18:34, 18:34], back[1].detach(), rtol=0, atol=1e-4)


def test_noise_and_steps_decide_the_loss_and_nothing_else(data: KeptImages) -> None:
    state = begin(RECIPE, data)
    batch, draws = next(batches(state, torch.device("cpu")))
    early = state.task.loss(state.net, batch, draws, 2)
    again, more = next(batches(begin(RECIPE, data), torch.device("cpu")))
    assert torch.equal(early, state.task.loss(state.net, again, more, 2))
    again, more = next(batches(begin(RECIPE, data), torch.device("cpu")))
    assert state.task.loss(state.net, again, more, 3) != early  # the adversary has entered


def test_another_autoencoder_is_no_start(data: KeptImages, tmp_path: Path) -> None:
    fit(RECIPE, data, tmp_path / "first")
    wider = replace(RECIPE, spec=replace(RECIPE.spec, codec=replace(KL, latent_channels=3)))
    with pytest.raises(UserError, match="another autoencoder than tiny-vae"):
        fit(replace(wider, start=str(tmp_path / "first")), data, tmp_path / "other")


def test_a_recipe_brings_its_world(tmp_path: Path, own_cache: Path) -> None:
    recipe = replace(RECIPE, steps=1, world=ScenesWorld(6))
    result = fit(recipe, None, tmp_path / "run")
    assert "scenes, split train" in str(result.model.notes["trained_on"])
    assert len(list((own_cache / "images").iterdir())) == 1
    with pytest.raises(UserError, match="tiny-vae learns from images: name a folder"):
        fit(RECIPE, None, tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: replace(RECIPE, spec=replace(RECIPE.spec, image_size=4)), "sides from 16"),
        (
            lambda: replace(
                RECIPE,
                spec=replace(RECIPE.spec, codec=replace(KL, in_channels=1, out_channels=1)),
                objective=replace(EVERYTHING, perceptual=0),
            ),
            "adversary looks at 3 channels and sides of at least 6, but images are 1x16x16",
        ),
        (lambda: Reconstruction(kl=-1.0), "not negative"),
        (lambda: AutoencoderSpec("odd", KL, 15), "sides divisible by 2"),
        (lambda: replace(RECIPE, lr=0.0), "lr must be positive"),
        (lambda: replace(RECIPE, freeze_encoder=True), "name the autoencoder it is from"),
    ],
)
def test_what_does_not_fit_is_told(change: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        change()
    assert "\n" not in str(told.value)
