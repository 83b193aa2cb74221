"""Networks under one convention, `net(x [B, 1, H, W], time [B] in [0, 1000)) -> [B, 1, H, W]`.

Each library trains its own network as it is. For the rows that put the same network into every loop,
the wrappers here turn the call of a foreign network into what a loop expects.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn


def parameters(net: nn.Module) -> int:
    """The number of trained numbers."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


class Ours(nn.Module):
    """noisette's U-Net, called plainly."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.net(x, time.float(), {})


class Diffusers(nn.Module):
    """diffusers' UNet2DModel, called plainly."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.net(x, time).sample


class ForOurs(nn.Module):
    """A plain network as noisette's denoiser calls it."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, x: Tensor, time: Tensor, cond: Any) -> Tensor:
        return self.plain(x, time)


class ForDiffusers(nn.Module):
    """A plain network as the loops of diffusers call it."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, x: Tensor, time: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=self.plain(x, time.expand(len(x))))


class ForLucidrains(nn.Module):
    """A plain network as GaussianDiffusion of denoising-diffusion-pytorch calls it."""

    channels = out_dim = 1
    self_condition = False

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, x: Tensor, time: Tensor, x_self_cond: None = None) -> Tensor:
        return self.plain(x, time)
