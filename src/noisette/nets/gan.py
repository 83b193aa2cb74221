"""The adversary of an autoencoder: a discriminator of patches, and its hinge losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, autograd, nn

from noisette.errors import UserError


@dataclass(frozen=True)
class PatchDiscriminatorConfig:
    """Shape of a `PatchDiscriminator`: `layers` halvings, from `channels` up to eight times as many.

    Raises UserError for numbers that do not fit together.
    """

    in_channels: int = 3
    channels: int = 64
    layers: int = 3
    norm_groups: int = 32

    def __post_init__(self) -> None:
        if min(self.in_channels, self.channels, self.layers, self.norm_groups) < 1:
            raise UserError("a discriminator needs 1 or more of everything that is counted")
        if 2 * self.channels % self.norm_groups:
            raise UserError(f"norm_groups {self.norm_groups} does not divide {2 * self.channels} channels")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels after each convolution but the last."""
        return tuple(self.channels * min(2**i, 8) for i in range(self.layers + 1))

    @property
    def smallest(self) -> int:
        """The shortest side of an image that leaves one logit: `3 * 2^layers`."""
        return 3 * 2**self.layers


class PatchDiscriminator(nn.Module):
    """How real does each patch look? [B, in_channels, H, W] -> logits [B, 1, h, w]; three layers see 70x70.

    4x4 convolutions, `layers` of stride 2 and two of stride 1, with leaky ReLU of slope 0.2 between.
    Source: arXiv:1611.07004, App. 6.1.2; arXiv:2012.09841, Sec. 3.1. Deviation: GROUP norm in place of batch
    norm. Batch statistics would let an image's logits, and through them its gradient, depend on which other
    images stand in the batch, differ between the real and the generated half, and need their own
    synchronisation between devices. Instance norm, the other choice of the first paper, fails on maps of one
    pixel and hides how the channels compare.
    Raises UserError for a wrong number of channels or sides under `config.smallest`.
    """

    def __init__(self, config: PatchDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        widths, slope = config.widths, 0.2
        parts: list[nn.Module] = [nn.Conv2d(config.in_channels, widths[0], 4, 2, 1), nn.LeakyReLU(slope)]
        for i in range(1, len(widths)):
            stride = 2 if i < config.layers else 1
            parts += [
                nn.Conv2d(widths[i - 1], widths[i], 4, stride, 1, bias=False),
                nn.GroupNorm(config.norm_groups, widths[i]),
                nn.LeakyReLU(slope),
            ]
        parts.append(nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.body = nn.Sequential(*parts)
        for part in self.body:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        config = self.config
        if x.ndim != 4 or x.shape[1] != config.in_channels or min(x.shape[2:]) < config.smallest:
            raise UserError(
                f"this discriminator takes [B, {config.in_channels}, H, W] with sides of at least "
                f"{config.smallest}, not {list(x.shape)}"
            )
        return self.body(x)


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """`(mean max(0, 1 - real) + mean max(0, 1 + fake)) / 2` over the patches of each image, [B].

    real, fake: logits [B, ...] of real images and of generated ones (detached from their generator).
    Source: arXiv:1705.02894 (the hinge); the half is that of arXiv:2012.09841's code.
    """
    return 0.5 * (F.relu(1 - real).flatten(1).mean(1) + F.relu(1 + fake).flatten(1).mean(1))


def generator_hinge(fake: Tensor) -> Tensor:
    """`-mean fake` over the patches of each image, [B]; fake: logits [B, ...] of generated images."""
    return -fake.flatten(1).mean(1)


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """Weight that lets the adversary pull on the decoder as hard as the reconstruction does, [].

    `|grad reconstruction| / (|grad adversarial| + 1e-4)`, at most 1e4, for the gradients with respect to
    `last_layer` (the weight of `decoder.conv_out`). Both losses are scalars and keep their graphs.
    Source: arXiv:2012.09841, Eq. 7; 1e-4 and the bound are those of its code. Cost: two partial backwards.
    """
    pull, push = (
        autograd.grad(loss, last_layer, retain_graph=True)[0].float().norm()
        for loss in (reconstruction, adversarial)
    )
    return (pull / (push + 1e-4)).clamp(max=1e4).detach()
