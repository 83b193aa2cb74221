"""The two invariants of the core: reads invert targets, and x = alpha x0 + sigma eps always."""

import pytest
import torch

from noisette.core import EDM, X0, Eps, Flow, Level, Prediction, V

POINTS = [(0.6, 0.8), (1.0, 5.0), (0.3, 0.7), (1.0, 0.0), (0.0, 1.0)]
PARAMETERIZATIONS = [Eps(), X0(), V(), Flow(), EDM(0.5), EDM(1.3)]


def level(alpha: float, sigma: float) -> Level:
    return Level(*(torch.tensor(v, dtype=torch.float64) for v in (0.5, alpha, sigma)))


def pair(dtype=torch.float64):
    return torch.randn(2, 3, 4, 4, dtype=dtype), torch.randn(2, 3, 4, 4, dtype=dtype)


@pytest.mark.parametrize("alpha, sigma", POINTS)
@pytest.mark.parametrize("p", PARAMETERIZATIONS, ids=repr)
def test_read_inverts_target_at_every_level(p, alpha, sigma):
    x0, eps = pair()
    at = level(alpha, sigma)
    if isinstance(p, Eps) and alpha == 0:
        pytest.skip("noise prediction is undefined there")
    x = at.diffuse(x0, eps)
    read = p.read(p.target(x0, eps, at), x, at)
    torch.testing.assert_close(read.x, x)
    if sigma > 0 or not isinstance(p, X0):
        torch.testing.assert_close(read.eps, eps)
    torch.testing.assert_close(read.x0, x0)


@pytest.mark.parametrize("alpha, sigma", POINTS)
@pytest.mark.parametrize("p", PARAMETERIZATIONS, ids=repr)
def test_any_output_is_read_as_a_split_of_x(p, alpha, sigma):
    x, raw = pair()
    if isinstance(p, Eps) and alpha == 0:
        pytest.skip("noise prediction is undefined there")
    torch.testing.assert_close(p.read(raw, x, level(alpha, sigma)).x, x)


def test_trap_3_noise_prediction_refuses_zero_signal():
    x, raw = pair()
    with pytest.raises(ValueError, match="alpha = 0"):
        Eps().read(raw, x, level(0.0, 1.0))


def test_edm_equals_the_coefficients_of_the_paper():
    x, raw = pair()
    sigma, d = 1.7, 0.5
    read = EDM(d).read(raw, x, level(1.0, sigma))
    skip, out = d**2 / (sigma**2 + d**2), sigma * d / (sigma**2 + d**2) ** 0.5
    torch.testing.assert_close(read.x0, skip * x + out * raw)
    torch.testing.assert_close(EDM(d).scale_input(x, level(1.0, sigma)), x / (sigma**2 + d**2) ** 0.5)


def test_edm_gives_the_network_unit_variance():
    x0, eps = 0.5 * torch.randn(200_000, dtype=torch.float64), torch.randn(200_000, dtype=torch.float64)
    for sigma in (0.01, 0.3, 1.0, 20.0):
        at = level(1.0, sigma)
        assert abs(EDM(0.5).target(x0, eps, at).std() - 1) < 0.02
        assert abs(EDM(0.5).scale_input(at.diffuse(x0, eps), at).std() - 1) < 0.02


def test_v_is_edm_with_unit_data_and_the_other_sign():
    x, raw = pair()
    at = level(0.6, 0.8)
    torch.testing.assert_close(V().read(raw, x, at).x0, EDM(1.0).read(-raw, x, at).x0)


def test_views():
    x0, eps = pair()
    at = level(0.6, 0.8)
    p = Prediction(x0, eps, at)
    torch.testing.assert_close(p.v, 0.6 * eps - 0.8 * x0)
    torch.testing.assert_close(p.score, -eps / 0.8)
    torch.testing.assert_close(p.flow, eps - x0)


@pytest.mark.parametrize("alpha, sigma", POINTS[:3])
def test_with_x0_eps_and_score_keep_x(alpha, sigma):
    x0, eps = pair()
    other, _ = pair()
    p = Prediction(x0, eps, level(alpha, sigma))
    for changed in (p.with_x0(other), p.with_eps(other), p.with_score(other)):
        torch.testing.assert_close(changed.x, p.x)
    torch.testing.assert_close(p.with_x0(other).x0, other)
    torch.testing.assert_close(p.with_score(other).score, other)


def test_trap_8_clipping_rederives_eps():
    x0, eps = pair()
    p = Prediction(3 * x0, eps, level(0.6, 0.8))
    clipped = p.with_x0(p.x0.clamp(-1, 1))
    assert not torch.allclose(clipped.eps, p.eps)
    torch.testing.assert_close(0.6 * clipped.x0 + 0.8 * clipped.eps, p.x)


def test_the_ends_stay_finite():
    x0, eps = pair()
    for at in (level(1.0, 0.0), level(0.0, 1.0)):
        p = Prediction(x0, eps, at)
        for changed in (p.with_x0(eps), p.with_eps(x0)):
            assert changed.x0.isfinite().all() and changed.eps.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_state_keeps_its_dtype(dtype):
    x0, eps = pair(dtype)
    per_sample = Level(*(torch.rand(2, 1, 1, 1, dtype=torch.float64) + 0.1 for _ in range(3)))
    for at in (level(0.6, 0.8), per_sample):
        x = at.diffuse(x0, eps)
        assert x.dtype == dtype
        for p in PARAMETERIZATIONS:
            assert p.read(eps, x, at).x0.dtype == p.target(x0, eps, at).dtype == dtype
