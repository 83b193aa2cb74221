"""smalldiffusion: its networks, its training loop, its sampler.

Defaults are those of its two FashionMNIST examples, a U-Net and a DiT for 28x28 pixels: batch 1024,
averaged weights through torch-ema, 20 steps with gam 1.6. We differ where the default could only hurt it
here: digits are not mirrored. What it draws at 28x28 is padded to 32x32, as the digits themselves are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bench import nets, stub
from bench.data import Images

STEPS, GAM = 20, 1.6


@dataclass(frozen=True)
class Settings:
    """What its examples choose beside the network: sigma range, learning rate, averaging."""

    ddpm_schedule: bool
    lr: float
    decay: float


UNET = Settings(ddpm_schedule=False, lr=7e-4, decay=0.999)
DIT = Settings(ddpm_schedule=True, lr=1e-3, decay=0.99)


def default_unet() -> nn.Module:
    """The network of its FashionMNIST U-Net example."""
    return _unet(28, 64, (1, 1, 2), 2, (14,))


def default_dit() -> nn.Module:
    """The network of its FashionMNIST DiT example."""
    stub.torchvision_transforms()
    from smalldiffusion import DiT

    return DiT(in_dim=28, channels=1, patch_size=2, depth=6, head_dim=32, num_heads=6, mlp_ratio=4.0)


def equal_net(target: int, side: int = 32) -> nn.Module:
    """Its U-Net of three resolutions in the shape that comes nearest to ``target`` parameters."""
    shapes = [((1, 2, 2), 1), ((1, 1, 2), 2), ((1, 2, 3), 1), ((1, 2, 2), 2), ((1, 1, 3), 2), ((1, 2, 4), 1)]
    sizes = (
        _unet(side, 32, multiples, blocks, (side // 4,), embed)
        for multiples, blocks in shapes
        for embed in (2, 3, 4, 6, 8)
    )
    return min(sizes, key=lambda net: abs(nets.parameters(net) - target))


class Loop:
    """`training_loop` and `samples`, on images [N, 1, H, H] in [-1, 1]."""

    def __init__(
        self, net: nn.Module, images: Tensor, *, batch_size: int = 1024, settings: Settings = UNET
    ) -> None:
        stub.torchvision_transforms()
        from smalldiffusion import ScheduleDDPM, ScheduleLogLinear
        from torch_ema import ExponentialMovingAverage

        self.batch_size, self.parameters = batch_size, nets.parameters(net)
        self.net = net if hasattr(net, "rand_input") else _for_smalldiffusion(net, images.shape[-1])
        self.schedule = (
            ScheduleDDPM(beta_start=0.0001, beta_end=0.02, N=1000)
            if settings.ddpm_schedule
            else ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)
        )
        self.ema = ExponentialMovingAverage(self.net.parameters(), decay=settings.decay)
        self.loader = DataLoader(Images(images), batch_size=batch_size, shuffle=True)
        self.lr = settings.lr
        self.optimizer: Any = None
        self.saved_optimizer: dict[str, Any] | None = None

    def updates(self) -> Iterator[None]:
        from smalldiffusion import training_loop

        # The loop yields before each update: the first item is the start, every later one an update.
        started = False
        for now in training_loop(self.loader, self.net, self.schedule, epochs=10**6, lr=self.lr):
            self.optimizer = now.optimizer
            if self.saved_optimizer is not None:
                now.optimizer.load_state_dict(self.saved_optimizer)
                self.saved_optimizer = None
            if started:
                self.ema.update()
                yield
            started = True

    def sample(self, count: int, steps: int | None = None, *, average: bool = True) -> Tensor:
        from contextlib import nullcontext

        from smalldiffusion import samples

        sigmas = self.schedule.sample_sigmas(steps or STEPS)
        with self.ema.average_parameters() if average else nullcontext():
            *_, x0 = samples(self.net, sigmas, gam=GAM, batchsize=count)
        border = (32 - x0.shape[-1]) // 2
        return F.pad(x0, (border,) * 4, value=-1.0)

    def state(self) -> dict[str, Any]:
        return {
            "model": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.saved_optimizer = state["optimizer"]


def _unet(
    side: int, width: int, multiples: tuple[int, ...], blocks: int, attention: tuple[int, ...], embed: int = 4
) -> nn.Module:
    stub.torchvision_transforms()
    from smalldiffusion import Scaled, Unet

    shape = {"ch_mult": multiples, "num_res_blocks": blocks, "attn_resolutions": attention}
    return Scaled(Unet)(side, 1, 1, ch=width, embed_ch_mult=embed, **shape)


def _for_smalldiffusion(plain: nn.Module, side: int) -> nn.Module:
    """A plain network as its loops call it: at a sigma, which becomes a place in [0, 1000)."""
    from smalldiffusion import ModelMixin, Scaled

    class Adapted(nn.Module, ModelMixin):
        def __init__(self) -> None:
            super().__init__()
            self.plain, self.input_dims = plain, (1, side, side)

        def forward(self, x: Tensor, sigma: Tensor, cond: None = None) -> Tensor:
            time = 130 * (torch.log(sigma) + 4.7).flatten().expand(len(x))
            return self.plain(x, time)

    return Scaled(Adapted)()
