"""How long an update takes, in every part of a training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

from whet.callback import Callback
from whet.run import Run
from whet.study.paces import Paces


class Clock(Callback):
    """Seconds between updates, without evaluation and checkpoints, and where they were.

    Where methods take part of the training only, the median of each part counts by how long the
    part is: a median of the whole would not know that they cost anything.
    """

    def __init__(self) -> None:
        self.last = time.perf_counter()
        self.gaps: list[tuple[float, float]] = []

    def updated(self, run: Run) -> None:
        now = time.perf_counter()
        here = (run.stack.run.updates - 0.5) / (run.stack.run.total or 1)
        self.gaps.append((run.stage_number + here, now - self.last))
        self.last = now

    def median(self) -> float:
        """The median gap."""
        return _median([gap for _, gap in self.gaps])

    def paces(self, cuts: Sequence[float]) -> Paces:
        """The median gap of each part between cuts that this process saw something of."""
        parts = [(a, b, [gap for at, gap in self.gaps if a < at < b]) for a, b in pairwise(cuts)]
        return [[a, b, _median(gaps)] for a, b, gaps in parts if gaps]


def _median(gaps: Sequence[float]) -> float:
    return sorted(gaps)[(len(gaps) - 1) // 2] if gaps else 0.0
