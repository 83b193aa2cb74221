"""A generator and its adversary for small labelled images, and what the two are trained by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, autograd, nn

from noisette.errors import UserError
from noisette.nets.embedding import LabelEmbedding
from noisette.nets.layers import ResBlock, double, halve


@dataclass(frozen=True)
class ResGeneratorConfig:
    """Shape of a `ResGenerator`: `widths` are the channels of each level, the finest first.

    Level i has sides of `image_size / (patch_size * 2^i)` and `blocks` residual blocks. Patches of
    `patch_size` pixels are folded into channels at the end. Raises UserError for numbers that do not fit.
    """

    image_size: int = 32
    channels: int = 1
    latent: int = 64
    widths: tuple[int, ...] = (48, 96, 192)
    blocks: int = 1
    num_classes: int = 10
    patch_size: int = 2
    norm_groups: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        counts = (self.channels, self.latent, self.blocks, self.num_classes, self.norm_groups)
        _check("a generator", (*counts, *self.widths), self.image_size, self.patch_size, self.widths)
        for width in self.widths:
            if width % self.norm_groups:
                raise UserError(f"norm_groups {self.norm_groups} does not divide {width} channels")

    @property
    def side(self) -> int:
        """Sides of the coarsest level."""
        return self.image_size // (self.patch_size * 2 ** (len(self.widths) - 1))


@dataclass(frozen=True)
class ResDiscriminatorConfig:
    """Shape of a `ResDiscriminator`; `widths` and `patch_size` as those of `ResGeneratorConfig`.

    With `compared` numbers of each image it looks at the others of its class in the batch; 0 turns it off.
    """

    image_size: int = 32
    channels: int = 1
    widths: tuple[int, ...] = (32, 64, 128)
    num_classes: int = 10
    patch_size: int = 2
    compared: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        counts = (self.channels, self.num_classes, *self.widths)
        if self.compared < 0:
            raise UserError(f"compared is a count of numbers, 0 for none, not {self.compared}")
        _check("a discriminator", counts, self.image_size, self.patch_size, self.widths)

    @property
    def side(self) -> int:
        """Sides of the coarsest level."""
        return self.image_size // (self.patch_size * 2 ** (len(self.widths) - 1))


def _check(what: str, counts: Sequence[int], size: int, patch: int, widths: Sequence[int]) -> None:
    if not widths or min(counts) < 1 or patch < 1:
        raise UserError(f"{what} needs at least one level, and 1 or more of everything that is counted")
    stride = patch * 2 ** (len(widths) - 1)
    if size < stride or size % stride:
        raise UserError(f"{what} of {len(widths)} levels draws sides divisible by {stride}, not {size}")


class ResGenerator(nn.Module):
    """An image from noise and a class in one call: residual blocks from the coarsest level to the finest.

    `draw([z], label)`: z [B, latent], label LongTensor [B] -> [B, C, H, W] in [-1, 1]. `forward`, which the
    adversary judges, does not clip: behind a tanh, black everywhere is a place of no return. z is the seed of
    the coarsest map and, with the class, scales and shifts what every block normalises (as in BigGAN).
    Deviation from the source: GROUP norm in place of batch norm, so that a picture does not depend on those
    drawn beside it, and no z is split over blocks. Source: arXiv:1809.11096, App. B.
    """

    def __init__(self, config: ResGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        widths, told = config.widths, 2 * config.latent
        self.told = nn.Linear(config.latent, told)
        self.label = LabelEmbedding(config.num_classes, told)
        self.start = nn.Linear(config.latent, widths[-1] * config.side**2)
        self.blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for _ in range(config.blocks):
                self.blocks.append(self._block(widths[level], widths[level], told, None))
            if level:
                self.blocks.append(self._block(widths[level], widths[level - 1], told, double))
        self.norm = nn.GroupNorm(config.norm_groups, widths[0])
        self.out = nn.Conv2d(widths[0], config.channels * config.patch_size**2, 3, padding=1)

    @property
    def noise_shapes(self) -> tuple[tuple[int, ...], ...]:
        """What `draw` takes for one image: standard normal noise of these shapes."""
        return ((self.config.latent,),)

    def draw(self, noise: Sequence[Tensor], label: Tensor) -> Tensor:
        """The images of noise and labels."""
        return self(noise[0], label).clamp(-1, 1)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        config = self.config
        emb = F.silu(self.told(z) + math.sqrt(config.latent) * self.label(label))
        h = self.start(z).unflatten(1, (config.widths[-1], config.side, config.side))
        for block in self.blocks:
            h = block(h, emb)
        h = self.out(F.silu(self.norm(h)))
        return F.pixel_shuffle(h, config.patch_size)

    def _block(
        self, width: int, wider: int, told: int, resample: Callable[[Tensor], Tensor] | None
    ) -> ResBlock:
        groups = self.config.norm_groups
        return ResBlock(width, wider, told, groups=groups, scale_shift=True, resample=resample)


class ResDiscriminator(nn.Module):
    """How real is this image, as one of its class? [B, C, H, W], LongTensor [B] -> logits [B].

    Residual blocks without any normalisation, halving the sides, then a linear logit to which the inner
    product of the features with a row of the class is added. With `config.compared`, how alike the images of
    one class are in a batch counts too: a generator without batch norm soon draws one picture of each class,
    and a judge that sees one at a time has nothing against it. Source: arXiv:1802.05637, Eq. 3 (the
    projection); arXiv:1801.04406, App. D (no norm); arXiv:1606.03498, Sec. 3.2 (alike in a batch).
    """

    def __init__(self, config: ResDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.conv_in = nn.Conv2d(config.channels * config.patch_size**2, widths[0], 3, padding=1)
        pairs = [*pairwise(widths), (widths[-1], widths[-1])]
        self.blocks = nn.ModuleList(
            _Plain(width, wider, halves=i + 1 < len(widths)) for i, (width, wider) in enumerate(pairs)
        )
        features = widths[-1] * config.side**2
        self.logit = nn.Linear(features, 1)
        self.label = nn.Embedding(config.num_classes, features)
        nn.init.normal_(self.label.weight, std=features**-0.5)
        self.compare = nn.Linear(features, config.compared, bias=False) if config.compared else None
        self.alike = nn.Linear(1, 1, bias=False) if config.compared else None

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        config = self.config
        if tuple(x.shape[1:]) != (config.channels, config.image_size, config.image_size):
            raise UserError(
                f"this discriminator takes [B, {config.channels}, {config.image_size}, {config.image_size}], "
                f"not {list(x.shape)}"
            )
        h = self.conv_in(F.pixel_unshuffle(x, config.patch_size))
        for block in self.blocks:
            h = block(h)
        h = F.leaky_relu(h, 0.2).flatten(1)
        logit = self.logit(h).squeeze(1) + (self.label(label) * h).sum(1)
        if self.compare is None or self.alike is None:
            return logit
        return logit + self.alike(likeness(self.compare(h), label)[:, None]).squeeze(1)


def likeness(numbers: Tensor, label: Tensor) -> Tensor:
    """How near each row is to the others of its class, [B] in [0, 1]: the mean of `exp(-mean |a - b|)`.

    numbers [B, n], label [B]; 0 for a row that is alone of its class.
    """
    near = torch.exp(-(numbers[:, None] - numbers[None]).abs().mean(2))
    others = (label[:, None] == label[None]) & ~torch.eye(len(label), dtype=torch.bool, device=label.device)
    return (near * others).sum(1) / others.sum(1).clamp(min=1)


class _Plain(nn.Module):
    """A residual block of two 3x3 convolutions; the halves add up to the variance of one."""

    def __init__(self, width: int, wider: int, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, wider, 3, padding=1)
        self.skip = nn.Identity() if width == wider else nn.Conv2d(width, wider, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, 0.2)), 0.2))
        if self.halves:
            h, x = halve(h), halve(x)
        return (h + self.skip(x)) * 0.5**0.5


def nonsaturating_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """`-log D(x) - log(1 - D(G(z)))`, [B], with `D = sigmoid(logit)`; fake: of detached images.

    Source: arXiv:1406.2661, Eq. 1.
    """
    return F.softplus(-real) + F.softplus(fake)


def nonsaturating_generator(fake: Tensor) -> Tensor:
    """`-log D(G(z))`, [B]: its gradient does not vanish where the adversary is sure.

    Source: arXiv:1406.2661, Sec. 3.
    """
    return F.softplus(-fake)


def gradient_penalty(judge: Callable[[Tensor], Tensor], real: Tensor, gamma: float) -> Tensor:
    """R1: `gamma / 2 |grad_x judge(x)|^2` at real images, [B]; the graph goes on to the judge's weights.

    ``judge`` gives one logit for each image. In float32 whatever runs around it: a gradient of half
    precision, squared and summed over pixels, is mostly rounding. Source: arXiv:1801.04406, Eq. 9.
    Cost: a call of the judge, and its gradient, which is differentiated again.
    """
    with torch.autocast(real.device.type, enabled=False), torch.enable_grad():
        x = real.detach().float().requires_grad_()
        (slope,) = autograd.grad(judge(x).sum(), x, create_graph=True)
    return 0.5 * gamma * slope.flatten(1).square().sum(1)
