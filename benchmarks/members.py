"""An ensemble's members side by side, against the same one after another.

What is counted is all that `whet ensemble` does: looking at the task, starting workers, training,
judging, and writing the mean.
"""

from __future__ import annotations

import shutil
import time

from rich.console import Console

from benchmarks.places import place
from benchmarks.timing import Chunk
from whet.fit import together
from whet.fit.ensemble import Ensemble
from whet.fit.request import Request

QUIET = Console(quiet=True)


def trained(members: int, updates: int, jobs: int) -> Chunk:
    """Seconds of an ensemble on the digits, so many at a time."""
    out = place("ensemble") / f"{jobs} at a time"

    def train() -> float:
        shutil.rmtree(out, ignore_errors=True)
        request = Request("digits", out=out, device="cpu", updates=updates)
        began = time.perf_counter()
        together.fit(Ensemble(request, members=members, jobs=jobs), QUIET)
        return time.perf_counter() - began

    return train
