"""Arms of a program of its own: their values by seed in a file, and their paired differences."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from whet.study import compare, files
from whet.study.statistics import Comparison


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write(path, text.getvalue())


def held(
    contrasts: Sequence[tuple[str, str, str]], value: Mapping[tuple[str, int], float],
    seeds: Iterable[int], sign: float = 1.0,
) -> list[Comparison]:  # fmt: skip
    """Differences of one seed by title: an arm's value less another's; Holm's levels over all."""
    every = list(seeds)
    told: list[tuple[str, int, float]] = [("none", seed, 0.0) for seed in every]
    for title, arm, other in contrasts:
        told += [(title, seed, sign * (value[arm, seed] - value[other, seed])) for seed in every]
    apart = {title: title for title, _, _ in told}
    return compare(told, baseline="none", placements=apart)


def plain(found: list[Comparison]) -> list[dict[str, Any]]:
    fields = ("arm", "gain", "low", "high", "p_holm", "verdict", "n")
    return [{field: getattr(each, field) for field in fields} for each in found]
