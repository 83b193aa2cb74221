"""Drawing in one call, and the folder of a model that does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import noisette
from noisette.errors import UserError
from noisette.hub import from_record, list_folder, read_spec, to_record
from noisette.hub.generator import GeneratorSpec
from noisette.models import Generator, Model, load_codec
from noisette.nets.adversarial import ResGeneratorConfig
from noisette.nets.flow import GlowConfig
from noisette.nets.hvae import LadderConfig

LABELS = ("cat", "dog", "owl")
NETS: dict[str, Any] = {
    "gan": ResGeneratorConfig(8, 1, 4, (4, 8), num_classes=3, norm_groups=4),
    "flow": GlowConfig(image_size=8, steps=2, widths=(6, 8), num_classes=3),
    "vae": LadderConfig(
        image_size=8,
        sides=(4, 1),
        widths=(8, 8),
        blocks=(1, 0),
        groups=(1, 1),
        latents=(2, 4),
        num_classes=3,
        norm_groups=4,
    ),
}
kinds = pytest.mark.parametrize("kind", NETS)


def generator(kind: str, **spec: Any) -> Generator:
    made = GeneratorSpec(f"tiny-{kind}", NETS[kind], LABELS, **spec)
    net = made.build()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * (parameter.ndim > 0))
    return Generator(made, net.eval(), {"steps": 3})


@kinds
def test_a_picture_depends_on_its_seed_and_its_label_alone_trap_30(kind: str) -> None:
    model = generator(kind)
    whole = model.generate(["cat", 2, "dog"], seed=7, output_type="torch")
    assert whole.images.shape == (3, 1, 8, 8) and whole.images.abs().max() <= 1
    assert whole.seeds == (7, 8, 9) and whole.labels == (0, 2, 1)
    parted = model.generate(["cat", 2, "dog"], seed=7, batch_size=1, output_type="torch")
    torch.testing.assert_close(parted.images, whole.images, rtol=0, atol=1e-5)
    alone = model.generate("dog", seed=9, output_type="torch")
    torch.testing.assert_close(alone.images[0], whole.images[2], rtol=0, atol=1e-5)
    assert whole.settings_of(2) == {**whole.settings, "seed": 9, "label": 1}
    assert (model.generate("dog", seed=8, output_type="torch").images - alone.images).abs().max() > 1e-3
    assert (model.generate("cat", seed=9, output_type="torch").images - alone.images).abs().max() > 1e-4


@kinds
def test_a_saved_generator_comes_back_as_it_was(kind: str, tmp_path: Path) -> None:
    model = generator(kind, temperature=0.8)
    folder = model.save(tmp_path / "model")
    again = Generator.load(folder)
    assert again.spec == model.spec and again.notes == model.notes and not again.net.training
    for name, value in model.net.state_dict().items():
        assert torch.equal(value, again.net.state_dict()[name])
    drawn = [one.generate(seed=1, output_type="torch").images for one in (model, again)]
    assert torch.equal(*drawn) and len(drawn[0]) == 3
    card = (folder / "README.md").read_text()
    assert "Generator.load" in card and "import noisette\n" not in card and f"tiny-{kind}" in card
    parameters = sum(p.numel() for p in model.net.parameters())
    buffers = sum(b.numel() for b in model.net.buffers())
    assert list_folder(folder).parameters == parameters + buffers
    with pytest.raises(UserError, match="exists already"):
        model.save(folder)


def test_temperature_scales_the_noise() -> None:
    model = generator("gan", temperature=0.0)
    still = model.generate([0, 0, 0], seed=3, output_type="torch").images
    assert torch.equal(still[0], still[1])
    moved = model.generate([0, 0, 0], seed=3, temperature=1.0, output_type="torch")
    assert (moved.images[0] - moved.images[1]).abs().max() > 1e-2
    assert moved.settings["temperature"] == 1.0
    with pytest.raises(UserError, match="temperature is a number from 0 up"):
        model.generate(0, temperature=-1.0)


def test_forms_of_pictures() -> None:
    model = generator("vae")
    assert model.generate(0, output_type="uint8").images.dtype == torch.uint8
    assert model.generate(0, output_type="numpy").images.shape == (1, 8, 8, 1)
    assert model.generate("owl", num_images_per_prompt=2).images[1].size == (8, 8)


@pytest.mark.parametrize("kind", ["flow", "vae"])
def test_bits_are_of_each_image_given_its_label(kind: str) -> None:
    model = generator(kind)
    x = torch.randint(0, 256, (4, 1, 8, 8)) / 127.5 - 1
    each = model.bits_per_dim(x, [0, 1, 2, "cat"])
    assert each.shape == (4,) and float(each.min()) > 0
    assert torch.equal(each, model.bits_per_dim(x, [0, 1, 2, "cat"]))
    other = model.bits_per_dim(x, "cat")
    assert other[0] == each[0] and other[1] != each[1]
    torch.testing.assert_close(model.bits_per_dim(x, 0, seed=1), other, rtol=0.2, atol=0)


def test_noisette_load_says_what_to_call(tmp_path: Path) -> None:
    folder = generator("flow").save(tmp_path / "model")
    with pytest.raises(UserError, match=r"without diffusion: load it with noisette\.models\.Generator\.load"):
        noisette.load(folder)
    with pytest.raises(UserError, match="has no autoencoder"):
        load_codec(folder)
    with pytest.raises(UserError, match=r"load it with noisette\.load"):
        Generator.load("digits")
    assert Model is not Generator


@kinds
def test_a_spec_is_read_as_it_was_written(kind: str, tmp_path: Path) -> None:
    spec = generator(kind).spec
    record: Any = json.loads(json.dumps(to_record(spec)))
    assert from_record(GeneratorSpec, record, "spec") == spec
    assert read_spec(generator(kind).save(tmp_path / "model"))[0] == spec
    record["net"]["widths"] = [0]
    with pytest.raises(UserError, match=r"spec\.net"):
        from_record(GeneratorSpec, record, "spec")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: GeneratorSpec("x", NETS["gan"], ("a", "b")), "2 labels, but the network knows 3"),
        (lambda: GeneratorSpec("x", NETS["gan"], ("a", "b", "a")), "same name"),
        (lambda: GeneratorSpec("x", NETS["gan"], LABELS, -1.0), "temperature"),
        (lambda: generator("gan").generate("fox"), "knows no label 'fox': its labels are cat, dog, owl"),
        (lambda: generator("gan").generate(0, seed=-1), "seed must be a whole number"),
        (lambda: generator("gan").generate(0, batch_size=0), "batch_size must be"),
        (lambda: generator("gan").bits_per_dim(torch.zeros(1, 1, 8, 8), 0), "GAN, which gives no likelihood"),
        (lambda: generator("flow").bits_per_dim(torch.zeros(1, 3, 8, 8), 0), r"not \[1, 3, 8, 8\]"),
        (lambda: generator("flow").bits_per_dim(torch.zeros(3, 1, 8, 8), [0, 1]), "3 images need one label"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(change: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        change()
    assert "\n" not in str(told.value)
