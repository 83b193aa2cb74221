"""Solvers by name, their papers, and noise streams as people meet them."""

from __future__ import annotations

import pytest
import torch

from noisette.errors import UserError
from noisette.schedules import LinearVP
from noisette.solvers import DDIM, DDPM, SOLVER_NAMES, NoiseStreams, citation, solver_named


@pytest.mark.parametrize("name", SOLVER_NAMES)
def test_every_name_is_a_frozen_value_with_a_paper(name: str) -> None:
    solver = solver_named(name, LinearVP())
    assert solver == solver_named(name, LinearVP())
    assert hash(solver) == hash(solver_named(name, LinearVP()))
    bibtex = citation(solver)
    assert bibtex.startswith("@") and "eprint" in bibtex and bibtex.endswith("}")


def test_ddpm_cites_ddpm() -> None:
    assert "Ho, Jonathan" in citation(DDPM()) and "Song, Jiaming" in citation(DDIM())


@pytest.mark.parametrize(
    ("wrong", "meant"), [("dpmpp2m", "dpmpp-2m"), ("DDIM", "ddim"), ("heunn", "heun"), ("uni-pc", "unipc")]
)
def test_an_unknown_name_is_told_the_closest(wrong: str, meant: str) -> None:
    with pytest.raises(UserError) as error:
        solver_named(wrong, LinearVP())
    assert f'"{wrong}"; did you mean "{meant}"?' in str(error.value)
    assert all(name in str(error.value) for name in SOLVER_NAMES)


def test_a_name_like_no_other() -> None:
    with pytest.raises(UserError, match=r'no solver "zzz"\. Solvers: ddim'):
        solver_named("zzz", LinearVP())


def test_noise_streams_are_standard_normal_and_move_on() -> None:
    noise = NoiseStreams(range(8))
    first, second = noise.initial((1, 64, 64)), noise(torch.empty(8, 1, 64, 64, dtype=torch.float64))
    assert first.dtype == torch.float32 and second.dtype == torch.float64
    assert abs(float(first.mean())) < 0.02 and abs(float(first.std()) - 1) < 0.02
    assert abs(float((first * second).mean())) < 0.02
    assert torch.equal(second.float().double(), second)  # drawn in float32 whatever is asked for
    assert torch.equal(first, NoiseStreams(range(8)).initial((1, 64, 64)))


@pytest.mark.parametrize("seeds", [[], [-1], [2**63]])
def test_seeds_that_cannot_be_used(seeds: list[int]) -> None:
    with pytest.raises(UserError):
        NoiseStreams(seeds)


def test_one_seed_for_each_image() -> None:
    with pytest.raises(UserError, match="2 seeds for 3 images"):
        NoiseStreams([1, 2])(torch.zeros(3, 1, 4, 4))
