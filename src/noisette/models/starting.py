"""Where a trajectory begins: from noise alone, from a picture, or from a picture with a part to fill in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from noisette.core import Level, Step, combine, prior
from noisette.errors import UserError
from noisette.pixels import from_uint8

if TYPE_CHECKING:
    from PIL.Image import Image

    from noisette.models.model import Model

__all__ = ["Pictures", "Scale", "Size", "Start", "pictures_of", "start_of", "steps_taken"]

Pictures: TypeAlias = "Tensor | Image | Sequence[Image] | Any"
"""One or several: PIL; NumPy [H, W, C] or [N, H, W, C] in [0, 1]; or a tensor [N, C, H, W] in [-1, 1]."""

Scale: TypeAlias = Literal["marginal", "noise"]
Size: TypeAlias = tuple[int, int]

STRENGTH = 0.8
"""Of the steps, when a picture is given and nobody says how much of it is to change."""


@dataclass(frozen=True)
class Start:
    """What trajectories begin with beside their noise.

    ``latents`` [N, C, h, w]: the pictures as the network knows them, None for pure noise. ``mask``
    [N, 1, h, w], 1 where something new is drawn: elsewhere every step is brought back to the picture under
    the noise of its level. ``strength`` in [0, 1] is the part of the steps that are taken; with ``anew`` a
    strength of 1 begins from noise alone, else a little of the picture is in it. ``scale``: see
    `noisette.hub.schedulers.Sampler`.
    """

    latents: Tensor | None = None
    mask: Tensor | None = None
    strength: float = 1.0
    scale: Scale = "marginal"
    anew: bool = False

    def part(self, which: slice) -> Start:
        """The start of some of the pictures."""
        latents, mask = (None if x is None else x[which] for x in (self.latents, self.mask))
        return replace(self, latents=latents, mask=mask)

    def levels(self, levels: Sequence[Level]) -> list[Level]:
        """The levels that are gone through, from the first on."""
        return list(levels[len(levels) - 1 - steps_taken(len(levels) - 1, self.strength) :])

    def at(self, level: Level, eps: Tensor) -> Tensor:
        """The first x, from standard normal noise."""
        if self.latents is not None and not (self.anew and self.strength == 1):
            return level.diffuse(self.latents.to(eps), eps)
        return prior(eps, level) if self.scale == "marginal" else combine((level.sigma, eps))

    def kept(self, step: Step, eps: Tensor) -> Tensor:
        """x after a step, with what the mask spares as it was: the same noise at the level now reached."""
        if self.mask is None or self.latents is None:
            return step.x
        known = self.latents.to(step.x)
        if step.index < step.total - 1:
            known = step.t.diffuse(known, eps)
        mask = self.mask.to(step.x)
        return (1 - mask) * known + mask * step.x


def steps_taken(steps: int, strength: float) -> int:
    """How many of the steps are taken: ``floor(steps * strength)``, exactly, and one at least above 0.

    In floating point 100 * 0.29 is less than 29, and 0.04 of 20 steps are none.
    Raises UserError for a strength outside [0, 1].

    >>> steps_taken(100, 0.29), steps_taken(20, 0.04), steps_taken(20, 0.0)
    (29, 1, 0)
    """
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 1:
        raise UserError(f"strength is a part of the steps in [0, 1], not {strength!r:.40}")
    return max(1, math.floor(steps * strength + 1e-9)) if strength > 0 else 0


def pictures_of(given: Pictures, height: int | None, width: int | None, stride: int) -> Tensor:
    """Pictures as a tensor [N, C, H, W] in [-1, 1].

    ``height`` and ``width`` are what they are brought to; None for both leaves them as large as they are,
    down to a multiple of ``stride``. Raises UserError for what is no picture, and for one side alone.
    """
    if (height is None) != (width is None):
        raise UserError("give both height and width, or neither: a picture keeps its own size")
    images = _tensor(given, "RGB", "a picture")
    own = [side // stride * stride for side in images.shape[-2:]]
    size = height or own[0], width or own[1]
    if not all(size):
        raise UserError(f"the picture is {images.shape[-1]}x{images.shape[-2]}, too small for this model")
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)


def masks_of(given: Pictures, size: Size) -> Tensor:
    """Masks as a tensor [N, 1, H, W] of zeros and ones, 1 where white: what is to be drawn anew."""
    masks = (_tensor(given, "L", "a mask")[:, :1] + 1) / 2
    if isinstance(given, Tensor):
        masks = given.detach().float()  # in [0, 1], as masks are
        masks = masks.reshape(-1, 1, *masks.shape[-2:])
    masks = (masks >= 0.5).float()
    return masks if masks.shape[-2:] == size else F.interpolate(masks, size, mode="nearest")


def _tensor(given: Pictures, mode: str, what: str) -> Tensor:
    import numpy as np
    from PIL.Image import Image

    if isinstance(given, Tensor):
        if given.ndim not in (3, 4) or not given.is_floating_point():
            raise UserError(f"{what} as a tensor is [N, C, H, W] in [-1, 1], not {list(given.shape)}")
        return given.detach().float().reshape(-1, *given.shape[-3:])
    if isinstance(given, Image):
        given = [given]
    if isinstance(given, np.ndarray):
        array = given if given.dtype != np.uint8 else given / 255.0
        if array.ndim == 2:
            array = array[..., None]
        if array.ndim not in (3, 4):
            raise UserError(f"{what} as an array is [H, W, C] or [N, H, W, C], not {list(array.shape)}")
        array = array.reshape(-1, *array.shape[-3:])
        return torch.from_numpy(array).float().permute(0, 3, 1, 2) * 2 - 1
    if not isinstance(given, Sequence) or not given or not all(isinstance(one, Image) for one in given):
        raise UserError(f"{what} is a PIL image, an array or a tensor, or a list of images")
    arrays = [np.atleast_3d(np.asarray(one.convert(mode))) for one in given]
    if len({array.shape for array in arrays}) > 1:
        raise UserError(f"several pictures at once have one size: {[array.shape[:2] for array in arrays]}")
    return from_uint8(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2))


def start_of(
    model: Model,
    given: Tensor | None,
    mask_image: Pictures | None,
    strength: float | None,
    shape: tuple[int, int, int, int],
    scale: Scale,
) -> tuple[Start, Tensor | None]:
    """Where ``shape`` latents begin, and what stands beside them at the network's input, None for nothing.

    A network that was trained to fill in is told the mask and what is left of the picture; from any other
    what the mask spares is kept by force. ``given``: pictures [N, C, H, W] in [-1, 1].
    """
    fills = bool(getattr(model.spec.net, "concat_channels", 0))
    if (given is None and fills) or (given is not None and fills and mask_image is None):
        raise UserError(f"{model.spec.name} fills in parts of a picture: give image= and mask_image=")
    if given is None:
        if mask_image is not None or strength is not None:
            raise UserError("a mask and a strength belong to a picture: give image=")
        return Start(scale=scale), None
    latents = _spread(model.encode(given), shape[0], "pictures")
    if mask_image is None:
        return Start(latents, None, STRENGTH if strength is None else strength, scale), None
    mask = masks_of(mask_image, (given.shape[-2], given.shape[-1]))
    small = _spread(F.interpolate(mask, shape[2:], mode="nearest"), shape[0], "masks")
    strength = 1.0 if strength is None else strength
    if not fills:
        return Start(latents, small, strength, scale, anew=True), None
    left = _spread(model.encode(given * (mask < 0.5)), shape[0], "pictures")
    return Start(latents, None, strength, scale, anew=True), torch.cat([small.to(left), left], dim=1)


def _spread(x: Tensor, count: int, what: str) -> Tensor:
    """One for all, or one for each, or several of each in turn. Raises UserError for another number."""
    if count % len(x):
        raise UserError(f"{len(x)} {what} were given for {count} to draw: give one for all, or one for each")
    return x.repeat_interleave(count // len(x), dim=0)
