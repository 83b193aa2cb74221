"""What must be known to build a model: the typed content of model.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import nn

from noisette.conditioning.pretrained import PretrainedText
from noisette.core import EDM, X0, Consistency, Eps, Flow, IndexTime, LogSigmaTime, ScaledTime, V
from noisette.errors import UserError
from noisette.nets import DiT, DiTConfig, UNet, UNetConfig
from noisette.nets.text import Prompted, TextConfig, TextEncoder, TextTowers, TowersConfig
from noisette.nets.vae import AutoencoderKL, AutoencoderKLConfig
from noisette.nets.vq import VQConfig, VQModel
from noisette.schedules import (
    VE,
    BetasVP,
    ContinuousCosineVP,
    ContinuousLinearVP,
    CosineVP,
    FlowMatching,
    Grid,
    LinearVP,
    ScaledLinearVP,
    ZeroTerminalSNR,
    karras,
    leading,
    linspace,
    quadratic,
    shifted,
    trailing,
    uniform_logsnr,
)
from noisette.solvers import SOLVER_NAMES

AnySchedule: TypeAlias = (
    LinearVP
    | ScaledLinearVP
    | CosineVP
    | BetasVP
    | ZeroTerminalSNR
    | ContinuousLinearVP
    | ContinuousCosineVP
    | VE
    | FlowMatching
)
GridName: TypeAlias = Literal[
    "leading", "trailing", "linspace", "quadratic", "shifted", "karras", "uniform_logsnr"
]


GRIDS: Mapping[str, Grid] = {
    g.__name__: g for g in (leading, trailing, linspace, quadratic, shifted, karras, uniform_logsnr)
}


@dataclass(frozen=True)
class Way:
    """The solver and grid that were found to draw best in ``steps`` steps. Raises UserError for others."""

    steps: int
    solver: str
    grid: GridName

    def __post_init__(self) -> None:
        for kind, name, known in (("solver", self.solver, SOLVER_NAMES), ("grid", self.grid, GRIDS)):
            if name not in known:
                raise UserError(f"there is no {kind} {name!r:.60}: take one of {', '.join(known)}")


@dataclass(frozen=True)
class Defaults:
    """How `Model.generate` draws when nothing else is asked.

    ``ways``: where neither a solver nor a grid is named, the one with the most steps of those that have at
    most as many as are asked; the first one where all have more. Where one of the two is named, the other is
    ``solver`` or ``grid``. Raises UserError unless their steps grow.
    """

    solver: str = "dpmpp-2m"
    grid: GridName = "trailing"
    steps: int = 20
    guidance_scale: float = 1.0
    guidance_rescale: float = 0.0
    ways: tuple[Way, ...] = ()

    def __post_init__(self) -> None:
        counts = [way.steps for way in self.ways]
        if any(count < 1 for count in counts) or counts != sorted(set(counts)):
            raise UserError(f"the steps of ways grow from one to the next, from 1 on, not {counts!s:.60}")

    def names(self, steps: int, solver: str | None = None, grid: str | None = None) -> tuple[str, str]:
        """The solver and the grid of a call that asks for ``steps`` and names these, or None."""
        if self.ways and solver is None and grid is None:
            way = next((way for way in reversed(self.ways) if way.steps <= steps), self.ways[0])
            return way.solver, way.grid
        return self.solver if solver is None else solver, self.grid if grid is None else grid


CodecConfig: TypeAlias = AutoencoderKLConfig | VQConfig


def build_codec(config: CodecConfig) -> AutoencoderKL | VQModel:
    """A freshly initialised autoencoder, as described."""
    return AutoencoderKL(config) if isinstance(config, AutoencoderKLConfig) else VQModel(config)


@dataclass(frozen=True)
class AutoencoderSpec:
    """The autoencoder of latent diffusion models: what was trained at which size. Raises UserError."""

    name: str
    codec: CodecConfig
    image_size: int

    def __post_init__(self) -> None:
        if self.image_size < 1 or self.image_size % self.codec.factor:
            raise UserError(f"images of {self.name} have sides divisible by {self.codec.factor}")


@dataclass(frozen=True)
class ModelSpec:
    """Everything that must be known to build a model and to read its network's output, but the weights.

    Images are [``channels``, ``image_size``, ``image_size``] in [-1, 1]. With a ``codec`` the network works
    on its latents. A network is told nothing, or one of ``labels``, the names of the classes, or a ``text``:
    read by an encoder that is trained with the network and travels with it (`TextConfig`), or by one that
    others have trained (`PretrainedText`). Raises UserError where the parts do not fit each other.
    """

    name: str
    net: UNetConfig | DiTConfig
    schedule: AnySchedule
    parameterization: Eps | X0 | V | Flow | EDM | Consistency
    time: IndexTime | LogSigmaTime | ScaledTime
    image_size: int
    channels: int = 3
    labels: tuple[str, ...] | None = None
    defaults: Defaults = Defaults()
    text: TextConfig | TowersConfig | PretrainedText | None = None
    codec: CodecConfig | None = None

    def __post_init__(self) -> None:
        self._check_channels()
        self._check_told()
        self.check_size(self.image_size, self.image_size)
        end = self.schedule(1.0)
        if not (0 <= float(end.alpha) < math.inf and 0 < float(end.sigma) < math.inf):
            raise UserError(
                f"{self.schedule} is no noise schedule: it ends at alpha {end.alpha:g}, sigma {end.sigma:g}"
            )
        if isinstance(self.parameterization, Eps) and float(end.alpha) == 0:
            raise UserError(
                "noise prediction says nothing where a schedule ends without signal: use V, X0 or Flow"
            )

    def _check_channels(self) -> None:
        net, drawn = self.net, self.shape[0]
        if (net.in_channels, net.out_channels) != (drawn, drawn):
            what = "images" if self.codec is None else "latents"
            raise UserError(
                f"{what} have {drawn} channels, but the network takes {net.in_channels} "
                f"and gives {net.out_channels}"
            )
        if self.codec is not None and self.codec.in_channels != self.channels:
            wanted = self.codec.in_channels
            raise UserError(f"images have {self.channels} channels, but the codec takes {wanted}")

    def _check_told(self) -> None:
        if self.net.num_classes != (None if self.labels is None else len(self.labels)):
            count = "no" if self.labels is None else len(self.labels)
            raise UserError(
                f"there are {count} labels, but the network knows {self.net.num_classes or 'no'} classes"
            )
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            raise UserError("two labels have the same name")
        told = (getattr(self.net, "context_dim", None), getattr(self.net, "pooled_dim", None))
        if self.labels is not None and self.text is not None:
            raise UserError(f"{self.name} is told labels or texts, not both")
        if self.text is None and told != (None, None):
            raise UserError("the network reads tokens, but no text encoder is described")
        if isinstance(self.text, TextConfig | TowersConfig):
            for width, made in zip(told, (self.text.hidden_size, self.text.pooled_size), strict=True):
                if width not in (None, made):
                    raise UserError(f"the network reads texts {width} wide, but the encoder makes {made}")
        if self.text is not None and told == (None, None):
            raise UserError("there is a text encoder, but the network reads no tokens: set context_dim")

    @property
    def factor(self) -> int:
        """Pixels to a side of what the network works on: 1, or as the codec folds them."""
        return 1 if self.codec is None else self.codec.factor

    @property
    def stride(self) -> int:
        """Image sides must be multiples of this."""
        return self.factor * (self.net.stride if isinstance(self.net, UNetConfig) else self.net.patch_size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """What the network works on: [C, H, W] of an image or of its latents."""
        channels = self.channels if self.codec is None else self.codec.embed_dim
        return channels, self.image_size // self.factor, self.image_size // self.factor

    def check_size(self, height: int, width: int) -> None:
        """Raises UserError unless the network can draw pictures of that size."""
        for side in (height, width):
            if isinstance(side, bool) or not isinstance(side, int) or side < 1:
                raise UserError(f"pictures have sides of whole pixels, 1 or more, not {width}x{height}")
            if side % self.stride:
                raise UserError(
                    f"pictures of {self.name} have sides divisible by {self.stride}, not {width}x{height}"
                )

    def build(self) -> nn.Module:
        """A freshly initialised network, as described; with it the text encoder that is trained with it."""
        net = UNet(self.net) if isinstance(self.net, UNetConfig) else DiT(self.net)
        if isinstance(self.text, TowersConfig):
            return Prompted(net, TextTowers(self.text))
        return Prompted(net, TextEncoder(self.text)) if isinstance(self.text, TextConfig) else net
