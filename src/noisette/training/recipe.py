"""Recipes: everything that decides what a training run learns, as one frozen value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from noisette.errors import UserError
from noisette.nets.vae import AutoencoderKLConfig
from noisette.training.objectives import Objective, Simple
from noisette.training.worlds import ScenesWorld

if TYPE_CHECKING:
    from noisette.hub.spec import AutoencoderSpec
    from noisette.models import ModelSpec
    from noisette.training.reconstruction import Reconstruction

__all__ = ["AutoencoderRecipe", "GroundingRecipe", "Plan", "Recipe", "differences"]

# What may change between the two halves of one run without changing what is learned.
CONVENIENCES = (
    "checkpoint_every",
    "keep_checkpoints",
    "milestone_every",
    "sample_every",
    "num_workers",
    "gradient_checkpointing",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long, how fast and how exactly to train, whatever is trained; see `Recipe`, `AutoencoderRecipe`.

    The same plan, data and seed give the same weights on the same CPU. ``batch_size`` is the global one:
    processes share it. The learning rate climbs over ``warmup`` steps to ``lr`` and then stays, or falls on
    a cosine to 0 at ``steps``. ``optimizer`` "muon" moves matrices by `noisette.training.muon.Muon`, and the
    rest by AdamW at the same rate. ``ema`` is the decay of the averaged weights, which are what is drawn with
    and saved. ``precision`` "auto" is bf16 where the GPU, or without one the CPU, multiplies it itself, and
    float32 elsewhere; weights, loss and average are float32 always. ``channels_last`` None follows the
    device. ``gradient_checkpointing`` computes activations twice, keeps far fewer of them, and gives the
    same gradients. ``world`` are the data of a run that is given none. Counts of ``*_every`` are steps; 0
    turns a thing off.

    Raises UserError for numbers out of range.
    """

    steps: int = 100_000
    batch_size: int = 128
    lr: float = 2e-4
    warmup: int = 1000
    decay: Literal["constant", "cosine"] = "constant"
    optimizer: Literal["adamw", "muon"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    ema: float = 0.9999
    world: ScenesWorld | None = None
    fit: Literal["crop", "pad"] = "crop"
    flip: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: bool | None = None
    compile: bool = False
    gradient_checkpointing: bool = False
    seed: int = 0
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    milestone_every: int = 0
    sample_every: int = 500
    num_workers: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "keep_checkpoints"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("warmup", "checkpoint_every", "milestone_every", "sample_every", "num_workers", "seed"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, but is {getattr(self, name)}")
        _require(0 < self.lr < math.inf, f"lr must be positive, not {self.lr}")
        _require(0 <= self.ema < 1, f"ema must lie in [0, 1), not {self.ema}")
        _require(
            self.max_grad_norm > 0, f"max_grad_norm must be positive (inf for none), not {self.max_grad_norm}"
        )

    def lr_at(self, step: int) -> float:
        """The learning rate of update ``step`` (from 0)."""
        climb = min(1.0, (step + 1) / max(self.warmup, 1))
        if self.decay == "constant" or step < self.warmup:
            return self.lr * climb
        done = min(1.0, (step - self.warmup) / max(self.steps - self.warmup, 1))
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, kw_only=True)
class Recipe(Plan):
    """How to train one diffusion model.

    ``spec`` says what is trained, and with it the size, channels, class names or captions that images need.
    ``cond_dropout`` is the share of labels or captions left out, which classifier-free guidance needs. A
    latent model takes its autoencoder, which is not trained, from the model named by ``codec``; its latents
    are kept on disk. ``start`` names a model whose weights, and whose autoencoder, training starts from.
    A text encoder learns at ``text_lr_scale`` times the learning rate: one that knows something already
    forgets it while a new network knows nothing.
    """

    spec: ModelSpec
    objective: Objective = Simple()  # noqa: RUF009  a frozen value
    cond_dropout: float = 0.1
    codec: str | None = None
    start: str | None = None
    text_lr_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 <= self.cond_dropout <= 1, f"cond_dropout is a share in [0, 1], not {self.cond_dropout}")
        _require(
            0 < self.text_lr_scale < math.inf, f"text_lr_scale must be positive, not {self.text_lr_scale}"
        )
        latent = self.spec.codec is not None
        _require(
            latent or self.codec is None, f"{self.spec.name} has no codec: leave codec={self.codec!r} out"
        )
        _require(
            not latent or bool(self.codec or self.start),
            f"{self.spec.name} draws latents: name the model whose autoencoder makes them, codec='scenes'",
        )
        _require(
            not (latent and self.flip), f"{self.spec.name} learns latents, which have no mirror: flip=False"
        )


@dataclass(frozen=True, kw_only=True)
class GroundingRecipe(Recipe):
    """How to teach the text encoder of a model where things are, before its network learns to draw.

    Its objective is the cross-entropy of `noisette.training.grounding`; what comes of it is a model that
    others ``start`` from.
    """


@dataclass(frozen=True, kw_only=True)
class AutoencoderRecipe(Plan):
    """How to train the autoencoder of a latent diffusion model: ``spec`` says which, ``objective`` for what.

    ``start`` names an autoencoder, or a model with one, whose weights training starts from. With
    ``freeze_encoder`` only the decoder learns: latents stay what they were, and so every diffusion model
    that was trained on them still fits. Raises UserError where the parts do not fit each other.
    """

    spec: AutoencoderSpec
    objective: Reconstruction
    start: str | None = None
    freeze_encoder: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            bool(self.start) or not self.freeze_encoder,
            f"{self.spec.name} has a frozen encoder: name the autoencoder it is from, start='scenes'",
        )
        codec, size, adversary = self.spec.codec, self.spec.image_size, self.objective.adversary
        _require(
            not self.objective.jitter or isinstance(codec, AutoencoderKLConfig),
            f"{self.spec.name} has a codebook, whose latents are not disturbed: set jitter=0",
        )
        if self.objective.perceptual:
            _require(
                codec.in_channels == 3 and size >= 16,
                f"the perceptual distance needs 3 channels and sides from 16 up, but {self.spec.name} has "
                f"{codec.in_channels}x{size}x{size}: set perceptual=0",
            )
        if self.objective.adversarial:
            _require(
                adversary.in_channels == codec.in_channels and size >= adversary.smallest,
                f"{self.spec.name}: the adversary looks at {adversary.in_channels} channels and sides of at "
                f"least {adversary.smallest}, but images are {codec.in_channels}x{size}x{size}",
            )


def differences(before: Mapping[str, Any], now: Mapping[str, Any], where: str = "") -> list[str]:
    """Where two recipes differ, as ``name: before -> now``; conveniences do not count."""
    found: list[str] = []
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if old == new or (not where and name in CONVENIENCES):
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{where}{name}.")
        else:
            found.append(f"{where}{name}: {old!r} -> {new!r}")
    return found


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)
