"""How long a study would take: the scheduler itself, with nothing trained and a clock of its own.

>>> from whet.study.plan import Node
>>> trunk = Node("toy", "baseline", (), 0)
>>> leaves = [Node("toy", name, (), 0, parent=trunk.key) for name in ("a", "b", "c")]
>>> simulate([trunk, *leaves], {trunk.key: 10.0}, workers=2)
12.0
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from whet.study.executors.executor import Closing, Ended
from whet.study.order import UNKNOWN
from whet.study.plan import Node, Row
from whet.study.schedule import schedule


def simulate(nodes: Sequence[Node], costs: Mapping[str, float], workers: int) -> float:
    """Seconds until the last node ends.

    Args:
        nodes: in the plan's order.
        costs: seconds of each node by key; of those that are not named 1.
        workers: how many nodes are trained at a time.
    """
    pretended = Pretended(costs, workers)
    schedule(nodes, Nobody(), Nobody(), pretended, costs=costs, clock=lambda: pretended.now)
    return pretended.now


class Pretended(Closing):
    """An executor on which nothing happens but time; `begun` tells what began when."""

    def __init__(self, costs: Mapping[str, float], workers: int) -> None:
        self.slots, self.retries, self.now = workers, 0, 0.0
        self.begun: list[tuple[Node, float]] = []
        self._costs = costs
        self._ends: list[tuple[float, int, Node]] = []

    def submit(self, node: Node) -> None:
        end = self.now + self._costs.get(node.key, UNKNOWN)
        self.begun.append((node, self.now))
        heapq.heappush(self._ends, (end, len(self.begun), node))

    def ended(self) -> list[Ended]:
        self.now, _, node = heapq.heappop(self._ends)
        return [Ended(node, {"status": "done"})]


class Nobody:
    """Watches nothing and keeps nothing."""

    def started(self, node: Node) -> None: ...

    def again(self, node: Node, row: Row) -> None: ...

    def ended(self, node: Node, row: Row) -> None: ...

    def append(self, row: Row) -> None: ...

    def finish(self, node: Node, row: Row) -> None: ...

    def done(self, node: Node) -> Row | None: ...
