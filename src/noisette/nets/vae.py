"""The autoencoder of latent diffusion: images to latents of about unit variance, and back."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from noisette.errors import UserError
from noisette.nets.attention import AttentionBlock
from noisette.nets.layers import Downsample, Upsample, run

NORM_EPS = 1e-6  # of every group norm here, as the released weights expect


@dataclass(frozen=True)
class CodecConfig:
    """Shape of an encoder and its decoder, and the scale of their latents; lists are accepted for tuples.

    Level i runs at 1/2^i of the (folded) resolution with `block_out_channels[i]` channels and
    `layers_per_block` residual blocks, one more in the decoder; `mid_block_add_attention` puts attention in
    the middle. `patch_size` p > 1 folds p x p pixels into channels first and unfolds them last, so that no
    layer runs at full resolution (1 = as the released weights). The names are those of a diffusers
    `config.json`. Raises UserError for numbers that do not fit together.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    mid_block_add_attention: bool = True
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    patch_size: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_out_channels", tuple(self.block_out_channels))
        counts = (self.in_channels, self.out_channels, self.layers_per_block, self.latent_channels)
        counts += (self.norm_num_groups, self.patch_size, *self.block_out_channels)
        if not self.block_out_channels or min(counts) < 1:
            raise UserError("an autoencoder needs at least one level, and 1 or more of all that is counted")
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups:
                raise UserError(
                    f"norm_num_groups {self.norm_num_groups} does not divide the {channels} channels"
                )
        if not (self.scaling_factor > 0 and math.isfinite(self.scaling_factor)):
            raise UserError(f"scaling_factor {self.scaling_factor} must be a positive number")

    @property
    def factor(self) -> int:
        """Pixels per latent along a side: `patch_size * 2^(levels - 1)`."""
        return self.patch_size * 2 ** (len(self.block_out_channels) - 1)

    @property
    def embed_dim(self) -> int:
        """Channels of a latent."""
        return self.latent_channels

    def standardize(self, z: Tensor) -> Tensor:
        """`(z - shift_factor) * scaling_factor`: an autoencoder's latent as a diffusion model sees it."""
        return (z - (self.shift_factor or 0.0)) * self.scaling_factor

    def restore(self, z: Tensor) -> Tensor:
        """`z / scaling_factor + shift_factor`, the inverse of `standardize`."""
        return z / self.scaling_factor + (self.shift_factor or 0.0)


@dataclass(frozen=True)
class AutoencoderKLConfig(CodecConfig):
    """Shape of an `AutoencoderKL`: `CodecConfig`, and whether 1x1 convolutions stand around the latent.

    Stable Diffusion 1, 2 and XL have both; Stable Diffusion 3 and Flux have neither.
    """

    use_quant_conv: bool = True
    use_post_quant_conv: bool = True


C = TypeVar("C", bound=CodecConfig)


def calibrated(config: C, latents: Tensor, *, shift: bool = False) -> C:
    """A config under which `latents` have unit variance: `scaling_factor = 1 / std` over all numbers.

    latents: as `encode` gives them, unscaled, any shape. With `shift`, `shift_factor` is their mean; else it
    is None and the mean stays where it is, as in the first latent diffusion models.
    Source: arXiv:2112.10752, App. G. Raises UserError for latents that are constant or not finite.
    """
    latents = latents.detach().double()
    if not latents.numel() or not latents.isfinite().all() or latents.amin() == latents.amax():
        raise UserError("these latents are constant or not finite: measure some of a trained autoencoder")
    std, mean = torch.std_mean(latents, correction=0)
    return replace(config, scaling_factor=1 / float(std), shift_factor=float(mean) if shift else None)


@dataclass(frozen=True, eq=False)
class DiagonalGaussian:
    """`N(mean, diag(exp(logvar)))` over latents; both [B, C, h, w], `logvar` is clamped to [-30, 20]."""

    mean: Tensor
    logvar: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "logvar", self.logvar.clamp(-30.0, 20.0))

    def sample(self, noise: Tensor) -> Tensor:
        """`mean + exp(logvar / 2) * noise`, for standard normal noise of the mean's shape."""
        return self.mean + (0.5 * self.logvar).exp() * noise

    def mode(self) -> Tensor:
        """The most likely latent, the mean."""
        return self.mean

    def widened(self, spread: Tensor) -> DiagonalGaussian:
        """The same with variance `exp(logvar) + spread^2`; spread broadcasts against the mean."""
        return DiagonalGaussian(self.mean, torch.logaddexp(self.logvar, spread.square().log()))

    def kl(self) -> Tensor:
        """Divergence from N(0, I) in nats, [B]: `sum (mean^2 + exp(logvar) - 1 - logvar) / 2`.

        It is SUMMED over channels and positions: the usual weight of 1e-6 is meant for this sum, and for a
        reconstruction error that is summed likewise. Source: arXiv:1312.6114, App. B.
        """
        at_least = torch.promote_types(self.mean.dtype, torch.float32)
        mean, logvar = self.mean.to(at_least), self.logvar.to(at_least)
        return 0.5 * (mean.square() + logvar.expm1() - logvar).flatten(1).sum(1)


