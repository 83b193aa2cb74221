from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from noisette.errors import UserError
from noisette.metrics.perceptual import filters, perceptual_distance, perceptual_features

# Of the filters' bytes, on every machine.
DIGEST = "f8cb551e604ea91f65ee94146080d1d6b720777381f94ea5a8a3914dc22516ea"


def picture(seed: int = 0, side: int = 64) -> Tensor:
    """Overlapping discs with edges, shading and some texture, [1, 3, side, side]."""
    rng = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(*[torch.linspace(0, 1, side)] * 2, indexing="ij")
    image = (rows * 0.6 - 0.3).expand(3, -1, -1).clone()
    for _ in range(14):
        y, x, radius, *colour = torch.rand(6, generator=rng).tolist()
        inside = (rows - y) ** 2 + (columns - x) ** 2 < (0.05 + 0.2 * radius) ** 2
        light = torch.tensor(colour)[:, None, None] * 1.6 - 0.8 + 0.15 * torch.sin(40 * (rows + x * columns))
        image = torch.where(inside, light, image)
    return image.clamp(-0.9, 0.9)[None]


def blurred(x: Tensor, width: float) -> Tensor:
    reach = math.ceil(3 * width)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width) ** 2)
    kernel = (bell[:, None] * bell / bell.sum() ** 2).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(x, (reach,) * 4, mode="replicate"), kernel, groups=3)


def test_zero_for_equal_positive_otherwise_and_symmetric():
    x, y = picture(0), picture(1)
    assert perceptual_distance(x, x.clone()).tolist() == [0]
    assert perceptual_distance(x, y).item() > 0.5
    assert torch.equal(perceptual_distance(x, y), perceptual_distance(y, x))


@pytest.mark.parametrize("seed", range(3))
def test_blur_is_farther_than_an_equal_change_of_light(seed):
    x = picture(seed)
    for width in (0.7, 1.5, 3.0):
        soft = blurred(x, width)
        error = (soft - x).abs().mean()
        far = perceptual_distance(x, soft)
        assert far > 4 * perceptual_distance(x, x + error)
        assert far > 4 * perceptual_distance(x, x - error)


def test_more_blur_longer_shifts_and_stronger_tints_are_farther():
    x = picture()
    red = torch.tensor([1.0, -0.5, -0.5]).view(1, 3, 1, 1)
    rows = [
        [perceptual_distance(x, blurred(x, width)).item() for width in (0.5, 1, 2, 4)],
        [perceptual_distance(x[..., 8:], x[..., 8 - k : 64 - k]).item() for k in (1, 2, 4, 8)],
        [perceptual_distance(x, x + red * tint).item() for tint in (0.05, 0.1, 0.2, 0.4)],
    ]
    for row in rows:
        assert row == sorted(row)
        assert row[0] > 1e-3


