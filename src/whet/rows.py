"""Row access to a user's data: arrays, tensors, DataFrames, or a map-style Dataset."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from whet import seeding
from whet.batch import Batch, cut_leaves, leaves, map_leaves
from whet.errors import InputError

Collate = Callable[[list[Any]], Any]


def as_tensor(value: Any, what: str = "inputs") -> Any:
    """Arrays, Series and DataFrames of numbers as tensors; float64 becomes torch's default."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        return {key: as_tensor(part, f"{what}[{key!r}]") for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(as_tensor(part, f"{what}[{n}]") for n, part in enumerate(value))
    array = _frame(value, what) if hasattr(value, "iloc") else np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise InputError(
            f"{what} has dtype {array.dtype}; whet trains on numbers. Encode text and categories "
            "as integers first (for example sklearn.preprocessing.OrdinalEncoder)."
        )
    # copied, so that what is trained on never changes under the engine, nor the user's own
    if array.dtype.kind == "f":
        plain = np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
        return torch.from_numpy(np.array(array, plain, order="C")).to(torch.get_default_dtype())
    return torch.from_numpy(np.array(array, bool if array.dtype == bool else np.int64, order="C"))


def _frame(frame: Any, what: str) -> np.ndarray[Any, Any]:
    several = hasattr(frame, "columns")
    columns = list(frame.dtypes.items()) if several else [(frame.name, frame.dtype)]
    odd = [str(name) for name, dtype in columns if getattr(dtype, "kind", "O") not in "fiub"]
    if odd:
        raise InputError(
            f"{what}: column{'s' if len(odd) > 1 else ''} {', '.join(odd)} of the "
            f"{type(frame).__name__} hold no plain numbers. Encode them as integers or drop them."
        )
    array: np.ndarray[Any, Any] = frame.to_numpy()
    if array.dtype.kind == "O":  # columns of several kinds, or of pandas' own nullable ones
        real = any(dtype.kind == "f" for _, dtype in columns) or bool(frame.isna().to_numpy().any())
        array = frame.to_numpy(np.float64, na_value=np.nan) if real else frame.to_numpy(np.int64)
    return array


LIGHT = 1 << 15  # bytes of a batch below which gathering it is nothing but the cost of the call
TOGETHER = 16  # so many light batches are gathered in one call
LINE = 64  # bytes: a batch that begins on such a boundary is computed like one by itself


