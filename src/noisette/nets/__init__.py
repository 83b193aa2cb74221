"""Networks: denoisers (a U-Net, a diffusion transformer), autoencoders, text encoders, a discriminator."""

from noisette.nets.deepcache import DeepCache
from noisette.nets.dit import DiT, DiTConfig
from noisette.nets.gan import PatchDiscriminator, PatchDiscriminatorConfig
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
    "PatchDiscriminator",
    "PatchDiscriminatorConfig",
    "Prompted",
    "TextConfig",
    "TextEncoder",
    "TextTowers",
    "TowersConfig",
    "UNet",
    "UNetConfig",
    "VQConfig",
    "VQModel",
]
