"""Handwritten digits by a VAE with one vector of 48 latents, of the size of `digits`. Data: MNIST.

2.0 M parameters, about half of them the decoder's, which draws. A step costs as much as one of `digits`.
"""

from __future__ import annotations

from noisette.hub.generator import GeneratorSpec
from noisette.nets.hvae import LadderConfig
from noisette.training import FreeBits, GeneratorRecipe

recipe = GeneratorRecipe(
    spec=GeneratorSpec(
        name="digits-vae",
        net=LadderConfig(
            widths=(48, 80, 96, 112), blocks=(2, 2, 2, 0), groups=(0, 0, 0, 1), latents=(8, 8, 8, 48)
        ),
        labels=tuple("0123456789"),
    ),
    objective=FreeBits(),
    steps=9_000,
    batch_size=128,
    lr=1e-3,
    warmup=500,
    decay="cosine",
    max_grad_norm=10.0,
    ema=0.999,
    fit="pad",
)
