from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noisette.data import ImageDataset, Loader, Order, loader, open_dataset
from noisette.errors import UserError

Batch = dict[str, Any]


@pytest.fixture
def data(folder: Callable[..., Path]) -> ImageDataset:
    root = folder(23)
    for k in range(23):
        (root / f"{k:03d}.txt").write_text(str(k))
    return open_dataset(root, cache=False)


def take(batches: Loader | Iterator[Batch], n: int) -> list[Batch]:
    return list(islice(iter(batches), n))


def same(a: list[Batch], b: list[Batch]) -> bool:
    pairs = list(zip(a, b, strict=True))
    return all(torch.equal(x["image"], y["image"]) and x["text"] == y["text"] for x, y in pairs)


def test_an_epoch_is_a_permutation_and_differs_from_the_next() -> None:
    order = Order(101, 10, seed=3)
    first, second = order.epoch(0), order.epoch(1)
    assert sorted(first) == sorted(second) == list(range(101))
    assert first != second
    assert first == Order(101, 7, seed=3).epoch(0)
    assert first != Order(101, 10, seed=4).epoch(0)
    assert list(Order(101, 10, seed=3, shuffle=False).epoch(5)) == list(range(101))


def test_batches_run_on_through_epochs(data: ImageDataset) -> None:
    batches = loader(data, 5, seed=0)
    assert batches.batches_per_epoch == 4
    texts = [batch["text"] for batch in take(batches, 9)]
    epochs = [[*chain(*texts[k : k + 4])] for k in (0, 4)]
    assert [len(set(epoch)) for epoch in epochs] == [20, 20]
    assert epochs[0] != epochs[1]
    assert (batches.position, batches.epoch) == (9, 2)


def test_one_ordered_pass_sees_everything_once(data: ImageDataset) -> None:
    batches = loader(data, 5, seed=0, shuffle=False, drop_last=False, epochs=1)
    texts = [batch["text"] for batch in batches]
    assert [len(t) for t in texts] == [5, 5, 5, 5, 3]
    assert [*chain(*texts)] == [str(k) for k in range(23)]
    assert list(batches) == []


@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 2), (0, 2), (2, 0)])
def test_resume_is_exact_in_the_middle_of_an_epoch(data: ImageDataset, before: int, after: int) -> None:
    whole = take(loader(data, 4, seed=7, flip=True), 14)
    first = loader(data, 4, seed=7, flip=True, num_workers=before)
    assert same(take(first, 8), whole[:8])
    state = json.loads(json.dumps(first.state_dict()))
    second = loader(data, 4, seed=7, flip=True, num_workers=after)
    second.load_state_dict(state)
    assert same(take(second, 6), whole[8:])


def test_the_state_counts_the_batch_in_hand(data: ImageDataset) -> None:
    batches = loader(data, 4, seed=7)
    for seen, _ in enumerate(batches, 1):
        assert batches.state_dict()["position"] == seen
        if seen == 7:
            break


def test_loading_leaves_the_global_stream_alone(data: ImageDataset) -> None:
    before = torch.get_rng_state()
    take(loader(data, 4, seed=7, flip=True, num_workers=1), 3)
    assert torch.equal(torch.get_rng_state(), before)


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 4), st.integers(0, 5))
def test_processes_share_out_the_global_batch(images: int, size: int, world: int, start: int) -> None:
    one = Order(images, size * world, seed=1, flip=True)
    if one.batches_per_epoch == 0:
        return
    parts = [Order(images, size, seed=1, flip=True, rank=r, world_size=world) for r in range(world)]
    runs = [list(part.batches(start, start + 4)) for part in parts]
    gathered = [[*chain(*(run[k] for run in runs))] for k in range(4)]
    assert gathered == list(one.batches(start, start + 4))


def test_two_processes_resume_what_one_began(data: ImageDataset) -> None:
    one = loader(data, 8, seed=2)
    whole = take(loader(data, 8, seed=2), 5)
    take(one, 3)
    halves = []
    for rank in range(2):
        part = loader(data, 4, seed=2, rank=rank, world_size=2)
        part.load_state_dict(one.state_dict())
        halves.append(take(part, 2))
    for k in range(2):
        assert torch.equal(torch.cat([halves[0][k]["image"], halves[1][k]["image"]]), whole[3 + k]["image"])


def test_flips_follow_the_epoch_and_the_image(data: ImageDataset) -> None:
    straight = {data[i]["text"]: data[i]["image"] for i in range(len(data))}
    seen: list[tuple[bool, ...]] = []
    for size in (4, 23):
        flips: dict[str, bool] = {}
        for batch in loader(data, size, seed=5, flip=True, epochs=1, drop_last=False):
            for text, image in zip(batch["text"], batch["image"], strict=True):
                flips[text] = not torch.equal(image, straight[text])
                assert torch.equal(image.flip(-1) if flips[text] else image, straight[text])
        seen.append(tuple(flips[str(k)] for k in range(23)))
    assert seen[0] == seen[1]  # whatever the batch size
    assert 0 < sum(seen[0]) < 23
    first, second = (Order(23, 4, seed=5, flip=True).epoch(e) for e in (0, 1))
    assert {i for i in first if i < 0} != {i for i in second if i < 0}


def test_kept_and_decoded_images_are_the_same(folder: Callable[..., Path]) -> None:
    root = folder(9)
    kept, decoded = (open_dataset(root, size=6, cache=cache) for cache in (True, False))
    for a, b in zip(loader(kept, 3, seed=0, epochs=2), loader(decoded, 3, seed=0, epochs=2), strict=True):
        assert torch.equal(a["image"], b["image"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 24}, "has 23 images, fewer than one batch of 24"),
        ({"batch_size": 12, "world_size": 2}, "fewer than one batch of 12 x 2 processes"),
        ({"batch_size": 0}, "at least 1 image"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, "rank 2"),
        ({"batch_size": 4, "world_size": 2, "drop_last": False}, "single process"),
    ],
)
def test_impossible_numbers(data: ImageDataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        loader(data, seed=0, **options)


def test_a_state_of_another_run_is_refused(data: ImageDataset) -> None:
    state = loader(data, 4, seed=0).state_dict()
    with pytest.raises(UserError, match="seed was 0 and is now 1"):
        loader(data, 4, seed=1).load_state_dict(state)
    with pytest.raises(UserError, match="global_batch was 4 and is now 8"):
        loader(data, 8, seed=0).load_state_dict(state)
    with pytest.raises(UserError, match="lacks 'position'"):
        loader(data, 4, seed=0).load_state_dict({})
