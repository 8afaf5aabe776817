"""What a study's nodes take, by what their arms took in the rehearsal: seconds and bytes.

The scheduler itself says when the last one ends, with nothing trained and a clock of its own. A
watch counts the bytes that stand on disk meanwhile: of every run that is trained its newest
checkpoint and the one being written, of every trunk the one that others still begin from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whet.study import controls, files, trie, tuning
from whet.study.plan import BASELINE, Arm, Node, Row
from whet.study.planned import Expected, Work
from whet.study.prepare import AFTER, EVALUATIONS, Planner, Prepared
from whet.study.rehearsal import Rehearsal
from whet.study.schedule import schedule
from whet.study.simulate import Nobody, Pretended
from whet.study.store import Store
from whet.study.timetable import Cost, Timetable

WRITTEN = 3_000  # bytes of a node's small files beside its row, which stands in three
REPORT = 150_000  # report, figure and verdicts


@dataclass(frozen=True)
class Share:
    """Some work from its beginning, and what is left of it."""

    whole: Work
    left: Work


class Measures:
    """What the nodes of a study take, by what its arms took in the rehearsal.

    Attributes:
        updates: of one training of the study.
    """

    def __init__(self, planner: Planner, ready: Prepared) -> None:
        assert ready.rehearsal is not None
        self.planner, self.rows = planner, ready.rehearsal.rows
        plain = next(node for node in ready.nodes if node.arm == BASELINE and node.until is None)
        self.updates = int(plain.options.get("updates") or planner.task["updates"])
        self.costs = _costs(ready.made.arms, ready.rehearsal)

    def work(self, arms: Sequence[Arm], nodes: Sequence[Node], store: Store) -> Share:
        """What these nodes take together, and those of them that a store lacks."""
        fresh = self.planner.request.fresh
        rows = {} if fresh else {n.key: row for n in nodes if (row := store.done(n)) is not None}
        waiting = trie.needed(nodes, lambda node: node.key in rows, store.held)
        written = self._written(nodes)
        every = self._taken(arms, nodes, list(nodes), {}, [])
        held = [node for node in nodes if node.until is not None and store.held(node)]
        left = self._taken(arms, nodes, waiting, rows, [] if fresh else held)
        whole, rest = (
            Work(len(trie.judged(those)), len(trie.trained(those)),
                 trie.cost(nodes, AFTER, self.updates, those), seconds, peak + written)
            for those, (seconds, peak) in ((nodes, every), (waiting, left))
        )  # fmt: skip
        return Share(whole, rest)

    def tuning(self, planner: Planner, untuned: int | None) -> Share | None:
        """The runs of the search for a rate; `untuned` are still to be trained."""
        rates = planner.care.rates
        if rates is None or untuned is None:
            return None
        found = planner.care.tuning
        count = len(tuning.SEEDS) * (rates if found is None else len(found.table))
        table = Timetable([Arm(BASELINE)], self.costs, EVALUATIONS)
        each, size = table.seconds(0, planner.task["updates"]), self._bytes(BASELINE)
        length = planner.task["updates"] / self.updates

        def of(runs: int) -> Work:
            rounds, jobs = -(-runs // planner.jobs), min(runs, planner.jobs)
            return Work(runs, runs, runs * length, rounds * each, 2 * jobs * size)

        return Share(of(max(count, untuned)), of(untuned))

    def arms(self, arms: Sequence[Arm]) -> tuple[Expected, ...]:
        """Each of them by itself."""
        riding = self.planner.riding(arms)
        plain = self._step(BASELINE)
        found = []
        for arm in arms:
            step = self._step(arm.name) or (self._step(arm.reference) if arm.times != 1 else None)
            ratio = step / plain if step and plain else None
            found.append(Expected(arm.name, step, ratio, arm.times, riding.get(arm.name),
                                  self._bytes(arm.name)))  # fmt: skip
        return tuple(found)

    def _step(self, name: str) -> float | None:
        row = self.rows.get(name)
        return None if row is None or row["status"] != "done" else row["seconds_per_update"]

    def _bytes(self, name: str) -> int:
        """What a checkpoint holds; of a control and of what diverged, that of the baseline."""
        row = self.rows.get(name)
        found = None if row is None else row.get("state_bytes")
        return int(found or self.rows[BASELINE].get("state_bytes") or 0)

    def _written(self, nodes: Sequence[Node]) -> int:
        """Bytes of rows, manifests, logs and report, which stay."""
        rows = {name: len(files.to_json(row)) for name, row in self.rows.items()}
        usual = rows[BASELINE]
        return REPORT + sum(WRITTEN + 3 * rows.get(node.arm, usual) for node in nodes)

    def _taken(
        self, arms: Sequence[Arm], nodes: Sequence[Node], waiting: Sequence[Node],
        rows: Mapping[str, Row], held: Sequence[Node],
    ) -> tuple[float, int]:  # fmt: skip
        """Seconds until the last of the waiting nodes ends, and bytes of checkpoints at most."""
        if not waiting:
            return 0.0, 0
        seconds = self._seconds(arms, nodes, _keys(waiting))
        disk = _Disk(nodes, waiting, self._sizes(nodes), held)
        jobs = max(1, min(self.planner.jobs, len(waiting)))
        pretended = Pretended(seconds, jobs)
        schedule(waiting, Nobody(), disk, pretended, rows=rows, clock=lambda: pretended.now)
        return pretended.now, disk.peak

    def _seconds(
        self, arms: Sequence[Arm], nodes: Sequence[Node], waiting: frozenset[str]
    ) -> dict[str, float]:
        """What each node takes, by key; what rides takes time of its own if its host is done."""
        planner = self.planner
        table = Timetable(arms, self.costs, EVALUATIONS, planner.ahead, AFTER, planner.riding(arms))
        size = len(table.nodes)
        found = {}
        for at, node in enumerate(nodes):
            by_itself = node.rides is not None and node.rides not in waiting
            take = table.alone if by_itself else table.seconds
            found[node.key] = take(at % size, self.updates)
        return found

    def _sizes(self, nodes: Sequence[Node]) -> dict[str, int]:
        """What a checkpoint of each node holds, by key; a trunk's is all that is common."""
        found: dict[str, int] = {}
        for node in reversed(nodes):  # trunks stand before what begins from them
            own = found.get(node.key) if node.until is not None else None
            size = self._bytes(node.arm) if own is None else own
            if node.parent is not None and node.rides is None:
                found[node.parent] = min(size, found.get(node.parent, size))
            beside = sum(max(0, self._bytes(each.arm) - size) for each in node.riders)
            found[node.key] = size + beside
        return found


