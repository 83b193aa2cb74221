"""Any folder of pictures, without labels: cut to the middle square, brought to one size, flipped at will.

`recipe` is for 64 x 64. For another size, or classes, write a file of your own and train that::

    from noisette.recipes.images import images

    recipe = images(128, labels=("cats", "dogs"))
"""

from __future__ import annotations

from noisette.core import Flow, ScaledTime
from noisette.errors import UserError
from noisette.models import Defaults, ModelSpec
from noisette.nets import UNetConfig
from noisette.schedules import FlowMatching
from noisette.training import LogitNormalTimes, Recipe, Simple

__all__ = ["images", "recipe"]


def images(
    size: int = 64, *, channels: int = 3, labels: tuple[str, ...] | None = None, flip: bool = True
) -> Recipe:
    """Flow matching with a U-Net whose deepest level is 8 x 8, attention at 16 x 16 and below.

    Raises UserError unless size is 16, 32, 64, 128 or 256.
    """
    if size not in (16, 32, 64, 128, 256):
        raise UserError(f"this recipe is for sizes 16, 32, 64, 128 and 256, not {size}")
    mults = {16: (2, 2), 32: (2, 2, 2), 64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}[size]
    return Recipe(
        spec=ModelSpec(
            name="images" if size == 64 else f"images-{size}",
            net=UNetConfig(
                in_channels=channels,
                out_channels=channels,
                model_channels=96 if size >= 64 else 64,
                channel_mult=mults,
                attention_levels=(len(mults) - 2, len(mults) - 1),
                head_channels=32,
                scale_shift=True,
                num_classes=None if labels is None else len(labels),
            ),
            schedule=FlowMatching(),
            parameterization=Flow(),
            time=ScaledTime(1000.0),
            image_size=size,
            channels=channels,
            labels=labels,
            defaults=Defaults(guidance_scale=1.0 if labels is None else 2.0),
        ),
        objective=Simple(times=LogitNormalTimes()),
        steps=200_000,
        batch_size=64,
        lr=1e-4,
        warmup=1000,
        ema=0.9999,
        flip=flip,
        num_workers=4,
    )


recipe = images()
