"""The rows that a stack is made of: those with a target, of one family."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from whet import settings
from whet.batch import Batch, leaves
from whet.ensembles.folds import contents
from whet.errors import InputError
from whet.loading import in_order
from whet.objectives.families import Family, family
from whet.predict.estimators import KINDS, MOST

Array = NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """Rows with targets, and what these are.

    Args:
        rows: as one batch.
        kind: the family.
        classes: how many classes or labels; 0 for reals.
        count: how many rows the data has, with a target or without.
        numbers: which of them these are.
    """

    rows: Batch
    kind: Family
    classes: int
    count: int
    numbers: Array

    @property
    def targets(self) -> Array:
        """As an array."""
        assert self.rows.targets is not None
        return np.asarray(self.rows.targets)

    @property
    def like(self) -> tuple[int, ...]:
        """The shape of an answer for one row."""
        return self.targets.shape[1:] if self.kind.name == "real" else (self.classes,)


def opened(data: Any, named: str | None, classes: int | None, what: str = "the data") -> Rows:
    """All rows of the data that have a target.

    Raises:
        InputError: rows cannot be numbered or joined, none has a target, or targets are of no
            family that can be stacked.
    """
    whole = _joined(data, what)
    if whole.targets is None or not whole.rows_with_target().any():
        raise InputError(f"no row of {what} has a target: there is nothing to learn from.")
    chosen = torch.nonzero(whole.rows_with_target())[:, 0]
    rows = whole.take(chosen)
    assert rows.targets is not None
    kind, targets = _understood(rows.targets, named, what)
    count = _classes(targets, kind.name, classes, what)
    rows = replace(rows, targets=targets, mask=None, indices=None)
    return Rows(rows, kind, count, whole.size, chosen.numpy())


def held_out(held: Any, whole: Rows, apart: bool) -> Rows:
    """Rows that a stack is judged by.

    Raises:
        InputError: their targets are of other classes, or they are among the rows that are learned
            from.
    """
    found = opened(held, whole.kind.name, whole.classes or None, "held")
    if found.like != whole.like:
        raise InputError(f"held has targets {found.like}, and the data {whole.like}: give alike.")
    content = contents(Batch.join([whole.rows, found.rows]))
    among = np.isin(content[whole.rows.size :], content[: whole.rows.size])
    if among.any() and not apart:
        raise InputError(
            f"{int(among.sum())} of {found.rows.size} held rows have the inputs of rows that are "
            "learned from: give rows that nobody was trained on, or say copies='apart' if equal "
            "rows are independent observations."
        )
    return found


def _joined(data: Any, what: str) -> Batch:
    if isinstance(data, DataLoader | IterableDataset):
        raise InputError(
            f"{what} is a {type(data).__name__}, which gives rows in an order of its own: folds "
            "take arrays, or a Dataset with a length and __getitem__."
        )
    batches = [batch.to("cpu") for batch in in_order(data, "train")]
    if not batches:
        raise InputError(f"{what} has no rows.")
    for path, leaf in leaves(batches[0].inputs):
        if leaf.layout is not torch.strided:
            raise InputError(f"{path} of {what} is sparse, and its rows cannot be told: densify.")
    try:
        return Batch.join(batches)
    except (RuntimeError, KeyError) as error:
        raise InputError(
            f"the rows of {what} have inputs of several shapes ({error}). Pad them alike."
        ) from error


def _understood(targets: Tensor, named: str | None, what: str) -> tuple[Family, Tensor]:
    whole = not targets.is_floating_point()
    two = targets.ndim == 2 and bool(((targets == 0) | (targets == 1)).all())
    guess = "categorical" if whole and targets.ndim == 1 else "multi-label" if two else "real"
    kind = family(named or guess)
    if kind.name not in KINDS:
        raise InputError(f"there is no stack for family '{kind.name}': it is {', '.join(KINDS)}.")
    fits = {
        "categorical": whole and targets.ndim == 1, "multi-label": two,
        "real": targets.ndim in (1, 2) and bool(targets.isfinite().all()),
    }  # fmt: skip
    if not fits[kind.name]:
        raise InputError(
            f"the targets of {what} have the shape {tuple(targets.shape)} and the type "
            f"{targets.dtype}, and are none of family '{kind.name}': a stack takes whole numbers "
            "(N,) for classes, 0 and 1 (N, L) for labels, and finite reals (N,) or (N, D)."
        )
    if kind.name != "real":
        return kind, targets.long()
    targets = targets.to(torch.get_default_dtype())
    return kind, targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 else targets


def _classes(targets: Tensor, kind: str, given: int | None, what: str) -> int:
    if kind == "real":
        return 0
    low, high = int(targets.min()), int(targets.max())
    count = targets.shape[1] if kind == "multi-label" else max(high + 1, 2)
    wanted = count if given is None else given
    whole = settings.Range(count, MOST, whole=True).holds(wanted)
    if low < 0 or not whole or (kind == "multi-label" and wanted != count):
        are = f"{count} labels" if kind == "multi-label" else "classes"
        raise InputError(
            f"the targets of {what} are {are} from {low} to {high}, and classes={given!r}. Number "
            f"classes from 0, and give as many as there are, at most {MOST}; say family='real' if "
            "these are numbers."
        )
    return wanted
