"""Handwritten digits, 32 x 32, by class: the model that ships with noisette. Data: MNIST."""

from __future__ import annotations

from noisette.core import IndexTime, V
from noisette.models import Defaults, ModelSpec
from noisette.nets import UNetConfig
from noisette.schedules import CosineVP
from noisette.training import Recipe, Rows, Simple

recipe = Recipe(
    spec=ModelSpec(
        name="digits",
        # Folding 2 x 2 pixels into channels makes a step four times cheaper on a CPU.
        net=UNetConfig(
            in_channels=1,
            out_channels=1,
            model_channels=48,
            channel_mult=(1, 1, 2),
            num_res_blocks=1,
            attention_levels=(1,),
            head_channels=24,
            num_classes=10,
            patch_size=2,
            norm_groups=16,
            scale_shift=True,
        ),
        schedule=CosineVP(),
        parameterization=V(),
        time=IndexTime(1000),
        image_size=32,
        channels=1,
        labels=tuple("0123456789"),
        defaults=Defaults(guidance_scale=2.0),
    ),
    objective=Simple(times=Rows(1000)),
    steps=9_000,
    batch_size=128,
    lr=1e-3,
    warmup=500,
    decay="cosine",
    ema=0.999,
    fit="pad",
)
