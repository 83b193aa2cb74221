from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from noisette.errors import UserError
from noisette.metrics import Judge, Statistics
from noisette.training.judge import digits, disturb, main, train, uniform


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set in the format of MNIST: scikit-learn's digits, enlarged."""
    from sklearn.datasets import load_digits

    source = load_digits()
    small = torch.tensor(source.images)[:, None] * (255 / 16)
    images = F.interpolate(small, size=28, mode="bilinear").round().to(torch.uint8)
    labels = torch.tensor(source.target).to(torch.uint8)
    path = tmp_path_factory.mktemp("digits")
    for name, part in (("train", slice(0, 384)), ("t10k", slice(384, 584))):
        count = part.stop - part.start
        pixels = struct.pack(">4I", 0x803, count, 28, 28) + images[part].numpy().tobytes()
        classes = struct.pack(">2I", 0x801, count) + labels[part].numpy().tobytes()
        (path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(pixels))
        (path / f"{name}-labels-idx1-ubyte").write_bytes(classes)
    return path


def test_reads_plain_and_gzipped_files_and_pads(folder: Path):
    images, labels = digits(folder, "train")
    assert images.shape == (384, 1, 32, 32) and labels.tolist()[:5] == [0, 1, 2, 3, 4]
    assert (images.min(), images.max()) == (-1, 1)
    border = torch.ones(32, 32, dtype=torch.bool)
    border[2:-2, 2:-2] = False
    assert (images[:, 0, border] == -1).all()


def test_disturbed_digits_stay_images_and_depend_on_the_generator_alone(folder: Path):
    images, _ = digits(folder, "train")
    first, again, other = (disturb(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.min() >= -1 and first.max() <= 1
    assert (first - images).abs().mean() > 0.02
    ink = (first + 1).sum() / (images + 1).sum()
    assert 0.7 < ink < 1.5


def test_uniform_covers_its_range():
    values = uniform(-2, 3, (10_000,), torch.Generator().manual_seed(0))
    assert -2 <= values.min() < -1.99 and 2.99 < values.max() <= 3


def test_training_learns(folder: Path):
    images, labels = digits(folder, "train")
    losses = list(train(Judge(), images, labels, epochs=6))
    assert len(losses) == 6 * 3
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


def test_writes_weights_reference_and_card_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    main([str(folder), str(out), "--epochs", "1"])
    names = ["digits-judge.md", "digits-judge.safetensors", "digits-reference.safetensors"]
    assert sorted(file.name for file in out.iterdir()) == names
    weights = load_file(out / names[1])
    assert {value.dtype for value in weights.values()} == {torch.float16, torch.int64}
    Judge().load_state_dict(weights)
    assert Statistics(**load_file(out / names[2])).count == 384
    assert "accuracy" in (out / names[0]).read_text()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(folder), str(out)])
    assert stop.value.code == 2
    assert "exists already" in capsys.readouterr().err


def test_a_folder_without_digits_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(UserError, match="no split 'test'"):
        digits(tmp_path, "test")
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "no split 'train'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