class _Disk(Nobody):
    """A watch that counts the bytes of checkpoints."""

    def __init__(
        self, nodes: Sequence[Node], waiting: Sequence[Node], sizes: Mapping[str, int],
        held: Sequence[Node],
    ) -> None:  # fmt: skip
        self._sizes = sizes
        self._references = trie.References(nodes, waiting)
        keys = _keys(waiting)
        self._riding = {node.key for node in waiting if node.rides in keys}
        unused = _keys(self._references.unused())
        self.now = self.peak = sum(sizes[each.key] for each in held if each.key not in unused)

    def started(self, node: Node) -> None:
        """Its newest checkpoint and the one being written."""
        if node.key not in self._riding:
            self.now += 2 * self._sizes[node.key]
            self.peak = max(self.peak, self.now)

    def ended(self, node: Node, row: Row) -> None:
        """A trunk's stays until nothing begins from it; of all others nothing does."""
        if node.key not in self._riding:
            self.now -= (2 if node.until is None else 1) * self._sizes[node.key]
        trunk = self._references.ended(node)
        if trunk is not None:
            self.now -= self._sizes[trunk.key]


def _keys(nodes: Sequence[Node]) -> frozenset[str]:
    return frozenset(node.key for node in nodes)


def _costs(arms: Sequence[Arm], rehearsal: Rehearsal) -> dict[str, Cost]:
    """What each arm takes; of one that diverged in the rehearsal no more is known than that."""
    known = controls.longer_costs(arms, rehearsal.costs(), AFTER)
    return {arm.name: known.get(arm.name, known[BASELINE]) for arm in arms}
