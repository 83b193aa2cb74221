"""What each ray meets, how much of the sun it sees and how enclosed it is: sphere tracing, only where needed.

A ray is tried against the few primitives whose bounding sphere it can meet, as flat lists of (ray, primitive)
pairs, one list per family of shapes; so the cost follows the pictured area of the objects, and whatever is
asked of a shape (hit, normal, shadow, occlusion) is asked of its signed distance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from noisette.scenes.camera import View
from noisette.scenes.layout import SLOTS, Primitives, World
from noisette.scenes.scene import SHAPES
from noisette.scenes.shapes import CONVEX, FAMILIES, gradient

__all__ = ["FLOOR", "SKY", "Surface", "occlusion", "sunlight", "trace"]

FLOOR, SKY = -1, -2
"""Instances that are no object."""

NEAR = 0.05
TOUCH = 2e-4
"""World units from a surface that count as having met it."""
STEPS = 96
"""Of a ray along a shape before it is given up: only rays that graze an edge need more than 20."""


@dataclass(frozen=True)
class Surface:
    """What the rays of B pictures of n x n meet.

    depth [B, n, n]: along the optical axis, inf in the sky. point, normal, direction [B, 3, n, n]: in the
    world; the normal is a unit vector, 0 in the sky; the direction has unit depth. own [B, 3, n, n]: the
    point in the object's own frame, in units of its r; on the floor the world point. instance [B, n, n]:
    slot of the object, FLOOR or SKY. primitive [B, n, n]: counted through all of the world's, -1 for none.
    skin [B, n, n]: the bare parts of a figure.
    """

    depth: Tensor
    point: Tensor
    normal: Tensor
    direction: Tensor
    own: Tensor
    instance: Tensor
    primitive: Tensor
    skin: Tensor

    def of_object(self, table: Tensor) -> Tensor:
        """Values of a table [B, SLOTS] at each ray [B, n, n]; slot 0's where a ray meets no object."""
        flat = self.instance.clamp(min=0).flatten(1)
        return table.gather(1, flat).view(self.instance.shape)


@dataclass(frozen=True)
class _Pairs:
    """Lines of unit-free length, each with one primitive: points of line i are origin + t * along.

    ray [K] says which line of the batch it is, prim [K] which primitive; origin, along [3, K] are in the
    primitive's own frame, and size [3, K] its sizes.
    """

    ray: Tensor
    prim: Tensor
    origin: Tensor
    along: Tensor
    size: Tensor

    def pick(self, rows: Tensor) -> _Pairs:
        """The pairs of those indices."""
        flat = (t.index_select(0, rows) for t in (self.ray, self.prim))
        return _Pairs(*flat, *(t.index_select(1, rows) for t in (self.origin, self.along, self.size)))


def trace(world: World, view: View, n: int) -> Surface:
    """Follow the rays through the centres of n x n pixels to the first surface."""
    count, device = len(world.scenes), view.eye.device
    direction = view.directions(n)
    depth = torch.full((count * n * n,), torch.inf, device=device)
    drop = direction[:, 2].flatten()
    height = view.eye[:, 2].repeat_interleave(n * n)
    below = drop < 0
    depth = torch.where(below, -height / torch.where(below, drop, -1.0), depth)
    instance = torch.where(below, FLOOR, SKY)
    normal = torch.zeros((3, count * n * n), device=device)
    normal[2] = below.float()
    skin = torch.zeros(count * n * n, dtype=torch.bool, device=device)
    primitive = torch.full_like(instance, -1)

    met = [(part, *_march(part.family, *_lines(part, view, n))) for part in world.primitives]
    for _, pairs, distance in met:
        depth.scatter_reduce_(0, pairs.ray, distance, "amin")
    earlier = 0
    for part, pairs, distance in met:
        first = _where(distance == depth[pairs.ray])
        pairs, distance = pairs.pick(first), distance[first]
        own = gradient(part.family, pairs.origin + distance * pairs.along, pairs.size)
        normal[:, pairs.ray] = (part.rotation[pairs.prim] * own.T[:, None]).sum(-1).T
        instance[pairs.ray] = part.slot[pairs.prim]
        primitive[pairs.ray] = earlier + pairs.prim
        earlier += len(part.scene)
        skin[pairs.ray] = part.skin[pairs.prim]

    square = (count, n, n)
    depth, instance = depth.view(square), instance.view(square)
    point = view.eye[:, :, None, None] + depth.nan_to_num(posinf=1e4)[:, None] * direction
    normal = normal.view(3, *square).transpose(0, 1)
    own = _own_frame(world, point, instance)
    return Surface(depth, point, normal, direction, own, instance, primitive.view(square), skin.view(square))


