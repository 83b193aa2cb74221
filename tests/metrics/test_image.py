from __future__ import annotations

import pytest
import torch

from noisette.errors import UserError
from noisette.metrics import psnr, ssim


def test_psnr_of_known_errors_per_image():
    target = torch.zeros(2, 3, 16, 16)
    image = torch.stack([target[0] + 0.2, target[1] - 0.02])
    assert psnr(image, target).tolist() == pytest.approx([20, 40], abs=1e-4)
    assert psnr(target, target).isinf().all()


def test_ssim_is_one_for_equal_images_and_follows_its_formula_for_flat_ones():
    image = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert ssim(image, image).tolist() == pytest.approx([1, 1])
    noise = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert (ssim(image, noise) < 0.1).all()
    a, b, c1 = 0.5, 0.25, (0.01 * 2) ** 2
    flat = ssim(torch.full((1, 1, 16, 16), a), torch.full((1, 1, 16, 16), b))
    assert flat.tolist() == pytest.approx([(2 * a * b + c1) / (a * a + b * b + c1)], abs=1e-3)


def test_one_image_and_many_are_measured_alike():
    rng = torch.Generator().manual_seed(1)
    a, b = (torch.rand(3, 1, 16, 16, generator=rng) * 2 - 1 for _ in range(2))
    for measure in (psnr, ssim):
        alone = torch.cat([measure(a[i : i + 1], b[i : i + 1]) for i in range(3)])
        assert torch.allclose(measure(a, b), alone)


def test_wrong_shapes_are_told():
    with pytest.raises(UserError, match="alike"):
        psnr(torch.zeros(1, 1, 16, 16), torch.zeros(1, 3, 16, 16))
    with pytest.raises(UserError, match="11x11"):
        ssim(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))
