"""A ladder of latents, from one pixel to many: the hierarchical VAE, and with one group the plain one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisette.errors import UserError
from noisette.nets.embedding import LabelEmbedding
from noisette.nets.layers import ResBlock, zero

BIN = 2 / 255
"""From one 8-bit value to the next, in [-1, 1]."""

ROWS = 0.02
"""Deviation of the rows of a new `LabelEmbedding`."""

GAIN = 10.0
"""Of the learned log-deviation over its weight: an optimizer that moves every weight alike would take
thousands of steps to a deviation that the rest of the network needs much sooner."""

WIDEST = 7.0
"""Bound of log-deviations: beyond it a float32 variance is a nuisance and nothing else."""


@dataclass(frozen=True)
class LadderConfig:
    """Shape of a `LadderVAE`, level by level, the finest first.

    Level i has sides of ``sides[i]``, ``widths[i]`` channels, ``blocks[i]`` residual blocks each way and
    ``groups[i]`` groups of latents of ``latents[i]`` channels at each of its pixels. The first side is
    ``image_size`` over the patch that is folded into channels. A plain VAE has one group, where the side
    is 1. ``sigma`` fixes the deviation of a pixel about the decoder's mean, in units of [-1, 1]; None
    learns it. Raises UserError for numbers that do not fit together.
    """

    image_size: int = 32
    channels: int = 1
    sides: tuple[int, ...] = (16, 8, 4, 1)
    widths: tuple[int, ...] = (48, 64, 96, 128)
    blocks: tuple[int, ...] = (1, 1, 1, 0)
    groups: tuple[int, ...] = (0, 0, 0, 1)
    latents: tuple[int, ...] = (8, 8, 8, 64)
    num_classes: int = 10
    norm_groups: int = 16
    sigma: float | None = None

    def __post_init__(self) -> None:
        for name in ("sides", "widths", "blocks", "groups", "latents"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        parts = (self.widths, self.blocks, self.groups, self.latents)
        if not self.sides or any(len(part) != len(self.sides) for part in parts):
            raise UserError("sides, widths, blocks, groups and latents have one number for each level")
        counts = (self.channels, self.num_classes, self.norm_groups, *self.sides, *self.widths, *self.latents)
        if min(counts) < 1 or min(*self.blocks, *self.groups, 0) < 0 or not sum(self.groups):
            raise UserError("a ladder needs at least one group, and 1 or more of what else is counted")
        for finer, coarser in zip((self.image_size, *self.sides), self.sides, strict=False):
            if finer % coarser:
                raise UserError(f"a side of {finer} does not fold into one of {coarser}")
        for width in self.widths:
            if width % self.norm_groups:
                raise UserError(f"norm_groups {self.norm_groups} does not divide {width} channels")
        if self.sigma is not None and not 0 < self.sigma < math.inf:
            raise UserError(f"sigma is a positive deviation, or None to learn it, not {self.sigma}")

    @property
    def patch_size(self) -> int:
        """Pixels to a side of a patch."""
        return self.image_size // self.sides[0]


@dataclass(frozen=True)
class Evidence:
    """The two sides of the bound for a batch: nats of the image given its latents, and of the latents.

    log_likelihood [B]; kl: one [B, c] for each group, the coarsest first, summed over its pixels, so that
    a channel is what free bits count; steps: how far each posterior's mean is from its prior's, in units of
    the prior's deviation, one [B, c, h, w] for each: what the image, and not its class, says.
    """

    log_likelihood: Tensor
    kl: tuple[Tensor, ...]
    steps: tuple[Tensor, ...]

    def elbo(self) -> Tensor:
        """The bound on log p(x), in nats, [B]."""
        return self.log_likelihood - torch.cat(self.kl, 1).sum(1)

    def loss(self, free: float = 0.0, weight: float = 1.0) -> Tensor:
        """What is minimised, in nats, []: `-E log p(x|z) + weight sum_j max(free, E KL_j)`.

        The mean is over the batch, before the maximum: a channel that costs less than ``free`` nats on
        average costs nothing. Source: arXiv:1606.04934, App. C.8.
        """
        return weight * torch.cat(self.kl, 1).mean(0).clamp(min=free).sum() - self.log_likelihood.mean()


class Group(nn.Module):
    """One group of latents: its prior from the path down, and its posterior as a step away from that.

    `p = N(m, s^2)`, `q = N(m + s dm, (s ds)^2)`, so that
    `KL = 1/2 (dm^2 + ds^2 - ln ds^2 - 1)` whatever the prior is. New, that is N(0, 1).
    Source: arXiv:2007.03898, Eq. 3 (there dm is not in units of s).
    """

    def __init__(self, width: int, latents: int, side: int, norm_groups: int) -> None:
        super().__init__()
        # One pixel has no neighbours, and no spread within a group of few channels.
        kernel, norm_groups = (1, 1) if side == 1 else (3, norm_groups)
        self.prior = _head(width, width, 2 * latents, kernel, norm_groups)
        self.posterior = _head(2 * width, width, 2 * latents, kernel, norm_groups)
        # The posterior begins with something to say: what is drawn of noise alone is soon not listened to.
        zero(self.prior[-1])
        self.project = nn.Conv2d(latents, width, 1)

    def forward(
        self, h: Tensor, noise: Tensor, seen: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """h with the drawn latents in it, their KL [B, c], and the posterior's step from the prior.

        noise [B, c, h, w]; what the encoder has ``seen`` [B, width, h, w], None to draw from the prior.
        """
        mean, log_std = _moments(self.prior(h))
        if seen is None:
            return h + self.project(mean + log_std.exp() * noise), None, None
        step, log_ratio = _moments(self.posterior(torch.cat([h, seen], 1)))
        kl = 0.5 * (step.square() + torch.expm1(2 * log_ratio)) - log_ratio
        centre = mean + log_std.exp() * step
        z = centre + (log_std + log_ratio).exp() * noise
        return h + self.project(z), kl.flatten(2).sum(2), step


class LadderVAE(nn.Module):
    """A VAE whose latents are drawn from the coarsest level to the finest, each group given those above.

    `forward(x, label, noise) -> Evidence`; `draw(noise, label)` -> the decoder's means, [B, C, H, W] in
    [-1, 1]; noise: one standard normal [B, *shape] for each of `noise_shapes`. One path goes down, through
    which q and p share all they know; the encoder's way up only adds what is seen. Both know the class.
    A pixel is a Gaussian about its mean, with one deviation for all, and integrated over the bin of its
    8-bit value (`binned_log_prob`), so that the bound is one of probabilities and has a floor at 0 bits.
    Source: arXiv:2011.10650, Sec. 3; arXiv:2006.13202 (the learned deviation, whose optimum is the root
    of the mean squared error). Raises UserError for images of another size.
    """

    def __init__(self, config: LadderConfig) -> None:
        super().__init__()
        self.config = config
        sides, widths = config.sides, config.widths
        told = 2 * widths[0]
        pixels = config.channels * config.patch_size**2
        self.label = LabelEmbedding(config.num_classes, told)
        self.conv_in = nn.Conv2d(pixels, widths[0], 3, padding=1)
        self.up = nn.ModuleList(self._blocks(level, told) for level in range(len(sides)))
        self.folds, self.unfolds = nn.ModuleList(), nn.ModuleList()
        for level in range(1, len(sides)):
            ratio = sides[level - 1] // sides[level]
            self.folds.append(nn.Conv2d(widths[level - 1], widths[level], ratio, ratio))
            self.unfolds.append(nn.ConvTranspose2d(widths[level], widths[level - 1], ratio, ratio))
        self.start = nn.Parameter(torch.zeros(1, widths[-1], sides[-1], sides[-1]))
        self.first = nn.Linear(told, widths[-1])
        self.groups = nn.ModuleList(
            nn.ModuleList(
                Group(widths[level], config.latents[level], sides[level], config.norm_groups)
                for _ in range(config.groups[level])
            )
            for level in range(len(sides))
        )
        self.down = nn.ModuleList(self._blocks(level, told) for level in range(len(sides)))
        self.norm_out = nn.GroupNorm(config.norm_groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], pixels, 3, padding=1)
        self.log_sigma = nn.Parameter(torch.tensor(math.log(0.5) / GAIN)) if config.sigma is None else None

    def _blocks(self, level: int, told: int) -> nn.ModuleList:
        config, width = self.config, self.config.widths[level]
        return nn.ModuleList(
            ResBlock(width, width, told, groups=config.norm_groups, scale_shift=True)
            for _ in range(config.blocks[level])
        )

    @property
    def noise_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each group for one image, the coarsest first."""
        config, levels = self.config, reversed(range(len(self.config.sides)))
        return tuple(
            (config.latents[level], config.sides[level], config.sides[level])
            for level in levels
            for _ in range(config.groups[level])
        )

    def forward(self, x: Tensor, label: Tensor, noise: Sequence[Tensor]) -> Evidence:
        config = self.config
        if tuple(x.shape[1:]) != (config.channels, config.image_size, config.image_size):
            raise UserError(
                f"this VAE takes [B, {config.channels}, {config.image_size}, {config.image_size}], "
                f"not {list(x.shape)}"
            )
        emb = self._told(label)
        mean, kl, steps = self._descend(noise, emb, self._seen(x, emb))
        likelihood = binned_log_prob(x, mean, self.log_deviation).flatten(1).sum(1)
        return Evidence(likelihood, tuple(kl), tuple(steps))

    def draw(self, noise: Sequence[Tensor], label: Tensor) -> Tensor:
        """The images of noise and labels: the means of their pixels."""
        return self._descend(noise, self._told(label), None)[0].clamp(-1, 1)

    def rebuild(self, x: Tensor, label: Tensor) -> Tensor:
        """What comes back of images, [B, C, H, W]: the decoder's means at the means of the posteriors."""
        emb = self._told(label)
        still = [x.new_zeros(len(x), *shape) for shape in self.noise_shapes]
        return self._descend(still, emb, self._seen(x, emb))[0]

    def bits_per_dim(self, x: Tensor, label: Tensor, generator: torch.Generator) -> Tensor:
        """A bound on `-log2 p(x)` per value of 8-bit images x in [-1, 1], [B], from one draw of latents."""
        noise = [torch.randn(len(x), *shape, generator=generator).to(x) for shape in self.noise_shapes]
        return -self(x, label, noise).elbo() / (x[0].numel() * math.log(2))

    @property
    def log_deviation(self) -> Tensor:
        """The logarithm of a pixel's deviation about its mean, []."""
        if self.log_sigma is not None:
            return GAIN * self.log_sigma
        return torch.tensor(math.log(self.config.sigma or 1.0), device=self.start.device)

    def _told(self, label: Tensor) -> Tensor:
        """The class for every block, [B, told]; rows that begin small are brought to deviation 1 at once,
        lest the latents have told the class before the label is heard."""
        return F.silu(self.label(label) / ROWS)

    def _seen(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """What the encoder says of an image at every level, the finest first."""
        h, seen = self.conv_in(F.pixel_unshuffle(x, self.config.patch_size)), []
        for level, blocks in enumerate(self.up):
            if level:
                h = self.folds[level - 1](h)
            for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                h = block(h, emb)
            seen.append(h)
        return seen

    def _descend(
        self, noise: Sequence[Tensor], emb: Tensor, seen: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The means of the pixels, and the KL and steps of every group where there is something seen."""
        h = self.start + self.first(emb)[:, :, None, None]
        drawn, kls, steps = iter(noise), [], []
        for level in reversed(range(len(self.config.sides))):
            for group in self.groups[level]:  # pyright: ignore[reportGeneralTypeIssues]
                h, kl, step = group(h, next(drawn), None if seen is None else seen[level])
                if kl is not None:
                    kls.append(kl.float())
                    steps.append(step)
            for block in self.down[level]:  # pyright: ignore[reportGeneralTypeIssues]
                h = block(h, emb)
            if level:
                h = self.unfolds[level - 1](h)
        out = self.conv_out(F.silu(self.norm_out(h)))
        return F.pixel_shuffle(out, self.config.patch_size), kls, steps


def binned_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """The logarithm of what N(mean, std^2) gives to the bin of width 2/255 about each value x.

    Exact in float32 however far x lies out, with a gradient everywhere: the difference of two tails is
    taken between their logarithms, on the side of the mean where both are small. Bins at the ends are as
    wide as others: what falls beyond is lost, and the sum over 256 values is at most 1.
    """
    inverse, distance = (-log_std.float()).exp(), (x.float() - mean.float()).abs()
    near, far = (BIN / 2 - distance) * inverse, (-BIN / 2 - distance) * inverse
    log_near = torch.special.log_ndtr(near)
    return log_near + torch.log(-torch.expm1(torch.special.log_ndtr(far) - log_near))


def active_units(steps: Tensor, least: float = 0.01) -> int:
    """How many latents say anything of N images: those with `Var_x(E_q z) > least`; steps [N, ...].

    E_q z counts from the prior's mean, in its deviations: what moves with the class alone says nothing.
    Source: arXiv:1509.00519, Sec. 2.
    """
    return int((steps.flatten(1).var(0) > least).sum())


def _head(width: int, hidden: int, out: int, kernel: int, norm_groups: int) -> nn.Sequential:
    """Moments from features."""
    return nn.Sequential(
        nn.GroupNorm(norm_groups, width),
        nn.SiLU(),
        nn.Conv2d(width, hidden, kernel, padding=kernel // 2),
        nn.SiLU(),
        nn.Conv2d(hidden, out, kernel, padding=kernel // 2),
    )


def _moments(raw: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, log-deviation) in float32, the second within bounds."""
    mean, log_std = raw.float().chunk(2, 1)
    return mean, log_std.clamp(-WIDEST, WIDEST)
