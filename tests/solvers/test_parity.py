"""Solvers against diffusers' schedulers: one eps function, the same rows, the same noise.

Native peers keep their tables (alphas_cumprod, sigmas) in float32, where 1 - alphas_cumprod has lost four
digits at the first rows; that alone is up to 1e-5 in the result. To compare in float64 the peers' modules
see `torch` and `numpy` whose float32 is float64, so that nothing else of theirs changes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from noisette.core import Cond, Eps, IndexTime, Level, Prediction, Schedule, last, sample
from noisette.schedules import LinearVP, ScaledLinearVP, karras, leading, trailing
from noisette.solvers import DDIM, DDPM, PLMS, PNDM, DPMSolverPP, Euler, EulerAncestral, Heun, UniPC

diffusers = pytest.importorskip("diffusers")

# NumPy 2 reads a torch tensor in the way that torch has not yet adapted to.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (2, 3, 4, 4)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
STABLE_DIFFUSION = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}


def eps_function(x: Tensor, row: Tensor) -> Tensor:
    """Smooth and nonlinear in x and time: what stands in for a network."""
    row = row.to(x.dtype)
    return torch.tanh(0.6 * x + 0.4 * torch.sin(row / 300)) + 0.2 * torch.cos(3 * x + row / 500)


def denoiser(x: Tensor, level: Level, cond: Cond) -> Prediction:
    return Eps().read(eps_function(x, IndexTime()(level)), x, level)


class _Doubled(ModuleType):
    """A module whose float32 is float64."""

    def __init__(self, module: ModuleType) -> None:
        super().__init__(module.__name__)
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, "float64" if name == "float32" else name)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def peers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """``make(name, **config)`` builds a scheduler in the precision under test and feeds it our noise."""
    dtype = request.param
    stream = torch.Generator()

    def noise(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=stream, dtype=torch.float64).to(dtype)

    def make(name: str, **config: Any) -> Any:
        peer = getattr(diffusers, name)
        module = sys.modules[peer.__module__]
        if hasattr(module, "randn_tensor"):
            monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: noise(shape))
        if dtype == torch.float64:
            monkeypatch.setattr(module, "torch", _Doubled(torch))
            monkeypatch.setattr(module, "np", _Doubled(numpy))
        return peer(num_train_timesteps=1000, **config)

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield SimpleNamespace(make=make, noise=noise, dtype=dtype, rewind=lambda: stream.manual_seed(1))
    torch.set_default_dtype(before)


def start(dtype: torch.dtype) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def theirs(peers: SimpleNamespace, peer: Any, scale: float | Tensor = 1.0, **step: Any) -> Tensor:
    peers.rewind()
    x = start(peers.dtype) * scale
    for t in peer.timesteps:
        raw = eps_function(peer.scale_model_input(x, t), t)
        x = peer.step(raw, t, x, **step).prev_sample
    return x


def ours(peers: SimpleNamespace, solver: Any, levels: list[Level]) -> Tensor:
    peers.rewind()
    return last(sample(denoiser, start(peers.dtype), levels, solver, noise=lambda x: peers.noise(x.shape)))


def assert_same(peers: SimpleNamespace, a: Tensor, b: Tensor) -> None:
    error = float((a - b).abs().max() / b.abs().max())
    assert error < TOLERANCE[peers.dtype]


def rows(schedule: Schedule, timesteps: Tensor, end: float = 0.0) -> list[Level]:
    return [schedule((float(t) + 1) / 1000) for t in timesteps] + [schedule(end)]


GRIDS: dict[str, Callable[..., list[Level]]] = {"leading": leading, "trailing": trailing}


@pytest.mark.parametrize(
    ("variance", "spacing"), [("small", "leading"), ("small", "trailing"), ("large", "leading")]
)
def test_ddpm(peers: SimpleNamespace, variance: Any, spacing: str) -> None:
    """The peer leaves out the noise of row 0 only, so that on a trailing grid it returns a noisy image
    with the large variance (trap 10); on a leading grid it agrees."""
    peer = peers.make(
        "DDPMScheduler",
        **LINEAR,
        variance_type=f"fixed_{variance}",
        timestep_spacing=spacing,
        clip_sample=False,
    )
    peer.set_timesteps(20)
    levels = GRIDS[spacing](LinearVP(), 20)
    assert_same(peers, ours(peers, DDPM(variance), levels), theirs(peers, peer))


@pytest.mark.parametrize("spacing", GRIDS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(peers: SimpleNamespace, spacing: str, eta: float) -> None:
    peer = peers.make("DDIMScheduler", **LINEAR, timestep_spacing=spacing, clip_sample=False)
    peer.set_timesteps(20)
    levels = GRIDS[spacing](LinearVP(), 20)
    assert_same(peers, ours(peers, DDIM(eta), levels), theirs(peers, peer, eta=eta))


@pytest.mark.parametrize("n", [2, 3, 20])
def test_plms(peers: SimpleNamespace, n: int) -> None:
    peer = peers.make("PNDMScheduler", **LINEAR, skip_prk_steps=True, set_alpha_to_one=False)
    peer.set_timesteps(n)
    levels = [*leading(LinearVP(), n)[:-1], LinearVP()(1 / 1000)]
    assert_same(peers, ours(peers, PLMS(), levels), theirs(peers, peer))


@pytest.mark.parametrize("n", [4, 7, 20])
def test_pndm_begins_with_runge_kutta_steps(peers: SimpleNamespace, n: int) -> None:
    peer = peers.make("PNDMScheduler", **LINEAR, set_alpha_to_one=False)
    peer.set_timesteps(n)
    assert len(peer.timesteps) == n + 9
    levels = [*leading(LinearVP(), n)[:-1], LinearVP()(1 / 1000)]
    assert_same(peers, ours(peers, PNDM(LinearVP()), levels), theirs(peers, peer))


@pytest.mark.parametrize(("name", "solver"), [("DDIMScheduler", DDIM()), ("PNDMScheduler", PLMS())])
def test_trap_1_stable_diffusion_ends_at_the_first_row(
    peers: SimpleNamespace, name: str, solver: Any
) -> None:
    """Scaled-linear betas, leading spacing with offset 1, and a final alpha that is not 1."""
    more = {"clip_sample": False} if name == "DDIMScheduler" else {"skip_prk_steps": True}
    peer = peers.make(name, **STABLE_DIFFUSION, set_alpha_to_one=False, **more)
    peer.set_timesteps(20)
    assert int(peer.timesteps[0]) == 951
    schedule = ScaledLinearVP()
    levels = [*leading(schedule, 20, offset=1)[:-1], schedule(1 / 1000)]
    assert_same(peers, ours(peers, solver, levels), theirs(peers, peer))


@pytest.mark.parametrize("spacing", GRIDS)
@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("EulerDiscreteScheduler", Euler()),
        ("EulerAncestralDiscreteScheduler", EulerAncestral()),
        ("HeunDiscreteScheduler", Heun()),
    ],
)
def test_peers_in_variance_exploding_coordinates(
    peers: SimpleNamespace, name: str, solver: Any, spacing: str
) -> None:
    """These carry x / alpha; at sigma = 0 it is x again."""
    peer = peers.make(name, **LINEAR, timestep_spacing=spacing)
    peer.set_timesteps(20)
    levels = GRIDS[spacing](LinearVP(), 20)
    scale = (1 / levels[0].alpha).to(peers.dtype)
    assert_same(peers, ours(peers, solver, levels), theirs(peers, peer, scale))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(
    ("solver", "algorithm"),
    [
        (DPMSolverPP(), "dpmsolver++"),
        (DPMSolverPP(sde=True), "sde-dpmsolver++"),
        (DPMSolverPP(order=1), "dpmsolver++"),
    ],
    ids=["2m", "2m-sde", "1"],
)
def test_dpm_solver(peers: SimpleNamespace, solver: DPMSolverPP, algorithm: str, spacing: str) -> None:
    peer = peers.make(
        "DPMSolverMultistepScheduler",
        **LINEAR,
        solver_order=solver.order,
        algorithm_type=algorithm,
        timestep_spacing=spacing,
    )
    peer.set_timesteps(20)
    levels = rows(LinearVP(), peer.timesteps)
    assert_same(peers, ours(peers, solver, levels), theirs(peers, peer))


def test_dpm_solver_on_karras_sigmas(peers: SimpleNamespace) -> None:
    """The peer rounds the rows that it shows to the network, so ours are shown the same."""
    peer = peers.make("DPMSolverMultistepScheduler", **LINEAR, use_karras_sigmas=True)
    peer.set_timesteps(20)
    sigma = peer.sigmas.double()
    alpha = (1 + sigma.square()).rsqrt()
    t = torch.cat([(peer.timesteps.double() + 1) / 1000, torch.zeros(1, dtype=torch.float64)])
    levels = [Level(*level) for level in zip(t, alpha, sigma * alpha, strict=True)]
    assert_same(peers, ours(peers, DPMSolverPP(), levels), theirs(peers, peer))
    grid = torch.stack([level.sigma / level.alpha for level in karras(LinearVP(), 20)])
    # The smallest sigma is the one that a float32 table of 1 - alphas_cumprod knows to three digits.
    torch.testing.assert_close(grid, sigma, rtol=1e-3 if peers.dtype == torch.float32 else 1e-10, atol=0)


@pytest.mark.parametrize("order", [1, 2])
def test_unipc(peers: SimpleNamespace, order: int) -> None:
    peer = peers.make("UniPCMultistepScheduler", **LINEAR, solver_order=order, timestep_spacing="trailing")
    peer.set_timesteps(20)
    levels = trailing(LinearVP(), 20)
    assert_same(peers, ours(peers, UniPC(order), levels), theirs(peers, peer))


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_at_full_order_to_the_end(peers: SimpleNamespace, order: int, variant: Any) -> None:
    """The peer lowers the order at the end, and its bh1 is infinite at sigma = 0: both stop at row 0."""
    peer = peers.make(
        "UniPCMultistepScheduler",
        **LINEAR,
        solver_order=order,
        solver_type=variant,
        timestep_spacing="trailing",
        lower_order_final=False,
        final_sigmas_type="sigma_min",
    )
    peer.set_timesteps(20)
    levels = rows(LinearVP(), peer.timesteps, end=1 / 1000)
    assert_same(peers, ours(peers, UniPC(order, variant), levels), theirs(peers, peer))
