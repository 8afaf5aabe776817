r"""Which node of a study is trained next.

A node waits for the one whose checkpoint it begins from, or that takes it along. Of those that wait
for nothing, seeds come in their order, so that a study cut short holds whole pairs, and within a
seed what takes longest comes first - unless a node is urgent: no less is left to do behind it than
all the workers together have left. With cost $c$, children $k$ and $W$ workers,

$$b(n) = c(n) + \max\Bigl(\max_k b(k),\; \tfrac1W \sum_k w(k)\Bigr),
\quad w(n) = c(n) + \sum_k w(k)$$

is the least time in which a node and all behind it can end: its longest path, or its work where
that is more than the workers can do meanwhile. $n$ is urgent if $b(n)$ is at least $1/W$ of what
has not begun.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence

from whet.study.plan import Node, Row

UNKNOWN = 1.0  # seconds, of a node that nothing is known of: all alike


class Queue:
    """The nodes that have not begun. A decision takes time logarithmic in their number.

    Args:
        nodes: in the plan's order.
        costs: expected seconds by key; those of nodes that are not named are 1.
        workers: how many nodes are trained at a time.
        rows: of nodes trained earlier, by key, that others may begin from.

    Raises:
        ValueError: a node begins from one that is neither among the nodes nor the rows.
    """

    def __init__(
        self, nodes: Sequence[Node], costs: Mapping[str, float], workers: int,
        rows: Mapping[str, Row],
    ) -> None:  # fmt: skip
        self._nodes, self._workers = nodes, workers
        keys = [node.key for node in nodes]
        self._number = {key: n for n, key in enumerate(keys)}
        self._cost = [costs.get(key, UNKNOWN) for key in keys]
        self._behind: list[list[int]] = [[] for _ in nodes]
        roots, self._hopeless = [], []
        for n, node in enumerate(nodes):
            waits = node.rides if node.rides in self._number else node.parent
            if waits is None:
                roots.append(n)
            elif waits in self._number:
                self._behind[self._number[waits]].append(n)
            elif waits not in rows:
                raise ValueError(f"{node.folder} begins from {waits}, which nobody trains")
            elif (row := rows[waits])["status"] == "done":
                roots.append(n)
            else:
                self._hopeless.append((n, row))
        self._measure(roots)
        seeds = dict.fromkeys(node.seed for node in nodes)
        self._seed = {seed: n for n, seed in enumerate(seeds)}
        self._by_seed: list[tuple[int, float, int]] = []
        self._by_length: list[tuple[float, int]] = []
        self._begun = [False] * len(nodes)
        self._ready = 0
        self._left = sum(self._cost)
        for n in roots:
            self._add(n)

    def _measure(self, roots: Sequence[int]) -> None:
        """The least time in which each node and all behind it can end."""
        ordered = list(roots)
        for n in ordered:
            ordered += self._behind[n]
        self._least, work = list(self._cost), list(self._cost)
        for n in reversed(ordered):
            behind = self._behind[n]
            inside = sum(work[k] for k in behind)
            longest = max((self._least[k] for k in behind), default=0.0)
            work[n] += inside
            self._least[n] += max(longest, inside / self._workers)

    def _add(self, n: int) -> None:
        least = -self._least[n]
        heapq.heappush(self._by_seed, (self._seed[self._nodes[n].seed], least, n))
        heapq.heappush(self._by_length, (least, n))
        self._ready += 1

    @property
    def ready(self) -> bool:
        """Whether a node could begin now."""
        return self._ready > 0

    def next(self) -> Node:
        """The node that begins now."""
        while self._begun[self._by_seed[0][-1]]:
            heapq.heappop(self._by_seed)
        while self._begun[self._by_length[0][-1]]:
            heapq.heappop(self._by_length)
        least, n = self._by_length[0]
        if -least < self._left / self._workers:
            n = self._by_seed[0][-1]
        self._begun[n] = True
        self._ready -= 1
        self._left -= self._cost[n]
        return self._nodes[n]

    def ended(self, node: Node, row: Row) -> Iterator[tuple[Node, Row]]:
        """Let those begin that waited for a node; if it came to nothing, those that cannot."""
        n = self._number[node.key]
        if row["status"] == "done":
            for behind in self._behind[n]:
                self._add(behind)
            return
        yield from self._given_up([(behind, row) for behind in self._behind[n]])

    def hopeless(self) -> Iterator[tuple[Node, Row]]:
        """The nodes whose beginning came to nothing earlier, each with its row."""
        yield from self._given_up(self._hopeless)

    def _given_up(self, those: Sequence[tuple[int, Row]]) -> Iterator[tuple[Node, Row]]:
        waiting = list(those)
        for n, row in waiting:
            self._left -= self._cost[n]
            waiting += [(behind, row) for behind in self._behind[n]]
            yield self._nodes[n], row

    def clear(self) -> None:
        """Let no further node begin."""
        self._by_seed, self._by_length = [], []
        self._behind = [[] for _ in self._nodes]
        self._ready = 0
