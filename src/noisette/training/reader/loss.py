"""What the reader is trained on: where objects are, what they are, and what surrounds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from noisette.scenes.reader.net import OBJECT, OFFSET_UNIT, SIZE, SURROUNDINGS, WORDS, Maps, Reader
from noisette.training.reader.shards import Pictures

LEAST_PIXELS = 10
"""Of the 64 x 64: of what shows less, neither the middle nor the words are taught."""

SPREAD = 1.0
"""Standard deviation of a middle in the heat map, in cells."""

WEIGHTS = {"shape": 1.0, "color": 1.0, "size": 0.5, "material": 0.5, "pose": 0.3}


@dataclass(frozen=True)
class Target:
    """What is true of pictures, as maps.

    masks: float [B, 4, 64, 64]; there: [B, 4], which of them show enough to be taught; middle: [B, 4, 2],
    their mean (x, y) in pixels; heat: [B, 32, 32] in [0, 1]; area: [B, 64, 64], sky 0, floor 1, object 2.
    """

    masks: Tensor
    there: Tensor
    middle: Tensor
    heat: Tensor
    area: Tensor

    @classmethod
    def of(cls, owner: Tensor) -> Target:
        """From the owner [B, 64, 64] of each pixel."""
        masks = (owner[:, None] == torch.arange(4, device=owner.device)[:, None, None]).float()
        count = masks.sum((2, 3))
        line = torch.arange(SIZE, device=owner.device) + 0.5
        total = torch.stack([(masks.sum(2) * line).sum(2), (masks.sum(3) * line).sum(2)], 2)
        there, middle = count >= LEAST_PIXELS, total / count.clamp(min=1)[..., None]
        return cls(masks, there, middle, heat_of(middle, there), (owner + 2).clamp(0, OBJECT).long())


def heat_of(middle: Tensor, there: Tensor) -> Tensor:
    """Bumps [B, 32, 32] of height 1 at the cells of middles [B, K, 2] that are there."""
    cells = SIZE // 2
    line = torch.arange(cells, device=middle.device)
    far = (line - (middle / 2).floor()[..., None]).square()  # [B, K, 2, 32]
    bumps = torch.exp(-(far[:, :, 0, None, :] + far[:, :, 1, :, None]) / (2 * SPREAD**2))
    return (bumps * there[..., None, None]).amax(1)


def heat_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """Focal loss of the middles, per middle. Source: arXiv:1904.07850, Eq. 1, with alpha 2 and beta 4."""
    chance = logits.sigmoid()
    hit = heat == 1
    found = (1 - chance).square() * F.logsigmoid(logits)
    quiet = (1 - heat) ** 4 * chance.square() * F.logsigmoid(-logits)
    return -torch.where(hit, found, quiet).sum() / hit.sum().clamp(min=1)


def loss(reader: Reader, x: Tensor, batch: Pictures, void: Tensor) -> dict[str, Tensor]:
    """The parts of the loss of pictures x [B, 3, 64, 64], of which those of void [B] show nothing."""
    real = ~void
    target = Target.of(torch.where(void[:, None, None], -1, batch.owner))
    maps = reader.maps(x)
    told = reader.tell(maps, target.masks)
    around, readable = reader.around(maps)
    there = target.there & real[:, None]
    words = {
        name: WEIGHTS[name]
        * F.cross_entropy(told.words[name][there].float(), batch.words[..., k][there].long())
        for k, name in enumerate(WORDS)
    }
    surroundings = [
        F.cross_entropy(around[name][real].float(), batch.around[real, k].long())
        for k, name in enumerate(SURROUNDINGS)
    ]
    both = there[:, :, None] & there[:, None] & ~torch.eye(4, dtype=torch.bool, device=x.device)
    stands = (batch.on[:, :, None] == torch.arange(4, device=x.device)).float()
    return words | {
        "heat": 0.5 * heat_loss(maps.heat.float(), target.heat),
        "area": 3 * F.cross_entropy(maps.area[real].float(), target.area[real]),
        "offset": offset_loss(maps, target),
        "place": F.smooth_l1_loss(told.place[there].float(), batch.place[there], beta=0.2),
        "on": F.binary_cross_entropy_with_logits(told.on[both].float(), stands[both]),
        "around": torch.stack(surroundings).sum() / 2,
        "readable": F.binary_cross_entropy_with_logits(readable.float(), real.float()) / 2,
    }


def offset_loss(maps: Maps, target: Target) -> Tensor:
    """How far, in units of the map, pixels of objects point from the middle of theirs, on average."""
    line = torch.arange(SIZE, device=target.masks.device) + 0.5
    masks = target.masks * target.there[..., None, None]
    # Small things count for more than their pixels.
    weight = (masks / masks.sum((2, 3), keepdim=True).clamp(min=1).sqrt()).sum(1, keepdim=True)
    x = (masks * (target.middle[..., 0, None, None] - line)).sum(1)
    y = (masks * (target.middle[..., 1, None, None] - line[:, None])).sum(1)
    wrong = (maps.offset.float() - torch.stack([x, y], 1) / OFFSET_UNIT).abs() * weight
    return wrong.sum() / weight.sum().clamp(min=1)
