"""From a user's data to batches: arrays, tensors, DataFrames, Datasets, or a ready DataLoader.

The order of an epoch is a function of (seed, purpose, epoch), and a sample's augmentation of
(seed, purpose, epoch, position in the epoch). So an epoch can be entered anywhere, and the number
of workers changes nothing.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from whet import seeding
from whet.batch import Batch
from whet.errors import InputError
from whet.rows import Arrays, Collate, Rows, Samples, open_rows, seed_all


class _Order:
    """A batch sampler whose epoch can be set, so that workers live on between epochs."""

    def __init__(self) -> None:
        self.plan: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.plan)

    def __len__(self) -> int:
        return len(self.plan)


class Epochs(Protocol):
    """What the engine reads: batches by epoch, from any batch of it."""

    @property
    def batches(self) -> int | None:
        """Batches in an epoch; None where the source does not say."""

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, beginning with batch `start`."""


class RowLoader:
    """Batches over rows, shuffled by position.

    Args:
        rows: what `open_rows` gave.
        batch_size: rows per batch.
        seed: the run's seed.
        purpose: who reads; each purpose has an order of its own.
        shuffle: whether to shuffle.
        drop_last: leave out a last batch that is not full.
        workers: processes that fetch samples (Datasets only).
    """

    def __init__(
        self, rows: Rows, batch_size: int, seed: int = 0, purpose: str = "train",
        *, shuffle: bool = True, drop_last: bool = False, workers: int = 0,
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
        self.shuffle, self.drop_last, self.workers = shuffle, drop_last, workers
        self._sampler = _Order()
        self._pool: DataLoader[Any] | None = None

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
        if self.workers == 0:
            for rows, keys in keyed:
                yield self.rows.fetch(rows, keys)
            return
        plan = list(keyed)
        self._sampler.plan = [list(zip(rows.tolist(), keys, strict=True)) for rows, keys in plan]
        for (rows, _), raw in zip(plan, self._open_pool(self.rows), strict=True):
            yield Batch.of(raw, indices=rows)

    def _open_pool(self, rows: Samples) -> DataLoader[Any]:
        if self._pool is None:
            self._pool = DataLoader(
                rows.seeded, batch_sampler=self._sampler, num_workers=self.workers,
                collate_fn=rows.collate, persistent_workers=True,
            )  # fmt: skip
        return self._pool


def _keyed(base: int, at: int, rows: Tensor) -> tuple[Tensor, list[int]]:
    return rows, [seeding.mix(base, at + n) for n in range(len(rows))]


class StreamLoader:
    """A ready DataLoader or an iterable Dataset, in its user's own order.

    The generators that an order and an augmentation draw from, unless they are the user's own,
    are seeded by position. Entering an epoch in the middle replays its beginning, which is not
    promised to the bit: a source may have state that nobody sees.

    Args:
        source: the DataLoader or iterable Dataset.
        batch_size, drop_last, collate: of an iterable Dataset; a DataLoader has its own.
        seed: the run's seed.
        purpose: who reads. Only `train` moves the source's own generators and epoch.
    """

    def __init__(
        self, source: Any, batch_size: int, seed: int = 0, purpose: str = "train",
        *, drop_last: bool = False, collate: Collate | None = None,
    ) -> None:  # fmt: skip
        if isinstance(source, DataLoader):
            # a twin: the workers of one DataLoader would leave its live iterator for a second one
            self.source = copy.copy(source)
            self.source._iterator = None
        else:
            self.source = DataLoader(
                source, batch_size=batch_size, drop_last=drop_last, collate_fn=collate
            )
        self.seed, self.purpose = seed, purpose
        if self.batches == 0:
            raise self._empty()

    @property
    def batches(self) -> int | None:
        """Batches in an epoch; None for an iterable Dataset without a length."""
        try:
            return len(self.source)
        except TypeError:
            return None

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, beginning with batch `start`."""
        own = [] if self.purpose == "train" else [(g, g.get_state()) for g in self._generators()]
        if self.purpose == "train":
            owners: list[Any] = [self.source.sampler, self.source.batch_sampler]
            for owner in (*owners, self.source.dataset):
                if hasattr(owner, "set_epoch"):
                    owner.set_epoch(number)
        try:
            yield from self._read(seeding.key(self.seed, self.purpose, "order", number), start)
        finally:
            for generator, state in own:
                generator.set_state(state)

    def _read(self, key: int, start: int) -> Iterator[Batch]:
        seed_all(key)
        batches = iter(self.source)
        for at in itertools.count():
            seed_all(seeding.mix(key, at))
            try:
                raw = next(batches)
            except StopIteration:
                if at == 0:
                    raise self._empty() from None
                return
            if at >= start:
                yield Batch.of(raw)

    def _generators(self) -> list[torch.Generator]:
        chain = (self.source, self.source.sampler, self.source.batch_sampler)
        found = [getattr(owner, "generator", None) for owner in chain]
        return [one for one in found if isinstance(one, torch.Generator)]

    def _empty(self) -> InputError:
        return InputError(
            f"the loader to {self.purpose} on gives no batch: it is empty (or drop_last left "
            "nothing of it)."
        )


def open_loader(
    data: Any, batch_size: int, seed: int = 0, purpose: str = "train", *, shuffle: bool = True,
    drop_last: bool = False, workers: int = 0, collate: Collate | None = None,
) -> Epochs:  # fmt: skip
    """A loader for whatever the user has.

    >>> loader = open_loader((torch.zeros(10, 2), torch.zeros(10)), batch_size=4)
    >>> [batch.size for batch in loader.epoch(0)]
    [4, 4, 2]
    """
    rows = open_rows(data, collate, f"the data to {purpose} on")
    if rows is None:
        return StreamLoader(data, batch_size, seed, purpose, drop_last=drop_last, collate=collate)
    return RowLoader(
        rows, batch_size, seed, purpose, shuffle=shuffle, drop_last=drop_last, workers=workers
    )
