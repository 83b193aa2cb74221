from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from noisette.errors import UserError
from noisette.metrics.features import collect
from noisette.scenes.constraints import Constraints, Pattern, Relation
from noisette.scenes.reader import Reader, Reading, Seen, judge, read, score
from noisette.scenes.reader.net import OFFSET_UNIT, Maps, extent
from noisette.scenes.reader.reading import group


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(0)
    return Reader().eval().requires_grad_(False)


def thing(shape: str, color: str, right: float = 0.0, away: float = 0.0, on: int | None = None) -> Seen:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    return Seen(shape, color, "small", "matte", None, (0.0, 0.0), right, away, on, {}, mask)


SURROUNDED = {"light": "day", "style": "photo", "floor_color": "gray", "floor_pattern": "plain"}


def reading(*things: Seen) -> Reading:
    return Reading(True, things, **SURROUNDED)


def drawn(discs: list[tuple[float, float, float]]) -> tuple[Maps, Tensor]:
    """The maps a perfect network would make of discs (x, y, radius), the first in front; their masks."""
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    owner = torch.full((64, 64), -1)
    for k, (u, v, r) in reversed(list(enumerate(discs))):
        owner[(x - u) ** 2 + (y - v) ** 2 < r * r] = k
    masks = owner == torch.arange(len(discs))[:, None, None]
    heat, offset = torch.full((1, 32, 32), -9.0), torch.zeros(1, 2, 64, 64)
    for k, mask in enumerate(masks):
        u, v = x[mask].mean(), y[mask].mean()
        heat[0, int(v / 2), int(u / 2)] = 9.0 - k
        offset[0, 0][mask], offset[0, 1][mask] = (u - x[mask]) / OFFSET_UNIT, (v - y[mask]) / OFFSET_UNIT
    area = torch.stack([torch.zeros(64, 64), 1.0 - (owner >= 0).float(), 2.0 * (owner >= 0)])[None]
    nothing = torch.zeros(1, 1, 1, 1)
    return Maps(heat, area, offset, nothing, nothing, nothing), masks


@pytest.mark.parametrize(
    "discs",
    [
        [(20.0, 30.0, 8.0)],
        [(20.0, 30.0, 8.0), (30.0, 30.0, 9.0)],
        [(12.0, 12.0, 6.0), (50.0, 14.0, 7.0), (14.0, 48.0, 9.0), (48.0, 50.0, 10.0)],
    ],
)
def test_groups_pixels_by_where_they_point(discs: list[tuple[float, float, float]]):
    maps, masks = drawn(discs)
    found = group(maps)[0]
    assert torch.equal(found[: len(masks)], masks)
    assert not found[len(masks) :].any()


def test_specks_and_unlikely_middles_are_no_objects():
    maps, _ = drawn([(20.0, 30.0, 1.2)])
    assert not group(maps).any()
    maps, _ = drawn([(20.0, 30.0, 8.0)])
    assert not group(replace(maps, heat=torch.full_like(maps.heat, -2.0))).any()


def test_an_empty_picture_of_flat_heat_has_no_objects():
    maps, _ = drawn([])
    assert group(maps).shape == (1, 4, 64, 64) and not group(maps).any()


def test_extent_is_that_of_a_rectangle():
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:32, 32:64] = 1
    x, y, dx, dy, root = extent(mask)[0, 0].tolist()
    line = torch.linspace(-1, 1, 64)
    assert math.isclose(x, line[32:].mean().item(), rel_tol=1e-5)
    assert math.isclose(y, line[16:32].mean().item(), rel_tol=1e-5)
    assert math.isclose(dx, 4 * line[32:].std(correction=0).item(), rel_tol=1e-4)
    assert math.isclose(dy, 4 * line[16:32].std(correction=0).item(), rel_tol=1e-4)
    assert math.isclose(root, 4 * math.sqrt(16 * 32) / 64, rel_tol=1e-5)


def test_is_small_enough_to_ship(reader: Reader):
    assert 2 * sum(value.numel() for value in reader.state_dict().values()) < 2_000_000


