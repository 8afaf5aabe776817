"""Signs of life: what a run writes while it trains, how seldom, and that nothing comes of it."""

import itertools
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.study.test_watch import _copied
from whet import Run, Stage, Task
from whet.study import files, identity, live, node, pulse, worker
from whet.study.plan import Node
from whet.study.pulse import Pulse
from whet.study.remaining import time_left
from whet.study.store import Store

NODE = Node("digits", "baseline", (), 0, {"updates": 12, "threads": 1})
Told = list[dict[str, Any]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Every sign of life that would be written."""
    found: Told = []

    def write(path: Path, values: Mapping[str, Any]) -> None:
        found.append(dict(values))

    monkeypatch.setattr(pulse, "_write", write)
    return found


def trained(beat: Pulse) -> Run:
    data = (torch.randn(32, 3), torch.arange(32) % 2)
    task = Task(torch.nn.Linear(3, 2), data, select=data, metrics=["accuracy"])
    stages = Stage(updates=40, batch_size=8)
    return Run(task, stages, evaluate_every=10, callbacks=[beat], log=None).fit()


class TestWriting:
    def test_at_most_every_two_seconds(self, told: Told, tmp_path: Path) -> None:
        clock = itertools.count(0.0, 0.1)  # a tenth of a second between two questions
        trained(Pulse(NODE, tmp_path, clock=lambda: next(clock)))
        assert 3 <= len(told) <= 5  # 44 times 0.1 s, the beginning and the end
        phases = [each["phase"] for each in told]
        assert phases == [pulse.TRAINS] * (len(told) - 1) + [pulse.JUDGES]
        assert told[-1]["update"] == told[-1]["of"] == 40

    def test_every_update_where_updates_are_slow(self, told: Told, tmp_path: Path) -> None:
        clock = itertools.count(0.0, 10.0)
        trained(Pulse(NODE, tmp_path, clock=lambda: next(clock)))
        updates = [each["update"] for each in told]
        assert sorted(set(updates)) == list(range(41))
        assert {each["of"] for each in told} == {40}
        by_update = {each["update"]: each.get("metric") for each in told}
        assert (by_update[9], by_update[11]) == (None, "accuracy")

    def test_a_trunk_ends_where_it_ends(self, told: Told, tmp_path: Path) -> None:
        row = node.train(Node("digits", "trunk", (), 0, {"updates": 12}, until=0.5), tmp_path)
        assert row["updates"] == 6
        assert {each["of"] for each in told} == {6}

    def test_a_stage_that_follows_counts(self, told: Told, tmp_path: Path) -> None:
        options = {"updates": 12, "after": 0.5}
        node.train(Node("digits", "ema", (), 0, options, after=({"name": "ema"},)), tmp_path)
        assert {each["of"] for each in told} == {18}
        assert told[-1]["update"] == 18

    def test_the_file_is_whole_and_goes_with_the_run(self, tmp_path: Path) -> None:
        seen: list[pulse.Now | None] = []
        store = Store(tmp_path)

        def look(*about: object) -> None:
            seen.append(pulse.read(store.folder_of(NODE)))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(node, "_judged", lambda *_: look() or {"metrics": {}})
            row = worker.run(NODE, store, "whet.study.node:train", 1, quiet=False)
        assert row["status"] == "done"
        [now] = seen
        assert now is not None
        assert (now.arm, now.seed, now.phase) == ("baseline", 0, pulse.JUDGES)
        assert (now.update, now.of, now.metric) == (12, 12, "accuracy")
        assert not (store.folder_of(NODE) / pulse.NAME).exists()
        assert [*store.folder_of(NODE).glob(".*")] == []

    def test_a_full_or_closed_disk_stops_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: object, **__: object) -> None:
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(Path, "replace", refused)
        assert trained(Pulse(NODE, tmp_path)).updates == 40
        assert not (tmp_path / pulse.NAME).exists()

    def test_a_failed_run_leaves_none(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        row = worker.run(NODE, store, "whet.study.node:absent", 1, quiet=False)
        assert row["status"] == "failed"
        assert not (store.folder_of(NODE) / pulse.NAME).exists()

    def test_one_that_was_left_is_gone_once_the_run_is_tried_again(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        store.folder_of(NODE).mkdir(parents=True)
        pulse.begin(NODE, store.folder_of(NODE))
        store.retry([NODE])
        assert pulse.read(store.folder_of(NODE)) is None

    def test_it_is_no_part_of_what_decides_results(self, tmp_path: Path) -> None:
        assert "whet.study.pulse" not in identity.reached(identity.DECIDE)
        torch.manual_seed(0)
        one = trained(Pulse(NODE, tmp_path)).module.weight
        torch.manual_seed(0)
        data = (torch.randn(32, 3), torch.arange(32) % 2)
        task = Task(torch.nn.Linear(3, 2), data, select=data, metrics=["accuracy"])
        other = Run(task, Stage(updates=40, batch_size=8), evaluate_every=10, log=None).fit()
        assert torch.equal(one, other.module.weight)


class TestReading:
    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", "null", '{"arm": 1}', '{"arm": "a", "seed": 0, "phase": "trains"}',
         '{"arm": "a", "seed": 0, "phase": "trains", "began": "1", "at": 2}',
         '{"arm": "a", "seed": 0, "phase": "trains", "began": 1, "at": 2, "update": -1}'],
    )  # fmt: skip
    def test_what_is_no_sign_of_life(self, text: str, tmp_path: Path) -> None:
        (tmp_path / pulse.NAME).write_text(text)
        assert pulse.read(tmp_path) is None

    def test_ages(self, tmp_path: Path) -> None:
        pulse.begin(NODE, tmp_path)
        now = pulse.read(tmp_path, clock=lambda: time.time() + 100)
        assert now is not None
        assert 99 < now.silent < 110
        assert 99 < now.seconds < 110
        assert (now.phase, now.update, now.value) == (pulse.PREPARES, None, None)

    def test_times_of_anyone_s_are_bounded(self, tmp_path: Path) -> None:
        text = '{"arm": "a", "seed": 0, "phase": "x", "began": -1e300, "at": 1e300}'
        (tmp_path / pulse.NAME).write_text(text)
        now = pulse.read(tmp_path, clock=lambda: 1e300)
        assert now is not None
        assert now.seconds <= 2 * pulse.LONGEST


class TestOfAStoppedStudy:
    """Nobody holds the lock: a run that gives no sign was cut off, unless it is a job."""

    def running(self, folder: Path, later: float) -> tuple[int, int, str]:
        seen = live.Watcher(folder, lambda: time.time() + later).look()
        return len(seen.running), seen.interrupted, seen.state

    def test_it_is_interrupted_once_it_is_silent(self, folder: Path, tmp_path: Path) -> None:
        one = _copied(folder, tmp_path / "one")
        assert self.running(one, 0) == (1, 0, live.STOPPED)
        assert self.running(one, 10) == (0, 1, live.STOPPED)

    def test_a_batch_job_outlives_its_study(self, folder: Path, tmp_path: Path) -> None:
        one = _copied(folder, tmp_path / "one")
        [now] = one.glob("nodes/*/now.json")
        files.write(now.with_name("job.json"), "{}")
        assert self.running(one, 10) == (1, 0, live.STOPPED)


class TestTimeLeft:
    """From how long the runs took that ended."""

    def node(self, arm: str, seed: int, **given: Any) -> Node:
        return Node("toy", arm, (), seed, **given)

    def left(self, nodes: list[Node], took: dict[tuple[str, int], float], running: list[pulse.Now],
             jobs: int = 1) -> float | None:  # fmt: skip
        rows = [{"arm": arm, "status": "done", "seconds": each} for (arm, _), each in took.items()]
        waiting = [node for node in nodes if (node.arm, node.seed) not in took]
        return time_left(waiting, rows, running, jobs)

    def test_by_arm(self) -> None:
        nodes = [self.node(arm, seed) for seed in range(3) for arm in ("a", "b")]
        took = {("a", 0): 10.0, ("b", 0): 30.0}
        assert self.left(nodes, took, []) == 80.0
        assert self.left(nodes, took, [], jobs=2) == 40.0
        half = pulse.Now("b", 1, update=50, of=100)
        assert self.left(nodes, took, [half]) == 65.0

    def test_an_arm_that_never_ended_takes_what_the_others_do(self) -> None:
        nodes = [self.node("a", 0), self.node("new", 0)]
        assert self.left(nodes, {("a", 0): 10.0}, []) == 10.0

    def test_none_takes_less_than_the_longest(self) -> None:
        nodes = [self.node("a", 0), self.node("b", 0), self.node("a", 1), self.node("b", 1)]
        assert self.left(nodes, {("a", 0): 1.0, ("b", 0): 30.0}, [], jobs=8) == 30.0

    def test_riders_cost_nothing(self) -> None:
        nodes = [self.node("a", 0), self.node("a", 1), self.node("b", 1, rides="x")]
        assert self.left(nodes, {("a", 0): 10.0}, []) == 10.0

    def test_nothing_is_known_before_the_first(self) -> None:
        assert self.left([self.node("a", 0)], {}, []) is None
        assert self.left([self.node("a", 0)], {("a", 0): 1.0}, []) is None  # nothing is missing
