"""Control maps: hints of a picture's edges, depth, normals, classes and poses, as ControlNets are given them.

A hint is [B, 3, H, W] in [0, 1], grey ones with three equal channels. Edges and scribbles are found in any
picture; depth, normals, segmentation and pose are read off a rendering's truth. No map of a picture depends
on the other pictures of its batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from noisette.errors import UserError
from noisette.scenes.render import Rendering
from noisette.scenes.scene import SHAPES
from noisette.scenes.trace import FLOOR, SKY

__all__ = [
    "PALETTE",
    "canny",
    "control_maps",
    "depth",
    "normals",
    "pose",
    "scribble",
    "segmentation",
    "soft_edges",
]

PALETTE = {
    "sky": (70, 200, 240),
    "floor": (110, 110, 110),
    "sphere": (230, 25, 75),
    "cube": (60, 180, 75),
    "cylinder": (255, 225, 25),
    "cone": (0, 70, 220),
    "torus": (245, 130, 48),
    "capsule": (145, 30, 180),
    "figure": (250, 190, 212),
}
"""The colour of each class in a segmentation, in levels of 0 to 255."""


def canny(source: Tensor | Rendering, low: float = 100, high: float = 200) -> Tensor:
    """Canny edges: white lines one pixel wide on black.

    The gradient is Sobel's, |gx| + |gy| of the channel where that is largest; what is largest across its
    edge and above `low` is kept where it is connected (by sides or corners) with something above `high`.
    Thresholds are for pictures of 0 to 255, as cv2.Canny takes them: a step of s levels measures 4 s. There
    is no blur before. source: [B, C, H, W] in [-1, 1], or a rendering. Raises UserError for another shape.

    Source: doi:10.1109/TPAMI.1986.4767851.
    """
    gx, gy = _gradient(127.5 * _pictures(source))
    return _grey(_connected(_thinned(gx, gy), low, high).to(gx))


def soft_edges(source: Tensor | Rendering) -> Tensor:
    """Soft, thick edges on black, the brighter the more scales of the picture show them.

    The mean over three scales of g / (g + 0.6), with g the Sobel gradient of the picture averaged over
    squares 1, 2 and 4 times 1/128 of its height, enlarged again: in the manner of the learned edges of HED,
    without a network. source: [B, C, H, W] in [-1, 1], or a rendering.
    """
    images = _pictures(source)
    height, width = images.shape[-2:]
    finest = max(1.0, height / 128)
    total = images.new_zeros(len(images), 1, height, width)
    for scale in (finest, 2 * finest, 4 * finest):
        size = max(1, round(height / scale)), max(1, round(width / scale))
        gx, gy = _gradient(F.adaptive_avg_pool2d(images, size) if scale > 1 else images)
        g = torch.hypot(gx, gy)[:, None]
        edge = g / (g + 0.6)
        total = total + F.interpolate(edge, (height, width), mode="bilinear", align_corners=False)
    return _grey((total[:, 0] / 3).clamp(0, 1))


def scribble(source: Tensor | Rendering, seed: int | Sequence[int] = 0) -> Tensor:
    """A hand's scribble: the few long strong edges as thick, wobbly white strokes on black.

    Of the picture reduced to at most 64 rows and blurred, the strongest Canny edges, those that pass through
    the upper 6 % of the gradients, of at least a fifth of its height; moved by a smooth random displacement
    of about 1.5 % of its height; thickened to 1/32 of it. Of a rendering it is not the picture that is drawn
    but what is there, objects, creases and horizon, without shadows and patterns: give its rgb for those.

    seed: one for all or one for each; the same seed wobbles the same way. source: as for `canny`.
    Raises UserError for seeds of another number.
    """
    images = _outlines(source) if isinstance(source, Rendering) else _pictures(source)
    count, _, height, width = images.shape
    seeds = [seed] * count if isinstance(seed, int) else list(seed)
    if len(seeds) != count:
        raise UserError(f"scribble: {count} pictures need one seed, or {count}, not {len(seeds)}")
    rows = min(64, height)
    small = F.adaptive_avg_pool2d(images, (rows, max(1, round(rows * width / height))))
    gx, gy = _gradient(127.5 * _blurred(small))
    edges = _thinned(gx, gy)
    strength = (gx.abs() + gy.abs()).flatten(1)
    strong = strength.kthvalue(math.ceil(0.94 * strength.shape[1])).values[:, None, None].clamp(min=100)
    lines = _connected(edges, 0.5 * strong, strong, at_least=rows // 5).to(images)[:, None]
    theta = torch.eye(2, 3, device=images.device).expand(count, 2, 3)
    grid = F.affine_grid(theta, [count, 1, height, width], align_corners=False)
    drawn = F.grid_sample(
        _blurred(lines),
        grid + _wobble(seeds, grid),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return _grey((drawn[:, 0] > 0.26).to(images))


def depth(rendering: Rendering) -> Tensor:
    """Inverse depth, nearest 1 and farthest 0 in each picture, the sky 0.

    d = (1/z - min 1/z) / (max 1/z - min 1/z) over what is not sky, with z along the optical axis: affine in
    disparity, as relative depth estimators such as MiDaS give it. One distance throughout is 1.

    Source: arXiv:1907.01341, section 4.
    """
    z = rendering.depth
    solid = z.isfinite()
    near = torch.where(solid, 1 / z, torch.zeros_like(z)).amax((1, 2), keepdim=True)
    far = torch.where(solid, 1 / z, torch.full_like(z, torch.inf)).amin((1, 2), keepdim=True)
    far = torch.where((near > far) & far.isfinite(), far, 0)
    d = (1 / z - far) / (near - far).clamp(min=1e-12)
    return _grey(torch.where(solid, d, 0).clamp(0, 1))


def normals(rendering: Rendering) -> Tensor:
    """Surface normals as colours: red to the left, green up, blue towards the viewer.

    (1 - n) / 2 with n in OpenCV's camera axes (right, down, forward): what faces the viewer is
    (0.5, 0.5, 1), the sky (0.5, 0.5, 0.5). It is the convention of the second generation of ControlNets,
    whose normals are those of arXiv:2109.09881; flip the red channel for one that wants red to the right.
    """
    return (0.5 - 0.5 * rendering.normal).clamp(0, 1)


def segmentation(rendering: Rendering) -> Tensor:
    """The class of each pixel in the colours of `PALETTE`: sky, floor, or the shape of the object."""
    classes = [PALETTE[name] for name in ("sky", "floor", *SHAPES)]
    palette = torch.tensor(classes, device=rendering.shape.device) / 255
    surroundings = (rendering.instance == FLOOR).long()
    index = torch.where(rendering.instance >= 0, rendering.shape + 2, surroundings)
    return palette[index].movedim(-1, 1)


LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
    (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
"""The points that the 17 limbs join, in the order in which they are drawn."""


def pose(figures: Rendering | Tensor, size: int | None = None) -> Tensor:
    """The skeletons of the figures on black, in OpenPose's rainbow colours.

    Limb i has hue i/18 at 0.6 of its brightness, point i hue i/18 on top of all limbs; a line is 1/64 of the
    picture wide, at least 1.8 pixels, and anti-aliased. Points that are NaN or marked invisible, and limbs
    that end there, are left out. figures: a rendering, or keypoints [B, K, 18, 3] of K figures as
    (x, y, visible) in the pixels of a square picture of `size`.

    Raises UserError for keypoints of another shape, or without a size.
    """
    if isinstance(figures, Rendering):
        figures, size = figures.keypoints, figures.rgb.shape[-1]
    if figures.ndim != 4 or figures.shape[2:] != (18, 3):
        raise UserError(f"pose: keypoints are [B, K, 18, 3], not {list(figures.shape)}")
    if size is None:
        raise UserError("pose: keypoints need the size of the picture")
    count, slots = figures.shape[:2]
    hint = figures.new_zeros(count, 3, size * size)
    shown = figures.isfinite().all(-1) & (figures[..., 2] > 0.5)
    for slot in range(slots):
        where = shown[:, slot].any(-1).nonzero()[:, 0]
        if len(where):
            _draw(hint, where, figures[where, slot, :, :2], shown[where, slot], size)
    return hint.view(count, 3, size, size).clamp(0, 1)


def control_maps(rendering: Rendering, seed: int | Sequence[int] = 0) -> dict[str, Tensor]:
    """Every map of a rendering by name; seed is the scribble's."""
    return {
        "canny": canny(rendering),
        "soft_edges": soft_edges(rendering),
        "scribble": scribble(rendering, seed),
        "depth": depth(rendering),
        "normals": normals(rendering),
        "segmentation": segmentation(rendering),
        "pose": pose(rendering),
    }


