"""Workers: every node gets a row, whatever happens to the process that trains it."""

import json
from pathlib import Path

import pytest

from tests.study.conftest import ARMS, TRAIN
from whet.errors import WhetError
from whet.study import files
from whet.study.evidence import Evidence
from whet.study.executors.processes import THREADS, Processes
from whet.study.plan import Node, Row
from whet.study.schedule import schedule
from whet.study.store import Store


class Noted:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, int]] = []

    def started(self, node: Node) -> None:
        self.events.append(("started", node.arm, node.seed))

    def again(self, node: Node, row: Row) -> None:
        self.events.append(("again", node.arm, node.seed))

    def ended(self, node: Node, row: Row) -> None:
        self.events.append((row["status"], node.arm, node.seed))


def execute(
    nodes: list[Node], store: Store, noted: Noted, jobs: int, threads: int, train: str
) -> None:
    schedule(nodes, store, noted, Processes(store, train, threads, jobs))


def test_every_node_has_its_row(toy: Evidence) -> None:
    got = [(row["seed"], row["arm"]) for row in toy.rows]
    assert got == [(seed, arm) for seed in range(5) for arm in ("baseline", *ARMS)]


def test_failures_say_why(toy: Evidence) -> None:
    reasons = {row["arm"]: row["reason"] for row in toy.rows if row["status"] == "failed"}
    assert reasons["raises"].endswith("RuntimeError: something <broke>\n")
    assert reasons["mistake"] == "the data is missing"
    assert "SystemExit: 3" in reasons["exits"]
    assert reasons["killed"].startswith("last words\nthe worker process was ended by SIGKILL")


def test_failed_nodes_have_no_manifest_and_the_others_do(toy: Evidence, folder: Path) -> None:
    store = Store(folder)
    for values in toy.study["nodes"]:
        node = Node.from_json(values)
        failed = node.arm in ("raises", "mistake", "exits")
        failed |= (node.arm, node.seed) == ("killed", 0)
        assert (store.done(node) is None) == failed


def test_one_worker_trains_in_order_with_its_threads(tmp_path: Path) -> None:
    store, noted = Store(tmp_path), Noted()
    nodes = [Node("toy", name, ({"name": name},), 0, {"threads": 3}) for name in ("same", "good")]
    execute(nodes, store, noted, jobs=1, threads=3, train="tests.study.test_processes:environment")
    assert noted.events == [
        ("started", "same", 0), ("done", "same", 0), ("started", "good", 0), ("done", "good", 0)
    ]  # fmt: skip
    rows = [json.loads(line) for line in store.results.read_text().splitlines()]
    assert rows[0]["environment"] == dict.fromkeys(THREADS, "3")
    assert rows[0]["worker"] == rows[1]["worker"]


def environment(node: Node, folder: Path) -> Row:
    import os

    from tests.study import fakes

    seen = {name: os.environ.get(name) for name in THREADS}
    return fakes.train(node, folder) | {"environment": seen, "worker": os.getpid()}


@pytest.mark.parametrize("train", ["tests.study.absent:train", "tests.study.fakes:absent"])
def test_code_that_cannot_be_imported_is_a_failed_row(tmp_path: Path, train: str) -> None:
    store, noted = Store(tmp_path), Noted()
    execute([Node("toy", "good", (), 0)], store, noted, jobs=2, threads=1, train=train)
    assert noted.events[-1] == ("failed", "good", 0)


def test_nothing_to_do_starts_nothing(tmp_path: Path) -> None:
    execute([], Store(tmp_path), Noted(), jobs=0, threads=1, train=TRAIN)


def test_an_error_of_the_watcher_stops_the_workers(tmp_path: Path) -> None:
    class Broken(Noted):
        def ended(self, node: Node, row: Row) -> None:
            raise RuntimeError("display")

    nodes = [Node("toy", "good", ({"name": "good"},), seed, {"threads": 1}) for seed in range(2)]
    with pytest.raises(RuntimeError, match="display"):
        execute(nodes, Store(tmp_path), Broken(), jobs=1, threads=1, train=TRAIN)


def toy_nodes(*arms: str) -> list[Node]:
    return [Node("toy", arm, ({"name": arm},), 0, {"threads": 1}) for arm in arms]


def test_a_node_whose_worker_was_killed_is_tried_again(tmp_path: Path) -> None:
    store, noted = Store(tmp_path), Noted()
    nodes = toy_nodes("fragile", "killed", "good")
    execute(nodes, store, noted, jobs=1, threads=1, train=TRAIN)
    assert noted.events == [
        ("started", "fragile", 0), ("again", "fragile", 0), ("done", "fragile", 0),
        ("started", "killed", 0), ("again", "killed", 0), ("failed", "killed", 0),
        ("started", "good", 0), ("done", "good", 0),
    ]  # fmt: skip
    tried = [len((store.folder_of(n) / "attempts").read_text().splitlines()) for n in nodes]
    assert tried == [2, 2, 1]


def test_a_workers_full_disk_is_its_rows_reason_and_the_next_attempt_goes_on(
    tmp_path: Path,
) -> None:
    store, noted = Store(tmp_path), Noted()
    execute(toy_nodes("full", "good"), store, noted, jobs=1, threads=1, train=TRAIN)
    row = store.failed(toy_nodes("full")[0])
    assert row is not None
    assert "row.json cannot be written (No space left on device)" in row["reason"]
    assert "make room" in row["reason"]
    assert noted.events[-1] == ("done", "good", 0)


def test_the_coordinators_full_disk_ends_the_study_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(Store, "append", lambda *_: files.append(Path("/dev/full"), "row"))
        with pytest.raises(WhetError, match=r"cannot be written \(No space left on device\)"):
            execute(toy_nodes("good", "noise"), store, Noted(), jobs=1, threads=1, train=TRAIN)
    assert [store.done(node) is not None for node in toy_nodes("good", "noise")] == [True, False]
