"""The U-Net of the DDPM, ADM and latent-diffusion family: one class, one frozen config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisette.errors import UserError
from noisette.nets.attention import AttentionBlock, SpatialTransformer
from noisette.nets.embedding import (
    LabelEmbedding,
    TimeEmbedding,
    check_time_embedding,
    concatenated,
    guidance_waves,
    label_of,
    pooled_of,
    sizes_of,
    tokens_of,
)
from noisette.nets.layers import Downsample, ResBlock, Upsample, double, halve, run, zero


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a U-Net; JSON-serialisable (`dataclasses.asdict`), lists are accepted for tuples.

    Level 0 is the full resolution; level i runs at 1/2^i of it with `model_channels * channel_mult[i]`
    channels. `attention_levels` name the levels with attention; the middle always has it. Heads:
    `head_channels` wide each, or `num_heads` of them where that is None; `transformer_depth` blocks stand in
    each place that reads tokens. Both may be given level by level; the middle is like the last level.
    `time_embedding` "sinusoidal"
    speaks DDPM's dialect by default; `flip_sin_to_cos=True, freq_shift=0` is Stable Diffusion's. "fourier"
    suits a time of `ln(sigma) / 4`. `scale_shift` turns additive time features into adaptive group norm,
    `resblock_updown` (strided) convolutions between levels into residual blocks. `context_dim` adds
    cross-attention to tokens, `pooled_dim` a vector for the whole text that joins the time,
    `guidance_dim` waves of the guidance scale join the time before it is embedded, for a network that was
    distilled from its guided self (diffusers' `time_cond_proj_dim`).
    `concat_channels` image conditions at the input, `num_classes` a class embedding with one row more for
    "no label". `size_count` numbers, each in `size_waves` waves, join the pooled vector: the sizes that
    SDXL is told. `patch_size` p > 1 folds p x p pixels into channels, so the
    whole network works at 1/p of the resolution. `learned_variance` doubles the output channels.
    Raises UserError for numbers that do not fit together.
    """

    in_channels: int = 3
    out_channels: int = 3
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = (1,)
    num_heads: int | tuple[int, ...] = 1
    head_channels: int | None = None
    transformer_depth: int | tuple[int, ...] = 1
    time_embedding: str = "sinusoidal"
    flip_sin_to_cos: bool = False
    freq_shift: float = 1.0
    fourier_scale: float = 16.0
    scale_shift: bool = False
    resblock_updown: bool = False
    asymmetric_down: bool = False
    num_classes: int | None = None
    context_dim: int | None = None
    pooled_dim: int | None = None
    size_count: int = 0
    size_waves: int = 256
    guidance_dim: int | None = None
    concat_channels: int = 0
    learned_variance: bool = False
    patch_size: int = 1
    dropout: float = 0.0
    norm_groups: int = 32
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("channel_mult", "attention_levels", "num_heads", "transformer_depth"):
            value = getattr(self, name)
            object.__setattr__(self, name, value if isinstance(value, int) else tuple(value))
        levels = len(self.channel_mult)
        per_level = (self.num_heads, self.transformer_depth)
        if any(not isinstance(value, int) and len(value) != levels for value in per_level):
            raise UserError(
                f"num_heads and transformer_depth have one number, or one for each of {levels} levels"
            )
        counts = (self.num_res_blocks, self.patch_size, self.norm_groups, *self.channel_mult)
        counts += tuple(f(level) for level in range(levels) for f in (self.heads, self.depth))
        if levels == 0 or min(counts) < 1:
            raise UserError("a U-Net needs at least one level, and 1 or more of everything that is counted")
        check_time_embedding(self.time_embedding)
        if any(not 0 <= level < levels for level in self.attention_levels):
            raise UserError(f"attention_levels {self.attention_levels} must lie in 0 to {levels - 1}")
        if self.model_channels % 2 or self.model_channels < 4:
            raise UserError(f"model_channels {self.model_channels} must be even and at least 4")
        for channels in self.channels:
            if channels % self.norm_groups:
                raise UserError(
                    f"norm_groups {self.norm_groups} does not divide the {channels} channels of a level"
                )
        for level in {*self.attention_levels, levels - 1}:
            channels, size = self.channels[level], self.head_channels
            if channels % (size or self.heads(level)):
                wanted = f"heads of {size} channels" if size else f"{self.heads(level)} heads"
                raise UserError(f"{channels} channels at level {level} do not split into {wanted}")
        if self.size_count and self.pooled_dim is None:
            raise UserError("sizes join the pooled vector: set pooled_dim")

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.model_channels * mult for mult in self.channel_mult)

    def heads(self, level: int) -> int:
        """Heads of attention at a level."""
        if self.head_channels:
            return max(1, self.channels[level] // self.head_channels)
        return self.num_heads if isinstance(self.num_heads, int) else self.num_heads[level]

    def depth(self, level: int) -> int:
        """Blocks of a transformer at a level."""
        depth = self.transformer_depth
        return depth if isinstance(depth, int) else depth[level]

    @property
    def stride(self) -> int:
        """Image sides must be multiples of this: a patch, and what ways down that cannot round halve."""
        exact = self.resblock_updown or self.asymmetric_down
        return self.patch_size * (2 ** (len(self.channel_mult) - 1) if exact else 1)


def _res_block(
    config: UNetConfig,
    in_channels: int,
    out_channels: int,
    resample: Callable[[Tensor], Tensor] | None = None,
) -> ResBlock:
    return ResBlock(
        in_channels,
        out_channels,
        4 * config.model_channels,
        groups=config.norm_groups,
        eps=config.norm_eps,
        dropout=config.dropout,
        scale_shift=config.scale_shift,
        resample=resample,
    )


def _attention(config: UNetConfig, level: int, site: str) -> AttentionBlock | SpatialTransformer:
    channels, heads, groups = config.channels[level], config.heads(level), config.norm_groups
    if config.context_dim is None:
        return AttentionBlock(channels, heads, site, groups=groups, eps=config.norm_eps)
    depth = config.depth(level)
    return SpatialTransformer(channels, heads, config.context_dim, site, depth=depth, groups=groups)


# What every stage is told: the embedding of time and class, the tokens, and which tokens count.
Told: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None]


