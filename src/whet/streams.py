"""What has no rows to go to: a ready DataLoader, or an iterable Dataset, read in its own order.

A source that says where it stands (`state_dict`, `load_state_dict`, as torchdata's
StatefulDataLoader does) is entered there; any other is read again from the epoch's beginning.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from whet import seeding
from whet.batch import Batch
from whet.errors import InputError
from whet.rows import Collate, seed_all


class Replayed(UserWarning):
    """An epoch is entered in the middle by reading its beginning again."""


class StreamLoader:
    """A ready DataLoader or an iterable Dataset, in its user's own order.

    The generators that an order and an augmentation draw from, unless they are the user's own,
    are seeded by position. An epoch is entered in the middle in one of two ways:

    - By the source's own state, where the loader, or an iterable Dataset that is read without
      workers, has `state_dict` and `load_state_dict`. `state_dict` says where the newest iteration
      stands; after `load_state_dict` the next `iter` goes on there, and any other begins anew. The
      state is made of tensors and plain values, for it is kept in checkpoints.
    - Else by reading the beginning again, with a `Replayed` warning. That takes the time it takes
      and is not promised to the bit: a source may have state that nobody sees.

    Args:
        source: the DataLoader or iterable Dataset.
        batch_size, drop_last, collate: of an iterable Dataset; a DataLoader has its own.
        seed: the run's seed.
        purpose: who reads. Only `train` moves the source's own generators, epoch and state.
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
        self.seed, self.purpose, self._kind = seed, purpose, type(source).__name__
        self._at: tuple[int, int] | None = None  # epoch and batch that the newest iteration is at
        self._waiting: dict[str, Any] = {}  # a state that the next epoch is entered by
        if purpose != "train" and _has_state(self.source.dataset):
            self.source.__dict__["dataset"] = _apart(self.source.dataset, purpose)
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
            yield from self._read(number, start)
        finally:
            for generator, state in own:
                generator.set_state(state)

    def _read(self, number: int, start: int) -> Iterator[Batch]:
        key = seeding.key(self.seed, self.purpose, "order", number)
        first = self._enter(number, start)
        seed_all(key)
        batches = iter(self.source)
        for at in itertools.count(first):
            seed_all(seeding.mix(key, at))
            try:
                raw = next(batches)
            except StopIteration:
                if at == 0:
                    raise self._empty() from None
                return
            self._at = (number, at + 1)
            if at >= start:
                yield Batch.of(raw)

    # the source's own state --------------------------------------------------------------------
    def _keeper(self) -> Any:
        """Who knows where the source stands: the loader, or its Dataset; None for nobody."""
        if _has_state(self.source):
            return self.source
        dataset = self.source.dataset
        alone = self.source.num_workers == 0  # workers run ahead, each with a copy of the Dataset
        return dataset if alone and _has_state(dataset) else None

    def _enter(self, number: int, start: int) -> int:
        """The batch that reading begins with: `start` by the source's own state, else the first."""
        waiting, self._waiting = self._waiting, {}
        if start == 0:
            return 0
        if not waiting and self._at == (number, start):  # left here, in this very process
            waiting = self.state_dict()
        keeper = self._keeper()
        if keeper is not None and (waiting.get("epoch"), waiting.get("batch")) == (number, start):
            keeper.load_state_dict(waiting["source"])
            return start
        warnings.warn(_told(number, start, self._kind), Replayed, stacklevel=2)
        return 0

    def state_dict(self) -> dict[str, Any]:
        """Where the source says it stands; empty where it does not say, or between epochs."""
        if self._waiting:
            return dict(self._waiting)
        keeper = self._keeper()
        if keeper is None or self._at is None or self._at[1] == self.batches:
            return {}
        state = keeper.state_dict()
        odd = _odd(state)
        if odd is not None:
            warnings.warn(
                f"the state of {type(keeper).__name__} holds a {odd}, which no checkpoint may "
                "hold: a resumed run will read the epoch's beginning again. Let its state_dict "
                "give tensors and plain values.",
                Replayed, stacklevel=2,
            )  # fmt: skip
            return {}
        # copied: a Dataset may give the very mapping that it goes on to change
        return {"epoch": self._at[0], "batch": self._at[1], "source": copy.deepcopy(state)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Enter the epoch at that place when it is next asked for."""
        self._waiting = dict(state)

    def _generators(self) -> list[torch.Generator]:
        chain = (self.source, self.source.sampler, self.source.batch_sampler)
        found = [getattr(owner, "generator", None) for owner in chain]
        return [one for one in found if isinstance(one, torch.Generator)]

    def _empty(self) -> InputError:
        return InputError(
            f"the loader to {self.purpose} on gives no batch: it is empty (or drop_last left "
            "nothing of it)."
        )


def _has_state(source: Any) -> bool:
    ready = isinstance(source, DataLoader | IterableDataset)
    return ready and hasattr(source, "state_dict") and hasattr(source, "load_state_dict")


def _apart(dataset: Any, purpose: str) -> Any:
    """A copy, for a Dataset's state is that of its newest iteration, and that must be training's.

    Raises:
        InputError: the Dataset cannot be copied.
    """
    try:
        return copy.deepcopy(dataset)
    except Exception as error:
        raise InputError(
            f"{purpose} reads the training data beside training, and the {type(dataset).__name__} "
            f"cannot be copied for it ({error}). Give it a __deepcopy__, or leave out the method "
            "that reads the data."
        ) from error


def _told(number: int, start: int, kind: str) -> str:
    return (
        f"batch {start} of epoch {number} is reached by reading the {start} before it again, "
        f"which is not promised to the bit: the {kind} does not say where it stands. Give the "
        "map-style Dataset itself in place of a DataLoader, or a source with state_dict and "
        "load_state_dict (torchdata's StatefulDataLoader)."
    )


def _odd(value: Any) -> str | None:
    """The kind of what is neither tensor nor plain value in a nest; None where there is none."""
    if type(value) in (dict, list, tuple):
        parts = [*value.keys(), *value.values()] if type(value) is dict else value
        return next((odd for part in parts if (odd := _odd(part)) is not None), None)
    plain = value is None or type(value) in (bool, int, float, str, bytes, Tensor)
    return None if plain else type(value).__name__
