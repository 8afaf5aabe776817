"""How long a study takes: what arms share is trained once, and a branch waits for its trunk."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whet.study import paces, trie
from whet.study.plan import Arm, Node

FINAL = 2  # of the evaluations are at the end of an arm: the judge and the select part
Riding = Mapping[str, str]  # from arms to those whose training takes them along


@dataclass(frozen=True)
class Cost:
    """Seconds that an arm takes: at its start, for each update, to judge once, and to save once.

    `paces` says for parts of training where they begin, where they end, and the seconds of an
    update there; a stage that follows is from 1 to 2.
    """

    begin: float
    update: float
    judge: float
    paces: Sequence[Sequence[float]] = field(default=())
    save: float = 0.0

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
        riding: arms whose training is that of another; of no weight where that one is not there.
    """

    def __init__(
        self, arms: Sequence[Arm], costs: Mapping[str, Cost], evaluations: int,
        ahead: Collection[str] = (), after: float = 1.0, riding: Riding | None = None,
    ) -> None:  # fmt: skip
        names = {arm.name for arm in arms}
        on = {arm: host for arm, host in (riding or {}).items() if {arm, host} <= names}
        self.nodes = trie.grown(arms, [0], _node, ahead, on)
        self.evaluations, self.after = evaluations, after
        at = {node.key: n for n, node in enumerate(self.nodes)}
        self.parents = [None if node.parent is None else at[node.parent] for node in self.nodes]
        self._hosts = [None if node.rides is None else at[node.rides] for node in self.nodes]
        self._costs: dict[int, Cost] = {}
        leaves = [n for n, node in enumerate(self.nodes) if node.until is None]
        # what only looks on is no measure of the trunk that it rides on
        for n in sorted(leaves, key=lambda n: self._hosts[n] is not None):
            above: int | None = n
            while above is not None:
                self._costs.setdefault(above, costs[self.nodes[n].arm])
                above = self.parents[above]
        self._riders = [[costs[rider.arm] for rider in node.riders] for node in self.nodes]

    def seconds(self, n: int, updates: float) -> float:
        """What node number `n` takes, where a whole training has so many updates.

        A node that takes others along takes their time as well, and they take none.
        """
        if self._hosts[n] is not None:
            return 0.0
        return self.alone(n, updates) + sum(
            self._beside(n, rider, updates) for rider in self._riders[n]
        )

    def alone(self, n: int, updates: float) -> float:
        """What it takes by itself, also where it could ride."""
        cost, (begins, ends) = self._costs[n], self._span(n)
        length = self.length(n)
        judged = length * (self.evaluations - FINAL) + self._finals(n)
        # it saves as often as it evaluates, and where it ends; reading a trunk is as a save
        saved = length * (self.evaluations - FINAL) + 1 + (self.parents[n] is not None)
        updating = updates * cost.updating(begins, ends, self.after)
        return cost.begin + updating + judged * cost.judge + saved * cost.save

    def _beside(self, n: int, rider: Cost, updates: float) -> float:
        """What a rider adds to a node: what it does after an update, and what it judges."""
        begins, ends = self._span(n)
        host = self._costs[n].updating(begins, ends, self.after)
        more = max(0.0, rider.updating(begins, ends, self.after) - host)
        judged = self.length(n) * (self.evaluations - FINAL) + self._finals(n)
        return updates * more + judged * rider.judge

    def length(self, n: int) -> float:
        """Of what node number `n` trains, in whole trainings of the first stage."""
        begins, ends = self._span(n)
        return (min(ends, 1.0) - begins) + (self.after if ends > 1.0 else 0.0)

    def _span(self, n: int) -> tuple[float, float]:
        """Where it begins and ends; a stage that follows is from 1 to 2."""
        node, parent = self.nodes[n], self.parents[n]
        begins = (self.nodes[parent].until or 0.0) if parent is not None else 0.0
        if node.until is not None:
            return begins, node.until
        return begins, 2.0 if node.after is not None else 1.0

    def _finals(self, n: int) -> int:
        return FINAL if self.nodes[n].until is None else 0

    def takes(self, updates: float, seeds: int, jobs: int) -> float:
        """Seconds until the last run of a study ends."""
        each = [self.seconds(n, updates) for n in range(len(self.nodes))]
        size = len(each)
        waits = [above if host is None else host
                 for above, host in zip(self.parents, self._hosts, strict=True)]  # fmt: skip
        parents = [None if above is None else above + seed * size
                   for seed in range(seeds) for above in waits]  # fmt: skip
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
