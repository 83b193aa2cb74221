from __future__ import annotations

from datetime import timedelta
from functools import reduce
from pathlib import Path

import pytest
import scipy.linalg
import torch
from torch import nn

from noisette.errors import UserError
from noisette.metrics import Statistics, evaluate, frechet_distance, quantize


def gaussian(mean: torch.Tensor, covariance: torch.Tensor) -> Statistics:
    """Statistics that have exactly this mean and covariance."""
    return Statistics(torch.tensor(101.0).double(), mean.double(), covariance.double() * 100)


def sample(n: int, d: int, seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=rng)
    return torch.randn(n, d, generator=rng) @ mix + torch.randn(d, generator=rng)


def same(a: Statistics, b: Statistics, rtol: float = 1e-12) -> None:
    for x, y in zip(vars(a).values(), vars(b).values(), strict=True):
        assert x.dtype == torch.float64
        torch.testing.assert_close(x, y, rtol=rtol, atol=1e-9)


def test_closed_form_for_commuting_covariances():
    s, t = torch.tensor([1.0, 4.0, 0.25]), torch.tensor([9.0, 1.0, 0.0])
    a, b = gaussian(torch.zeros(3), s.diag()), gaussian(torch.tensor([1.0, 2.0, 2.0]), t.diag())
    expected = 9 + (s.sqrt() - t.sqrt()).square().sum().item()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-13)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-13)


def test_rotation_invariance():
    q, _ = torch.linalg.qr(sample(6, 6, 0).double())
    a, b = sample(40, 6, 1).double(), sample(40, 6, 2).double()
    plain = frechet_distance(Statistics.of(a), Statistics.of(b))
    assert frechet_distance(Statistics.of(a @ q), Statistics.of(b @ q)) == pytest.approx(plain, rel=1e-11)


def test_agrees_with_the_matrix_root_of_scipy():
    a, b = Statistics.of(sample(500, 24, 1)), Statistics.of(sample(400, 24, 2))
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy()).real.trace()
    expected = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-10)


def test_equal_sets_are_zero_even_when_the_covariance_is_singular():
    a = Statistics.of(sample(10, 64, 3))
    assert 0 <= frechet_distance(a, a) < 1e-10 * a.covariance.trace().item()


def test_streaming_and_merging_equal_one_batch():
    rows = sample(300, 16, 4) + 1e3
    whole = Statistics.of(rows)
    assert torch.allclose(whole.covariance, rows.double().T.cov(), rtol=1e-10)
    parts = [Statistics.of(piece) for piece in rows.split([1, 99, 150, 50])]
    same(reduce(Statistics.merge, parts), whole)
    same(reduce(Statistics.merge, reversed(parts)), whole)
    streamed = Statistics.of(rows[:10])
    for piece in rows[10:].split(33):
        streamed = streamed.update(piece)
    same(streamed, whole)


def gather(rank: int, store: str, rows: torch.Tensor) -> None:
    from torch import distributed

    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    mine = rows[:30] if rank == 0 else rows[30:]
    same(Statistics.of(mine).across_processes(), Statistics.of(rows))
    distributed.destroy_process_group()


def test_two_processes_see_the_statistics_of_all(tmp_path: Path):
    rows = sample(100, 5, 5)
    same(Statistics.of(rows).across_processes(), Statistics.of(rows))
    context = torch.multiprocessing.get_context("fork")
    workers = [
        context.Process(target=gather, args=(rank, str(tmp_path / "store"), rows)) for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(90)
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_wrong_inputs_are_told():
    with pytest.raises(UserError, match="size 3 and 4"):
        frechet_distance(Statistics.of(torch.rand(9, 3)), Statistics.of(torch.rand(9, 4)))
    with pytest.raises(UserError, match="at least 2"):
        frechet_distance(Statistics.of(torch.rand(1, 3)), Statistics.of(torch.rand(9, 3)))
    with pytest.raises(UserError, match="N >= 1"):
        Statistics.of(torch.rand(0, 3))


class Projection(nn.Module):
    """A feature network that torchmetrics accepts: images of any values to [B, 8]."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.randn(3 * 8 * 8, 8, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.to(self.matrix.dtype).flatten(1) @ self.matrix).tanh()


def test_agrees_with_torchmetrics_on_the_same_features():
    from torchmetrics.image.fid import FrechetInceptionDistance

    rng = torch.Generator().manual_seed(1)
    real = torch.rand(200, 3, 8, 8, generator=rng) * 2 - 1
    fake = torch.randn(200, 3, 8, 8, generator=rng) * 0.4
    peer = FrechetInceptionDistance(feature=Projection(), input_img_size=(3, 8, 8))
    peer.set_dtype(torch.float64)
    peer.update(quantize(real), real=True)
    peer.update(quantize(fake), real=False)
    ours = evaluate(Projection(), real, fake)["frechet"]
    assert ours == pytest.approx(peer.compute().item(), rel=1e-5)
