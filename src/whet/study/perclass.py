"""What arms do to single classes: recall, precision and F1 from the confusion matrices.

For class $c$ of a matrix with rows of true and columns of predicted classes,

$$\\text{recall} = M_{cc} / M_{c\\cdot},\\qquad \\text{precision} = M_{cc} / M_{\\cdot c},\\qquad
F_1 = 2 M_{cc} / (M_{c\\cdot} + M_{\\cdot c}).$$

They are taken seed by seed, so that an arm's difference to the baseline is paired as the verdicts
are; where a denominator is zero the seed is left out of that number. Matrices are summed.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.study.plan import BASELINE, Row

SMALL = 12  # classes up to which a matrix can be read
PAIRS = 12  # most confused pairs that are listed for more
LEVELS = 5
Matrix = Sequence[Sequence[int]]
Scores = tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class Class:
    """One class under one arm: recall, precision, F1, and their gains over the baseline."""

    name: str
    rows: int
    scores: Scores
    gains: Scores


@dataclass(frozen=True)
class Pair:
    """A true class taken for another one: how often under this arm and under the baseline."""

    true: str
    predicted: str
    count: int
    before: int


@dataclass(frozen=True)
class Sheet:
    """All about one arm: its classes, and its matrix where small, else the most confused pairs."""

    arm: str
    seeds: int
    classes: list[Class]
    matrix: list[tuple[str, list[tuple[int, str]]]]
    pairs: list[Pair]


def sheets(rows: Sequence[Row]) -> list[Sheet]:
    """A sheet for the baseline, then for every arm that shares seeds with it."""
    arms: dict[str, dict[int, Matrix]] = {}
    names = _names(rows)
    for row in rows:
        if row["status"] == "done" and _fits(row, names):
            arms.setdefault(row["arm"], {})[row["seed"]] = row["confusion"]
    reference = arms.get(BASELINE)
    if reference is None:
        return []
    others = [arm for arm in arms if arm != BASELINE]
    made = [_sheet(arm, names, arms[arm], reference) for arm in (BASELINE, *others)]
    return [sheet for sheet in made if sheet is not None]


def scores(matrix: Matrix) -> list[Scores]:
    """Recall, precision and F1 of every class; None where they are not defined."""
    there = [sum(row) for row in matrix]
    said = [sum(column) for column in zip(*matrix, strict=True)]
    return [
        (_part(hit, there[c]), _part(hit, said[c]), _part(2 * hit, there[c] + said[c]))
        for c in range(len(matrix))
        for hit in [matrix[c][c]]
    ]


def _names(rows: Sequence[Row]) -> list[str]:
    """The names of the classes, from the baseline's first matrix; numbers where there are none."""
    for row in rows:
        if row["arm"] == BASELINE and row["status"] == "done" and row.get("confusion"):
            return _own(row)
    return []


def _own(row: Mapping[str, Any]) -> list[str]:
    return [*map(str, row.get("classes") or range(len(row["confusion"])))]


def _fits(row: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether a row's matrix is square and of these classes; others cannot be summed."""
    matrix = row.get("confusion") or []
    sizes = {len(matrix), *map(len, matrix)}
    return bool(matrix) and _own(row) == names and sizes == {len(names)}


def _sheet(
    arm: str, names: Sequence[str], ours: Mapping[int, Matrix], theirs: Mapping[int, Matrix]
) -> Sheet | None:
    seeds = sorted({*ours} & {*theirs})
    if not seeds:
        return None
    pairs = [(scores(ours[seed]), scores(theirs[seed])) for seed in seeds]
    whole, before = (_sum([all_[seed] for seed in seeds]) for all_ in (ours, theirs))
    classes = [
        Class(
            name,
            sum(whole[c]),
            _three([[mine[c][k] for mine, _ in pairs] for k in range(3)]),
            _three([[_minus(mine[c][k], base[c][k]) for mine, base in pairs] for k in range(3)]),
        )
        for c, name in enumerate(names)
    ]
    if len(names) <= SMALL:
        return Sheet(arm, len(seeds), classes, _heat(names, whole), [])
    return Sheet(arm, len(seeds), _changed(classes), [], _confused(names, whole, before))


def _changed(classes: Sequence[Class]) -> list[Class]:
    """Many classes: those whose F1 an arm changed most come first."""
    return sorted(classes, key=lambda each: -abs(each.gains[2] or 0.0))


def _confused(names: Sequence[str], whole: Matrix, before: Matrix) -> list[Pair]:
    found = [
        Pair(names[t], names[p], count, before[t][p])
        for t, row in enumerate(whole)
        for p, count in enumerate(row)
        if t != p and count
    ]
    return sorted(found, key=lambda pair: (-pair.count, -pair.before))[:PAIRS]


def _heat(names: Sequence[str], whole: Matrix) -> list[tuple[str, list[tuple[int, str]]]]:
    """Counts with a shade: hits by their share of the row, misses relative to the largest one."""
    shares = [[count / (sum(row) or 1) for count in row] for row in whole]
    worst = max((s for t, row in enumerate(shares) for p, s in enumerate(row) if t != p), default=0)

    def shade(t: int, p: int) -> str:
        share = shares[t][p] if t == p else shares[t][p] / (worst or 1)
        level = -int(-share * LEVELS // 1)  # rounded up: a single miss is to be seen
        return f"{'hit' if t == p else 'miss'}{level}" if level else ""

    return [
        (name, [(count, shade(t, p)) for p, count in enumerate(whole[t])])
        for t, name in enumerate(names)
    ]


def _sum(matrices: Sequence[Matrix]) -> list[list[int]]:
    size = range(len(matrices[0]))
    return [[sum(matrix[t][p] for matrix in matrices) for p in size] for t in size]


def _three(values: Sequence[Sequence[float | None]]) -> Scores:
    recall, precision, f1 = (
        statistics.fmean(known) if (known := [v for v in each if v is not None]) else None
        for each in values
    )
    return recall, precision, f1


def _part(hit: int, of: int) -> float | None:
    return hit / of if of else None


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
