"""A batch: inputs, targets, which rows have a target, and where the rows come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from whet.errors import InputError

TARGET_KEYS = ("labels", "label", "targets", "target")


def leaves(nest: Any, path: str = "inputs") -> Iterator[tuple[str, Tensor]]:
    """Yield `(path, tensor)` for every tensor of a nest of tuples, lists and mappings."""
    if isinstance(nest, Tensor):
        yield path, nest
    elif isinstance(nest, Mapping):
        for key, value in nest.items():
            yield from leaves(value, f"{path}[{key!r}]")
    elif isinstance(nest, Sequence) and not isinstance(nest, str):
        for number, value in enumerate(nest):
            yield from leaves(value, f"{path}[{number}]")
    else:
        raise InputError(
            f"{path} is a {type(nest).__name__}; a batch holds tensors, or tuples, lists and "
            "mappings of tensors. Convert it in the Dataset or in the collate function."
        )


def map_leaves(function: Callable[[Tensor], Tensor], nest: Any) -> Any:
    """The nest with `function` applied to every tensor; mappings become plain dicts."""
    if isinstance(nest, Tensor):
        return function(nest)
    if isinstance(nest, Mapping):
        return {key: map_leaves(function, value) for key, value in nest.items()}
    return tuple(map_leaves(function, value) for value in nest)


def cut_leaves(nest: Any, size: int, count: int) -> Sequence[Any]:
    """The nest in `count` nests of at most `size` rows, which share memory and no history.

    To autograd they are strangers: one that a model changes in place is no business of the others.
    """
    if nest is None:
        return [None] * count
    if isinstance(nest, Tensor):
        return torch.unsafe_split(nest, size)
    if isinstance(nest, Mapping):
        parts = {key: cut_leaves(value, size, count) for key, value in nest.items()}
        return [{key: part[n] for key, part in parts.items()} for n in range(count)]
    several = [cut_leaves(value, size, count) for value in nest]
    return [tuple(part[n] for part in several) for n in range(count)]


def join_leaves(nests: Sequence[Any]) -> Any:
    """Concatenate nests of one shape along their rows."""
    first = nests[0]
    if isinstance(first, Tensor):
        return torch.cat(list(nests))
    if isinstance(first, Mapping):
        return {key: join_leaves([nest[key] for nest in nests]) for key in first}
    return tuple(join_leaves(parts) for parts in zip(*nests, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows that go through the model together.

    Args:
        inputs: a tensor `(N, ...)` or any nest of them. A mapping reaches the model as keyword
            arguments, a tuple as positional ones.
        targets: `(N,)` classes, `(N, C)` probabilities or labels, `(N,)` or `(N, D)` reals,
            `(N, T)` tokens; None where no row has one.
        mask: bool `(N,)`, True for rows that have a target; None means all of them. Rows without
            a target are forwarded and left out of loss and count.
        indices: int64 `(N,)`, each row's place in its data set.
        spare: that it stands for no row of the data, and nothing of it counts: a process without
            rows makes the passes of the others with it, where the model is sharded.

    Raises:
        InputError: leaves, targets, mask or indices disagree on the number of rows.

    >>> batch = Batch(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0]))
    >>> batch.size, [part.size for part in batch.split(3)]
    (4, [3, 1])
    """

    inputs: Any
    targets: Tensor | None = None
    mask: Tensor | None = None
    indices: Tensor | None = None
    spare: bool = False

    def __post_init__(self) -> None:
        if not self._is_plain():  # the common case, kept quick
            self._check_rows()

    def _is_plain(self) -> bool:
        if not isinstance(self.inputs, Tensor) or self.mask is not None:
            return False
        rows = self.inputs.shape[:1]
        targets: Any = self.targets
        indices: Any = self.indices
        return (
            len(rows) == 1
            and (targets is None or (isinstance(targets, Tensor) and targets.shape[:1] == rows))
            and (indices is None or (isinstance(indices, Tensor) and indices.shape[:1] == rows))
        )

    def _check_rows(self) -> None:
        found = [*leaves(self.inputs)]
        if not found:
            raise InputError("the batch holds no tensor: its inputs are empty.")
        for name in ("targets", "mask", "indices"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, Tensor):
                raise InputError(
                    f"{name} of the batch is a {type(value).__name__}, not a tensor. Convert it in "
                    "the Dataset or in the collate function."
                )
            found.append((name, value))
        if self.mask is not None and (self.mask.dtype != torch.bool or self.mask.ndim != 1):
            raise InputError(
                f"mask of the batch has dtype {self.mask.dtype} and shape "
                f"{tuple(self.mask.shape)}; it is bool (N,), True for rows that have a target."
            )
        first, rows = found[0][0], None
        for path, tensor in found:
            if tensor.ndim == 0:
                raise InputError(
                    f"{path} of the batch has no rows (shape ()); every tensor of a batch has "
                    "rows as its first dimension. Repeat a scalar once per row."
                )
            rows = len(tensor) if rows is None else rows
            if len(tensor) != rows:
                raise InputError(
                    f"the batch's shapes disagree: {first} has {rows} rows and {path} has "
                    f"{len(tensor)} (shape {tuple(tensor.shape)}). Mend the Dataset or the "
                    "collate function so that the first dimension of each is the batch."
                )

    @classmethod
    def of(cls, raw: Any, indices: Tensor | None = None) -> Batch:
        """A batch from `(x, y)`, `(x,)`, a tensor, or a mapping with `labels` (a BatchEncoding)."""
        if isinstance(raw, Batch):
            return raw if indices is None else replace(raw, indices=indices)
        if isinstance(raw, Mapping):
            inputs = dict(raw)
            targets = next((inputs.pop(key) for key in TARGET_KEYS if key in inputs), None)
            return cls(inputs, targets, indices=indices)
        if isinstance(raw, Tensor):
            return cls(raw, indices=indices)
        if isinstance(raw, Sequence) and len(raw) in (1, 2):
            return cls(raw[0], raw[1] if len(raw) == 2 else None, indices=indices)
        count = f" of length {len(raw)}" if isinstance(raw, Sequence) else ""
        raise InputError(
            f"cannot read a batch from a {type(raw).__name__}{count}: give (inputs, targets), a "
            f"mapping with one of {', '.join(TARGET_KEYS)}, a tensor, or a whet.Batch."
        )

    @property
    def size(self) -> int:
        """Number of rows."""
        if isinstance(self.inputs, Tensor):
            return self.inputs.shape[0]
        return len(next(leaves(self.inputs))[1])

    @property
    def device(self) -> torch.device:
        """Where the inputs lie."""
        return next(leaves(self.inputs))[1].device

    def rows_with_target(self) -> Tensor:
        """Bool `(N,)`: which rows have a target."""
        if self.mask is not None:
            return self.mask
        have = self.targets is not None
        return torch.full((self.size,), have, dtype=torch.bool, device=self.device)

    def known_targets(self) -> Tensor:
        """The targets, with zeros in the rows that have none: what stands there may be no class."""
        if self.targets is None:
            raise InputError("the batch has no targets.")
        if self.mask is None:
            return self.targets
        rows = self.mask.view(-1, *[1] * (self.targets.ndim - 1))
        return self.targets.masked_fill(~rows, 0)

    def replace(self, **changes: Any) -> Batch:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """A batch with `function` applied to every tensor."""
        extras = (self.targets, self.mask, self.indices)
        targets, mask, indices = (None if one is None else function(one) for one in extras)
        return Batch(map_leaves(function, self.inputs), targets, mask, indices, self.spare)

    def take(self, rows: Tensor | slice) -> Batch:
        """The batch of some of the rows."""
        return self.map(lambda tensor: tensor[rows])

    def split(self, size: int) -> list[Batch]:
        """Consecutive batches of at most `size` rows."""
        return [self.take(slice(at, at + size)) for at in range(0, self.size, size)]

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device; copies from pinned memory do not wait."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; a DataLoader calls this where it is told to pin."""
        return self.map(Tensor.pin_memory)

    @staticmethod
    def join(batches: Sequence[Batch]) -> Batch:
        """One batch of all rows. A batch without targets contributes rows without a target."""
        inputs = join_leaves([batch.inputs for batch in batches])
        with_targets = [batch for batch in batches if batch.targets is not None]
        if not with_targets:
            return Batch(inputs, indices=_join_indices(batches))
        example = with_targets[0].targets
        assert example is not None
        blank = [
            batch.targets if batch.targets is not None
            else example.new_zeros((batch.size, *example.shape[1:]))
            for batch in batches
        ]  # fmt: skip
        whole = len(with_targets) == len(batches) and all(b.mask is None for b in batches)
        mask = None if whole else torch.cat([batch.rows_with_target() for batch in batches])
        return Batch(inputs, torch.cat(blank), mask, _join_indices(batches))


def _join_indices(batches: Sequence[Batch]) -> Tensor | None:
    known = [batch.indices for batch in batches if batch.indices is not None]
    return torch.cat(known) if len(known) == len(batches) else None
