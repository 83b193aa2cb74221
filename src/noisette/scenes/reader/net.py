"""The reader's network: a picture in, maps of objects out, and what each mask shows."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisette.errors import UserError
from noisette.scenes.scene import (
    COLORS,
    FLOOR_COLORS,
    FLOOR_PATTERNS,
    LIGHTS,
    MATERIALS,
    POSES,
    SHAPES,
    SIZES,
    STYLES,
)

__all__ = ["OBJECT", "OFFSET_UNIT", "SIZE", "SURROUNDINGS", "WORDS", "Maps", "Reader", "Told"]

SIZE = 64
"""Pixels: every picture is averaged down to this before it is read."""

OFFSET_UNIT = 8.0
"""Pixels (of the 64) to one unit of the offset map, so that its values are of order one."""

AREAS = ("sky", "floor", "object")
OBJECT = AREAS.index("object")

WORDS = {"shape": SHAPES, "color": COLORS, "size": SIZES, "material": MATERIALS, "pose": POSES}
SURROUNDINGS = {
    "light": LIGHTS,
    "style": STYLES,
    "floor_color": FLOOR_COLORS,
    "floor_pattern": FLOOR_PATTERNS,
}

WEIGHTS = files("noisette.scenes") / "weights"


@dataclass(frozen=True)
class Maps:
    """What the network says of pictures, place by place.

    heat: [B, 32, 32] logits, high at the middle of an object; area: [B, 3, 64, 64] logits of sky, floor and
    object; offset: [B, 2, 64, 64] from a pixel to the middle of its object (x, y; units of 8 pixels);
    fine: [B, 64, 32, 32] and coarse: [B, 64, 16, 16], features from which masks are told;
    pooled: [B, 128], features of the whole picture.
    """

    heat: Tensor
    area: Tensor
    offset: Tensor
    fine: Tensor
    coarse: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class Told:
    """What masks [B, K, 64, 64] show.

    words: logits [B, K, n] by field of WORDS; place: [B, K, 2], world units to the right of the middle and
    away from the camera; on: [B, K, K] logits that the first stands on the second.
    """

    words: dict[str, Tensor]
    place: Tensor
    on: Tensor


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


def _stage(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Residual(channels) for _ in range(count)))


class Reader(nn.Module):
    """Read pictures of the scenes world: a small U-Net, a head that finds objects, a head that tells them.

    `maps(x)` finds, `tell(maps, masks)` says what masks show, `around(maps)` what surrounds them, and
    `features(x)` gives the vectors [B, 128] in which this world's Frechet distance is measured. `read` and
    `score` put them together. x: [B, 3, S, S] in [-1, 1], square, S >= 64.

    Centres, offsets and areas follow arXiv:1911.10194 (Panoptic-DeepLab); what an object is, is told from
    features averaged over its mask, not voted by its pixels. Cost: one network call of 0.17e9 multiply-adds
    per picture, 0.95 million weights.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = 32, 64, 96, 128
        self.stem, self.down1 = _conv(12, a), _stage(a, 1)
        self.narrow1, self.down2 = _conv(a, b, stride=2), _stage(b, 2)
        self.narrow2, self.middle = _conv(b, c, stride=2), _stage(c, 3)
        self.widen2, self.up2 = _conv(c, b, kernel=1), _stage(b, 1)
        self.widen1, self.up1 = _conv(b, a, kernel=1), _stage(a, 2)
        self.fine = _conv(a, b, kernel=1)
        self.heat = nn.Conv2d(a, 1, 3, padding=1)
        self.pixels = nn.Conv2d(a, 4 * (len(AREAS) + 2), 3, padding=1)
        self.describe = nn.Sequential(
            nn.Linear(b + b + (a + c) + 5, d), nn.ReLU(), nn.Linear(d, d), nn.ReLU()
        )
        self.words = nn.ModuleDict({name: nn.Linear(d, len(words)) for name, words in WORDS.items()})
        self.place = nn.Linear(d, 2)
        self.above, self.below, self.stands = nn.Linear(d, d // 2), nn.Linear(d, d // 2), nn.Linear(d // 2, 1)
        self.whole = nn.Sequential(nn.Linear(a + c, d // 2), nn.ReLU())
        self.surroundings = nn.ModuleDict({n: nn.Linear(d // 2, len(w)) for n, w in SURROUNDINGS.items()})
        self.readable = nn.Linear(d // 2, 1)

    def maps(self, x: Tensor) -> Maps:
        """Find: pictures [B, 3, S, S] -> Maps. Raises UserError unless they are square, of 64 or more."""
        x = F.pixel_unshuffle(fit(x), 2)
        high = self.down1(self.stem(x))
        low = self.down2(self.narrow1(high))
        middle = self.middle(self.narrow2(low))
        coarse = self.up2(low + _double(self.widen2(middle)))
        top = self.up1(high + _double(self.widen1(coarse)))
        pooled = torch.cat([middle.mean((2, 3)), top.mean((2, 3))], 1)
        area, offset = F.pixel_shuffle(self.pixels(top), 2).split([len(AREAS), 2], 1)
        return Maps(self.heat(top)[:, 0], area, offset, self.fine(top), coarse, pooled)

    def tell(self, maps: Maps, masks: Tensor) -> Told:
        """Say what masks [B, K, 64, 64] in [0, 1] show; an empty mask gives a guess without meaning."""
        kind = maps.fine.dtype
        parts = [_average(maps.fine, masks.to(kind)), _average(maps.coarse, masks.to(kind))]
        whole = maps.pooled[:, None].expand(-1, masks.shape[1], -1)
        told = self.describe(torch.cat([*parts, whole, extent(masks).to(kind)], 2))
        words = {name: head(told) for name, head in self.words.items()}
        pairs = F.relu(self.above(told)[:, :, None] + self.below(told)[:, None])
        return Told(words, self.place(told), self.stands(pairs)[..., 0])

    def around(self, maps: Maps) -> tuple[dict[str, Tensor], Tensor]:
        """Logits [B, n] by field of SURROUNDINGS, and [B] that this is a picture of the world at all."""
        whole = self.whole(maps.pooled)
        return {name: head(whole) for name, head in self.surroundings.items()}, self.readable(whole)[:, 0]

    def features(self, x: Tensor) -> Tensor:
        """Vectors [B, 128] of pictures [B, 3, S, S]: what its heads for the whole picture read."""
        return self.maps(x).pooled

    @classmethod
    def load(cls) -> Reader:
        """The trained reader that ships with the package: frozen, in evaluation mode, float32, on the CPU."""
        from safetensors.torch import load

        reader = cls()
        reader.load_state_dict(load((WEIGHTS / "scenes-reader.safetensors").read_bytes()))
        return reader.eval().requires_grad_(False)


def fit(x: Tensor) -> Tensor:
    """Pictures [B, 3, S, S] averaged down to [B, 3, 64, 64]; UserError unless square, of 64 or more."""
    if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] != x.shape[3] or x.shape[3] < SIZE:
        raise UserError(
            f"the reader takes pictures [B, 3, S, S] with S >= {SIZE}, not {list(x.shape)}: resize them first"
        )
    return x if x.shape[3] == SIZE else F.interpolate(x, (SIZE, SIZE), mode="area")


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _average(features: Tensor, masks: Tensor) -> Tensor:
    """Features [B, C, h, w] averaged over masks [B, K, H, W]: [B, K, C]."""
    weights = F.interpolate(masks, features.shape[-2:], mode="area").flatten(2)
    weights = weights / weights.sum(2, keepdim=True).clamp(min=1e-4)
    return weights @ features.flatten(2).transpose(1, 2)


def extent(masks: Tensor) -> Tensor:
    """Where masks [B, K, H, W] lie, [B, K, 5]: mean x and y, spread in x and y, root of the area."""
    count = masks.sum((2, 3)).clamp(min=1e-4)
    line = torch.linspace(-1, 1, masks.shape[-1], device=masks.device)
    columns, rows = masks.sum(2), masks.sum(3)
    x, y = (columns * line).sum(2) / count, (rows * line).sum(2) / count
    dx = ((columns * (line - x[..., None]).square()).sum(2) / count).sqrt()
    dy = ((rows * (line - y[..., None]).square()).sum(2) / count).sqrt()
    return torch.stack([x, y, 4 * dx, 4 * dy, 4 * count.sqrt() / masks.shape[-1]], 2)
