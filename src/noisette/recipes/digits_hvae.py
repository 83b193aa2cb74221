"""Handwritten digits by a VAE with a ladder of ten groups of latents, the size of `digits`. Data: MNIST.

2.2 M parameters, 0.9 M of them on the way down, which draws. A step costs 1.3 times one of `digits`.
"""

from __future__ import annotations

from noisette.hub.generator import GeneratorSpec
from noisette.nets.hvae import LadderConfig
from noisette.training import FreeBits, GeneratorRecipe

recipe = GeneratorRecipe(
    spec=GeneratorSpec(
        name="digits-hvae",
        net=LadderConfig(
            widths=(48, 64, 64, 64), blocks=(2, 2, 2, 0), groups=(0, 4, 4, 2), latents=(4, 8, 8, 16)
        ),
        labels=tuple("0123456789"),
    ),
    objective=FreeBits(0.1, climb=1_500),
    steps=9_000,
    batch_size=128,
    lr=1e-3,
    warmup=500,
    decay="cosine",
    max_grad_norm=100.0,
    skip_long=True,
    ema=0.999,
    fit="pad",
)
