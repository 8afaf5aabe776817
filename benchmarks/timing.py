"""Timing contenders in turns, so that a machine's mood meets all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping

Chunk = Callable[[], float]  # runs a fixed piece of work and gives its seconds

Times = dict[str, list[float]]


def timed(work: Callable[[], object]) -> Chunk:
    """A chunk that is timed from outside."""

    def chunk() -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    return chunk


def interleave(chunks: Mapping[str, Chunk], repeats: int, warmup: int = 2) -> Times:
    """Seconds of every chunk in every repeat: a, b, c, then c, b, a, then a, b, c ...

    Garbage is collected between chunks and not within, as it would fall on whoever is running.
    """
    for chunk in chunks.values():
        for _ in range(warmup):
            chunk()
    times: Times = {name: [] for name in chunks}
    gc.collect()
    gc.disable()
    try:
        for number in range(repeats):
            for name in list(chunks)[:: -1 if number % 2 else 1]:
                times[name].append(chunks[name]())
                gc.collect(0)
    finally:
        gc.enable()
    return times


def ratios(times: Times, name: str, against: str) -> list[float]:
    """The ratio of two contenders within each repeat."""
    return [a / b for a, b in zip(times[name], times[against], strict=True)]


def spread(values: list[float]) -> float:
    """The interquartile range."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low
