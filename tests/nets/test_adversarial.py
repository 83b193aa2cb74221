from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from noisette.errors import UserError
from noisette.nets.adversarial import (
    ResDiscriminator,
    ResDiscriminatorConfig,
    ResGenerator,
    ResGeneratorConfig,
    gradient_penalty,
    likeness,
    nonsaturating_discriminator,
    nonsaturating_generator,
)

DRAWS = ResGeneratorConfig(16, 1, 6, (8, 12), num_classes=3, norm_groups=4)
JUDGES = ResDiscriminatorConfig(16, 1, (6, 10), num_classes=3)


def test_pictures_have_their_shape_and_lie_between_black_and_white():
    net = ResGenerator(DRAWS)
    assert DRAWS.side == 4 and net.noise_shapes == ((6,),)
    drawn = net.draw([3 * torch.randn(5, 6)], torch.tensor([0, 1, 2, 0, 1]))
    assert drawn.shape == (5, 1, 16, 16) and drawn.abs().max() <= 1 and drawn.std() > 0.05


def test_noise_and_class_decide_the_picture():
    net, z = ResGenerator(DRAWS), torch.randn(1, 6)
    with torch.no_grad():  # new, its residual branches are at zero
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    one, other = (net.draw([z], torch.tensor([k])) for k in (0, 1))
    assert (one - other).abs().max() > 1e-3
    assert (one - net.draw([-z], torch.tensor([0]))).abs().max() > 1e-2


@pytest.mark.parametrize("count", [1, 4])
def test_a_picture_does_not_depend_on_those_beside_it(count):
    net, judge = ResGenerator(DRAWS), ResDiscriminator(replace(JUDGES, compared=0))
    z, label = torch.randn(4, 6), torch.tensor([2, 0, 1, 1])
    together = net.draw([z], label)
    alone = torch.cat([net.draw([z[i : i + 1]], label[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        judge(together, label)[:count], judge(together[:count], label[:count]), rtol=1e-4, atol=1e-5
    )


def test_a_new_judge_tells_classes_apart_and_refuses_other_sizes():
    judge, x = ResDiscriminator(JUDGES), torch.randn(2, 1, 16, 16)
    logits = judge(x, torch.tensor([0, 1]))
    assert logits.shape == (2,) and (judge(x, torch.tensor([2, 2])) - logits).abs().min() > 1e-4
    with pytest.raises(UserError, match=r"takes \[B, 1, 16, 16\], not \[2, 1, 8, 8\]"):
        judge(x[..., :8, :8], torch.tensor([0, 1]))


def test_images_of_one_class_are_compared_with_each_other_and_no_others():
    numbers = torch.tensor([[0.0, 0.0], [1.0, 3.0], [5.0, 5.0], [0.0, 2.0]])
    found = likeness(numbers, torch.tensor([4, 4, 1, 4]))
    near = {key: math.exp(-value) for key, value in {"01": 2, "03": 1, "13": 1}.items()}
    wanted = [near["01"] + near["03"], near["01"] + near["13"], 0, near["03"] + near["13"]]
    assert found.tolist() == pytest.approx([one / 2 for one in wanted])
    judge, x = ResDiscriminator(JUDGES), torch.randn(4, 1, 16, 16)
    apart, same = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 0, 2, 2])
    torch.testing.assert_close(judge(x, apart)[:1], judge(x[:1], apart[:1]))
    assert (judge(x, same)[0] - judge(x[:1], same[:1])[0]).abs() > 1e-6


def test_the_losses_are_those_of_a_classifier_of_real_and_fake():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([-0.5, 30.0])
    one, none = torch.ones(2), torch.zeros(2)
    entropy = F.binary_cross_entropy_with_logits
    wanted = entropy(real, one, reduction="none") + entropy(fake, none, reduction="none")
    torch.testing.assert_close(nonsaturating_discriminator(real, fake), wanted)
    torch.testing.assert_close(nonsaturating_generator(fake), entropy(fake, one, reduction="none"))
    far = torch.tensor([-30.0], requires_grad=True)  # the adversary is sure, and the generator still learns
    assert torch.autograd.grad(nonsaturating_generator(far).sum(), far)[0].item() == pytest.approx(-1)


def test_the_penalty_of_a_linear_judge_is_known():
    weight = torch.randn(12, requires_grad=True)
    penalty = gradient_penalty(lambda x: x.flatten(1) @ weight, torch.randn(5, 3, 2, 2), 0.3)
    torch.testing.assert_close(penalty, (0.15 * weight.square().sum()).expand(5))
    penalty.mean().backward()
    torch.testing.assert_close(weight.grad, 0.3 * weight)


def test_the_penalty_is_float32_under_autocast():
    judge = ResDiscriminator(JUDGES)
    x, label = torch.randn(3, 1, 16, 16), torch.tensor([0, 1, 2])
    exact = gradient_penalty(lambda x: judge(x, label), x, 1.0)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        half = gradient_penalty(lambda x: judge(x, label), x, 1.0)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact)


def test_the_two_sides_pull_apart():
    judge = ResDiscriminator(JUDGES)
    label = torch.arange(6) % 3
    real, fake = torch.rand(6, 1, 16, 16), torch.rand(6, 1, 16, 16) - 1
    optimizer = torch.optim.Adam(judge.parameters(), 2e-3)
    for _ in range(20):
        optimizer.zero_grad()
        nonsaturating_discriminator(judge(real, label), judge(fake, label)).mean().backward()
        optimizer.step()
    assert judge(real, label).min() > 0.5 and judge(fake, label).max() < -0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: replace(DRAWS, image_size=18), "draws sides divisible by 4, not 18"),
        (lambda: replace(DRAWS, widths=(8, 10)), "norm_groups 4 does not divide 10"),
        (lambda: replace(DRAWS, latent=0), "1 or more"),
        (lambda: replace(DRAWS, widths=()), "at least one level"),
        (lambda: replace(JUDGES, image_size=2), "draws sides divisible by 4, not 2"),
    ],
)
def test_numbers_that_do_not_fit_are_told(change, message):
    with pytest.raises(UserError, match=message) as told:
        change()
    assert "\n" not in str(told.value)
