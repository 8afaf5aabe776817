"""The order of a study: makespans, whole pairs, what depends on what, workers that die."""

import random
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.study.tries import critical, trie
from whet.study.executors.executor import Closing, Ended
from whet.study.order import Queue
from whet.study.plan import Node, Row
from whet.study.schedule import schedule
from whet.study.simulate import Nobody, Pretended, simulate


class Told(Nobody):
    """Notes what a store and a watch are told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.rows: dict[str, Row] = {}
        self.kept: list[str] = []

    def started(self, node: Node) -> None:
        self.events.append(("started", node.arm))

    def again(self, node: Node, row: Row) -> None:
        self.events.append(("again", node.arm))

    def ended(self, node: Node, row: Row) -> None:
        self.events.append((row["status"], node.arm))
        self.rows[node.arm] = row

    def finish(self, node: Node, row: Row) -> None:
        self.kept.append(node.arm)


class Scripted(Closing):
    """Ends nodes in the order in which they came, as the script says of each attempt."""

    def __init__(self, script: Callable[[Node, int], Ended], retries: int = 1) -> None:
        self.slots, self.retries, self.script = 1, retries, script
        self.tries: Counter[str] = Counter()
        self.waiting: list[Node] = []
        self.closed = False

    def submit(self, node: Node) -> None:
        self.tries[node.arm] += 1
        self.waiting.append(node)

    def ended(self) -> list[Ended]:
        node = self.waiting.pop(0)
        return [self.script(node, self.tries[node.arm])]

    def close(self) -> None:
        self.closed = True


def row(node: Node, status: str = "done", reason: str | None = None) -> Row:
    return {"arm": node.arm, "seed": node.seed, "status": status, "reason": reason}


def chain(*arms: str, seed: int = 0) -> list[Node]:
    nodes: list[Node] = []
    for arm in arms:
        nodes.append(Node("toy", arm, (), seed, parent=nodes[-1].key if nodes else None))
    return nodes


@pytest.mark.parametrize("workers", [1, 10, 100, 1000])
@pytest.mark.parametrize("seeds", [5, 100])
def test_makespan_and_time_of_a_decision(seeds: int, workers: int) -> None:
    nodes, costs = trie(10_000, seeds, random.Random(seeds))
    began = time.perf_counter()
    found = simulate(nodes, costs, workers)
    spent = (time.perf_counter() - began) / len(nodes)
    assert found <= 1.1 * max(critical(nodes, costs), sum(costs.values()) / workers)
    assert spent < 1e-3, "seconds a node"


@pytest.mark.parametrize("size", [48, 200])
def test_makespan_of_small_studies(size: int) -> None:
    for trial in range(20):
        nodes, costs = trie(size, 4, random.Random(trial))
        for workers in (1, 2, 4, 8):
            best = max(critical(nodes, costs), sum(costs.values()) / workers)
            assert simulate(nodes, costs, workers) <= 1.15 * best


def test_a_study_cut_short_holds_whole_pairs() -> None:
    nodes, costs = trie(1000, 20, random.Random(0))
    pretended = Pretended(costs, 8)
    schedule(nodes, Nobody(), Nobody(), pretended, costs=costs, clock=lambda: pretended.now)
    half = [node.seed for node, begun in pretended.begun if begun < pretended.now / 2]
    size = Counter(node.seed for node in nodes)
    whole = sum(count == size[seed] for seed, count in Counter(half).items())
    assert whole >= len(half) / len(nodes) * 20 - 2


def late_trunks() -> tuple[list[Node], dict[str, float]]:
    """Three seeds: a trunk of 10 seconds, and behind it ten branches of 2."""
    nodes, costs = [], {}
    for seed in range(3):
        trunk = Node("toy", "trunk", (), seed)
        nodes += [trunk, *(Node("toy", f"a{n}", (), seed, parent=trunk.key) for n in range(10))]
        costs |= {node.key: 2.0 for node in nodes[-10:]} | {trunk.key: 10.0}
    return nodes, costs


def test_a_trunk_does_not_come_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, costs = late_trunks()
    assert simulate(nodes, costs, 2) == 46.0  # the least: 90 s of work in pieces of even length

    def seeds_alone(self: Queue, roots: object) -> None:
        self._least = [0.0] * len(nodes)

    monkeypatch.setattr(Queue, "_measure", seeds_alone)
    assert simulate(nodes, costs, 2) == 50.0  # the last trunk alone, while nothing else is left


def test_nothing_begins_before_what_it_begins_from() -> None:
    nodes, costs = trie(500, 5, random.Random(3))
    pretended = Pretended(costs, 16)
    schedule(nodes, Nobody(), Nobody(), pretended, costs=costs)
    begun = {node.key: at for node, at in pretended.begun}
    assert len(begun) == len(pretended.begun) == len(nodes)
    for node in nodes:
        if node.parent is not None:
            assert begun[node.key] >= begun[node.parent] + costs[node.parent]


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_what_begins_from_nothing_is_not_trained(status: str) -> None:
    told = Told()
    executor = Scripted(lambda node, n: Ended(node, row(node, status, "loss is nan")))
    schedule(chain("trunk", "leaf", "end"), told, told, executor)
    assert executor.tries == {"trunk": 1}
    assert [told.rows[arm]["status"] for arm in ("trunk", "leaf", "end")] == [status] * 3
    reason = f"not trained: it begins from trunk, seed 0, which is {status}: loss is nan"
    assert told.rows["leaf"]["reason"] == told.rows["end"]["reason"] == reason
    assert told.rows["leaf"]["key"] == chain("trunk", "leaf")[1].key
    assert {"leaf", "end"} <= {*told.kept}


def test_what_was_trained_earlier_is_begun_from() -> None:
    trunk, leaf = chain("trunk", "leaf")
    good, bad = Told(), Told()
    executor = Scripted(lambda node, n: Ended(node, row(node)))
    schedule([leaf], good, good, executor, rows={trunk.key: row(trunk)})
    assert good.events == [("started", "leaf"), ("done", "leaf")]
    schedule([leaf], bad, bad, executor, rows={trunk.key: row(trunk, "diverged")})
    assert bad.rows["leaf"]["status"] == "diverged"
    assert executor.tries == {"leaf": 1}
    with pytest.raises(ValueError, match="which nobody trains"):
        schedule([leaf], bad, bad, executor)


def test_a_node_whose_worker_died_is_tried_again() -> None:
    told = Told()
    executor = Scripted(
        lambda node, n: Ended(node, row(node), False) if n == 2
        else Ended(node, row(node, "failed", "killed"), True)
    )  # fmt: skip
    schedule(chain("a"), told, told, executor)
    assert told.events == [("started", "a"), ("again", "a"), ("done", "a")]


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_but_not_for_ever(retries: int) -> None:
    told = Told()
    executor = Scripted(lambda node, n: Ended(node, row(node, "failed", "killed"), True), retries)
    schedule(chain("a"), told, told, executor)
    assert executor.tries == {"a": retries + 1}
    assert (told.events[-1], told.kept) == (("failed", "a"), ["a"])


def test_what_failed_by_itself_is_not_tried_again() -> None:
    told = Told()
    executor = Scripted(lambda node, n: Ended(node, row(node, "failed", "raises")))
    schedule(chain("a"), told, told, executor)
    assert executor.tries == {"a": 1}


def test_nothing_begins_once_the_time_is_spent() -> None:
    nodes, costs = late_trunks()
    pretended = Pretended(costs, 2)
    schedule(nodes, Nobody(), Nobody(), pretended, costs=costs, until=15.0,
             clock=lambda: pretended.now)  # fmt: skip
    assert max(at for _, at in pretended.begun) <= 15.0
    assert 15.0 < pretended.now < 45.0
    lost = Scripted(lambda node, n: Ended(node, row(node, "failed", "killed"), True))
    schedule(chain("a"), told := Told(), told, lost, until=1.0,
             clock=iter([0.0, 2.0, 2.0]).__next__)  # fmt: skip
    assert lost.tries == {"a": 1}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_any_exit_closes_the_executor(error: type[BaseException]) -> None:
    def broken(node: Node, n: int) -> Ended:
        raise error

    executor = Scripted(broken)
    with pytest.raises(error):
        schedule(chain("a"), Nobody(), Nobody(), executor)
    assert executor.closed
