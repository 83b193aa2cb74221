"""Networks: a U-Net for the DDPM / ADM / latent-diffusion family, and a diffusion transformer."""

from noisette.nets.dit import DiT, DiTConfig
from noisette.nets.unet import UNet, UNetConfig

__all__ = ["DiT", "DiTConfig", "UNet", "UNetConfig"]
