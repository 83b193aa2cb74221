"""What must be known to build a model: the typed content of model.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import nn

from noisette.core import EDM, X0, Eps, Flow, IndexTime, LogSigmaTime, ScaledTime, V
from noisette.errors import UserError
from noisette.nets import DiT, DiTConfig, UNet, UNetConfig
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
    trailing,
    uniform_logsnr,
)

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
GridName: TypeAlias = Literal["leading", "trailing", "linspace", "quadratic", "karras", "uniform_logsnr"]


GRIDS: Mapping[str, Grid] = {
    g.__name__: g for g in (leading, trailing, linspace, quadratic, karras, uniform_logsnr)
}


@dataclass(frozen=True)
class Defaults:
    """How `Model.generate` draws when nothing else is asked."""

    solver: str = "dpmpp-2m"
    grid: GridName = "trailing"
    steps: int = 20
    guidance_scale: float = 1.0


@dataclass(frozen=True)
class ModelSpec:
    """Everything that must be known to build a model and to read its network's output, but the weights.

    Images are [``channels``, ``image_size``, ``image_size``] in [-1, 1]; ``labels`` are the names of the
    classes of a class-conditional network, None for an unconditional one.
    Raises UserError where the parts do not fit each other.
    """

    name: str
    net: UNetConfig | DiTConfig
    schedule: AnySchedule
    parameterization: Eps | X0 | V | Flow | EDM
    time: IndexTime | LogSigmaTime | ScaledTime
    image_size: int
    channels: int = 3
    labels: tuple[str, ...] | None = None
    defaults: Defaults = Defaults()

    def __post_init__(self) -> None:
        net = self.net
        if (net.in_channels, net.out_channels) != (self.channels, self.channels):
            raise UserError(
                f"images have {self.channels} channels, but the network takes {net.in_channels} "
                f"and gives {net.out_channels}"
            )
        if net.num_classes != (None if self.labels is None else len(self.labels)):
            count = "no" if self.labels is None else len(self.labels)
            raise UserError(
                f"there are {count} labels, but the network knows {net.num_classes or 'no'} classes"
            )
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            raise UserError("two labels have the same name")
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

    @property
    def stride(self) -> int:
        """Image sides must be multiples of this."""
        return self.net.stride if isinstance(self.net, UNetConfig) else self.net.patch_size

    def check_size(self, height: int, width: int) -> None:
        """Raises UserError unless the network can draw pictures of that size."""
        for side in (height, width):
            if isinstance(side, bool) or not isinstance(side, int) or side < 1 or side % self.stride:
                raise UserError(
                    f"pictures of {self.name} have sides divisible by {self.stride}, not {width}x{height}"
                )

    def build(self) -> nn.Module:
        """A freshly initialised network, as described."""
        return UNet(self.net) if isinstance(self.net, UNetConfig) else DiT(self.net)
