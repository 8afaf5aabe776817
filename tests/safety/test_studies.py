"""A study's files with anything in them: `whet report` says what is wrong, or writes it."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.safety.mutations import changed_json, fuzz, only_whet_errors
from tests.study import designs, invented
from tests.study.inline import DRAWN
from whet.errors import InputError, WhetError
from whet.study import evidence, files, trie
from whet.study.exports import latex, markdown, references, spreadsheet
from whet.study.plan import BASELINE, Node
from whet.study.report import page
from whet.study.store import FORMAT, Store

ARMS = {BASELINE: BASELINE, "ema": BASELINE, "all": BASELINE, "all without ema": "all"}
NODES = [Node("pets", arm, (), seed, {"threads": 1}) for seed in range(3) for arm in ARMS]
STUDY = invented.study(
    ARMS, nodes=[node.to_json() for node in NODES], notes=["a note"], left_out={"sam": "why not"},
    budget={"arms": [*ARMS], "seeds": 3, "share": 1.0, "seconds": 9.5, "notes": []},
)  # fmt: skip
ROWS = [invented.row(node.arm, node.seed, key=node.key) for node in NODES]
DESIGNED = designs.designed(2)
JUDGED = trie.judged(map(Node.from_json, DESIGNED["nodes"]))
NUMBERS = [0, -0.0, 1, -1, 7, 0.5, 0.5000000001, 2**63, -(2**64), 1e-320, 1e-99, 1e99, 1.7e308,
           -1.7e308]  # fmt: skip


def write(folder: Path) -> Store:
    store = Store(folder)
    store.write_study(STUDY)
    for node, row in zip(NODES, ROWS, strict=True):
        store.finish(node, row)
    return store


@pytest.fixture
def plain() -> Iterator[None]:
    """Without figures, which take most of the time and have a test of their own; one template."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in DRAWN:
            patch.setattr(owner, name, lambda *_: "")
        patch.setattr(page, "_page", functools.cache(page._page))
        yield


def put_row(store: Store, node: Node, data: bytes, name: str = "row.json") -> None:
    """A row whose manifest is right."""
    folder = store.folder_of(node)
    (folder / name).write_bytes(data)
    manifest = {"format": FORMAT, "key": node.key, "node": node.to_json(),
                "row": hashlib.sha256(data).hexdigest()}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))


def told(folder: Path) -> None:
    with only_whet_errors():
        found = evidence.again(folder)
        assert found.report.exists()
        assert json.loads((folder / "verdicts.json").read_text())["part"] == "judge"
        for kind in (markdown, latex, spreadsheet):
            assert kind.text(found)
        assert references.text(found.study)
    with only_whet_errors():
        Store(folder).claim("pets")
        Store(folder).mend()


