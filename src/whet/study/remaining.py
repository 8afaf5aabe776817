"""How long the rest of a study may take, at the pace of what ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from whet.study.plan import Node, Row
from whet.study.pulse import Now


def time_left(
    waiting: Sequence[Node], rows: Iterable[Row], running: Sequence[Now], jobs: int
) -> float | None:
    """Seconds that the missing runs may take, at the pace of those that ended.

    A run takes as long as the others of its arm did in the mean, or as all did; one in progress its
    share of that. So many go at a time as do now, and none takes less than the longest of them.

    Args:
        waiting: nodes without a row, those in progress too.
        rows: of the runs that ended.
        running: those in progress.
        jobs: runs at a time that the study was begun with.
    """
    took: dict[str, list[float]] = {}
    for row in rows:
        if row["status"] == "done" and row.get("seconds") and not row.get("rode_on"):
            took.setdefault(row["arm"], []).append(row["seconds"])
    if not took:
        return None
    usual = fmean([seconds for each in took.values() for seconds in each])
    share = {(now.arm, now.seed): 1 - now.update / now.of for now in running
             if now.update is not None and now.of}  # fmt: skip
    left = [
        fmean(took.get(node.arm) or [usual]) * max(0.0, share.get((node.arm, node.seed), 1.0))
        for node in waiting
        if node.rides is None
    ]
    return max(sum(left) / max(1, jobs, len(running)), *left) if left else None
