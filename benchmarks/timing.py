"""Timing contenders in turns, so that a machine's mood meets all of them alike."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

Chunk = Callable[[], float]  # runs a fixed piece of work and gives its seconds

Clock = Callable[[], float]  # perf_counter; process_time where one thread works and never waits

Times = dict[str, list[float]]


def timed(work: Callable[[], object], clock: Clock = time.perf_counter) -> Chunk:
    """A chunk that is timed from outside."""

    def chunk() -> float:
        begin = clock()
        work()
        return clock() - begin

    return chunk


def interleave(
    makers: Mapping[str, Callable[[], Chunk]], repeats: int, each: int = 2, warmup: int = 1
) -> Times:
    """Seconds of every contender's chunk in every repeat: a, b, c, then c, b, a, then a, b, c ...

    After `each` repeats all contenders are made anew and warmed up by `warmup` chunks: where a
    model happens to lie in memory makes it some percent faster or slower than its twin for good.
    With `each=0` they are made once.
    Garbage is collected as usual, but what libraries hold is not looked through each time.
    """
    chunks = {name: make() for name, make in makers.items()}
    for chunk in chunks.values():
        chunk()  # imports what it needs
    gc.collect()
    gc.freeze()
    times: Times = {name: [] for name in makers}
    for number in range(repeats):
        names = list(makers)[:: -1 if number % 2 else 1]
        if each and number % each == 0:
            chunks.clear()
            gc.collect()
            chunks = {name: makers[name]() for name in _turned(names, number // each)}
            for chunk in chunks.values():
                for _ in range(warmup):
                    chunk()
        for name in names:
            times[name].append(chunks[name]())
    gc.unfreeze()
    return times


def _turned(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]


def spread(values: Sequence[float]) -> float:
    """The interquartile range."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of the median, from the order of the values alone."""
    ordered, half = sorted(values), 0.98 * math.sqrt(len(values))
    low, high = math.floor(len(values) / 2 - half), math.ceil(len(values) / 2 + half) - 1
    return ordered[max(low, 0)], ordered[min(high, len(values) - 1)]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for torch's operations."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