def _lines(part: Primitives, view: View, n: int) -> tuple[_Pairs, Tensor, Tensor]:
    """Camera rays and the primitives they may meet, with the first and last depth to look at."""
    left, right, top, bottom = _rectangle(part, view, n)
    width = right - left
    area = width * (bottom - top)
    prim, place = _spread(area)
    across = width[prim]
    row = torch.div(place, across, rounding_mode="floor")
    column = left[prim] + place - row * across
    row += top[prim]
    scene = part.scene
    into = part.rotation.mT
    origin = (into * (view.eye[scene] - part.center)[:, None]).sum(-1)
    slope = view.slope[scene][:, None, None]
    # Columns: what a step right, down and forward of the camera is in the primitive's frame.
    axes = (into[:, :, None] * view.axes[scene][:, None]).sum(-1) * torch.cat(
        (slope, slope, torch.ones_like(slope)), -1
    )
    u, v = ((i + 0.5) * (2 / n) - 1 for i in (column, row))
    axes = axes.permute(1, 2, 0).index_select(2, prim)
    along = axes[:, 0] * u + axes[:, 1] * v + axes[:, 2]
    pairs = _Pairs(
        scene[prim] * (n * n) + row * n + column,
        prim,
        origin.T.index_select(1, prim),
        along,
        part.size.index_select(1, prim),
    )
    return _through_bound(pairs, part.bound[prim])


