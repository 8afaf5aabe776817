"""From a user's data to batches: arrays, tensors, DataFrames, Datasets, or a ready DataLoader.

The order of an epoch is a function of (seed, purpose, epoch), and a sample's augmentation of
(seed, purpose, epoch, position in the epoch). So an epoch can be entered anywhere, and the number
of workers changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from whet import seeding
from whet.batch import Batch
from whet.errors import InputError
from whet.rows import Arrays, Collate, Rows, Samples, open_rows
from whet.streams import StreamLoader


class _Order:
    """A batch sampler whose epoch can be set, so that workers live on between epochs."""

    def __init__(self) -> None:
        self.plan: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.plan)

    def __len__(self) -> int:
        return len(self.plan)


Own = Callable[[Tensor, list[int]], tuple[Tensor, list[int]]]


class Epochs(Protocol):
    """What the engine reads: batches by epoch, from any batch of it."""

    @property
    def batches(self) -> int | None:
        """Batches in an epoch; None where the source does not say."""

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, beginning with batch `start`."""

    def state_dict(self) -> dict[str, Any]:
        """Where the source says it stands; empty where batches are found by their number."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Enter the epoch at that place when it is next asked for."""


class RowLoader:
    """Batches over rows, shuffled by position.

    Args:
        rows: what `open_rows` gave.
        batch_size: rows per batch.
        seed: the run's seed.
        purpose: who reads; each purpose has an order of its own.
        shuffle: whether to shuffle.
        drop_last: leave out a last batch that is not full.
        workers: processes that fetch samples (Datasets only); they change nothing but the speed.
        prefetch: batches that each worker keeps ready.
        pin: a thread copies the workers' batches into page-locked memory, from which a copy to an
            accelerator goes on beside its computing. Without workers there is no such thread, and
            copying twice in this one would gain nothing.
    """

    def __init__(
        self, rows: Rows, batch_size: int, seed: int = 0, purpose: str = "train",
        *, shuffle: bool = True, drop_last: bool = False, workers: int = 0, prefetch: int = 2,
        pin: bool = False,
    ) -> None:  # fmt: skip
        if len(rows) == 0:
            raise InputError(f"the data to {purpose} on is empty: it has no rows.")
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be at least 1.")
        if drop_last and len(rows) < batch_size:
            raise InputError(
                f"drop_last leaves nothing: {len(rows)} rows and batch_size {batch_size}. Use a "
                "smaller batch_size or drop_last=False."
            )
        self.rows, self.batch_size, self.seed, self.purpose = rows, batch_size, seed, purpose
        self.shuffle, self.drop_last = shuffle, drop_last
        self.workers, self.prefetch, self.pin = workers, prefetch, pin
        self._sampler = _Order()
        self._pool: DataLoader[Any] | None = None
        self.own: Own | None = None  # of a batch's samples, those that this process fetches

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(len(self.rows), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def order(self, epoch: int) -> Tensor:
        """The rows of an epoch, in order."""
        if not self.shuffle:
            return torch.arange(len(self.rows))
        maker = seeding.generator(self.seed, self.purpose, "order", epoch)
        return torch.randperm(len(self.rows), generator=maker)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, beginning with batch `start`."""
        order, size = self.order(number), self.batch_size
        spots = range(start * size, self.batches * size, size)
        if isinstance(self.rows, Arrays):
            yield from self.rows.in_turn(order[: self.batches * size], size, start)
            return
        base = seeding.key(self.seed, self.purpose, "sample", number)
        keyed = (_keyed(base, at, order[at : at + size]) for at in spots)
        if self.own is not None:
            keyed = (self.own(*pair) for pair in keyed)
        if self.workers == 0:
            for rows, keys in keyed:
                yield self.rows.fetch(rows, keys)
            return
        plan = list(keyed)
        self._sampler.plan = [list(zip(rows.tolist(), keys, strict=True)) for rows, keys in plan]
        try:
            for (rows, _), raw in zip(plan, self._open_pool(self.rows), strict=True):
                yield Batch.of(raw, indices=rows)
        except Exception:
            if self._pool is not None and not _alive(self._pool):
                self._pool = None  # the next epoch starts new workers
            raise

    def state_dict(self) -> dict[str, Any]:
        """Nothing: batches are found by their number."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to do: batches are found by their number."""

    def _open_pool(self, rows: Samples) -> DataLoader[Any]:
        if self._pool is None:
            self._pool = DataLoader(
                rows.seeded, batch_sampler=self._sampler, num_workers=self.workers,
                collate_fn=rows.collate, persistent_workers=True, prefetch_factor=self.prefetch,
                pin_memory=self.pin, generator=torch.Generator(),  # else it draws from the user's
            )  # fmt: skip
        return self._pool


def _alive(pool: DataLoader[Any]) -> bool:
    workers = getattr(pool._iterator, "_workers", ())
    return all(worker.is_alive() for worker in workers)


def _keyed(base: int, at: int, rows: Tensor) -> tuple[Tensor, list[int]]:
    return rows, [seeding.mix(base, at + n) for n in range(len(rows))]


class Fixed:
    """The first batches of a loader's first epoch, in every epoch again: what `overfit` trains on.

    They are read once, so that they are the same rows under the same augmentation.
    """

    def __init__(self, loader: Epochs, count: int) -> None:
        self.kept = list(islice(loader.epoch(0), count))

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return len(self.kept)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches, copied: a model may change its input in place."""
        for batch in self.kept[start:]:
            yield batch.map(torch.clone)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: batches are found by their number."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to do: batches are found by their number."""


def in_order(given: Any, purpose: str = "select") -> Iterator[Batch]:
    """Rows in their own order, of data, of batches, or of a function that gives batches.

    >>> [batch.size for batch in in_order((torch.zeros(300, 2), torch.zeros(300)))]
    [256, 44]
    """
    if isinstance(given, Batch):
        return iter([given])
    if callable(given):
        return iter(given())
    listed = isinstance(given, list) and given and isinstance(given[0], Batch)
    if listed or isinstance(given, Iterator):
        return iter(given)
    return open_loader(given, 256, purpose=purpose, shuffle=False).epoch(0)


def open_loader(
    data: Any, batch_size: int, seed: int = 0, purpose: str = "train", *, shuffle: bool = True,
    drop_last: bool = False, workers: int = 0, collate: Collate | None = None, prefetch: int = 2,
    pin: bool = False,
) -> Epochs:  # fmt: skip
    """A loader for whatever the user has.

    Raises:
        InputError: nothing can be read, or workers are asked for where they cannot be exact.

    >>> loader = open_loader((torch.zeros(10, 2), torch.zeros(10)), batch_size=4)
    >>> [batch.size for batch in loader.epoch(0)]
    [4, 4, 2]
    """
    rows = open_rows(data, collate, f"the data to {purpose} on")
    if rows is not None:
        return RowLoader(
            rows, batch_size, seed, purpose, shuffle=shuffle, drop_last=drop_last, workers=workers,
            prefetch=prefetch, pin=pin,
        )  # fmt: skip
    if workers:
        own = isinstance(data, DataLoader)
        raise InputError(
            f"workers={workers}, but the data to {purpose} on is a {type(data).__name__}, which "
            + ("has workers of its own: set its num_workers." if own else
               "alone knows how its rows are parted among workers: wrap it in a "
               "DataLoader(..., num_workers=...) and leave out workers=.")
        )  # fmt: skip
    return StreamLoader(data, batch_size, seed, purpose, drop_last=drop_last, collate=collate)
