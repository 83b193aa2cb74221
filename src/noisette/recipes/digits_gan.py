"""Handwritten digits by a GAN, of the size and the compute of `digits`. Data: MNIST.

The generator alone draws and is saved, 1.86 M parameters; its adversary has 0.47 M more. A step costs 1.4
times one of `digits`.
"""

from __future__ import annotations

from noisette.hub.generator import GeneratorSpec
from noisette.nets.adversarial import ResDiscriminatorConfig, ResGeneratorConfig
from noisette.training import Adversarial, GeneratorRecipe

recipe = GeneratorRecipe(
    spec=GeneratorSpec(
        name="digits-gan", net=ResGeneratorConfig(widths=(48, 96, 224)), labels=tuple("0123456789")
    ),
    objective=Adversarial(ResDiscriminatorConfig(widths=(32, 64, 128)), gamma=0.1, every=16),
    steps=9_000,
    batch_size=128,
    lr=2e-4,
    warmup=100,
    decay="cosine",
    betas=(0.0, 0.99),
    # One norm over both players would let the gradient of one shorten the step of the other.
    max_grad_norm=1e6,
    ema=0.999,
    fit="pad",
)
