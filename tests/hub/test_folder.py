from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from noisette.core import IndexTime, V
from noisette.errors import UserError
from noisette.hub import embedded_models, find_model, read_spec, read_weights
from noisette.hub.spec import ModelSpec
from noisette.models import Model
from noisette.nets import UNetConfig
from noisette.schedules import CosineVP

SPEC = ModelSpec(
    "tiny",
    UNetConfig(1, 1, model_channels=16, channel_mult=(1, 2), norm_groups=8, num_classes=3),
    CosineVP(),
    V(),
    IndexTime(),
    16,
    1,
    ("a", "b", "c"),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Model.new(SPEC, notes={"trained_on": "nothing | at all", "steps": 3}).save(tmp_path / "tiny")


def test_a_model_folder_holds_three_files_and_reads_back_bit_for_bit(tmp_path: Path) -> None:
    model = Model.new(SPEC, notes={"trained_on": "nothing", "steps": 3})
    model.save(tmp_path / "m")
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        "model.json",
        "model.safetensors",
        "README.md",
    }
    loaded = Model.load(tmp_path / "m")
    assert loaded.spec == SPEC
    assert loaded.notes == {"trained_on": "nothing", "steps": 3}
    assert not loaded.denoiser.net.training
    before, after = (m.denoiser.net.state_dict() for m in (model, loaded))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path: Path) -> None:
    model = Model.new(SPEC)
    model.save(tmp_path / "full")
    model.save(tmp_path / "half", dtype=torch.float16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert 0.45 < sizes[1] / sizes[0] < 0.6
    half = Model.load(tmp_path / "half").denoiser.net.state_dict()
    for key, value in model.denoiser.net.state_dict().items():
        assert half[key].dtype == torch.float32
        assert torch.equal(half[key], value.half().float())


def test_the_card_says_what_the_model_is(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: noisette\n")
    assert "| labels | a, b, c |" in card
    assert "| trained_on | nothing \\| at all |" in card
    assert "generate(label='a', seed=0)" in card


def test_nothing_is_overwritten_unasked(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        Model.new(SPEC).save(folder)
    assert (folder / "model.safetensors").read_bytes() == weights
    Model.new(SPEC).save(folder, overwrite=True)
    assert (folder / "model.safetensors").read_bytes() != weights


def test_training_a_loaded_model_does_not_write_into_its_file(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    net = Model.load(folder).denoiser.net
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    assert (folder / "model.safetensors").read_bytes() == weights


def tamper(folder: Path, change: str) -> None:
    path = folder / "model.safetensors"
    state = dict(load_file(path))
    first = min(state)
    match change:
        case "missing":
            del state[first]
        case "unknown":
            state["extra.weight"] = torch.zeros(1)
        case "shape":
            state[first] = torch.zeros(7, 7)
        case "integers":
            state[first] = state[first].int()
        case "cut":
            path.write_bytes(path.read_bytes()[:-100])
            return
        case "noise":
            path.write_bytes(b"\x80\x04 not a file of tensors")
            return
        case "gone":
            path.unlink()
            return
    save_file({key: value.clone() for key, value in state.items()}, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "misses 1 tensors of this network"),
        ("unknown", "has unknown 1 tensors of this network, such as 'extra.weight'"),
        ("shape", r"has shape \[7, 7\], but the network described needs \["),
        ("integers", "int32, which are not weights"),
        ("cut", "not a whole safetensors file"),
        ("noise", "not a whole safetensors file"),
        ("gone", "there is no model.safetensors"),
    ],
)
def test_weights_that_do_not_fit_are_told_in_one_line(folder: Path, change: str, message: str) -> None:
    tamper(folder, change)
    with pytest.raises(UserError, match=message) as caught:
        Model.load(folder)
    assert "\n" not in str(caught.value)


def test_a_description_of_a_giant_costs_no_memory(folder: Path) -> None:
    record = json.loads((folder / "model.json").read_text())
    record["spec"]["net"] |= {"model_channels": 2**16, "norm_groups": 32}
    (folder / "model.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"has shape .*, but the network described needs"):
        Model.load(folder)


def test_names_lead_to_folders(folder: Path, tmp_path: Path) -> None:
    home, run = tmp_path / "home", tmp_path / "run"
    Model.new(SPEC, notes={"trained_on": "dust"}).save(home / "shipped", dtype=torch.float16)
    Model.new(SPEC).save(run / "model")
    assert find_model("shipped", home) == home / "shipped"
    assert find_model(folder, home) == folder
    assert find_model(str(run), home) == run / "model"
    for name, message in (
        ("shiped", r"there is no model 'shiped': .*\(the models that ship are: shipped\)"),
        ("", "there is no model ''"),
        (str(tmp_path), "holds no model: there is no model.json"),
    ):
        with pytest.raises(UserError, match=message):
            find_model(name, home)
    (listing,) = embedded_models(home)
    net = Model.new(SPEC).denoiser.net
    assert (listing.name, listing.notes) == ("shipped", {"trained_on": "dust"})
    assert listing.parameters == sum(p.numel() for p in net.parameters())
    assert listing.size == (home / "shipped" / "model.safetensors").stat().st_size


def test_what_ships_is_small_and_loads() -> None:
    for listing in embedded_models():
        assert listing.size <= 30e6
        assert Model.load(listing.name).spec.name == listing.name


def test_a_description_that_is_no_file_or_too_long(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no model.json"):
        read_spec(tmp_path)
    (tmp_path / "model.json").write_bytes(b" " * (2**22 + 1))
    with pytest.raises(UserError, match="too large"):
        read_spec(tmp_path)
    with pytest.raises(UserError, match=r"there is no model.safetensors"):
        read_weights(tmp_path / "model.safetensors", SPEC.build)
