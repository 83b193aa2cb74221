"""Networks: denoisers, autoencoders, text encoders, discriminators, and generators of one call."""

from noisette.nets.adversarial import (
    ResDiscriminator,
    ResDiscriminatorConfig,
    ResGenerator,
    ResGeneratorConfig,
)
from noisette.nets.deepcache import DeepCache
from noisette.nets.dit import DiT, DiTConfig
from noisette.nets.flow import Glow, GlowConfig
from noisette.nets.gan import PatchDiscriminator, PatchDiscriminatorConfig
from noisette.nets.hvae import LadderConfig, LadderVAE
from noisette.nets.text import Prompted, TextConfig, TextEncoder, TextTowers, TowersConfig
from noisette.nets.unet import UNet, UNetConfig
from noisette.nets.vae import AutoencoderKL, AutoencoderKLConfig
from noisette.nets.vq import VQConfig, VQModel

__all__ = [
    "AutoencoderKL",
    "AutoencoderKLConfig",
    "DeepCache",
    "DiT",
    "DiTConfig",
    "Glow",
    "GlowConfig",
    "LadderConfig",
    "LadderVAE",
    "PatchDiscriminator",
    "PatchDiscriminatorConfig",
    "Prompted",
    "ResDiscriminator",
    "ResDiscriminatorConfig",
    "ResGenerator",
    "ResGeneratorConfig",
    "TextConfig",
    "TextEncoder",
    "TextTowers",
    "TowersConfig",
    "UNet",
    "UNetConfig",
    "VQConfig",
    "VQModel",
]
