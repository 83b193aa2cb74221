"""What must be known to build a model that draws in one call: a GAN's generator, a flow, a VAE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from noisette.errors import UserError
from noisette.nets.adversarial import ResGenerator, ResGeneratorConfig
from noisette.nets.flow import Glow, GlowConfig
from noisette.nets.hvae import LadderConfig, LadderVAE

Drawer: TypeAlias = ResGenerator | Glow | LadderVAE
DrawerConfig: TypeAlias = ResGeneratorConfig | GlowConfig | LadderConfig


@dataclass(frozen=True)
class GeneratorSpec:
    """A network that makes an image of noise and a class in one call: all but its weights.

    Images are square, in [-1, 1]; ``labels`` name the classes. ``temperature`` scales the noise where nobody
    asks for another: 1 draws what was learned, less draws what is likelier and more alike. Raises UserError
    where the parts do not fit each other.
    """

    name: str
    net: DrawerConfig
    labels: tuple[str, ...]
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if len(self.labels) != self.net.num_classes:
            raise UserError(
                f"there are {len(self.labels)} labels, but the network knows {self.net.num_classes} classes"
            )
        if len(set(self.labels)) < len(self.labels):
            raise UserError("two labels have the same name")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature is a number from 0 up, not {self.temperature}")

    @property
    def image_size(self) -> int:
        """Pixels to a side."""
        return self.net.image_size

    @property
    def channels(self) -> int:
        """Of an image."""
        return self.net.channels

    @property
    def text(self) -> None:
        """None: no text is read."""

    @property
    def codec(self) -> None:
        """None: pixels are drawn."""

    @property
    def kind(self) -> str:
        """What people call such a model."""
        match self.net:
            case ResGeneratorConfig():
                return "The generator of a GAN"
            case GlowConfig():
                return "A normalizing flow"
        return "A variational autoencoder"

    def build(self) -> Drawer:
        """A freshly initialised network, as described."""
        match self.net:
            case ResGeneratorConfig():
                return ResGenerator(self.net)
            case GlowConfig():
                return Glow(self.net)
        return LadderVAE(self.net)