class Residual(nn.Module):
    """`skip(x) + conv2(silu(norm2(conv1(silu(norm1(x))))))`; [B, in_channels, H, W], then out_channels."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, NORM_EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels, NORM_EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class Stage(nn.Module):
    """The residual blocks of one level, then a change of resolution if there is one."""

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, groups: int, resample: nn.Module | None
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.blocks = nn.Sequential(*(Residual(a, b, groups) for a, b in pairwise(widths)))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return x if self.resample is None else self.resample(x)


def _middle(config: CodecConfig, site: str) -> nn.Sequential:
    channels, groups = config.block_out_channels[-1], config.norm_num_groups
    parts: OrderedDict[str, nn.Module] = OrderedDict(before=Residual(channels, channels, groups))
    if config.mid_block_add_attention:
        parts["attention"] = AttentionBlock(channels, 1, site, groups=groups, eps=NORM_EPS)
    parts["after"] = Residual(channels, channels, groups)
    return nn.Sequential(parts)


class Encoder(nn.Module):
    """Image [B, in_channels, H, W] -> [B, out_channels, H / factor, W / factor].

    `hidden` is the width after the last 3x3 convolution; `quant`, the 1x1 convolution from there to
    `out_channels`, may be left out where both are equal. Attention site: "encoder.mid.self".
    """

    def __init__(self, config: CodecConfig, hidden: int, out_channels: int, quant: bool) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.patch_size = config.patch_size
        self.conv_in = nn.Conv2d(config.in_channels * config.patch_size**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            shrink = Downsample(width, asymmetric=True) if level < len(widths) - 1 else None
            before = widths[max(level - 1, 0)]
            self.down.append(Stage(before, width, config.layers_per_block, groups, shrink))
        self.mid = _middle(config, "encoder.mid")
        self.norm_out = nn.GroupNorm(groups, widths[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], hidden, 3, padding=1)
        self.quant = nn.Conv2d(hidden, out_channels, 1) if quant else nn.Identity()

    def forward(self, x: Tensor, recompute: bool = False) -> Tensor:
        x = self.conv_in(F.pixel_unshuffle(x, self.patch_size))
        for stage in (*self.down, self.mid):
            x = run(stage, x, recompute=recompute)
        return self.quant(self.conv_out(F.silu(self.norm_out(x))))


class Decoder(nn.Module):
    """Latent [B, in_channels, h, w] -> image [B, config.out_channels, h * factor, w * factor].

    `quant` is the 1x1 convolution from `in_channels` to `config.latent_channels`, where the trunk begins.
    `up[i]` is level i; they run from the last to the first. Attention site: "decoder.mid.self".
    """

    def __init__(self, config: CodecConfig, in_channels: int, quant: bool) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.patch_size = config.patch_size
        self.quant = nn.Conv2d(in_channels, config.latent_channels, 1) if quant else nn.Identity()
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.mid = _middle(config, "decoder.mid")
        self.up = nn.ModuleList()
        for level, width in enumerate(widths):
            before = widths[min(level + 1, len(widths) - 1)]
            grow = Upsample(width) if level > 0 else None
            self.up.append(Stage(before, width, config.layers_per_block + 1, groups, grow))
        self.norm_out = nn.GroupNorm(groups, widths[0], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels * config.patch_size**2, 3, padding=1)

    def forward(self, z: Tensor, recompute: bool = False) -> Tensor:
        x = self.conv_in(self.quant(z))
        for stage in (self.mid, *reversed(self.up)):
            x = run(stage, x, recompute=recompute)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), self.patch_size)


_told: WeakSet[nn.Module] = WeakSet()


def _finite_rows(x: Tensor) -> Tensor:
    return x.isfinite().flatten(1).all(1)


def finite(net: nn.Module, x: Tensor, recompute: bool = False) -> Tensor:
    """`net(x, recompute)`; rows that overflowed in float16 are computed again in float32.

    Only the broken rows are, so that an image does not depend on its neighbours. They come back as float16
    like the others. The first time, a RuntimeWarning says so for each network.
    """
    out = net(x, recompute)
    if out.dtype is not torch.float16 or torch.compiler.is_compiling():
        return out
    broken = _finite_rows(x) & ~_finite_rows(out)
    if not broken.any():
        return out
    if net not in _told:
        _told.add(net)
        warnings.warn(
            f"the {type(net).__name__.lower()} overflowed in float16; the images concerned are computed "
            "again in float32. Weights in bfloat16 or float32 avoid the double work.",
            RuntimeWarning,
            stacklevel=3,
        )
    weights = {name: weight.float() for name, weight in net.named_parameters()}
    with torch.autocast(x.device.type, enabled=False):
        again = functional_call(net, weights, (x[broken].float(), recompute))
    return out.index_put((broken,), again.to(out.dtype))


class Codec(nn.Module):
    """An encoder and a decoder whose latents a diffusion model can use.

    `to_latents(x)` and `from_latents(z)` are all that the rest of the library asks for. x: [B, in_channels,
    H, W] in [-1, 1], sides divisible by `config.factor`; z: [B, config.embed_dim, H/factor, W/factor].
    Both keep the dtype they are given, whatever the weights are in.

    `gradient_checkpointing` (attribute, off) recomputes each level in backward: less memory, more time.
    Raises UserError for a wrong number of channels or a size that does not divide.
    """

    def __init__(self, config: CodecConfig, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.encoder = encoder
        self.decoder = decoder

    def _encoded(self, x: Tensor) -> Tensor:
        config = self.config
        if x.ndim != 4 or x.shape[1] != config.in_channels:
            raise UserError(f"this autoencoder takes [B, {config.in_channels}, H, W], not {list(x.shape)}")
        if x.shape[2] % config.factor or x.shape[3] % config.factor:
            raise UserError(
                f"the image is {x.shape[3]}x{x.shape[2]}, "
                f"but this autoencoder needs sides divisible by {config.factor}"
            )
        return finite(self.encoder, x, self.gradient_checkpointing)

    def mode(self, x: Tensor) -> Tensor:
        """The one latent of each image, in the autoencoder's own units."""
        return self._encoded(x)

    def decode(self, z: Tensor) -> Tensor:
        """Image of a latent in the autoencoder's own units, [B, out_channels, H, W]."""
        if z.ndim != 4 or z.shape[1] != self.config.embed_dim:
            raise UserError(
                f"this autoencoder decodes [B, {self.config.embed_dim}, h, w], not {list(z.shape)}"
            )
        return finite(self.decoder, z, self.gradient_checkpointing)

    def to_latents(self, x: Tensor) -> Tensor:
        """`(mode(x) - shift_factor) * scaling_factor`: latents of about unit variance."""
        return self.config.standardize(self.mode(x.to(self._dtype)).to(x.dtype))

    def from_latents(self, z: Tensor) -> Tensor:
        """`decode(z / scaling_factor + shift_factor)`: the image of what `to_latents` made."""
        return self.decode(self.config.restore(z).to(self._dtype)).to(z.dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return self.decoder.conv_in.weight.dtype


class AutoencoderKL(Codec):
    """The variational autoencoder of latent diffusion, `x -> N(mean, exp(logvar)) -> x`.

    `forward(x, noise)` makes a training step's pair, the reconstruction and the posterior; noise is standard
    normal in the latent's shape, or None for the mode. `spread` widens the posterior that is drawn from.
    Attention sites: "encoder.mid.self", "decoder.mid.self".
    Source: arXiv:2112.10752, App. G; arXiv:2012.09841, Table 7 (the trunk). Deviation: the output projection
    of the attention starts at zero.
    """

    config: AutoencoderKLConfig

    def __init__(self, config: AutoencoderKLConfig) -> None:
        moments = 2 * config.latent_channels
        super().__init__(
            config,
            Encoder(config, moments, moments, config.use_quant_conv),
            Decoder(config, config.latent_channels, config.use_post_quant_conv),
        )

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """The posterior of each image, in the autoencoder's own units (`config.standardize` scales them)."""
        return DiagonalGaussian(*self._encoded(x).chunk(2, dim=1))

    def mode(self, x: Tensor) -> Tensor:
        """The mean of the posterior, [B, latent_channels, h, w]."""
        return self.encode(x).mode()

    def forward(
        self, x: Tensor, noise: Tensor | None = None, spread: Tensor | None = None
    ) -> tuple[Tensor, DiagonalGaussian]:
        posterior = self.encode(x)
        drawn = posterior if spread is None else posterior.widened(spread)
        return self.decode(drawn.mode() if noise is None else drawn.sample(noise)), posterior
