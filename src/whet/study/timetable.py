"""How long a study takes: what arms share is trained once, and a branch waits for its trunk."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whet.study import paces, trie
from whet.study.plan import Arm, Node

FINAL = 2  # of the evaluations are at the end of an arm: the judge and the select part


@dataclass(frozen=True)
class Cost:
    """Seconds that an arm takes: at its start, for each update, and to judge once.

    `paces` says for parts of training where they begin, where they end, and the seconds of an
    update there; a stage that follows is from 1 to 2.
    """

    begin: float
    update: float
    judge: float
    paces: Sequence[Sequence[float]] = field(default=())

    def updating(self, a: float, b: float, after: float = 1.0) -> float:
        """Seconds between two points of training, for each update that the first stage is long.

        `after` is how long the stage that follows is, of the first one's length.
        """
        return paces.seconds(self.paces or [[0.0, 2.0, self.update]], a, b, after)


class Timetable:
    """The nodes of arms and the seconds of each.

    Args:
        arms: with the baseline.
        costs: of each arm; a trunk costs what it does in an arm that goes on from it.
        evaluations: of a whole run, those at its end included.
        ahead: methods that depend on where their span ends, and so share no training that ends
            within it.
        after: how long the stage that follows is, of the first one's length.
    """

    def __init__(
        self, arms: Sequence[Arm], costs: Mapping[str, Cost], evaluations: int,
        ahead: Collection[str] = (), after: float = 1.0,
    ) -> None:  # fmt: skip
        self.nodes = trie.grown(arms, [0], _node, ahead)
        self.evaluations, self.after = evaluations, after
        at = {node.key: n for n, node in enumerate(self.nodes)}
        self.parents = [None if node.parent is None else at[node.parent] for node in self.nodes]
        self._costs: dict[int, Cost] = {}
        for n, node in enumerate(self.nodes):
            above: int | None = n if node.until is None else None
            while above is not None:
                self._costs.setdefault(above, costs[node.arm])
                above = self.parents[above]

    def seconds(self, n: int, updates: float) -> float:
        """What node number `n` takes by itself, where a whole training has so many updates."""
        node, cost, parent = self.nodes[n], self._costs[n], self.parents[n]
        begins = (self.nodes[parent].until or 0.0) if parent is not None else 0.0
        leaf, more = node.until is None, self.after if node.after is not None else 0.0
        ends = 2.0 if node.after is not None else 1.0 if leaf else node.until or 0.0
        length = (min(ends, 1.0) - begins) + more
        judged = length * (self.evaluations - FINAL) + (FINAL if leaf else 0)
        return cost.begin + updates * cost.updating(begins, ends, self.after) + judged * cost.judge

    def takes(self, updates: float, seeds: int, jobs: int) -> float:
        """Seconds until the last run of a study ends."""
        each = [self.seconds(n, updates) for n in range(len(self.nodes))]
        size = len(each)
        parents = [None if above is None else above + seed * size
                   for seed in range(seeds) for above in self.parents]  # fmt: skip
        return makespan(each * seeds, parents, jobs)


def makespan(seconds: Sequence[float], parents: Sequence[int | None], jobs: int) -> float:
    """When the last of several runs ends; the first that can begin goes to the worker that is free.

    >>> makespan([3.0, 1.0, 1.0], [None, 0, None], jobs=2)
    4.0
    """
    waiting: dict[int, list[int]] = {}
    for n, above in enumerate(parents):
        if above is not None:
            waiting.setdefault(above, []).append(n)
    ready = [n for n, above in enumerate(parents) if above is None]  # ascending, and so a heap
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < max(1, jobs):
            n = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds[n], n))
        now, ended = heapq.heappop(running)
        for n in waiting.get(ended, ()):
            heapq.heappush(ready, n)
    return now


def _node(arm: Arm, seed: int) -> Node:
    options: dict[str, Any] = {"data_fraction": arm.data}
    return Node("", arm.name, arm.methods, seed, options, after=arm.after)
