"""Train, select and judge parts that vary with the seed: stratified, by groups, or given."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet.data.tables import text
from whet.errors import InputError

Array = NDArray[Any]
PARTS = ("train", "select", "judge")


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of the three parts, int64 and ascending; no row is in two of them.

    Args:
        train: rows to train on.
        select: rows that stopping, choosing and calibrating may look at.
        judge: rows that nothing but the final judgement looks at.
        notes: what could not be had: a class too rare to be stratified, or absent from a part.
    """

    train: Array
    select: Array
    judge: Array
    notes: tuple[str, ...] = ()

    def of(self, values: Any) -> dict[str, Any]:
        """Values of all rows, or columns of them, by part: for `Task(identities=...)`.

        >>> split(3, seed=0, shares=(0.34, 0.33, 0.33)).of(["a", "a", "a"])
        {'train': ['a'], 'select': ['a'], 'judge': ['a']}
        """
        rows = {name: getattr(self, name) for name in PARTS}
        if isinstance(values, Mapping):
            return {
                name: {key: [column[row] for row in chosen] for key, column in values.items()}
                for name, chosen in rows.items()
            }
        return {name: [values[row] for row in chosen] for name, chosen in rows.items()}


def split(
    rows: Any, seed: int, *, groups: Any = None, stratify: Any = None,
    shares: Sequence[float] = (0.7, 0.15, 0.15),
    train: Any = None, select: Any = None, judge: Any = None,
) -> Split:  # fmt: skip
    """Split rows at random by the seed; the same seed gives the same split.

    Stratified where there are labels: every class has its share in every part. A class with a
    single row left to distribute cannot be; the rows of all such classes are distributed together,
    and where a part has fewer rows than there are classes, at random. With groups, whole groups go
    to one part, in an order drawn by the seed, each to the part that lacks most of its share: the
    shares are approximate, and a class may be absent from a part. Whatever could not be had is
    warned of and stands in `notes`.

    Args:
        rows: the number of rows, the labels of the rows, or the rows themselves. A one-dimensional
            array or list of integers, booleans or strings is taken as labels, unless all differ.
        seed: the task's seed.
        groups: one value per row; rows of one group (patient, speaker, document) stay together.
        stratify: labels by which to stratify where `rows` are not them; False to leave it.
        shares: of train, select and judge; they sum to 1.
        train: rows of a part that is given, as numbers or as a mask; it stays as it is and the
            rows that are in no given part are split by the shares of the other parts.
        select: likewise.
        judge: likewise.

    Raises:
        InputError: shares, lengths or given rows that cannot be; a group that is both in a given
            part and outside of it; fewer rows than parts.

    >>> parts = split([0, 1] * 50, seed=0)
    >>> [len(part) for part in (parts.train, parts.select, parts.judge)]
    [70, 15, 15]
    >>> ready = split(100, seed=1, judge=range(80, 100), shares=(0.5, 0.25, 0.25))
    >>> len(ready.train), len(ready.select), ready.judge.tolist() == list(range(80, 100))
    (53, 27, True)
    """
    count = _count(rows)
    wanted = _shares(shares)
    given = _given({"train": train, "select": select, "judge": judge}, count)
    taken = np.concatenate([np.empty(0, np.int64), *given.values()])
    rest = np.setdiff1d(np.arange(count), taken)
    labels = _labels(rows, stratify, count)
    if groups is not None:
        names = _codes(groups, "groups", count)
        _check_apart(names, taken, rest, groups)
    open_parts = [name for name in PARTS if name not in given and wanted[name] > 0]
    sizes = _sizes(len(rest), {name: wanted[name] for name in open_parts})
    notes: list[str] = []
    if groups is not None:
        drawn = _by_groups(rest, names, sizes, seed)
    else:
        drawn = _by_rows(rest, labels, sizes, seed, notes)
    parts = {name: np.sort(given.get(name, drawn.get(name, taken[:0]))) for name in PARTS}
    if labels is not None:
        notes += _absent(parts, labels)
    if notes:
        warnings.warn(f"split: {'; '.join(notes)}.", UserWarning, stacklevel=2)
    return Split(**parts, notes=tuple(notes))


def _count(rows: Any) -> int:
    if isinstance(rows, int | np.integer) and not isinstance(rows, bool):
        if rows < 1:
            raise InputError(f"there are {rows} rows to split; it takes at least one per part.")
        return int(rows)
    if hasattr(rows, "iloc"):
        return len(rows)
    if isinstance(rows, Mapping):
        return len(next(iter(rows.values()), ()))
    if not hasattr(rows, "__len__"):
        raise InputError(
            f"split got a {type(rows).__name__}; give the number of rows, their labels, or rows "
            "that have a length."
        )
    return len(rows)


def _shares(shares: Sequence[float]) -> dict[str, float]:
    values = [float(share) for share in shares]
    if len(values) != 3 or min(values) < 0 or not math.isclose(sum(values), 1, abs_tol=1e-6):
        raise InputError(f"shares are {tuple(shares)}; give three of at least 0 that sum to 1.")
    if values[0] == 0:
        raise InputError("the share of train is 0: nothing is left to train on.")
    return dict(zip(PARTS, values, strict=True))


