"""A normalizing flow of several scales: an invertible network, its exact likelihood, and its inverse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisette.errors import UserError
from noisette.nets.embedding import LabelEmbedding
from noisette.nets.layers import zero

VALUES = 256
"""Of an 8-bit pixel."""

LEAST = 0.05
"""Of a coupling's scale: what draws divides by it."""


@dataclass(frozen=True)
class GlowConfig:
    """Shape of a `Glow`: at each level `steps` steps, whose coupling networks are `widths[level]` wide.

    Level i works at `image_size / 2^(i+1)`. Raises UserError for numbers that do not fit.
    """

    image_size: int = 32
    channels: int = 1
    steps: int = 8
    widths: tuple[int, ...] = (96, 160, 256)
    num_classes: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if not self.widths or min(self.channels, self.steps, self.num_classes, *self.widths) < 1:
            raise UserError("a flow needs at least one level, and 1 or more of everything that is counted")
        stride = 2 ** len(self.widths)
        if self.image_size < stride or self.image_size % stride:
            raise UserError(
                f"a flow of {len(self.widths)} levels draws sides divisible by {stride}, "
                f"not {self.image_size}"
            )


class ActNorm(nn.Module):
    """`y = (x - shift) exp(log_scale)`, channel by channel; `fit` makes one batch mean 0, deviation 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Set shift and scale by the batch x [B, C, H, W]."""
        self.shift.copy_(x.mean((0, 2, 3), keepdim=True))
        self.log_scale.copy_(-x.std((0, 2, 3), keepdim=True, correction=0).clamp(min=1e-6).log())

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        log_det = self.log_scale.sum() * (x.shape[2] * x.shape[3])
        return (x - self.shift) * self.log_scale.exp(), log_det.expand(len(x))

    def inverse(self, y: Tensor, label: Tensor) -> Tensor:
        return y * (-self.log_scale).exp() + self.shift