class Arrays:
    """All rows in memory; a batch is one slice of whole arrays."""

    def __init__(self, whole: Batch) -> None:
        self.whole = whole
        extras = (whole.targets, whole.mask)
        self._parts = [part for _, part in leaves(whole.inputs)]
        self._parts += [part for part in extras if part is not None]

    def __len__(self) -> int:
        return self.whole.size

    def fetch(self, rows: Tensor, keys: Sequence[int]) -> Batch:
        """The batch of these rows."""

        def take(tensor: Tensor) -> Tensor:
            # half the time of indexing, which does more than to select rows
            return tensor.index_select(0, rows) if tensor.is_cpu else tensor[rows]

        whole = self.whole
        mask = None if whole.mask is None else take(whole.mask)
        targets = None if whole.targets is None else take(whole.targets)
        return Batch(map_leaves(take, whole.inputs), targets, mask, rows)

    def in_turn(self, order: Tensor, size: int, first: int = 0) -> Iterator[Batch]:
        """Batches of `size` rows in an order, from batch number `first` on.

        Light batches are gathered several at a time, always the same ones together: a batch has the
        same place in memory whether the epoch was entered here or at its beginning.
        """
        together = self._together(size)
        for begin in range(first // together * together, -(-len(order) // size), together):
            rows = order[begin * size : (begin + together) * size]
            batches = [self.fetch(rows, ())] if together == 1 else self._several(rows, size)
            yield from batches[max(first - begin, 0) :]

    def _together(self, size: int) -> int:
        if not all(part.is_cpu and part.layout is torch.strided for part in self._parts):
            return 1
        weights = [size * math.prod(p.shape[1:]) * p.element_size() for p in self._parts]
        aligned = all(weight % LINE == 0 for weight in weights)
        return TOGETHER if aligned and sum(weights) <= LIGHT else 1

    def _several(self, rows: Tensor, size: int) -> list[Batch]:
        many, count = self.fetch(rows, ()), -(-len(rows) // size)
        fields = (many.inputs, many.targets, many.mask, rows)
        cut = (cut_leaves(field, size, count) for field in fields)
        return [Batch(*parts) for parts in zip(*cut, strict=True)]


def seed_all(key: int) -> None:
    """Seed what a Dataset's or collate function's own code may draw from."""
    seeding.seed_default(key)
    random.seed(key)
    np.random.seed(key & 0xFFFFFFFF)  # noqa: NPY002 - what users' code draws from


@contextmanager
def kept_generators() -> Iterator[None]:
    """Torch's, Python's and numpy's generators put back."""
    state = np.random.get_state()  # noqa: NPY002
    with seeding.borrowed():
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


class _Seeded(Dataset[Any]):
    """Samples under a seed of their own, whichever worker fetches them."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, item: tuple[int, int]) -> tuple[int, Any]:
        row, key = item
        seed_all(key)
        return key, self.dataset[row]


class _SeededCollate:
    """A collate function that draws (masks tokens, say) under the seed of its first sample."""

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, keyed: list[tuple[int, Any]]) -> Any:
        seed_all(seeding.mix(keyed[0][0], 0))
        return self.collate([sample for _, sample in keyed])


class Samples:
    """A map-style Dataset, collated sample by sample."""

    def __init__(self, dataset: Any, collate: Collate | None) -> None:
        self.seeded = _Seeded(dataset)
        self.collate = _SeededCollate(collate or default_collate)

    def __len__(self) -> int:
        return len(self.seeded.dataset)

    def fetch(self, rows: Tensor, keys: Sequence[int]) -> Batch:
        """The collated batch of these rows, each drawn under its own key."""
        pairs = zip(rows.tolist(), keys, strict=True)
        with (
            kept_generators()
        ):  # once for the batch: keeping numpy's costs more than seeding a sample
            raw = self.collate([self.seeded[pair] for pair in pairs])
        return Batch.of(raw, indices=rows)


Rows = Arrays | Samples


def is_dataframe(value: Any) -> bool:
    """Whether this is a pandas object, without importing pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame | pandas.Series)


def open_rows(data: Any, collate: Collate | None = None, what: str = "the data") -> Rows | None:
    """Row access to a user's data; None for a DataLoader or an iterable Dataset."""
    if isinstance(data, Arrays | Samples):
        return data
    if isinstance(data, DataLoader | IterableDataset):
        return None
    if isinstance(data, Batch):
        return Arrays(data)
    arrays = isinstance(data, Tensor | np.ndarray | Mapping) or is_dataframe(data)
    if arrays and not isinstance(data, Mapping):
        return Arrays(Batch(as_tensor(data)))
    if isinstance(data, Mapping):
        return Arrays(Batch.of(as_tensor(dict(data), "the data")))
    if isinstance(data, tuple) and len(data) == 2:
        inputs, targets = as_tensor(data[0]), data[1]
        return Arrays(Batch(inputs, None if targets is None else as_tensor(targets, "targets")))
    if isinstance(data, tuple):
        raise InputError(
            f"{what} is a tuple of {len(data)}; give (inputs, targets), and several inputs as "
            "((a, b), targets) or a mapping with 'labels'."
        )
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return Samples(data, collate)
    raise InputError(
        f"{what} is a {type(data).__name__}; give (inputs, targets) as tensors, arrays or a "
        "DataFrame, a mapping of arrays with 'labels', a Dataset, or a DataLoader."
    )
