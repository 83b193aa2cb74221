"""The order of training: which images make up which batch. Nothing outside this file decides it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset

from noisette.errors import UserError

__all__ = ["Images", "Loader", "Order", "loader"]


def _generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    # hashed, so that neighbouring seeds and epochs share nothing
    digest = hashlib.blake2b(f"{purpose}/{seed}/{epoch}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))


class Order:
    """The images of batch k, for every k: a pure function of (seed, epoch) and nothing else.

    Epoch e is a permutation of all images, drawn from (seed, e) alone. Global batch k of the epoch is its
    k-th run of `batch_size * world_size` images; process r takes the r-th run of `batch_size` among them.
    So W processes see together, and in the same order, what one process sees at W times the batch size.

    Whether image i is mirrored in epoch e is drawn from (seed, e, i); such an image is listed as -1 - i.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool = True,
        drop_last: bool = True,
        flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.shuffle, self.drop_last, self.flip = shuffle, drop_last, flip
        self.rank, self.world_size = rank, world_size
        self.global_batch = batch_size * world_size
        full, rest = divmod(images, self.global_batch)
        self.batches_per_epoch = full + (rest > 0 and not drop_last)

    def epoch(self, number: int) -> Sequence[int]:
        """All images of epoch `number` in their order, mirrored ones as -1 - i."""
        if not (self.shuffle or self.flip):
            return range(self.images)  # which may be more than memory holds
        if self.shuffle:
            order = torch.randperm(self.images, generator=_generator(self.seed, number, "order"))
        else:
            order = torch.arange(self.images)
        if self.flip:
            coins = torch.randint(2, (self.images,), generator=_generator(self.seed, number, "flip"))
            order = torch.where(coins[order] > 0, -1 - order, order)
        return order.tolist()

    def batches(self, start: int, stop: int | None = None) -> Iterator[list[int]]:
        """This process's batches `start`, `start` + 1, ... counted from the first epoch's first."""
        position = start
        while stop is None or position < stop:
            number, batch = divmod(position, self.batches_per_epoch)
            order = self.epoch(number)
            for k in range(batch, self.batches_per_epoch):
                if position == stop:
                    return
                first = k * self.global_batch + self.rank * self.batch_size
                yield list(order[first : first + self.batch_size])
                position += 1


class Images(Protocol):
    """What batches are made of: an `ImageDataset`, or whatever else fetches images by their numbers.

    `shuffled` says that the numbers themselves are in random order, so that no epoch needs another.
    """

    origin: str
    shape: tuple[int, ...]
    labels: tuple[str, ...] | None
    shuffled: bool

    @property
    def corrupt(self) -> Mapping[str, str]:
        """{name: reason} of the images skipped so far."""
        ...

    def __len__(self) -> int: ...

    def fetch(self, indices: Sequence[int], flip: Sequence[bool] | None = None) -> dict[str, Any]:
        """The batch of these images, image j mirrored where `flip[j]`."""
        ...

    def note_corrupt(self, found: Mapping[str, str]) -> None:
        """Take over what worker processes found."""
        ...


class _Batches(Dataset[Any]):
    """The map from listed images to (batch, corrupt images met), as the worker processes run it."""

    def __init__(self, data: Images) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, listed: list[int]) -> Any:
        try:
            flip = [i < 0 for i in listed]
            return self.data.fetch([-1 - i if i < 0 else i for i in listed], flip), self.data.corrupt
        except UserError as error:
            return error, {}  # raised in a worker it would reach the user wrapped in a traceback


def _as_is(batch: Any) -> Any:
    return batch


