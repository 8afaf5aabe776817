"""Predictions in the columns of a sample that somebody else wrote, as competitions ask for them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from whet.batch import Batch
from whet.data import read_table
from whet.errors import InputError, UnknownName
from whet.fit.saved import Array, Saved, predicted, written

LABEL = "label"


def filled(
    sample: Path, saved: Saved, batches: Iterator[Batch], data: Path | None = None,
    value: str = LABEL,
) -> str:  # fmt: skip
    """A sample's CSV with the model's predictions in place of what stands there.

    The first column names the rows and stays. The columns after it are the classes (`NAME` or
    `p_NAME`, in any order), which get their probabilities; or a single one, which gets the
    likeliest class's name or what `value` says; or, of reals, as many as the model predicts.

    Args:
        sample: with a header and a line for each row.
        saved: the model.
        batches: the rows.
        data: the file that they come from. Where it is a table with a column called as the
            sample's first, rows are found by it; else both stand in one order.
        value: of a single column: `label`, or the name of the class whose probability it gets.

    Raises:
        InputError: rows or columns do not fit.
    """
    given = read_table(sample)
    (key, *columns), rows = list(given), list(next(iter(given.values())))
    names, values = predicted(saved, batches)
    if not columns:
        raise InputError(f"{sample} has no column beside {key!r} to fill.")
    values = values[_places(rows, len(values), key, sample, data)]
    filled = _filled(columns, names, values, saved.predictor.family.name, value)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([key, *columns])
    lines.writerows([row, *line] for row, line in zip(rows, filled, strict=True))
    return text.getvalue()


def _places(
    rows: Sequence[str], count: int, key: str, sample: Path, data: Path | None
) -> Array:  # fmt: skip
    """Which prediction belongs to each row of the sample."""
    theirs = _keys(data, key)
    if theirs is not None and len(theirs) == count:
        at = {name: place for place, name in enumerate(theirs)}
        missing = [row for row in rows if row not in at]
        if len(at) < count or missing:
            odd = f"{missing[0]!r} of {sample} is not there" if missing else "one stands twice"
            raise InputError(f"{data} does not tell its rows apart by {key!r}: {odd}.")
        return np.array([at[row] for row in rows])
    if len(rows) != count:
        raise InputError(
            f"{sample} has {len(rows)} rows and there are {count} predictions: give the rows that "
            f"it is of. A column {key!r} in them would say which is which."
        )
    return np.arange(count)


def _keys(data: Path | None, key: str) -> list[str] | None:
    """The rows' names in the file that they come from, where it is a table that has them."""
    if data is None or not {".csv", ".tsv"} & set(data.suffixes):
        return None
    found = read_table(data)
    return list(found[key]) if key in found else None


def _filled(
    columns: Sequence[str], names: Sequence[str], values: Array, family: str, value: str
) -> Iterator[list[str]]:  # fmt: skip
    at = {form: n for n, name in enumerate(names) for form in (f"p_{name}", name)}
    if family in ("categorical", "multi-label") and all(name in at for name in columns):
        return ([written(line[at[name]]) for name in columns] for line in values)
    if family == "categorical" and len(columns) == 1:
        if value == LABEL:
            return ([names[int(line.argmax())]] for line in values)
        if value not in at:
            raise UnknownName("class to give the probability of", value, names)
        return ([written(line[at[value]])] for line in values)
    if family not in ("categorical", "multi-label") and len(columns) == len(names):
        return ([written(one) for one in line] for line in values)
    raise InputError(
        f"the sample has the columns {', '.join(columns)}, and the model predicts "
        f"{', '.join(names)}: call the columns as the classes, or leave a single one."
    )