def _pictures(source: Tensor | Rendering) -> Tensor:
    images = source.rgb if isinstance(source, Rendering) else source
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(f"pictures are [B, C, H, W], not {list(images.shape)}")
    return images.float()


def _grey(values: Tensor) -> Tensor:
    return values[:, None].repeat(1, 3, 1, 1)


def _gradient(images: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel's gx and gy, [B, H, W] each, of the channel where |gx| + |gy| is largest."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    down = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    gx = down[..., 2:] - down[..., :-2]
    right = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    gy = right[:, :, 2:] - right[:, :, :-2]
    strongest = (gx.abs() + gy.abs()).max(1, keepdim=True).indices
    return gx.gather(1, strongest)[:, 0], gy.gather(1, strongest)[:, 0]


def _thinned(gx: Tensor, gy: Tensor) -> Tensor:
    """|gx| + |gy| where it is largest across the edge, else 0; of two that are equal the first is kept."""
    height, width = gx.shape[-2:]
    strength = gx.abs() + gy.abs()
    # Rounding must not choose among equals: an edge that runs through the picture keeps to one row.
    strength = strength.mul(1024).round().div(1024)
    padded = F.pad(strength, (1, 1, 1, 1))

    def beside(down: int, right: int) -> Tensor:
        return padded[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    def peak(down: int, right: int) -> Tensor:
        return (strength > beside(-down, -right)) & (strength >= beside(down, right))

    x, y = gx.abs(), gy.abs()
    tan = 0.41421356  # of 22.5 degrees
    diagonal = torch.where(gx * gy > 0, peak(1, 1), peak(1, -1))
    upright = torch.where(y < tan * x, peak(0, 1), torch.where(x < tan * y, peak(1, 0), diagonal))
    return strength * upright


def _connected(strength: Tensor, low: float | Tensor, high: float | Tensor, at_least: int = 1) -> Tensor:
    """bool [B, H, W]: the connected parts above low that reach above high, of at_least so many pixels."""
    import numpy as np
    from scipy import ndimage

    weak = (strength > low).cpu().numpy()
    neighbors = np.zeros((3, 3, 3), dtype=bool)
    neighbors[1] = True
    labelled: Any = ndimage.label(weak, neighbors)
    part, count = labelled
    strong = np.zeros(count + 1, dtype=bool)
    strong[part[(strength > high).cpu().numpy()]] = True
    keep = strong & (np.bincount(part.ravel(), minlength=count + 1) >= at_least)
    keep[0] = False
    return torch.from_numpy(keep[part]).to(strength.device)


def _blurred(images: Tensor) -> Tensor:
    """The binomial blur of 3 x 3."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    padded = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return (padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 16


def _outlines(rendering: Rendering) -> Tensor:
    """Pictures whose edges are those of the objects, the horizon, and the creases of each object."""
    # The bits of the instance's number: two that differ do so by a whole step in some channel.
    number = (rendering.instance - SKY)[:, None]
    bits = torch.cat([number >> k & 1 for k in range(3)], 1)
    return torch.cat((bits, 0.6 * rendering.normal), 1)


def _wobble(seeds: list[int], grid: Tensor) -> Tensor:
    """A smooth displacement [B, H, W, 2] of a sampling grid, about 1.5 % of the picture."""
    height, width = grid.shape[1:3]
    knots = {seed: torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(seed)) for seed in set(seeds)}
    field = torch.stack([knots[seed] for seed in seeds]).to(grid) * 0.03
    field = F.interpolate(field, (height, width), mode="bicubic", align_corners=True)
    return field.movedim(1, -1)


def _draw(hint: Tensor, where: Tensor, points: Tensor, shown: Tensor, size: int) -> None:
    """Draw K skeletons, points [K, 18, 2] and shown bool [K, 18], into pictures `where` of hint [B, 3, N]."""
    reach = max(0.9, size / 128) + 0.5
    # Each is drawn in a window of its own, all of the same size, which is a small part of the picture.
    corner = torch.where(shown[..., None], points, torch.inf).amin(1) - reach
    far = torch.where(shown[..., None], points, -torch.inf).amax(1) + reach
    corner, far = corner.floor().clamp(0, size - 1), far.ceil().clamp(1, size)
    width, height = (far - corner).amax(0).long().tolist()
    corner = torch.minimum(corner, corner.new_tensor((size - width, size - height))).long()
    y, x = torch.meshgrid(*(torch.arange(n, device=hint.device) for n in (height, width)), indexing="ij")
    pixel = ((corner[:, 1, None, None] + y) * size + corner[:, 0, None, None] + x).flatten(1)
    points = points - corner[:, None]
    color, clear = _skeleton(points, shown, torch.stack((x, y)).flatten(1) + 0.5, reach)
    at = where[:, None], slice(None), pixel
    hint[at] = hint[at] * clear.mT + color.mT


def _skeleton(points: Tensor, shown: Tensor, pixels: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Premultiplied colour [K, 3, N] and transparency [K, 1, N] of K skeletons at pixels [2, N].

    Limbs and points alike are segments; a pixel's place along and across each is affine in the pixel, so one
    matrix product gives them all.
    """
    limbs = torch.tensor(LIMBS, device=points.device)
    drawn = torch.cat((shown[:, limbs].all(-1), shown), 1)
    points = torch.where(shown[..., None], points, 0)
    a, b = torch.cat((points[:, limbs[:, 0]], points), 1), torch.cat((points[:, limbs[:, 1]], points), 1)
    length = (b - a).norm(dim=-1, keepdim=True)
    way = torch.where(length > 1e-6, (b - a) / length.clamp(min=1e-6), points.new_tensor((1.0, 0.0)))
    frame = torch.stack((way, torch.stack((-way[..., 1], way[..., 0]), -1)), 2)  # [K, 35, 2, 2]
    frame = torch.cat((frame, -(frame @ a[..., None])), -1)
    along, across = (frame @ torch.cat((pixels, torch.ones_like(pixels[:1])))).unbind(2)  # [K, 35, N]
    beyond = along - torch.minimum(along.clamp(min=0), length)
    cover = (reach - torch.hypot(beyond, across)).clamp(0, 1) * drawn[..., None]
    # Later ones lie on top: each is seen through what follows it.
    through = (1 - cover).flip(1).cumprod(1).flip(1)
    seen = cover * torch.cat((through[:, 1:], torch.ones_like(through[:, :1])), 1)
    rainbow = _rainbow(points)
    return torch.cat((0.6 * rainbow[:17], rainbow)).T @ seen, through[:, :1]


def _rainbow(like: Tensor) -> Tensor:
    """The 18 fully saturated colours of hue i/18, [18, 3]."""
    hue = torch.arange(18, device=like.device, dtype=like.dtype)[:, None] / 3
    toward = hue - torch.tensor((0.0, 2.0, 4.0), device=like.device, dtype=like.dtype)
    return (2 - ((toward + 3) % 6 - 3).abs()).clamp(0, 1)
