"""From the rows of runs to the paired differences of every arm; seeds without a pair are named."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from whet.errors import InputError
from whet.study.plan import Row

WHOLE = "whole"
LARGEST = 1e100  # the square of a larger one is no number
SUFFIX = re.compile(r"@(start|end|after)\b")


@dataclass(frozen=True)
class Pairs:
    """One arm's differences to its reference, by seed, and the seeds that have none."""

    arm: str
    differences: dict[int, float]
    left_out: tuple[tuple[int, str], ...]
    scale: float
    diverged: int
    seeds: int
    absent: str | None


def placement(arm: Mapping[str, Any]) -> str:
    """The part of training that an arm of `study.json` acts in.

    It is the arm's own field, else what its name says.

    >>> placement({"name": "fgm@end"}), placement({"name": "ema"})
    ('end', 'whole')
    """
    found = SUFFIX.search(str(arm["name"]))
    return str(arm.get("placement") or (found[1] if found else WHOLE))


def by_arm(results: Iterable[Row]) -> dict[str, dict[int, Row]]:
    """Rows by arm and seed.

    Raises:
        InputError: two rows of one arm and seed.
    """
    arms: dict[str, dict[int, Row]] = {}
    for row in results:
        seeds = arms.setdefault(row["arm"], {})
        if row["seed"] in seeds:
            raise InputError(f"two results of arm {row['arm']!r} and seed {row['seed']}.")
        seeds[row["seed"]] = row
    return arms


def pairs(
    arms: Mapping[str, Mapping[int, Row]], arm: str, baseline: str, where: tuple[str, str]
) -> Pairs:
    """One arm against the baseline; `where` is the part and the metric."""
    rows, reference = arms[arm], arms.get(baseline, {})
    left_out, differences, scale = [], {}, 0.0
    for seed in sorted({*rows, *reference}):
        reason = _unusable(rows.get(seed), where) or _unusable(reference.get(seed), where, baseline)
        if reason:
            left_out.append((seed, reason))
            continue
        ours, theirs = _value(rows[seed], where), _value(reference[seed], where)
        differences[seed] = ours - theirs
        scale = max(scale, abs(ours), abs(theirs))
    diverged = sum(row["status"] == "diverged" for row in rows.values())
    return Pairs(arm, differences, tuple(left_out), scale, diverged, len(rows), _absent(rows))


def _absent(rows: Mapping[int, Row]) -> str | None:
    """What all seeds came to, where none of them came to a result."""
    states = {row["status"] for row in rows.values()}
    if len(states) == 1 and not states & {"done", "diverged"}:
        (state,) = states
        return "failed in every seed" if state == "failed" else str(state)
    return None


def _unusable(row: Row | None, where: tuple[str, str], prefix: str = "") -> str | None:
    prefix = f"{prefix} " if prefix else ""
    if row is None:
        return f"{prefix}not run yet"
    if row["status"] != "done":
        return f"{prefix}{row['status']}"
    value = _value(row, where)
    return None if math.isfinite(value) else f"{prefix}without a finite {where[1]}"


def _value(row: Row, where: tuple[str, str]) -> float:
    part, metric = where
    value = (row.get("metrics") or {}).get(part, {}).get(metric)
    known = value is not None and abs(value) <= LARGEST
    return float(value) if known else math.nan
