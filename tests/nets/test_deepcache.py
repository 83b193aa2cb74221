from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from noisette.conditioning import label_cond, to_null
from noisette.core import Flow, NetDenoiser, ScaledTime, given, guide, sample
from noisette.core.sampling import last
from noisette.errors import UserError
from noisette.nets.deepcache import DeepCache
from noisette.nets.text import Prompted, TextConfig, TextEncoder
from noisette.nets.unet import UNet, UNetConfig
from noisette.schedules import FlowMatching, shifted
from noisette.solvers import DDIM

SMALL = UNetConfig(
    in_channels=2,
    out_channels=2,
    model_channels=8,
    channel_mult=(1, 2),
    num_res_blocks=2,
    attention_levels=(1,),
    num_heads=2,
    norm_groups=4,
    num_classes=3,
)
KINDS = {
    "plain": SMALL,
    "one level": replace(SMALL, channel_mult=(1,), attention_levels=(0,)),
    "residual ways": replace(SMALL, resblock_updown=True, patch_size=2, learned_variance=True),
}
LABEL = torch.tensor([0, 2, -1])


@pytest.fixture
def net(shaken: Callable[[nn.Module], nn.Module]) -> UNet:
    torch.manual_seed(0)
    return shaken(UNet(SMALL)).double()


def noisy(batch: int = 3, side: int = 8) -> Tensor:
    return torch.randn(batch, 2, side, side, generator=torch.Generator().manual_seed(1)).double()


def deep_calls(net: UNet) -> list[int]:
    """A list that grows with every run of the middle."""
    seen: list[int] = []
    net.mid[0].register_forward_hook(lambda *_: seen.append(1))
    return seen


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("branch", [0, 1, 2])
def test_over_its_own_deep_feature_a_shallow_call_is_a_whole_one(kind, branch, shaken) -> None:
    net, x, time = shaken(UNet(KINDS[kind])).double(), noisy(), torch.rand(3) * 999
    cond = {"label": LABEL}
    out, deep = net.through(x, time, cond, branch=branch)
    again, same = net.through(x, time, cond, branch=branch, deep=deep)
    assert torch.equal(out, net(x, time, cond)) and torch.equal(again, out) and same is deep
    other = net.through(x, time, cond, branch=branch, deep=deep + torch.randn_like(deep))[0]
    assert (other - out).flatten(1).abs().amax(1).min() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("branch", [0, 1, 2])
def test_only_the_stages_of_the_branch_run_again(branch: int, net: UNet) -> None:
    ran: list[str] = []
    for name, module in net.named_modules():
        if name.endswith((".res", ".resample")):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    cached = DeepCache(net, 2, branch)
    for _ in range(2):
        ran.clear()
        cached(noisy(), torch.full((3,), 500.0), {"label": LABEL})
    down = [f"down.0.stages.{i}.res" for i in range(branch)]
    assert ran == down + [f"up.0.stages.{i}.res" for i in range(2 - branch, 3)]


@torch.no_grad()
def test_every_1_is_the_network_itself(net: UNet) -> None:
    cached, seen = DeepCache(net, 1), deep_calls(net)
    for time in (900.0, 500.0, 100.0):
        told = (noisy() * time / 900, torch.full((3,), time), {"label": LABEL})
        assert torch.equal(cached(*told), net(*told))
    assert len(seen) == 6 and dict(cached.named_parameters()).keys() == {
        f"net.{name}" for name, _ in net.named_parameters()
    }


@torch.no_grad()
def test_the_deep_part_runs_in_every_third_call(net: UNet) -> None:
    cached, seen, x = DeepCache(net, 3), deep_calls(net), noisy()
    counts = []
    for _ in range(7):
        cached(x, torch.full((3,), 500.0), {"label": LABEL})
        counts.append(len(seen))
    assert counts == [1, 1, 1, 2, 2, 2, 3]
    cached.reset()
    cached(x, torch.full((3,), 500.0), {"label": LABEL})
    assert len(seen) == 4


@torch.no_grad()
def test_another_shape_starts_anew(net: UNet) -> None:
    cached, seen = DeepCache(net, 5), deep_calls(net)
    for x in (noisy(), noisy(), noisy(2), noisy(2), noisy(2, 12), noisy(2, 12).float().double()):
        cached(x, torch.full((len(x),), 500.0), {"label": LABEL[: len(x)]})
    assert len(seen) == 3


def trajectory(net: nn.Module, x: Tensor, steps: int, label: Tensor = LABEL) -> Tensor:
    # A random network is smooth in a time of this size, and flow matching divides by nothing small.
    denoiser = NetDenoiser(net, Flow(), ScaledTime(2.0))
    guided = guide(denoiser, given(denoiser, to_null), 2.0)
    levels = shifted(FlowMatching(), steps, 1.0)
    return last(sample(guided, x, levels, DDIM(), cond=label_cond(label)))


def distance(net: UNet, every: int, steps: int, branch: int = 0) -> float:
    wanted = trajectory(net, noisy(), steps)
    found = trajectory(DeepCache(net, every, branch), noisy(), steps)
    return float((found - wanted).norm() / wanted.norm())


def test_the_error_grows_with_every_and_vanishes_with_steps(net: UNet) -> None:
    assert distance(net, 1, 4) == 0
    by_every = [distance(net, every, 12) for every in (2, 3, 6)]
    assert 0 < by_every[0] < by_every[1] < by_every[2]
    # Of first order: a quarter of the step, a quarter of the error.
    by_steps = [distance(net, 3, steps) for steps in (6, 24)]
    assert by_steps[0] > 3 * by_steps[1] > 0


def test_guidance_is_one_lane_beside_the_other_and_an_image_is_itself_alone_trap_30(net: UNet) -> None:
    seen = deep_calls(net)
    together = trajectory(DeepCache(net, 3), noisy(), 7)
    assert len(seen) == 3
    for i in range(3):
        alone = trajectory(DeepCache(net, 3), noisy()[i : i + 1], 7, LABEL[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_it_stands_inside_prompted(shaken) -> None:
    net = UNet(replace(SMALL, num_classes=None, context_dim=16))
    text = TextConfig(40, 16, 24, 2, 4, 9, bos_token_id=37, eos_token_id=38)
    whole = shaken(Prompted(net, TextEncoder(text)))
    cached = Prompted(DeepCache(whole.net, 2), whole.text)
    x, cond = noisy().float(), {"ids": torch.tensor([[37, 5, 38], [37, 6, 38], [37, 7, 38]])}
    first = torch.full((3,), 800.0)
    assert torch.equal(cached(x, first, cond), whole(x, first, cond))
    assert not torch.equal(cached(x, first - 100, cond), whole(x, first - 100, cond))


def test_numbers_that_do_not_fit_are_named(net: UNet) -> None:
    with pytest.raises(UserError, match="every 0 must be 1 or more"):
        DeepCache(net, 0)
    for branch in (-1, 3):
        with pytest.raises(UserError, match=f"branch {branch} must lie in 0 to 2"):
            DeepCache(net, 2, branch)
