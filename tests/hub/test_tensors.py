"""Files of tensors: mapped, a few tensors at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from noisette.hub.tensors import MAPPED_TOGETHER, read_tensors

MAPS = Path("/proc/self/maps")
AT_A_TIME = 3 * MAPPED_TOGETHER + 1


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    wanted = {f"w{i:03}": torch.randn(3, i) for i in range(AT_A_TIME)} | {"half": torch.randn(5).half()}
    save_file(wanted, tmp_path / "a.safetensors")
    found = read_tensors(tmp_path / "a.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert found["half"].dtype == torch.float16


def test_a_file_of_no_tensors_is_read(tmp_path: Path) -> None:
    save_file({}, tmp_path / "a.safetensors")
    assert read_tensors(tmp_path / "a.safetensors") == {}


def test_tensors_that_are_gone_let_their_pages_go(tmp_path: Path) -> None:
    """Whoever casts tensor by tensor holds no more than a few of a file at once."""
    if not MAPS.is_file():
        pytest.skip("the system does not tell what is mapped where")
    path = tmp_path / "a.safetensors"
    save_file({f"w{i:03}": torch.randn(64, 64) for i in range(AT_A_TIME)}, path)
    found, mapped = read_tensors(path), []
    while found:
        mapped.append(_mapped(path))
        del found[next(iter(found))]
    assert len(set(mapped)) == 4 and mapped == sorted(mapped, reverse=True)
    assert _mapped(path) == 0


def _mapped(path: Path) -> int:
    return sum(line.endswith(str(path)) for line in MAPS.read_text().splitlines())
