r"""A fraction of a task's training part: nested, and with every class in its proportion.

The rows of a seed stand in one order, and a fraction is its beginning; so the rows of 0.01 are
among those of 0.1, whichever fractions a study has. In that order row number $r = 0, 1, \dots$ of a
class of $n$ rows stands at $(r + u) / n$ with one $u$ in $[0, 1)$ for each class: every beginning
holds of every class its share, to within one row. The first row of each class stands before all of
that, so that no class is absent; a fraction has at least as many rows as there are classes.

Classes are known from targets in memory, and from a Dataset's `targets` or `labels`. The samples of
another Dataset are not read for it: its rows are drawn without regard to class.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, Subset

from whet import frequencies, objectives, rows, seeding
from whet.batch import Batch
from whet.errors import InputError
from whet.task import Task

Whole = NDArray[np.int64]


def refusal(task: Task) -> str | None:
    """Why a fraction of the training part cannot be had; None where it can."""
    data = task.train
    if isinstance(data, DataLoader):
        kind, remedy = "DataLoader", "the Dataset that it reads"
    elif isinstance(data, IterableDataset) or not (
        isinstance(data, tuple) or hasattr(data, "__len__") or isinstance(data, Batch)
    ):
        kind, remedy = type(data).__name__, "arrays, or a Dataset with a length and __getitem__"
    else:
        return None
    return (
        f"--data takes fractions of the training part by row, and this task's is of the type "
        f"{kind}, whose rows cannot be chosen. Let the task give {remedy}, or leave --data out."
    )


def of(task: Task, fraction: float | None, seed: int) -> Task:
    """The task with a fraction of its training part; the rest of it is as it was.

    Raises:
        InputError: the rows of the training part cannot be chosen.
    """
    if fraction is None or fraction == 1.0:
        return task
    reason = refusal(task)
    opened = None if reason else rows.open_rows(task.train, task.collate, "the data to train on")
    if opened is None:
        raise InputError(reason or "--data: the rows of the training part cannot be chosen.")
    classes = _classes(task, opened)
    chosen = np.sort(beginning(len(opened), fraction, classes, seed))
    if isinstance(opened, rows.Arrays):
        part = opened.fetch(torch.from_numpy(chosen), ())
        return replace(task, train=replace(part, indices=None))
    return replace(task, train=Subset(task.train, chosen.tolist()))


def beginning(count: int, fraction: float, classes: Whole | None, seed: int) -> Whole:
    """The rows of a fraction, the first of the seed's order."""
    kinds = 1 if classes is None else len(np.unique(classes))
    return order(count, classes, seed)[: max(kinds, round(fraction * count))]


def order(count: int, classes: Whole | None, seed: int) -> Whole:
    """Every row once; each beginning holds the classes in their proportions."""
    draw = np.random.default_rng(seeding.key(seed, "data fraction"))
    shuffled: Whole = draw.permutation(count)
    if classes is None:
        return shuffled
    _, codes, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    ahead = draw.random(len(sizes))
    by_class = shuffled[np.argsort(codes[shuffled], kind="stable")]
    number = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    code = codes[by_class]
    place = (number + ahead[code]) / sizes[code] - (number == 0)
    return by_class[np.argsort(place, kind="stable")]


def _classes(task: Task, opened: rows.Rows) -> Whole | None:
    """Each row's class, where classes are what is learned and known without reading samples."""
    if objectives.make(task.objective).family.name != "categorical":
        return None
    found: Any
    if isinstance(opened, rows.Arrays):
        found, mask = opened.whole.targets, opened.whole.mask
        if found is not None and mask is not None and found.dtype == torch.int64:
            found = found.masked_fill(~mask, found.min() - 1)  # rows without a target are a kind
    else:
        found = frequencies.known_targets(task.train)
    if found is None:
        return None
    values = np.asarray(found.cpu() if isinstance(found, torch.Tensor) else found)
    return values if values.ndim == 1 and values.dtype.kind in "iub" else None
