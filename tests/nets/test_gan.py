from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from noisette.errors import UserError
from noisette.nets.gan import (
    PatchDiscriminator,
    PatchDiscriminatorConfig,
    adaptive_weight,
    discriminator_hinge,
    generator_hinge,
)

SMALL = PatchDiscriminatorConfig(channels=8, norm_groups=4)


def test_default_shape_is_pix2pix():
    net = PatchDiscriminator(PatchDiscriminatorConfig())
    shapes = [tuple(p.shape) for name, p in net.named_parameters() if p.ndim == 4]
    assert shapes == [(64, 3, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (1, 512, 4, 4)]
    assert net(torch.zeros(2, 3, 256, 256)).shape == (2, 1, 30, 30)
    assert net.body[0].weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_three_layers_see_70_pixels():
    net = PatchDiscriminator(SMALL).double()
    for part in net.body:
        if isinstance(part, torch.nn.GroupNorm):
            part.forward = lambda x: x  # it looks everywhere; here the reach of the convolutions is meant
    x = torch.randn(1, 3, 128, 128, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(net(x)[0, 0, 7, 7], x)
    seen = grad[0].abs().sum(0)
    assert [int(seen.any(axis).sum()) for axis in (0, 1)] == [70, 70]


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_the_smallest_image_leaves_one_logit(layers):
    config = replace(SMALL, layers=layers)
    net = PatchDiscriminator(config)
    side = config.smallest
    assert net(torch.zeros(1, 3, side, side)).shape == (1, 1, 1, 1)
    with pytest.raises(UserError, match=f"at least {side}"):
        net(torch.zeros(1, 3, side, side - 1))
    with pytest.raises(UserError, match=r"\[B, 3, H, W\]"):
        net(torch.zeros(1, 1, side, side))


def test_an_image_is_judged_alike_in_any_company_and_mode():
    net = PatchDiscriminator(SMALL)
    x = torch.randn(3, 3, 40, 32)
    alone = torch.cat([net(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(net(x), alone)
    torch.testing.assert_close(net.eval()(x), alone)


def test_hinge_losses_of_known_logits():
    real = torch.tensor([[2.0, 0.5], [-1.0, 1.0]])
    fake = torch.tensor([[-2.0, -0.5], [0.0, 3.0]])
    assert discriminator_hinge(real, fake).tolist() == pytest.approx([0.5 * (0.25 + 0.25), 0.5 * (1.0 + 2.5)])
    assert generator_hinge(fake).tolist() == pytest.approx([1.25, -1.5])


def test_the_two_sides_pull_apart():
    torch.manual_seed(1)
    net = PatchDiscriminator(replace(SMALL, layers=2))
    real, fake = torch.rand(8, 3, 24, 24) * 0.2 + 0.3, torch.rand(8, 3, 24, 24) - 0.5
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(25):
        optimizer.zero_grad()
        discriminator_hinge(net(real), net(fake)).mean().backward()
        optimizer.step()
    assert net(real).mean() > 0.5
    assert net(fake).mean() < -0.5
    picture = fake.clone().requires_grad_()
    (grad,) = torch.autograd.grad(generator_hinge(net(picture)).sum(), picture)
    with torch.no_grad():
        assert net(picture - 0.1 * grad / grad.abs().amax()).mean() > net(fake).mean()


def test_the_adaptive_weight_levels_the_gradients():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    reconstruction, adversarial = (3 * weight).sum(), (weight**2).sum()
    expected = 3 * 2**0.5 / (20**0.5 + 1e-4)
    found = adaptive_weight(reconstruction, adversarial, weight)
    assert found.item() == pytest.approx(expected)
    assert not found.requires_grad
    assert adaptive_weight(reconstruction * 1e9, adversarial, weight).item() == 1e4
    (reconstruction + found * adversarial).backward()  # both graphs are still there


def test_numbers_that_do_not_fit_are_told():
    with pytest.raises(UserError, match="1 or more"):
        PatchDiscriminatorConfig(layers=0)
    with pytest.raises(UserError, match="norm_groups 32 does not divide 48"):
        PatchDiscriminatorConfig(channels=24)
