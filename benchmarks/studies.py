"""A study whose arms share a trunk, against what its plan says that it costs.

What is counted is all that stands between a study that is prepared and its last row: handing nodes
over, composing, reading and writing checkpoints, training, evaluating, judging, rows and results.
The rehearsal that precedes it and the report that follows are not. It is held against one training
without methods, by the same way, times the plan's cost; each part of training counts at the pace
that was measured there, since a method's own time is no cost of sharing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from rich.console import Console

import whet
from benchmarks.engines import Rows, Setting, mlp
from benchmarks.places import place
from benchmarks.timing import Chunk
from whet.study import conduct, paces
from whet.study.executors.choice import TRAIN
from whet.study.plan import BASELINE, Arm, Node, Row
from whet.study.prepare import Planner, Prepared
from whet.study.store import Store

METHODS = ("clip_grad_norm", "focal", "label_smoothing", "lookahead")  # none takes a second pass
QUIET = Console(quiet=True)


class Shared:
    """The study and the training that it is held against, in one process.

    Args:
        setting: of the model.
        updates: of one training.
    """

    def __init__(self, setting: Setting, updates: int) -> None:
        study = whet.Study(
            _task(setting, updates), methods=METHODS, when="end", design="both", seeds=1,
            out=place(f"study of {setting}"), console=QUIET,
        )  # fmt: skip
        self.planner = Planner(study.request)
        self.ready: Prepared = self.planner.prepare(self._rehearsed)
        self.plain = self.planner.nodes([Arm(BASELINE)], [0], {})
        self.cost = 0.0

    def study(self) -> float:
        """Seconds of all its nodes."""
        seconds, rows = self._run(self.ready.nodes)
        self.cost = _cost(self.ready.nodes, rows)
        return seconds

    def expected(self) -> float:
        """Seconds that they cost by the plan."""
        if not self.cost:
            self.study()
        return self.cost * self._run(self.plain)[0]

    def _run(self, nodes: Sequence[Node]) -> tuple[float, list[Row]]:
        folder = Path(place("study")) / "s"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        store = Store(folder)
        began = time.perf_counter()
        conduct._run(replace(self.ready, nodes=list(nodes)), store, QUIET, self.planner, TRAIN)
        seconds = time.perf_counter() - began
        rows = store.rows(nodes)
        if [row["status"] for row in rows] != ["done"] * len(nodes):
            raise AssertionError(f"not all was trained: {rows}")
        return seconds, rows

    def _rehearsed(self, nodes: Sequence[Node], store: Store) -> None:
        conduct._rehearse(nodes, store, planner=self.planner, console=QUIET, train=TRAIN)


def _task(setting: Setting, updates: int) -> Callable[[int], whet.Task]:
    rows = Rows(setting)
    judged = rows.x[: setting.batch], rows.y[: setting.batch]

    def task(seed: int) -> whet.Task:
        """Rows in memory."""
        return whet.Task(mlp(setting), (rows.x, rows.y), judged, judged)

    task.about = {  # type: ignore[attr-defined]
        "updates": updates, "batch_size": setting.batch, "seeds": 1,
        "optimizer": {"name": "adamw", "lr": 1e-3},
    }  # fmt: skip
    return task


def _cost(nodes: Sequence[Node], rows: Sequence[Row]) -> float:
    """In trainings without methods: `trie.cost`, with each part at its own pace."""
    ends = {node.key: node.until for node in nodes if node.until is not None}
    plain = next(row for row in rows if row["arm"] == BASELINE)
    spent = sum(
        paces.seconds(row["paces"], ends.get(node.parent or "", 0.0) or 0.0, node.until or 1.0)
        for node, row in zip(nodes, rows, strict=True)
    )
    return spent / paces.seconds(plain["paces"])


@cache
def shared(setting: Setting, updates: int) -> Shared:
    """One for both contenders."""
    return Shared(setting, updates)


def as_it_is(setting: Setting, updates: int) -> Chunk:
    return shared(setting, updates).study


def as_planned(setting: Setting, updates: int) -> Chunk:
    return shared(setting, updates).expected
