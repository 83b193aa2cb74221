"""What the network is told of a call's pictures, and of what guidance leads away from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from noisette.conditioning import label_cond, to_null
from noisette.conditioning.text import NO_TEXT, alike
from noisette.core import Cond
from noisette.errors import UserError
from noisette.models.asking import Told
from noisette.models.checkpoints import told_sizes
from noisette.models.starting import Size

if TYPE_CHECKING:
    from noisette.models.model import Model

__all__ = ["conds_of"]


def conds_of(
    model: Model, told: Told, part: slice, size: Size, clip_skip: int = 0, concat: Tensor | None = None
) -> tuple[Cond, Callable[[Cond], Cond]]:
    """The condition of some of the pictures, and the change of it to what guidance leads away from.

    ``size`` is that of the latents; ``concat`` stands beside the noisy latents at the input.
    """
    if told.prompts is None:
        return {} if told.labels is None else label_cond(told.labels[part], model.device), to_null
    if model.texts is None:
        raise UserError(f"{model.spec.name} has no texts to read a prompt with: load it, or give texts=")
    if any(told.negatives or ()) and getattr(model.spec.net, "guidance_dim", None):
        raise UserError(f"{model.spec.name} is told its guidance, and hears no negative prompt: leave it out")
    prompts = told.prompts[part]
    negatives = told.negatives[part] if told.negatives else (NO_TEXT,) * len(prompts)
    cond, null = model.texts.pair(prompts, negatives, model.device)
    # Negative prompts are always read at the model's own layer, as in diffusers.
    cond = {**cond, "layer": clip_skip} if clip_skip else cond
    cond, null = alike(model.read(cond), model.read(null))
    if model.checkpoint is not None:
        cond, null = told_sizes(model.checkpoint, model.spec, cond, null, size, told.negatives is None)
    if concat is not None:
        cond, null = ({**one, "concat": concat[part].to(model.device)} for one in (cond, null))
    return cond, lambda _: null