class Mixing(nn.Module):
    """An invertible 1x1 convolution, `W = P L (U + diag(s))`: its determinant is the product of s.

    P, a permutation, and the signs of s stay as they were drawn, as part of a random rotation.
    Source: arXiv:1807.03039, Sec. 3.2.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation.float())
        self.register_buffer("sign", diagonal.sign().float())
        self.lower = nn.Parameter(lower.tril(-1).float())
        self.upper = nn.Parameter(upper.triu(1).float())
        self.log_scale = nn.Parameter(diagonal.abs().log().float())

    @property
    def weight(self) -> Tensor:
        """W, [C, C]."""
        one = torch.eye(len(self.sign), dtype=self.sign.dtype, device=self.sign.device)
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_scale.exp())
        return self.permutation @ (self.lower.tril(-1) + one) @ upper

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        log_det = self.log_scale.sum() * (x.shape[2] * x.shape[3])
        return F.conv2d(x, self.weight[:, :, None, None]), log_det.expand(len(x))

    def inverse(self, y: Tensor, label: Tensor) -> Tensor:
        weight = torch.linalg.inv(self.weight.double()).to(y.dtype)
        return F.conv2d(y, weight[:, :, None, None])


class Coupling(nn.Module):
    """One half of the channels is scaled and shifted by what a network reads in the other, and the class.

    `y_b = (x_b + shift) scale`, `scale = g(s) / g(0)`, `g(s) = 0.05 + 0.95 sigmoid(s + 2)`. The division
    makes it the identity when new, as the network's last convolution starts at zero. Source:
    arXiv:1605.08803, Eq. 7; arXiv:1807.03039, App. A (the sigmoid alone). Deviation: a bound from below,
    without which the inverse overflows at noise that is a little unlike what training met.
    """

    def __init__(self, channels: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.kept = channels // 2
        self.conv1 = nn.Conv2d(self.kept, width, 3, padding=1)
        self.label = LabelEmbedding(num_classes, width)
        self.conv2 = nn.Conv2d(width, width, 1)
        self.conv3 = zero(nn.Conv2d(width, 2 * (channels - self.kept), 3, padding=1))

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.tensor_split([self.kept], 1)
        shift, log_scale = self._read(a, label)
        return torch.cat([a, (b + shift) * log_scale.exp()], 1), log_scale.flatten(1).sum(1)

    def inverse(self, y: Tensor, label: Tensor) -> Tensor:
        a, b = y.tensor_split([self.kept], 1)
        shift, log_scale = self._read(a, label)
        return torch.cat([a, b * (-log_scale).exp() - shift], 1)

    def _read(self, a: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.conv1(a) + self.label(label)[:, :, None, None])
        return _bounded(self.conv3(F.relu(self.conv2(h))))


class Split(nn.Module):
    """Half of the channels is done: standardised by what the other half says of it, and handed out.

    Source: arXiv:1605.08803, Sec. 3.6; arXiv:1807.03039, whose code has the learned prior.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.prior = zero(nn.Conv2d(channels // 2, channels, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(What goes on, what is done, log-determinant [B])."""
        a, b = x.chunk(2, 1)
        shift, log_scale = _bounded(self.prior(a))
        return a, (b + shift) * log_scale.exp(), log_scale.flatten(1).sum(1)

    def inverse(self, a: Tensor, done: Tensor) -> Tensor:
        shift, log_scale = _bounded(self.prior(a))
        return torch.cat([a, done * (-log_scale).exp() - shift], 1)


class Glow(nn.Module):
    """An image as standard normal noise and back: `log p(y) = log N(f(y)) + log |det df/dy|`.

    `forward(y, label)`: y [B, C, H, W], the dequantised image in [-1/2, 1/2) (`dequantised`), label
    LongTensor [B] -> (z [B, C H W], log-determinant [B]). Each level folds 2x2 pixels into channels, takes
    `config.steps` steps of actnorm, 1x1 convolution and coupling, and hands half of the channels out.
    Nothing is normalised until `fit` has seen a batch. Source: arXiv:1807.03039.
    """

    def __init__(self, config: GlowConfig) -> None:
        super().__init__()
        self.config = config
        self.levels = nn.ModuleList()
        self.splits = nn.ModuleList()
        channels = config.channels
        for level, width in enumerate(config.widths):
            channels *= 4
            steps = nn.ModuleList()
            for _ in range(config.steps):
                steps += [ActNorm(channels), Mixing(channels), Coupling(channels, width, config.num_classes)]
            self.levels.append(steps)
            if level + 1 < len(config.widths):
                self.splits.append(Split(channels))
                channels //= 2

    @property
    def noise_shapes(self) -> tuple[tuple[int, ...], ...]:
        """What `draw` takes for one image: standard normal noise of these shapes."""
        return ((self.config.channels * self.config.image_size**2,),)

    def forward(self, y: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return self._run(y, label, fitting=False)

    @torch.no_grad()
    def fit(self, y: Tensor, label: Tensor) -> None:
        """Set every actnorm by what a batch is when it gets there: call it once, before training."""
        self._run(y, label, fitting=True)

    def _run(self, y: Tensor, label: Tensor, fitting: bool) -> tuple[Tensor, Tensor]:
        size = self.config.image_size
        if tuple(y.shape[1:]) != (self.config.channels, size, size):
            raise UserError(
                f"this flow takes [B, {self.config.channels}, {size}, {size}], not {list(y.shape)}"
            )
        done: list[Tensor] = []
        log_det = y.new_zeros(len(y))
        for level, steps in enumerate(self.levels):
            y = F.pixel_unshuffle(y, 2)
            for step in steps:  # pyright: ignore[reportGeneralTypeIssues]
                if fitting and isinstance(step, ActNorm):
                    step.fit(y)
                y, more = step(y, label)
                log_det = log_det + more
            if level < len(self.splits):
                y, out, more = self.splits[level](y)
                done.append(out.flatten(1))
                log_det = log_det + more
        return torch.cat([*done, y.flatten(1)], 1), log_det

    def inverse(self, z: Tensor, label: Tensor) -> Tensor:
        """The y that `forward` makes z of, [B, C, H, W]."""
        config, parts = self.config, []
        channels, side, first = config.channels, config.image_size, 0
        for level in range(len(self.levels)):
            last = level + 1 == len(self.levels)
            channels, side = channels * (4 if last else 2), side // 2
            size = channels * side**2
            parts.append(z[:, first : first + size].unflatten(1, (channels, side, side)))
            first += size
        y = parts.pop()
        for level in reversed(range(len(self.levels))):
            if level < len(self.splits):
                y = self.splits[level].inverse(y, parts.pop())  # pyright: ignore[reportCallIssue]
            for step in reversed(list(self.levels[level])):  # pyright: ignore[reportArgumentType]
                y = step.inverse(y, label)
            y = F.pixel_shuffle(y, 2)
        return y

    def draw(self, noise: Sequence[Tensor], label: Tensor) -> Tensor:
        """The images [B, C, H, W] in [-1, 1] of noise and labels; a value that overflows is black."""
        return (2 * self.inverse(noise[0], label)).nan_to_num(-1, 1, -1).clamp(-1, 1)

    def bits_per_dim(self, x: Tensor, label: Tensor, generator: torch.Generator) -> Tensor:
        """`-log2 p(x)` per value of 8-bit images x in [-1, 1], [B]: exact, for this dequantisation."""
        uniform = torch.rand(x.shape, generator=generator).to(x)
        return flow_bits(*self(dequantised(x, uniform), label))


def dequantised(x: Tensor, uniform: Tensor) -> Tensor:
    """8-bit images x in [-1, 1], each value anywhere in its bin: `(v + u) / 256 - 1/2`, u in [0, 1)."""
    return (((x + 1) * (VALUES - 1) / 2).round() + uniform) / VALUES - 0.5


def flow_bits(z: Tensor, log_det: Tensor) -> Tensor:
    """Bits per dimension of what a flow makes of a `dequantised` image, [B].

    `-(log N(z) + log_det - D ln 256) / (D ln 2)`: the density is of y, whose bins are 1/256 wide.
    """
    count = z.shape[1]
    nats = 0.5 * (z.square().sum(1) + count * math.log(2 * math.pi)) - log_det
    return nats / (count * math.log(2)) + math.log2(VALUES)


def _bounded(raw: Tensor) -> tuple[Tensor, Tensor]:
    """(shift, log of the scale) from what a network says: 0, 0 for 0."""
    shift, s = raw.chunk(2, 1)
    whole = LEAST + (1 - LEAST) / (1 + math.exp(-2))
    return shift, torch.log(LEAST + (1 - LEAST) * torch.sigmoid(s + 2)) - math.log(whole)