def _given(parts: Mapping[str, Any], count: int) -> dict[str, Array]:
    found: dict[str, Array] = {}
    seen = np.zeros(count, bool)
    for name, value in parts.items():
        if value is None:
            continue
        rows = np.asarray(value)
        if rows.dtype == bool and rows.shape == (count,):
            rows = rows.nonzero()[0]
        if rows.ndim != 1 or (rows.dtype.kind not in "iu" and rows.size):
            raise InputError(f"{name}= is neither row numbers nor a mask of the {count} rows.")
        rows = rows.astype(np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= count):
            raise InputError(f"{name}= names row {rows.max()}; rows are numbered 0..{count - 1}.")
        if len(np.unique(rows)) < len(rows) or seen[rows].any():
            raise InputError(f"{name}= names rows twice, or rows of another given part.")
        seen[rows] = True
        found[name] = rows
    return found


def _labels(rows: Any, stratify: Any, count: int) -> Array | None:
    if stratify is False:
        return None
    if stratify is not None:
        return _codes(stratify, "stratify", count)
    if isinstance(rows, int | np.integer | Mapping) or (
        hasattr(rows, "iloc") and hasattr(rows, "columns")
    ):
        return None
    values = rows if hasattr(rows, "dtype") else list(rows)
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        return None
    plain = array.ndim == 1 and array.dtype.kind in "iubUT"
    words = array.ndim == 1 and array.dtype.kind == "O" and all(isinstance(v, str) for v in array)
    codes = _codes(array, "the labels", count) if plain or words else None
    return None if codes is None or codes.max() == count - 1 else codes  # all differ


def _codes(values: Any, what: str, count: int) -> Array:
    """Values as numbers 0..K-1 in the order of their first row."""
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(listed) != count:
        raise InputError(f"{what}: {len(listed)} values for {count} rows; give one per row.")
    numbers: dict[Any, int] = {}
    codes = np.empty(count, np.int64)
    for row, value in enumerate(listed):
        if text(value) == "":
            raise InputError(f"{what}: row {row} has none. Drop the row or give it a value.")
        codes[row] = numbers.setdefault(value, len(numbers))
    return codes


def _check_apart(names: Array, taken: Array, rest: Array, groups: Any) -> None:
    both = np.intersect1d(names[taken], names[rest])
    if both.size:
        row = int(np.flatnonzero(names == both[0])[0])
        raise InputError(
            f"{both.size} groups are both in a given part and outside of it, such as "
            f"{np.asarray(groups)[row]!r}. Add their rows to the given part, drop them, or leave "
            "groups= out."
        )


def _sizes(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Rows of each part that is not given: rounded, at least one each."""
    if not shares:
        return {}
    if count < len(shares):
        raise InputError(
            f"{count} rows are left for {' and '.join(shares)}: each needs one at least."
        )
    whole, sizes, left = sum(shares.values()), {}, count
    parts = list(shares)
    for position, name in reversed(list(enumerate(parts[1:], 1))):
        size = max(1, min(round(count * shares[name] / whole), left - position))
        sizes[name], left = size, left - size
    return {name: sizes.get(name, left) for name in parts}


def _by_rows(
    rest: Array, labels: Array | None, sizes: Mapping[str, int], seed: int, notes: list[str]
) -> dict[str, Array]:
    from sklearn.model_selection import train_test_split

    from whet import seeding

    drawn: dict[str, Array] = {}
    parts = list(sizes)
    for name in parts[:0:-1]:
        kinds = None if labels is None else _kinds(labels[rest], sizes[name], name, notes)
        rest, drawn[name] = train_test_split(
            rest, test_size=sizes[name], stratify=kinds,
            random_state=seeding.key(seed, "split", name) & 0xFFFFFFFF,
        )  # fmt: skip
    return drawn | dict.fromkeys(parts[:1], rest)


def _kinds(labels: Array, size: int, part: str, notes: list[str]) -> Array | None:
    """What to stratify by: the classes, with those of a single row taken together."""
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rare = counts < 2
    if rare.any():
        notes.append(f"{rare.sum()} classes have a single row to cut {part} from")
        codes = np.where(rare[codes], len(counts), codes)
        if rare.sum() == 1:  # alone it goes with the largest class
            codes = np.where(codes == len(counts), counts.argmax(), codes)
    kinds = len(np.unique(codes))
    if min(size, len(labels) - size) < kinds:
        notes.append(f"{part} is not stratified: {size} of {len(labels)} rows for {kinds} classes")
        return None
    return codes


def _by_groups(rest: Array, names: Array, sizes: Mapping[str, int], seed: int) -> dict[str, Array]:
    from whet import seeding

    found = np.unique(names[rest])
    if len(found) < len(sizes):
        raise InputError(
            f"{len(found)} groups are left for {' and '.join(sizes)}: each needs one at least."
        )
    order = np.random.default_rng(seeding.key(seed, "split", "groups")).permutation(found)
    rows_of = {name: rest[names[rest] == name] for name in order}
    chosen: dict[str, list[Array]] = {part: [] for part in sizes}
    lacking = dict.fromkeys(sizes, 1.0)
    for name in order:
        part = max(lacking, key=lambda one: lacking[one])  # the first of equals
        chosen[part].append(rows_of[name])
        lacking[part] -= len(rows_of[name]) / sizes[part]
    return {part: np.concatenate(rows) for part, rows in chosen.items() if rows}


def _absent(parts: Mapping[str, Array], labels: Array) -> list[str]:
    everywhere, notes = np.unique(labels), []
    for name, rows in parts.items():
        lacking = len(everywhere) - len(np.unique(labels[rows]))
        if len(rows) and lacking:
            notes.append(f"{lacking} of {len(everywhere)} classes are absent from {name}")
    return notes
