"""Pictures with captions, 64 x 64, of any kind: the shape of `scenes`, with words learned from your captions.

`noisette train text-to-image --data FOLDER --out RUN` from nothing, `--start scenes` from what ships.
For another size, or another text encoder, write a file of your own, such as::

    from dataclasses import replace

    from noisette.conditioning.pretrained import PretrainedText
    from noisette.recipes.text_to_image import recipe as plain

    net = replace(plain.spec.net, context_dim=512, pooled_dim=None)
    spec = replace(plain.spec, net=net, text=PretrainedText("google/t5-v1_1-small", max_length=77))
    recipe = replace(plain, spec=spec)
"""

from __future__ import annotations

from dataclasses import replace

from noisette.models import Defaults
from noisette.recipes.scenes import recipe as scenes
from noisette.recipes.scenes import text
from noisette.training import LogitNormalTimes, Simple

# Words of captions at large do not say where things are: the usual times and less guidance than for scenes.
recipe = replace(
    scenes,
    spec=replace(
        scenes.spec,
        name="text-to-image",
        defaults=Defaults(guidance_scale=3.0),
        text=replace(text, vocab_size=4096),
    ),
    objective=Simple(times=LogitNormalTimes()),
    world=None,
)