def _pooled(config: UNetConfig) -> nn.Module | None:
    """What the pooled vector goes through: a matrix, or two where sizes stand beside it, as in SDXL."""
    if config.pooled_dim is None:
        return None
    width = 4 * config.model_channels
    if not config.size_count:
        return nn.Linear(config.pooled_dim, width)
    told = config.pooled_dim + config.size_count * config.size_waves
    return nn.Sequential(nn.Linear(told, width), nn.SiLU(), nn.Linear(width, width))


class Stage(nn.Module):
    """A residual block and, at some levels, attention after it."""

    def __init__(self, res: ResBlock, attention: AttentionBlock | SpatialTransformer | None) -> None:
        super().__init__()
        self.res = res
        self.attention = attention

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        x = self.res(x, emb)
        return x if self.attention is None else self.attention(x, context, mask)


class Down(nn.Module):
    """The stages of one level on the way down, then half the resolution (not after the last level)."""

    def __init__(self, stages: list[Stage], resample: nn.Module | None) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.resample = resample

    def forward(
        self, x: Tensor, told: Told, recompute: bool, start: int = 0, stop: int | None = None
    ) -> list[Tensor]:
        """Everything made on the way, for the skip connections; the last entry flows on.

        From stage `start` to before `stop`, which leaves out the change of resolution as well.
        """
        made = []
        for stage in list(self.stages)[start:stop]:
            x = run(stage, x, *told, recompute=recompute)
            made.append(x)
        if self.resample is not None and stop is None:
            made.append(
                self.resample(x, told[0]) if isinstance(self.resample, ResBlock) else self.resample(x)
            )
        return made


