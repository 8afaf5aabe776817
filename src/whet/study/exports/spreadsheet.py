"""Verdicts as CSV: one line an arm, numbers in full, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from whet.study import store
from whet.study.plan import BASELINE
from whet.study.report import facts
from whet.study.statistics import Comparison, Ratio, ranked

if TYPE_CHECKING:
    from whet.study.evidence import Evidence

COLUMNS = (
    "arm", "family", "placement", "n", "gain", "low", "high", "p", "p_holm", "p_max_t",
    "detectable", "verdict", "time_ratio", "time_low", "time_high", "memory_ratio", "passes",
    "runs_missing",
)  # fmt: skip


def text(found: Evidence) -> str:
    """Every family's arms; `runs_missing` is how many runs of the study have no result yet."""
    missing = facts.missing(found.study, found.rows)
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(COLUMNS)
    for family, each, verdict in _families(found):
        table.writerow(map(store.cell, (*_line(family, each, verdict), missing)))
    return file.getvalue()


def _families(found: Evidence) -> Iterator[tuple[str, Comparison, str]]:
    """Every comparison with its family's name and its verdict there."""
    several = [(BASELINE, found.comparisons), ("leaving one out", found.leaving)]
    several += [(each.key, each.comparisons) for each in found.further]
    for name, comparisons in several:
        yield from ((name, each, each.verdict) for each in ranked(comparisons))
    for each in found.controlled:
        yield f"equal time ({each.control})", each.equal_time, each.verdict
    for one in found.confirmation.arms if found.confirmation else ():
        yield "confirmation", one.found, one.verdict


def _line(family: str, each: Comparison, verdict: str) -> tuple[Any, ...]:
    cost = each.cost
    step: Ratio | None = None if cost is None else cost.step
    memory = None if cost is None or cost.memory is None else cost.memory.value
    time = (None, None, None) if step is None else (step.value, step.low, step.high)
    return (
        each.arm, family, each.placement, each.n, each.gain, each.low, each.high, each.p,
        each.p_holm, each.p_max_t, each.detectable, verdict, *time, memory,
        None if cost is None else cost.passes,
    )  # fmt: skip
