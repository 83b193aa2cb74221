from __future__ import annotations

import pytest
import torch

from noisette.training import Draws
from noisette.training.draws import mix


def everything(draws: Draws, count: int) -> list[torch.Tensor]:
    return [draws.uniform(count), draws.stratified(count), draws.normal(torch.zeros(count, 1, 3, 3))]


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_draw_together_what_one_draws_alone(processes: int) -> None:
    whole = everything(Draws(7, 3), 8)
    own = 8 // processes
    parts = [everything(Draws(7, 3, first=rank * own, total=8), own) for rank in range(processes)]
    for alone, together in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(alone, torch.cat(together))


def test_draws_are_a_function_of_seed_and_step() -> None:
    a, b = everything(Draws(7, 3), 4), everything(Draws(7, 3), 4)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    for other in (Draws(7, 4), Draws(8, 3), Draws(3, 7)):
        assert not torch.equal(other.uniform(4), a[0])


def test_stratified_numbers_have_one_in_each_stratum_and_are_uniform() -> None:
    u = torch.stack([Draws(0, step).stratified(16) for step in range(2000)])
    assert torch.equal((u * 16).floor().long().sort(1).values, torch.arange(16).expand(2000, 16))
    assert torch.allclose(u[:, 5].mean(), torch.tensor(0.5, dtype=torch.float64), atol=0.03)
    assert torch.allclose(u[:, 5].var(), torch.tensor(1 / 12, dtype=torch.float64), atol=0.005)


def test_seeds_are_mixed() -> None:
    seeds = {mix(seed, step) for seed in range(50) for step in range(50)}
    assert len(seeds) == 2500 and all(0 <= seed < 2**63 for seed in seeds)
    assert mix(1, "weights") != mix(1, "dropout")