class Up(nn.Module):
    """The stages of one level on the way up, each with a skip; then twice the size, but at level 0."""

    def __init__(self, stages: list[Stage], resample: nn.Module | None) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.resample = resample

    def forward(
        self,
        x: Tensor,
        skips: list[Tensor],
        told: Told,
        recompute: bool,
        start: int | None = None,
        stop: int | None = None,
    ) -> Tensor:
        """Take a skip off the end for every stage, from `start` to before `stop`."""
        for stage in list(self.stages)[start:stop]:
            x = run(stage, torch.cat([x, skips.pop()], dim=1), *told, recompute=recompute)
        if self.resample is None:
            return x
        if isinstance(self.resample, ResBlock):
            return self.resample(x, told[0])
        # Of an odd size the half was rounded: it goes back to what it came from.
        return self.resample(x, (skips[-1].shape[2], skips[-1].shape[3]))


class UNet(nn.Module):
    """Raw output of a U-Net for a noisy image: what it means is the parameterization's business.

    `forward(x, time, cond)`: x [B, in_channels, H, W], H and W multiples of `config.stride`; time [B] in
    the denoiser's unit (index 0..T-1, or ln(sigma)/4); cond holds "label", "tokens" (and "token_mask"),
    "pooled", "sizes" [B, size_count], "concat" as the config asks, other keys are ignored. Returns
    [B, out_channels, H, W], twice the channels with `learned_variance`. At initialisation the output is 0.

    `gradient_checkpointing` (attribute, off) recomputes each stage in backward: less memory, more time.
    Attention sites: "down.<level>.<block>.self", "mid.self", "up.<level>.<block>.self", and ".cross".
    `down[i]` and `up[i]` are both level i; `up` runs from the last to the first.
    Source: arXiv:2006.11239, App. B; arXiv:2105.05233, Sec. 3; arXiv:2112.10752, App. E.2.1.
    Raises UserError for a missing or misshapen condition, or an image size that does not divide.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        base, folded = config.model_channels, config.patch_size**2
        self.time = TimeEmbedding(
            config.time_embedding,
            base,
            4 * base,
            flip=config.flip_sin_to_cos,
            shift=config.freq_shift,
            fourier_scale=config.fourier_scale,
            told=config.guidance_dim,
        )
        self.label = None if config.num_classes is None else LabelEmbedding(config.num_classes, 4 * base)
        self.pooled = _pooled(config)
        self.conv_in = nn.Conv2d((config.in_channels + config.concat_channels) * folded, base, 3, padding=1)
        skips = self._build_down(config)
        deepest, last = config.channels[-1], len(config.channels) - 1
        self.mid = nn.ModuleList(
            [
                Stage(_res_block(config, deepest, deepest), _attention(config, last, "mid")),
                Stage(_res_block(config, deepest, deepest), None),
            ]
        )
        self._build_up(config, skips)
        self.norm_out = nn.GroupNorm(config.norm_groups, config.channels[0], config.norm_eps)
        out = config.out_channels * (2 if config.learned_variance else 1)
        self.conv_out = zero(nn.Conv2d(config.channels[0], out * folded, 3, padding=1))

    def _build_down(self, config: UNetConfig) -> list[int]:
        """Build `self.down`; return the channels of every skip connection, in order."""
        channels = config.model_channels
        skips, last = [channels], len(config.channels) - 1
        self.down = nn.ModuleList()
        for level, width in enumerate(config.channels):
            stages = []
            for block in range(config.num_res_blocks):
                attends = level in config.attention_levels
                attention = _attention(config, level, f"down.{level}.{block}") if attends else None
                stages.append(Stage(_res_block(config, channels, width), attention))
                channels = width
                skips.append(width)
            shrink = None
            if level < last:
                shrink = Downsample(width, config.asymmetric_down)
                if config.resblock_updown:
                    shrink = _res_block(config, width, width, halve)
                skips.append(width)
            self.down.append(Down(stages, shrink))
        return skips

    def _build_up(self, config: UNetConfig, skips: list[int]) -> None:
        channels, levels = config.channels[-1], []
        for level in reversed(range(len(config.channels))):
            width, stages = config.channels[level], []
            for block in range(config.num_res_blocks + 1):
                attends = level in config.attention_levels
                attention = _attention(config, level, f"up.{level}.{block}") if attends else None
                stages.append(Stage(_res_block(config, channels + skips.pop(), width), attention))
                channels = width
            grow = None
            if level > 0:
                grow = _res_block(config, width, width, double) if config.resblock_updown else Upsample(width)
            levels.append(Up(stages, grow))
        self.up = nn.ModuleList(reversed(levels))

    def _embed(self, time: Tensor, cond: Mapping[str, Any], batch: int) -> Tensor:
        guidance = None
        if self.config.guidance_dim is not None:
            guidance = guidance_waves(cond, batch, self.config.guidance_dim, time.device)
        emb = self.time(time.expand(batch), guidance)
        if self.label is not None:
            emb = emb + self.label(label_of(cond, batch))
        if self.pooled is not None and self.config.pooled_dim is not None:
            pooled = pooled_of(cond, batch, self.config.pooled_dim, emb.dtype)
            if self.config.size_count:
                sizes = sizes_of(cond, batch, self.config.size_count, self.config.size_waves)
                pooled = torch.cat([pooled, sizes.to(emb.dtype)], dim=1)
            emb = emb + self.pooled(pooled)
        return F.silu(emb)

    def forward(self, x: Tensor, time: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        return self.through(x, time, cond)[0]

    def through(
        self,
        x: Tensor,
        time: Tensor,
        cond: Mapping[str, Any] | None = None,
        *,
        branch: int = 0,
        deep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The output, and the feature where the deep part of the network hands over to the shallow one.

        Shallow are the first `branch` stages of the way down and the last `branch + 1` of the way up, all at
        level 0, with the convolutions at both ends; `branch` is 0 to `config.num_res_blocks`. Given `deep`
        [B, C, H/p, W/p], the feature of another call with that branch, only the shallow part runs and the
        feature is handed back: what `DeepCache` does between its full calls.
        """
        told, skips = self._way_in(x, time, cond or {})
        recompute = self.gradient_checkpointing
        skips += self.down[0](skips[0], told, recompute, 0, branch)
        if deep is None:
            deep = self._deep(list(skips), told, branch)
        h = self.up[0](deep, skips, told, recompute, -branch - 1)
        h = self.conv_out(F.silu(self.norm_out(h)))
        return F.pixel_shuffle(h, self.config.patch_size) if self.config.patch_size > 1 else h, deep

    def _way_in(self, x: Tensor, time: Tensor, cond: Mapping[str, Any]) -> tuple[Told, list[Tensor]]:
        """What every stage is told, and the first skip connection."""
        config = self.config
        if x.shape[2] % config.stride or x.shape[3] % config.stride:
            raise UserError(
                f"the image is {x.shape[3]}x{x.shape[2]}, "
                f"but this network needs sides divisible by {config.stride}"
            )
        told = (self._embed(time, cond, x.shape[0]), *tokens_of(cond, config.context_dim, x.dtype))
        x = concatenated(x, cond, config.in_channels, config.concat_channels)
        return told, [self.conv_in(F.pixel_unshuffle(x, config.patch_size) if config.patch_size > 1 else x)]

    def _deep(self, skips: list[Tensor], told: Told, branch: int) -> Tensor:
        """All between the shallow stages of level 0, from the skips that those have made."""
        recompute = self.gradient_checkpointing
        for level, down in enumerate(self.down):
            skips += down(skips[-1], told, recompute, 0 if level else branch)
        x = skips[-1]
        for stage in self.mid:
            x = run(stage, x, *told, recompute=recompute)
        for level, up in reversed(list(enumerate(self.up))):
            x = up(x, skips, told, recompute, stop=None if level else -branch - 1)
        return x