class Loader:
    """Batches without end (or `epochs` of them), resumable at every batch; made by `loader`.

    A batch is {"image": float32 [B, C, H, W] in [-1, 1], "label": int64 [B], "text": list[str]}, the last
    two where the data have them. Iterating goes on from `position`; so does iterating again.

    Attributes:
        data: the data set.
        position: how many batches have been handed out since the first epoch began.
        batches_per_epoch: their number in one epoch.
    """

    def __init__(
        self, data: Images, order: Order, *, epochs: int | None, num_workers: int, pin_memory: bool
    ) -> None:
        self.data, self.order, self.epochs = data, order, epochs
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.batches_per_epoch = order.batches_per_epoch
        self.position = 0

    @property
    def epoch(self) -> int:
        """The number of finished epochs."""
        return self.position // self.batches_per_epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from torchdata.stateful_dataloader import StatefulDataLoader

        stop = None if self.epochs is None else self.epochs * self.batches_per_epoch
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # torchdata's call, not the user's
            engine = StatefulDataLoader(
                _Batches(self.data),
                batch_sampler=self.order.batches(self.position, stop),  # type: ignore[arg-type]
                collate_fn=_as_is,
                num_workers=self.num_workers,
                pin_memory=self.pin_memory,
                generator=torch.Generator().manual_seed(0),  # else each start draws from the global stream
            )
        for batch, corrupt in engine:
            if isinstance(batch, UserError):
                raise batch
            self.data.note_corrupt(corrupt)
            self.position += 1
            yield batch

    def state_dict(self) -> dict[str, int | bool]:
        """Where the data stand, as plain numbers: everything after follows from them.

        StatefulDataLoader's own state belongs to one number of workers. This one may be loaded with
        another, and with another number of processes as long as the global batch is the same.
        """
        order = self.order
        return {
            "position": self.position,
            "seed": order.seed,
            "images": order.images,
            "global_batch": order.global_batch,
            "shuffle": order.shuffle,
            "drop_last": order.drop_last,
            "flip": order.flip,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state` was taken: the next batch is the one that would have followed there.

        Raises:
            UserError: the state is of other data, another seed or another global batch.
        """
        for key, mine in self.state_dict().items():
            if key not in state:
                raise UserError(f"the saved data position lacks {key!r}")
            if key != "position" and state[key] != mine:
                raise UserError(f"cannot resume the data: {key} was {state[key]} and is now {mine}")
        self.position = int(state["position"])


def loader(
    dataset: Images,
    batch_size: int,
    *,
    seed: int,
    shuffle: bool = True,
    flip: bool = False,
    num_workers: int = 0,
    drop_last: bool = True,
    epochs: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Loader:
    """Batches of `batch_size` images for this process, in the order of `Order`, without end by default.

    The global batch is `batch_size * world_size`. With `flip`, each image is mirrored left to right in
    half of the epochs. Images that are in random order already (`dataset.shuffled`) keep it, and are not
    mirrored. The last, smaller batch of an epoch is dropped unless `drop_last=False`.

    Raises:
        UserError: fewer images than the global batch, a number out of its range, `flip` where images are
            not to be mirrored, or `drop_last=False` with several processes (they would not see equally many
            batches).
    """
    if batch_size < 1 or num_workers < 0 or (epochs is not None and epochs < 0):
        given = f"batch_size {batch_size}, num_workers {num_workers}, epochs {epochs}"
        raise UserError(f"{given}: a batch holds at least 1 image and no number is negative")
    if not 0 <= rank < world_size:
        raise UserError(f"rank {rank} is not in 0..{world_size - 1}")
    if not drop_last and world_size > 1:
        raise UserError("drop_last=False needs a single process")
    if flip and dataset.shuffled:
        raise UserError(f"{dataset.origin}: these images cannot be mirrored: set flip=False")
    order = Order(
        len(dataset),
        batch_size,
        seed=seed,
        shuffle=shuffle and not dataset.shuffled,
        drop_last=drop_last,
        flip=flip,
        rank=rank,
        world_size=world_size,
    )
    if order.batches_per_epoch == 0:
        need = f"{batch_size} x {world_size} processes" if world_size > 1 else str(batch_size)
        raise UserError(f"{dataset.origin} has {len(dataset)} images, fewer than one batch of {need}")
    return Loader(dataset, order, epochs=epochs, num_workers=num_workers, pin_memory=pin_memory)