@fuzz(40)
@given(changed_json({"format": FORMAT, **STUDY}))
@pytest.mark.usefixtures("plain")
def test_changed_studies(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as home:
        write(Path(home))
        (Path(home) / "study.json").write_bytes(data)
        told(Path(home))


@fuzz(40)
@given(changed_json({"format": FORMAT, **DESIGNED}))
@pytest.mark.usefixtures("plain")
def test_changed_designs(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as home:
        store = Store(Path(home))
        for node, row in zip(JUDGED, designs.rows(DESIGNED), strict=True):
            store.finish(node, row)
        (Path(home) / "study.json").write_bytes(data)
        told(Path(home))


@fuzz(40)
@given(st.data())
@pytest.mark.usefixtures("plain")
def test_changed_rows(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as home:
        store = write(Path(home))
        for at in data.draw(st.lists(st.sampled_from(range(len(NODES))), min_size=1, max_size=3)):
            put_row(store, NODES[at], data.draw(changed_json(ROWS[at])))
        told(Path(home))


@fuzz(20)
@given(st.data())
@pytest.mark.usefixtures("plain")
def test_changed_manifests_failures_and_results(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as home:
        store = write(Path(home))
        folder = store.folder_of(NODES[0])
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_bytes(data.draw(changed_json(manifest)))
        failed = ROWS[0] | {"status": "failed", "reason": "Traceback\nError: why"}
        (folder / "failed.json").write_bytes(data.draw(changed_json(failed)))
        lines = [data.draw(changed_json(row)) for row in ROWS[:2]]
        store.results.write_bytes(b"\n".join(lines))
        (Path(home) / "verdicts.json").write_bytes(lines[0])
        with only_whet_errors():
            rows, torn = files.read_lines(store.results)
            assert torn >= 0
            assert all(isinstance(row, dict) for row in rows)
        told(Path(home))


@st.composite
def wild(draw: st.DrawFn, row: dict[str, Any]) -> dict[str, Any]:
    """A row of the right shape with numbers and names that no run came to."""
    row = copy.deepcopy(row)
    number = st.sampled_from(NUMBERS)
    for part in ("judge", "select"):
        row["metrics"][part] = {"accuracy": draw(number), draw(st.text(max_size=5)): draw(number)}
    row["curve"] = [
        {
            "update": draw(number.filter(lambda n: abs(n) < 1e100)),
            "metrics": {"accuracy": draw(number)},
        }
        for _ in range(3)
    ]
    for name in ("seconds", "seconds_per_update", "peak_memory", "updates"):
        row[name] = draw(number)
    row["status"] = draw(st.sampled_from(("done", "done", "done", "diverged", "refused")))
    row["confusion"] = draw(st.sampled_from(([[1]], [[0, 0], [0, 0]], [[2**52] * 3] * 3, [[]], [])))
    row["classes"] = draw(
        st.sampled_from((None, [], ["a"], ["a", "a"], ["a", "$\\frac{", "\x1b["]))
    )
    return row


@fuzz(3)
@given(st.data())
def test_wild_numbers_are_drawn(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as home:
        store = write(Path(home))
        for node, row in zip(NODES, ROWS, strict=True):
            if data.draw(st.booleans()):
                put_row(store, node, json.dumps(data.draw(wild(row))).encode())
        told(Path(home))
        with only_whet_errors():
            for path in evidence.again(Path(home)).export("figures"):
                assert path.stat().st_size < 4_000_000


@fuzz(3)
@given(st.data())
def test_wild_numbers_of_designs_are_drawn(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as home:
        store = Store(Path(home))
        store.write_study(DESIGNED)
        for node, row in zip(JUDGED, designs.rows(DESIGNED), strict=True):
            store.finish(node, row)
            if data.draw(st.booleans()):
                put_row(store, node, json.dumps(data.draw(wild(row))).encode())
        told(Path(home))


@fuzz(25)
@given(st.data())
@pytest.mark.usefixtures("plain")
def test_wild_numbers(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as home:
        store = write(Path(home))
        for node, row in zip(NODES, ROWS, strict=True):
            if data.draw(st.booleans()):
                put_row(store, node, json.dumps(data.draw(wild(row))).encode())
        told(Path(home))


class TestReasons:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"arms": None}, r"study\.json is damaged \(arms: .*list"),
            ({"nodes": [{"arm": "ema"}]}, r"nodes\.0\.task: Field required"),
            ({"nodes": [NODES[0].to_json() | {"run": 1}]}, r"nodes\.0\.run"),
            ({"nodes": [NODES[0].to_json() | {"arm": "sam"}]}, "node of arm 'sam'"),
            ({"arms": [{"name": "ema", "methods": []}] * 2, "nodes": []}, "stands twice"),
            ({"arms": [{"name": "a", "methods": [], "reference": "b"}], "nodes": []},
             "reference 'b': there is no such arm"),
            ({"seeds": [1e400]}, r"seeds\.0"),
            ({"budget": {"arms": "ema"}}, r"budget\.arms"),
        ],
    )  # fmt: skip
    def test_of_a_study(self, change: dict[str, Any], said: str, tmp_path: Path) -> None:
        data = json.dumps({"format": FORMAT, **STUDY} | change)
        (tmp_path / "study.json").write_text(data)
        with pytest.raises(InputError, match=said):
            evidence.again(tmp_path)

    def test_of_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "study.json").mkdir()
        with pytest.raises(WhetError, match=r"study\.json cannot be read \(Is a directory\)"):
            Store(tmp_path).study()

    def test_numbers_that_cannot_be_worked_with(self, tmp_path: Path) -> None:
        store = write(tmp_path)
        wild = {"judge": {"accuracy": 1e300, "auc": -1e-300, "f1": 0.5}}
        put_row(store, NODES[0], json.dumps(ROWS[0] | {"metrics": wild}).encode())
        row = store.done(NODES[0])
        assert row is not None
        assert row["metrics"] == {"judge": {"accuracy": None, "auc": 0.0, "f1": 0.5}}
        assert evidence.again(tmp_path).comparisons[0].left_out == (
            (0, "baseline without a finite accuracy"),
        )

    @pytest.mark.parametrize(
        "change",
        [{"arm": "sam"}, {"seed": 7}, {"key": "0"}, {"metrics": []}, {"status": "fine"},
         {"metrics": {"judge": {"accuracy": "0.5"}}}, {"reason": "\ud800"}],
    )  # fmt: skip
    def test_a_row_of_another_node_or_shape_is_not_done(
        self, change: dict[str, Any], tmp_path: Path
    ) -> None:
        store = write(tmp_path)
        assert store.done(NODES[0]) == ROWS[0]
        put_row(store, NODES[0], json.dumps(ROWS[0] | change).encode())
        assert store.done(NODES[0]) is None

    def test_only_a_failure_counts_as_one(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        store.write_study(STUDY)
        store.folder_of(NODES[0]).mkdir(parents=True)
        path = store.folder_of(NODES[0]) / "failed.json"
        path.write_text(json.dumps(ROWS[0]))
        assert store.rows(NODES) == []
        path.write_text(json.dumps(ROWS[0] | {"status": "failed"}))
        assert [row["status"] for row in store.rows(NODES)] == ["failed"]