def test_what_is_told_of_a_mask_depends_on_that_mask(reader: Reader):
    maps = reader.maps(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    masks = torch.zeros(2, 4, 64, 64)
    masks[:, 0, :20, :20] = masks[:, 1, 30:50, 30:50] = 1
    told, swapped = reader.tell(maps, masks), reader.tell(maps, masks[:, [1, 0, 2, 3]])
    assert torch.allclose(told.words["shape"][:, 0], swapped.words["shape"][:, 1], atol=1e-5)
    assert not torch.allclose(told.place[:, 0], told.place[:, 1], atol=1e-4)
    assert torch.allclose(told.on[:, 0, 1], swapped.on[:, 1, 0], atol=1e-5)
    assert all(value.isfinite().all() for value in (*told.words.values(), told.place, told.on))


def test_features_are_vectors_that_metrics_collect(reader: Reader):
    images = torch.rand(3, 3, 64, 64) * 2 - 1
    assert collect(reader.features, images).shape == (3, 128)
    # A picture of 128 px is one of 64 px whose pixels are means of four.
    large = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(reader.features(large), reader.features(images), atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 32, 32), (1, 3, 64, 128)])
def test_other_pictures_are_refused(reader: Reader, shape: tuple[int, ...]):
    with pytest.raises(UserError, match="64"):
        read(torch.zeros(shape), reader)


def test_pictures_that_are_not_finite_are_refused(reader: Reader):
    with pytest.raises(UserError, match="NaN"):
        read(torch.full((1, 3, 64, 64), torch.nan), reader)


def test_a_reading_does_not_depend_on_its_batch(reader: Reader):
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    together, alone = read(images, reader), [read(image[None], reader)[0] for image in images]
    assert [(r.readable, r.light, len(r.objects)) for r in together] == [
        (r.readable, r.light, len(r.objects)) for r in alone
    ]
    assert read(images[:0], reader) == []


def test_relations_of_a_reading():
    seen = set(
        reading(
            thing("cube", "red", -1, 0.1), thing("cone", "blue", 1), thing("torus", "red", -1, 0.1, 0)
        ).relations()
    )
    assert {Relation(0, "left of", 1), Relation(1, "right of", 0), Relation(2, "on top of", 0)} <= seen
    assert Relation(2, "left of", 1) in seen
    # What stands on another is on top of it and nothing else; what is near is neither before nor behind.
    assert not any(r.kind in ("in front of", "behind") for r in seen)
    assert not any(r.subject == 0 and r.object == 2 and r.kind == "on top of" for r in seen)
    behind = set(reading(thing("cube", "red", 0, 1), thing("cone", "blue")).relations())
    assert behind == {Relation(0, "behind", 1), Relation(1, "in front of", 0)}


def test_score_says_what_holds_and_what_does_not():
    seen = reading(thing("cube", "red", -1), thing("sphere", "blue", 1))
    asked = Constraints(
        (Pattern("cube", "red"), Pattern("sphere", "green")),
        (Relation(0, "left of", 1),),
        light="day",
        style="sketch",
    )
    result = judge(seen, asked)
    assert result.assignment == (0, 1)
    assert result.objects == (
        {"found": True, "shape": True, "color": True},
        {"found": True, "shape": True, "color": False},
    )
    assert result.relations == (True,) and result.surroundings == {"light": True, "style": False}
    assert not result.all
    good = Constraints(
        (Pattern("cube", "red"), Pattern("sphere", "blue")), (Relation(1, "right of", 0),), count=2
    )
    assert judge(seen, good).all and judge(seen, good).count is True
    assert not judge(seen, replace(good, count=3)).all
    assert not judge(seen, replace(good, relations=(Relation(0, "right of", 1),))).all


def test_objects_are_given_to_patterns_as_suits_them_best():
    seen = reading(thing("cube", "red", 1), thing("cube", "red", -1))
    asked = Constraints((Pattern("cube"), Pattern("cube", "red")), (Relation(0, "left of", 1),))
    assert judge(seen, asked).assignment == (1, 0) and judge(seen, asked).all
    # Each pattern asks for an object of its own.
    three = judge(seen, Constraints((Pattern("cube"),) * 3))
    assert [one["found"] for one in three.objects].count(True) == 2 and not three.all


def test_nothing_holds_of_a_picture_that_shows_nothing():
    result = judge(Reading(False), Constraints((Pattern("cube"),), light="day"))
    assert result.objects == ({"found": False, "shape": False},)
    assert result.surroundings == {"light": False} and not result.all


def test_scores_need_one_constraint_for_all_or_one_each(reader: Reader):
    images = torch.zeros(2, 3, 64, 64)
    assert len(score(images, Constraints(), reader)) == 2
    with pytest.raises(UserError, match="2 pictures"):
        score(images, [Constraints()] * 3, reader)