def _rectangle(part: Primitives, view: View, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels [left, right) x [top, bottom) that hold the picture of each bounding sphere."""
    from_eye = part.center - view.eye[part.scene]
    x, y, z = (view.axes[part.scene] * from_eye[:, None]).sum(-1).unbind(-1)
    scale = n / 2 / view.slope[part.scene]
    edges: list[Tensor] = []
    for side in (x, y):
        # The two tangents from the eye to the sphere, in the plane of this axis and the optical one.
        reach = (part.bound / torch.hypot(side, z)).clamp(max=1).asin()
        middle = torch.atan2(side, z)
        for angle, bound in ((middle - reach, -1.5), (middle + reach, 1.5)):
            angle = angle.clamp(-abs(bound), abs(bound))
            edges.append((angle.tan() * scale + n / 2).round())
    hidden = z + part.bound < NEAR
    low_x, high_x, low_y, high_y = (edge.clamp(0, n).long().masked_fill(hidden, 0) for edge in edges)
    return low_x, high_x, low_y, high_y


def _through_bound(pairs: _Pairs, bound: Tensor) -> tuple[_Pairs, Tensor, Tensor]:
    """Keep the lines that meet the sphere of radius bound [K], with where they enter and leave it."""
    square = (pairs.along * pairs.along).sum(0)
    nearest = -(pairs.origin * pairs.along).sum(0) / square
    missed = ((pairs.origin + nearest * pairs.along) ** 2).sum(0)
    half = ((bound * bound - missed) / square).clamp(min=0).sqrt()
    keep = _where((missed < bound * bound) & (nearest + half > NEAR))
    nearest, half = nearest[keep], half[keep]
    return pairs.pick(keep), (nearest - half).clamp_(min=NEAR), nearest + half


def _march(family: int, pairs: _Pairs, start: Tensor, end: Tensor) -> tuple[_Pairs, Tensor]:
    """Step along each line by the distance to the shape until it is met; keep the lines that meet it."""
    distance = FAMILIES[family]
    found: list[tuple[_Pairs, Tensor]] = []
    t, speed = start, (pairs.along * pairs.along).sum(0).rsqrt()
    for step in range(STEPS):
        gap = distance(pairs.origin + t * pairs.along, pairs.size)
        if step % 6 == 5 or step == STEPS - 1:
            met = gap < TOUCH
            there, going = _where(met), _where(~met & (t < end))
            found.append((pairs.pick(there), t[there]))
            pairs, t, end, speed, gap = pairs.pick(going), t[going], end[going], speed[going], gap[going]
            if not len(t):
                break
        t = t + gap * speed
    parts, depths = zip(*found, strict=True)
    return _joined(parts), torch.cat(depths)


def _where(mask: Tensor) -> Tensor:
    # Picking by indices many times is cheaper than by a mask, which is searched each time.
    return mask.nonzero()[:, 0]


def _joined(parts: tuple[_Pairs, ...]) -> _Pairs:
    flat = (torch.cat([getattr(p, name) for p in parts]) for name in ("ray", "prim"))
    wide = (torch.cat([getattr(p, name) for p in parts], 1) for name in ("origin", "along", "size"))
    return _Pairs(*flat, *wide)


def _own_frame(world: World, point: Tensor, instance: Tensor) -> Tensor:
    own = point.clone()
    for slot in range(SLOTS):
        here = instance == slot
        scene = here.nonzero()[:, 0]
        from_center = point.transpose(0, 1)[:, here] - world.center[scene, slot].T
        turned = (world.rotation[scene, slot].permute(1, 2, 0) * from_center[:, None]).sum(0)
        own.transpose(0, 1)[:, here] = turned / world.radius[scene, slot]
    return own


def sunlight(world: World, surface: Surface, sun: Tensor, angle: float) -> Tensor:
    """The part of the sun's disc in [0, 1] that each point sees past the objects, [B, n, n].

    sun [B, 3]: unit vectors towards the sun; angle: half of the disc's width, in radians (wider is softer).
    The shade of an edge that stands a signed angle s * angle above the sun's middle, s in [-1, 1], is the
    cubic 1/2 + 3/4 s - 1/4 s^3, and objects shade by the nearest to the sun.
    """
    lit = torch.ones(surface.depth.numel(), device=surface.depth.device)
    facing = (surface.normal * sun[:, :, None, None]).sum(1) > 0  # never in the sky, whose normal is 0

    def reaches(offset: Tensor, bound: Tensor) -> Tensor:
        ahead = -(offset * sun[:, :, None, None]).sum(1)
        aside = (offset * offset).sum(1) - ahead * ahead
        return (ahead > -bound) & (aside < (bound + (ahead + bound) * angle) ** 2)

    for part, ray, prim in _near(world, surface, facing, reaches):
        point, normal = (
            x.transpose(0, 1).flatten(1).index_select(1, ray) for x in (surface.point, surface.normal)
        )
        lines = _from_points(part, ray, prim, point + 0.01 * normal, sun[part.scene[prim]].T)

        def gap(t: Tensor, lines: _Pairs = lines, family: int = part.family) -> Tensor:
            return FAMILIES[family](lines.origin + t * lines.along, lines.size)

        middle = -(lines.origin * lines.along).sum(0)
        low, high = (middle - part.bound[prim]).clamp(min=0), (middle + part.bound[prim]).clamp(min=1e-3)
        t = _lowest(gap, low, high) if CONVEX[part.family] else _lowest_of_many(gap, low, high)
        s = (gap(t) / (t * angle + 1e-3)).clamp(-1, 1)
        lit.scatter_reduce_(0, ray, 0.5 + 0.75 * s - 0.25 * s**3, "amin")
    return lit.view(surface.depth.shape)


Gap = Callable[[Tensor], Tensor]
GOLD = 0.618033988749895


def _lowest(gap: Gap, low: Tensor, high: Tensor, steps: int = 12) -> Tensor:
    """Where a convex function of [K] is lowest between low and high, by golden sections."""
    a, b = high - GOLD * (high - low), low + GOLD * (high - low)
    at_a, at_b = gap(a), gap(b)
    for _ in range(steps):
        left = at_a < at_b
        low, high = torch.where(left, low, a), torch.where(left, b, high)
        new = torch.where(left, high - GOLD * (high - low), low + GOLD * (high - low))
        at_new = gap(new)
        a, b = torch.where(left, new, b), torch.where(left, a, new)
        at_a, at_b = torch.where(left, at_new, at_b), torch.where(left, at_a, at_new)
    return torch.where(at_a < at_b, a, b)


def _lowest_of_many(gap: Gap, low: Tensor, high: Tensor, parts: int = 16) -> Tensor:
    """Where a function of [K] is lowest between low and high: the best of equal parts, then within it."""
    width = (high - low) / parts
    best, at_best = low, gap(low)
    for i in range(1, parts + 1):
        t = low + i * width
        value = gap(t)
        best = torch.where(value < at_best, t, best)
        at_best = torch.minimum(value, at_best)
    return _lowest(gap, (best - width).clamp(min=0), best + width, 6)


TAPS = (0.06, 0.15, 0.32, 0.6)
"""World units along the normal at which a point feels how near everything else is."""
WEIGHTS = (0.35, 0.3, 0.2, 0.15)


def occlusion(world: World, surface: Surface) -> Tensor:
    """How enclosed each point is, [B, n, n] from 0 (open) to 1: `sum_k w_k (1 - sdf(p + h_k n) / h_k)`.

    The distance is that of the whole scene, clipped to [0, h_k], at a few steps h_k along the normal.
    """
    flat_point, flat_normal = (x.transpose(0, 1).flatten(1) for x in (surface.point, surface.normal))
    solid = surface.instance != SKY
    height, up = flat_point[2], flat_normal[2]
    above = [torch.where((surface.instance >= 0).flatten(), height + h * up, h) for h in TAPS]

    def reaches(offset: Tensor, bound: Tensor) -> Tensor:
        # The balls of radius h about the points h along the normal lie one in the next.
        last = offset + TAPS[-1] * surface.normal
        return (last * last).sum(1) < (bound + TAPS[-1]) ** 2

    for part, ray, prim in _near(world, surface, solid, reaches):
        point, normal = flat_point.index_select(1, ray), flat_normal.index_select(1, ray)
        lines = _from_points(part, ray, prim, point, normal)
        for h, lowest in zip(TAPS, above, strict=True):
            gap = FAMILIES[part.family](lines.origin + h * lines.along, lines.size)
            lowest.scatter_reduce_(0, ray, gap, "amin")
    total = torch.zeros_like(height)
    for weight, h, lowest in zip(WEIGHTS, TAPS, above, strict=True):
        total += weight * (1 - (lowest / h).clamp_(0, 1))
    return total.view(surface.depth.shape)


def _from_points(part: Primitives, ray: Tensor, prim: Tensor, point: Tensor, along: Tensor) -> _Pairs:
    """Lines from world points [3, K] in world directions [3, K], seen by primitives."""
    into = part.rotation.permute(2, 1, 0).index_select(2, prim)  # [own, world, K]
    origin = (into * (point - part.center.T.index_select(1, prim))).sum(1)
    return _Pairs(ray, prim, origin, (into * along).sum(1), part.size.index_select(1, prim))


def _near(
    world: World, surface: Surface, wanted: Tensor, reaches: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[tuple[Primitives, Tensor, Tensor]]:
    """Wanted points with the primitives that matter to them, as flat lists: family, rays [K], primitives [K].

    reaches(point - centre, bound) says from which points a sphere about an object matters.
    """
    # By object first: the bones of a figure are looked at only where the figure is near.
    concave = (world.shape == SHAPES.index("torus")) | (world.shape == SHAPES.index("figure"))
    rays, owners = [], []
    for slot in range(SLOTS):
        bound = world.bound[:, slot, None, None]
        close = reaches(surface.point - world.center[:, slot, :, None, None], bound)
        # What is convex neither shades nor encloses itself; a ring and a figure do.
        close &= wanted & (bound > 0) & ((surface.instance != slot) | concave[:, slot, None, None])
        ray = close.flatten().nonzero()[:, 0]
        rays.append(ray)
        owners.append(torch.div(ray, surface.depth[0].numel(), rounding_mode="floor") * SLOTS + slot)
    ray, owner = torch.cat(rays), torch.cat(owners)
    for part in world.primitives:
        count = torch.bincount(part.scene * SLOTS + part.slot, minlength=world.bound.numel())
        which, place = _spread(count[owner])
        if len(which):
            yield part, ray[which], (count.cumsum(0) - count)[owner[which]] + place


def _spread(count: Tensor) -> tuple[Tensor, Tensor]:
    """Each index i repeated count[i] times, with 0 .. count[i] - 1 beside it."""
    index = torch.repeat_interleave(count)
    return index, torch.arange(len(index), device=count.device) - (count.cumsum(0) - count)[index]
