"""Handwritten digits by a normalizing flow, of the size and the compute of `digits`. Data: MNIST.

1.8 M parameters; a step costs 0.8 times one of `digits` in operations, in more and thinner layers.
"""

from __future__ import annotations

from noisette.hub.generator import GeneratorSpec
from noisette.nets.flow import GlowConfig
from noisette.training import ExactLikelihood, GeneratorRecipe

recipe = GeneratorRecipe(
    spec=GeneratorSpec(
        name="digits-flow",
        net=GlowConfig(steps=8, widths=(80, 176, 304)),
        labels=tuple("0123456789"),
        temperature=0.7,
    ),
    objective=ExactLikelihood(),
    steps=9_000,
    batch_size=128,
    lr=1e-3,
    warmup=500,
    decay="cosine",
    max_grad_norm=10.0,
    ema=0.999,
    fit="pad",
    # Background pixels are told from their neighbours to a 256th: half precision ends there.
    precision="fp32",
)
