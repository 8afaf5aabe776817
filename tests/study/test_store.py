"""A study's files: whole or absent, the manifests are the truth, two processes never share."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from whet import whole
from whet.errors import InputError, WhetError
from whet.study import files
from whet.study.plan import Node, Row
from whet.study.store import Store, cell, flat

NODE = Node("toy", "good", ({"name": "good"},), 0)
ROW: Row = {
    "arm": "good", "seed": 0, "status": "done", "key": NODE.key, "updates": 1,
    "metrics": {"judge": {"accuracy": 0.5, "auc": float("nan")}}, "seconds_per_update": 0.1,
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


class TestNodes:
    def test_done_once_the_manifest_is_in_place(self, store: Store) -> None:
        assert store.done(NODE) is None
        store.finish(NODE, ROW)
        row = store.done(NODE)
        assert row is not None
        assert row["metrics"]["judge"] == {"accuracy": 0.5, "auc": None}
        (store.folder_of(NODE) / "manifest.json").unlink()
        assert store.done(NODE) is None

    @pytest.mark.parametrize("damage", ["", '{"arm": "good"', '{"arm": "bad"}'])
    def test_a_damaged_row_is_not_done(self, store: Store, damage: str) -> None:
        store.finish(NODE, ROW)
        (store.folder_of(NODE) / "row.json").write_text(damage)
        assert store.done(NODE) is None

    def test_a_failed_attempt_counts_until_it_is_tried_again(self, store: Store) -> None:
        store.finish(NODE, ROW | {"status": "failed"})
        assert store.done(NODE) is None
        assert [row["status"] for row in store.rows([NODE])] == ["failed"]
        store.retry([NODE])
        assert store.rows([NODE]) == []

    def test_success_ends_a_failure(self, store: Store) -> None:
        store.finish(NODE, ROW | {"status": "failed"})
        store.finish(NODE, ROW)
        assert [row["status"] for row in store.rows([NODE])] == ["done"]

    def test_unknown_status_is_a_bug(self, store: Store) -> None:
        with pytest.raises(ValueError, match="finished"):
            store.finish(NODE, ROW | {"status": "finished"})


class TestFiles:
    def test_a_failed_write_leaves_the_old_file(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = store.folder / "file"
        files.write(path, "old")

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(WhetError, match=r"file cannot be written \(No space left on device\)"):
            files.write(path, "new")
        assert path.read_text() == "old"
        assert os.listdir(store.folder) == ["file"]

    def test_a_torn_line_is_cut_and_said(self, store: Store) -> None:
        store.finish(NODE, ROW)
        store.append(ROW)
        with store.results.open("a") as file:
            file.write('{"arm": "go')
        rows, torn = files.read_lines(store.results)
        assert (len(rows), torn) == (1, 1)
        assert store.mend() == ["cut a torn line from results.jsonl"]
        store.rebuild([NODE])
        assert files.read_lines(store.results)[1] == 0

    def test_half_written_files_are_removed(self, store: Store) -> None:
        store.finish(NODE, ROW)
        (store.folder_of(NODE) / f".row.json.1{whole.DRAFT}").touch()
        assert store.mend() == ["removed 1 half-written file(s)"]
        assert store.done(NODE) is not None

    def test_rebuilt_from_the_manifests(self, store: Store) -> None:
        store.finish(NODE, ROW)
        store.results.write_text("nonsense\n")
        store.rebuild([NODE])
        (line,) = store.results.read_text().splitlines()
        assert json.loads(line)["arm"] == "good"


class TestCsv:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("=1+1", "'=1+1"), ("+a", "'+a"), ("-a", "'-a"), ("@x", "'@x"), ("\tx", "'\tx"),
            (-0.5, "-0.5"), ("-1e-3", "-1e-3"), ("+5", "+5"), ("ema", "ema"), ("", ""),
            (None, ""), ("-nan", "'-nan"), ("a=1", "a=1"),
        ],
    )  # fmt: skip
    def test_formulas_are_escaped(self, value: object, text: str) -> None:
        assert cell(value) == text

    def test_every_metric_is_a_row_and_no_run_is_dropped(self) -> None:
        lost = {"arm": '=HYPERLINK("x")', "seed": 1, "status": "diverged", "metrics": {}}
        table = list(csv.DictReader(io.StringIO(flat([ROW, lost]))))
        assert table[0].keys() == {"arm", "seed", "part", "metric", "value"}
        judged = [row for row in table if row["part"] == "judge"]
        assert judged[0] == {
            "arm": "good", "seed": "0", "part": "judge", "metric": "accuracy", "value": "0.5"
        }  # fmt: skip
        states = {row["arm"]: row["value"] for row in table if row["metric"] == "status"}
        assert states == {"good": "done", '\'=HYPERLINK("x")': "diverged"}


class TestFolder:
    def study(self, **task: Any) -> dict[str, Any]:
        told = {"name": "toy", "title": "Toy", "metric": "accuracy", "higher_is_better": True}
        return {
            "task": told | task, "arms": [], "seeds": [], "nodes": [], "threads": 1, "jobs": 1,
            "command": "whet study toy", "date": "2026-11-20", "versions": {},
        }  # fmt: skip

    def test_another_tasks_study_is_refused_by_name(self, store: Store) -> None:
        store.write_study(self.study())
        store.claim("toy")
        with pytest.raises(InputError, match=r"'toy', not of 'digits'.*--out"):
            store.claim("digits")

    def test_foreign_files_are_refused_and_survive(self, store: Store) -> None:
        (store.folder / "thesis.tex").touch()
        with pytest.raises(InputError, match=r"thesis\.tex"):
            store.claim("toy")
        store.write_study(self.study())
        store.finish(NODE, ROW)
        store.clear()
        assert os.listdir(store.folder) == ["thesis.tex"]

    def test_a_damaged_manifest_is_named(self, store: Store) -> None:
        (store.folder / "study.json").write_text('{"task"')
        with pytest.raises(InputError, match=r"study\.json is damaged"):
            store.study()

    def test_another_format_is_refused(self, store: Store) -> None:
        files.write(store.folder / "study.json", '{"format": 99}')
        with pytest.raises(InputError, match="another version"):
            store.study()

    def test_a_second_holder_is_refused_with_the_firsts_number(self, store: Store) -> None:
        with store.locked() as dead:
            assert dead is None
            with (
                pytest.raises(files.InUse, match=f"in use by process {os.getpid()}"),
                Store(store.folder).locked(),
            ):
                pass
        with store.locked() as dead:
            assert dead is None

    def test_a_dead_holders_lock_is_taken_over(self, store: Store) -> None:
        (store.folder / "study.lock").write_text("4194304")
        with store.locked() as dead:
            assert dead == 4194304
