"""The loop of a study: whatever happens to what trains a node, the node gets a row.

Hand over the next nodes while there is room; wait until some have ended; keep their rows; begin
what waited for them; repeat.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from whet.study.executors.executor import Executor
from whet.study.order import Queue
from whet.study.plan import Node, Row
from whet.study.worker import failed

Clock = Callable[[], float]


class Watch(Protocol):
    """Who is told how a study goes."""

    def started(self, node: Node) -> None:
        """A node was handed to a worker."""

    def again(self, node: Node, row: Row) -> None:
        """A node's worker died, as the row says; the node was handed to another."""

    def ended(self, node: Node, row: Row) -> None:
        """A node has its row."""


class Rows(Protocol):
    """Who keeps the rows: a study's Store."""

    def append(self, row: Row) -> None:
        """Add a row to the results."""

    def finish(self, node: Node, row: Row) -> None:
        """Keep a node's row in the node's folder."""

    def done(self, node: Node) -> Row | None:
        """A node's row, where it is there."""


def schedule(
    nodes: Sequence[Node],
    store: Rows,
    watch: Watch,
    executor: Executor,
    *,
    costs: Mapping[str, float] | None = None,
    rows: Mapping[str, Row] | None = None,
    until: float = math.inf,
    clock: Clock = time.monotonic,
) -> None:
    """Train the nodes; any exit closes the executor first.

    Args:
        nodes: none of which is done yet, in the plan's order.
        store: keeps the rows.
        watch: is told.
        executor: trains the nodes.
        costs: expected seconds by key.
        rows: of nodes trained earlier, by key, that others begin from.
        until: once the clock passes it, no further node begins.
        clock: seconds.
    """
    with executor:
        queue = Queue(nodes, costs or {}, executor.slots, rows or {})
        lost: Counter[str] = Counter()
        training = 0
        _give_up(queue.hopeless(), store, watch)
        while queue.ready or training:
            if clock() > until:
                queue.clear()
            while queue.ready and training < executor.slots:
                node = queue.next()
                watch.started(node)
                row = store.done(node) if node.rides is not None else None
                if row is not None:  # its host took it along
                    store.append(row)
                    watch.ended(node, row)
                    continue
                executor.submit(node)
                training += 1
            for node, row, gone in executor.ended() if training else ():
                if gone and lost[node.key] < executor.retries and clock() <= until:
                    lost[node.key] += 1
                    watch.again(node, row)
                    executor.submit(node)
                    continue
                training -= 1
                if row["status"] == "failed":
                    store.finish(node, row)
                store.append(row)
                watch.ended(node, row)
                _give_up(queue.ended(node, row), store, watch)


def _give_up(those: Iterable[tuple[Node, Row]], store: Rows, watch: Watch) -> None:
    """Nodes that begin from what came to nothing come to the same, untrained."""
    for node, begun in those:
        who = f"{begun['arm']}, seed {begun['seed']}"
        why = f"not trained: it begins from {who}, which is {begun['status']}"
        reason = f"{why}: {begun['reason']}" if begun.get("reason") else why
        row = failed(node, reason) | {"status": begun["status"]}
        watch.started(node)
        store.finish(node, row)
        store.append(row)
        watch.ended(node, row)
