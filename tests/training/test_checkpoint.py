from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from noisette.errors import UserError
from noisette.training import checkpoint as module
from noisette.training.checkpoint import (
    Checkpoint,
    checkpoint_folders,
    flatten_optimizer,
    load_latest,
    restore_optimizer,
    save,
)


def at(step: int) -> Checkpoint:
    tensors = {"weights": {"a": torch.full((3,), float(step))}, "ema": {"a": torch.zeros(3)}}
    return Checkpoint(step, tensors, {"fact": {"n": step}})


def test_round_trip(tmp_path: Path) -> None:
    save(tmp_path, at(5))
    back = load_latest(tmp_path)
    assert back.step == 5 and back.facts == {"fact": {"n": 5}}
    assert torch.equal(back.tensors["weights"]["a"], torch.full((3,), 5.0))


def test_the_last_ones_and_milestones_stay(tmp_path: Path) -> None:
    for step in range(1, 9):
        save(tmp_path, at(step), keep=2, milestone=3)
    assert [int(path.name[5:]) for path in checkpoint_folders(tmp_path)] == [3, 6, 7, 8]


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_torn_checkpoint_is_passed_over(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, at(1))
    torn = save(tmp_path, at(2)) / name
    data = bytearray(torn.read_bytes())
    if damage == "missing":
        torn.unlink()
    else:
        data[len(data) // 2] ^= 1
        torn.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    with caplog.at_level(logging.WARNING):
        assert load_latest(tmp_path).step == 1
    assert "step-00000002 is damaged" in caplog.text


def test_only_torn_ones_are_an_error(tmp_path: Path) -> None:
    (save(tmp_path, at(1)) / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
        load_latest(tmp_path)
    with pytest.raises(UserError, match="there is no checkpoint in"):
        load_latest(tmp_path / "elsewhere")


class Killed(BaseException):
    """A power cut."""


@pytest.mark.parametrize("after", range(6))
def test_a_kill_between_any_two_files_leaves_the_last_checkpoint(
    tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, at(1))
    written = 0

    def dying(real):
        def call(*arguments, **options):
            nonlocal written
            if written == after:
                raise Killed
            written += 1
            return real(*arguments, **options)

        return call

    # A power cut runs no clean-up either.
    monkeypatch.setattr(module.shutil, "rmtree", lambda *a, **k: None)
    monkeypatch.setattr(module, "save_file", dying(module.save_file))
    monkeypatch.setattr(module, "_fingerprint", dying(module._fingerprint))
    monkeypatch.setattr(module, "_flush", dying(module._flush))
    with pytest.raises(Killed):
        save(tmp_path, at(2))
    monkeypatch.undo()
    assert load_latest(tmp_path).step == 1
    save(tmp_path, at(2))
    assert load_latest(tmp_path).step == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, at(2))
    save(tmp_path, Checkpoint(2, {"weights": {"b": torch.ones(1)}}, {}))
    assert set(load_latest(tmp_path).tensors) == {"weights"}


def test_trap_23_nothing_is_a_pickle(tmp_path: Path) -> None:
    folder = save(tmp_path, at(1))
    for path in folder.iterdir():
        assert path.suffix in (".safetensors", ".json")
        if path.suffix == ".json":
            json.loads(path.read_text())


def test_an_optimizer_goes_on_where_it_was() -> None:
    def nets() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = nn.Linear(3, 2)
        return net, torch.optim.AdamW(net.parameters(), lr=0.1)

    def step(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        net(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    (a, a_optimizer), (b, b_optimizer) = nets(), nets()
    for seed in range(3):
        step(a, a_optimizer, seed)
    tensors, facts = flatten_optimizer(a_optimizer)
    b.load_state_dict(a.state_dict())
    tensors = {name: value.clone() for name, value in tensors.items()}
    restore_optimizer(b_optimizer, tensors, json.loads(json.dumps(facts)))
    for seed in range(3, 6):
        step(a, a_optimizer, seed)
        step(b, b_optimizer, seed)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
