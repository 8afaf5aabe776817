"""Parts of the rows, each of which is predicted by models of the others."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet import digests, settings
from whet.batch import Batch
from whet.errors import InputError

Array = NDArray[Any]
COPIES = ("refuse", "together", "apart")


def parted(
    rows: Batch, targets: Array, family: str, folds: int = 5, groups: Any = None,
    copies: str = "refuse", seed: int = 0,
) -> Array:  # fmt: skip
    """The number of each row's fold.

    Classes keep their proportions in every fold; rows of one group stand in one fold. Which of
    scikit-learn's splitters that takes is chosen here.

    Args:
        rows: all of them.
        targets: classes `(N,)`, labels `(N, L)`, or reals.
        family: its name.
        folds: how many.
        groups: of each row, what it belongs to, or None.
        copies: of rows with equal inputs, see `stack`.
        seed: of the order in which rows are dealt out; whole groups are dealt out by size.

    Raises:
        InputError: there are too few rows, groups, or rows of a class; a fold would be trained
            without one of the classes; or equal rows stand in several folds.
    """
    if copies not in COPIES:
        raise InputError(f"copies is {copies!r}; it must be one of {', '.join(COPIES)}.")
    if not settings.Range(2, whole=True).holds(folds):
        raise InputError(f"folds is {folds!r}; it must be a whole number from 2.")
    belongs = None if groups is None else codes_of(groups, rows.size)
    if copies == "together":
        belongs = _together(contents(rows), belongs)
    _check_enough(targets, family, folds, belongs)
    found = _dealt(targets, family, folds, belongs, seed)
    _check_classes(targets, family, found, folds)
    if copies == "refuse":
        _check_copies(spread(contents(rows), found), rows.size)
    return found


def codes_of(groups: Any, count: int, what: str = "groups") -> Array:
    """Whole numbers for groups, equal where these are.

    Raises:
        InputError: they are not one for each row, or one is missing.
    """
    given = np.asarray(groups)
    if given.shape != (count,):
        raise InputError(
            f"{what} has the shape {given.shape}, and there are {count} rows: give one value for "
            "each row of the data, in its order."
        )
    missing = [n for n, one in enumerate(given.tolist()) if one is None or one != one]
    if missing:
        raise InputError(
            f"{what} says nothing of row {missing[0]} ({len(missing)} in all). Give each row that "
            "belongs to none a value of its own."
        )
    codes: Array = np.unique(given.astype(str) if given.dtype == object else given,
                             return_inverse=True)[1]  # fmt: skip
    return codes


def contents(rows: Batch) -> Array:
    """Whole numbers for the inputs of each row, equal where these are."""
    found = digests.of(digests.Opened("the data", rows, None, None), None, "train")
    codes: Array = np.unique(found, return_inverse=True)[1]
    return codes


def spread(content: Array, fold: Array) -> Array:
    """The rows of which a copy stands in another fold."""
    first = np.full(content.max() + 1, -1)
    first[content] = fold  # of one of the copies
    split = np.zeros(len(first), bool)
    split[content[first[content] != fold]] = True
    return np.flatnonzero(split[content])


def _together(content: Array, belongs: Array | None) -> Array:
    """Groups in which equal rows are one, and so is whatever they link."""
    if belongs is None:
        return content
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first = int(belongs.max()) + 1
    count = first + int(content.max()) + 1
    links = coo_array((np.ones(len(content)), (belongs, first + content)), shape=(count, count))
    linked: Array = connected_components(links, directed=False)[1]
    return linked[belongs]


def _check_enough(targets: Array, family: str, folds: int, belongs: Array | None) -> None:
    units = len(targets) if belongs is None else len(np.unique(belongs))
    if units < folds:
        raise InputError(
            f"there are {units} {'rows' if belongs is None else 'groups'} for {folds} folds: take "
            "fewer folds."
        )
    if family == "categorical" and belongs is None:
        classes, counts = np.unique(targets, return_counts=True)
        if counts.min() < folds:
            raise InputError(
                f"class {classes[counts.argmin()]} has {counts.min()} rows for {folds} folds, so "
                "that some fold has none of them. Take fewer folds or more rows, leave the class "
                "out, or say family='real' if these are numbers."
            )


def _dealt(
    targets: Array, family: str, folds: int, belongs: Array | None, seed: int
) -> Array:  # fmt: skip
    from sklearn.model_selection import (
        GroupKFold,
        KFold,
        StratifiedGroupKFold,
        StratifiedKFold,
    )

    drawn = {"shuffle": True, "random_state": seed}
    splitter: Any
    if family == "categorical":
        kind = StratifiedKFold if belongs is None else StratifiedGroupKFold
        splitter = kind(folds, **drawn)
    else:
        splitter = KFold(folds, **drawn) if belongs is None else GroupKFold(folds)
    fold, empty = np.zeros(len(targets), np.int64), np.zeros(len(targets))
    with warnings.catch_warnings():  # classes in few groups: what that costs is checked after
        warnings.simplefilter("ignore", UserWarning)
        try:
            parts = list(splitter.split(empty, targets, belongs))
        except ValueError as error:
            raise InputError(f"the rows cannot be parted into {folds} folds: {error}") from error
    for number, (_, held) in enumerate(parts):
        if not len(held):
            raise InputError(f"fold {number} of {folds} would have no rows: take fewer folds.")
        fold[held] = number
    return fold


def _check_classes(targets: Array, family: str, fold: Array, folds: int) -> None:
    """A model that never saw a class says of its rows what no later one will say."""
    for number in range(folds) if family != "real" else ():
        rest = targets[fold != number]
        if family == "categorical":
            lacking = np.setdiff1d(targets, rest)
            what = "class"
        else:
            lacking, what = np.flatnonzero(rest.min(0) == rest.max(0)), "both values of label"
        if len(lacking):
            raise InputError(
                f"the models for fold {number} would be trained without {what} {lacking[0]}: too "
                "few rows or groups have it. Take fewer folds, other groups or another seed, or "
                "leave it out."
            )


def _check_copies(found: Array, count: int) -> None:
    if len(found):
        raise InputError(
            f"of {count} rows {len(found)} have a copy with equal inputs in another fold, such as "
            f"row {found[0]} of those with a target: a model that learned the copy by heart looks "
            "better than it is. Say copies='together', or give groups= of what belongs together; "
            "if equal rows are independent observations, say copies='apart'."
        )
