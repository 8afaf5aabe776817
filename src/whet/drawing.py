"""Rows of a resource beside the training data, in epochs without replacement."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from whet import seeding
from whet.batch import Batch
from whet.errors import InputError
from whet.rows import Rows, Samples, open_rows

if TYPE_CHECKING:
    from whet.method import Method


class Draws:
    """How many rows of each resource were taken, and the next ones.

    Args:
        base: the key of seed, stage and process.
    """

    def __init__(self, base: int) -> None:
        self._base = base
        self.taken: dict[str, int] = {}  # by earlier windows
        self._now: dict[str, dict[int, int]] = {}  # by this window's micro-batches
        self._rows: dict[str, tuple[Rows, dict[int, Tensor]]] = {}

    def open_window(self) -> None:
        """A window begins: nothing is taken yet, also where it is begun anew."""
        self._now.clear()

    def close_window(self) -> None:
        """What the window took is gone."""
        for name, taken in self._now.items():
            self.taken[name] = self.taken.get(name, 0) + sum(taken.values())

    def rows(
        self, name: str, count: int, micro: int, resource: Callable[[str, Method], Any],
        method: Method,
    ) -> Batch:  # fmt: skip
        """The next `count` rows for a micro-batch; the same ones where it is replayed."""
        if name not in self._rows:
            opened = open_rows(resource(name, method), what=f"resource {name!r}")
            if opened is None or len(opened) == 0:
                raise InputError(
                    f"resource {name!r} of {method.key} must have rows and row access: give "
                    "tensors, arrays or a map-style Dataset that is not empty."
                )
            self._rows[name] = (opened, {})
        source, orders = self._rows[name]
        first = self._first(name, count, micro)
        taken = self._rows_at(source, orders, name, first, count)
        samples = isinstance(source, Samples)
        keys = [seeding.key(self._base, name, "sample", first + n) for n in range(count * samples)]
        return source.fetch(taken, keys)

    def _first(self, name: str, rows: int, micro: int) -> int:
        # by rows and not by micro-batches: a shorter batch leaves no gap and repeats nothing
        taken = self._now.setdefault(name, {})
        taken[micro] = max(rows, taken.get(micro, 0))
        earlier = sum(count for at, count in taken.items() if at < micro)
        return self.taken.get(name, 0) + earlier

    def _rows_at(
        self, source: Rows, orders: dict[int, Tensor], name: str, first: int, count: int
    ) -> Tensor:
        """Rows number `first` to `first + count` of an endless sequence of shuffled epochs."""
        parts = []
        while count > 0:
            epoch, at = divmod(first, len(source))
            if epoch not in orders:
                for old in [known for known in orders if known < epoch - 1]:
                    del orders[old]
                maker = seeding.generator(self._base, name, "order", epoch)
                orders[epoch] = torch.randperm(len(source), generator=maker)
            parts.append(orders[epoch][at : at + count])
            first, count = first + len(parts[-1]), count - len(parts[-1])
        return torch.cat(parts)
