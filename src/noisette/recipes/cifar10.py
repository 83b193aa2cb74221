"""CIFAR-10, 32 x 32, without labels, as DDPM trained it. Source: arXiv:2006.11239, Appendix B.

35.7 M parameters; 800,000 steps are days on one GPU. Dropout 0.1, random flips, linear schedule.
"""

from __future__ import annotations

from noisette.core import Eps, IndexTime
from noisette.models import Defaults, ModelSpec
from noisette.nets import UNetConfig
from noisette.schedules import LinearVP
from noisette.training import Recipe, Rows, Simple

recipe = Recipe(
    spec=ModelSpec(
        name="cifar10",
        net=UNetConfig(dropout=0.1),
        schedule=LinearVP(),
        parameterization=Eps(),
        time=IndexTime(1000),
        image_size=32,
        defaults=Defaults(steps=50),
    ),
    objective=Simple(times=Rows(1000)),
    steps=800_000,
    batch_size=128,
    lr=2e-4,
    warmup=5000,
    ema=0.9999,
    flip=True,
    checkpoint_every=5000,
    sample_every=5000,
    num_workers=4,
)