def test_each_picture_is_measured_alone():
    x, y = (torch.cat([picture(seed) for seed in seeds]) for seeds in ((0, 1, 2), (3, 1, 4)))
    alone = torch.cat([perceptual_distance(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    together = perceptual_distance(x, y)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=0)
    assert together[1] == 0


def test_gradients_are_right_and_reach_every_pixel_of_both():
    x, y = picture(0, 16).double().requires_grad_(), picture(1, 16).double().requires_grad_()
    gx, gy = torch.autograd.grad(perceptual_distance(x, y).sum(), [x, y])
    assert gx.ne(0).all() and gy.ne(0).all()
    direction = torch.randn_like(x)
    with torch.no_grad():
        up, down = (perceptual_distance(x + h * direction, y) for h in (1e-6, -1e-6))
    assert (gx * direction).sum().item() == pytest.approx(((up - down) / 2e-6).item(), rel=1e-4)


def test_following_the_gradient_sharpens_a_blurred_picture():
    target = picture()
    x = blurred(target, 1.5).requires_grad_()
    start, error = perceptual_distance(x, target).item(), (x - target).square().mean().item()
    optimizer = torch.optim.Adam([x], 0.02)
    for _ in range(30):
        optimizer.zero_grad()
        perceptual_distance(x, target).sum().backward()
        optimizer.step()
    assert perceptual_distance(x, target).item() < 0.2 * start
    assert (x - target).square().mean().item() < error


def test_plain_grey_neither_breaks_nor_explodes_the_gradient():
    grey = torch.zeros(1, 3, 32, 32, requires_grad=True)
    distance = perceptual_distance(grey, grey.detach() + 1e-4)
    (grad,) = torch.autograd.grad(distance.sum(), grey)
    assert distance.item() < 1e-3
    assert grad.isfinite().all() and grad.norm() < 1


def test_filters_are_he_scaled_and_nearly_normal():
    for depth, weight in enumerate(filters()):
        fan_in = weight[0].numel()
        keeps = (
            8 / 9 + 1 / 9 / 16 if depth == 0 else 1
        )  # a quarter of the mean is a sixteenth of its variance
        assert weight.var().item() == pytest.approx(2 / fan_in * keeps, rel=0.15 if depth == 0 else 0.02)
        assert abs(weight.mean()) < 3 * (2 / fan_in / weight.numel()) ** 0.5
    deep = torch.cat([weight.flatten() / weight.std() for weight in filters()[1:]])
    assert deep.pow(4).mean().item() == pytest.approx(
        3 - 0.3, abs=0.03
    )  # four uniform bytes: excess -1.2 / 4


def digest() -> str:
    return hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in filters())).hexdigest()


def test_the_filters_have_the_same_bits_everywhere():
    assert digest() == DIGEST


def test_the_distance_has_the_same_bits_in_every_process():
    code = (
        "import torch; torch.set_num_threads(1); torch.manual_seed(7); torch.rand(5)\n"
        "from noisette.metrics.perceptual import perceptual_distance as d\n"
        "x = torch.arange(3 * 33 * 20).view(1, 3, 33, 20) % 101 / 50 - 1\n"
        "print(d(x, x.flip(3)).item().hex())"
    )
    source = Path(__file__).parents[2] / "src"
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=source
    )
    x = torch.arange(3 * 33 * 20).view(1, 3, 33, 20) % 101 / 50 - 1
    assert perceptual_distance(x, x.flip(3)).item().hex() == there.stdout.strip()


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (40, 23)])
def test_any_size_and_half_precision(size):
    x, y = torch.rand(2, 1, 3, *size) * 2 - 1
    distance = perceptual_distance(x, y)
    assert 0 < distance.item() <= 10
    assert perceptual_distance(x.bfloat16(), y.bfloat16()).item() == pytest.approx(distance.item(), rel=0.02)


def test_a_first_call_in_inference_mode_leaves_later_ones_differentiable():
    from noisette.metrics import perceptual

    perceptual._filters.cache_clear()
    with torch.inference_mode():
        perceptual_distance(picture(0, 16), picture(1, 16))
    x = picture(0, 16).requires_grad_()
    perceptual_distance(x, picture(1, 16)).sum().backward()
    assert x.grad.any()


def test_wrong_shapes_are_told():
    good = torch.zeros(1, 3, 16, 16)
    for other in (torch.zeros(2, 3, 16, 16), torch.zeros(1, 1, 16, 16), good[..., :15], good[0]):
        with pytest.raises(UserError, match="at least 16"):
            perceptual_distance(other, other if other.shape[0] != 2 else good)


def test_features_are_those_of_the_distance_averaged_over_the_picture():
    colours = (0.9, -0.2, 0.1), (-0.5, 0.3, 0.8)
    plain = [torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 32, 24) for colour in colours]
    x, y = (perceptual_features(picture) for picture in plain)
    assert x.shape == (1, 480)
    torch.testing.assert_close((x - y).square().sum(1), perceptual_distance(*plain), rtol=1e-4, atol=1e-6)
    noise = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    shifted = perceptual_features(noise.roll(8, 3))
    assert (perceptual_features(noise) - shifted).norm() < 0.2 * (shifted[0] - x).norm()
    with pytest.raises(UserError, match="sides of at least 16"):
        perceptual_features(noise[:, :1])
