"""The benchmarks run, and write what the README and the reports read."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bert4torch, costs, results, studies
from benchmarks.__main__ import main
from benchmarks.catalogue import DEEP, SHALLOW, groups, quick
from benchmarks.children import at_once, memory
from benchmarks.engines import Setting
from benchmarks.entries import Condition, Entry, Group
from benchmarks.timing import Chunk, interleave, interval, spread
from whet.study import trie

FIELDS = {
    "ratio": float, "median": float, "spread": float, "interval": list, "unit": str,
    "target": str, "met": bool, "repeats": int, "against": str, "threads": int, "command": str,
    "note": str,
}  # fmt: skip
PROMISED = {
    "engine_small", "engine_10ms", "fabric_small", "accelerate_small", "lightning_small",
    "trainer_small", "trainer_10ms", "ema_vs_limit", "ema_vs_clone", "fgm", "noop_ten_us",
    "pgd", "fast_fgsm", "free_at", "vat", "r_drop", "mixup", "label_smoothing", "ema",
    "distillation", "save", "load", "study_trunks", "two_processes", "two_processes_talk",
    "memory", "memory_ema", "members_in_parallel",
}  # fmt: skip


def test_results_have_their_fields(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    threads = torch.get_num_threads()
    main(["noop_ten_us", "--repeats", "1", "--out", str(out)])
    main(["fgm", "--repeats", "1", "--out", str(out)])
    found = json.loads(out.read_text(encoding="utf-8"))
    assert set(found) == {"noop_ten_us", "fgm", "environment"}  # the first run's is kept
    for name in ("noop_ten_us", "fgm"):
        entry = found[name]
        assert {key: type(value) for key, value in entry.items()} == FIELDS
        assert entry["repeats"] == 1
        assert entry["ratio"] > 0
        assert entry["command"] == f"python -m benchmarks {name}"
    assert {"torch", "cpu", "cores", "threads"} <= set(found["environment"])
    assert torch.get_num_threads() == threads


def quickly(out: Path, *names: str) -> dict[str, dict[str, Any]]:
    main([*names, "--quick", "--out", str(out)])
    found: dict[str, dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
    assert set(found) == {*names, "environment"}
    assert all(found[name]["ratio"] > 0 for name in names)
    return found


def test_other_trainers_saving_and_loading(tmp_path: Path) -> None:
    names = ["trainer_small", "lightning_10ms", "save", "save_vs_disk", "load", "load_vs_hand"]
    found = quickly(tmp_path / "results.json", *names)
    assert {found[n]["unit"] for n in names} == {"ms per step", "ms per save", "ms per load"}


def test_methods_beside_their_snippets(tmp_path: Path) -> None:
    entries = [entry for cost in costs.rows(*SHALLOW) for entry in costs.group(cost).entries]
    names = [entry.name for entry in entries if not entry.name.endswith("_bert4torch")]
    assert {f"{cost.key}_snippet" for cost in costs.rows(*SHALLOW)} <= set(names)
    out = tmp_path / "results.json"
    main([*names, "--quick", "--out", str(out)])
    assert set(json.loads(out.read_text(encoding="utf-8"))) == {*names, "environment"}


@pytest.mark.skipif(bert4torch.lacking() is not None, reason=str(bert4torch.lacking()))
@pytest.mark.parametrize("mode", [None, "fgm", "pgd", "vat", "ema"])
def test_callbacks_of_bert4torch(mode: str | None) -> None:
    assert bert4torch.trained(SHALLOW[0], mode)() > 0


def test_what_is_absent_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bert4torch, "NEEDED", ("bert4torch", "no_such_package"))
    main(["noop_ten_us", "--quick"])
    assert "no_such_package not found: `pip install" in capsys.readouterr().out
    assert not any(
        entry.name.endswith("_bert4torch") for group in groups() for entry in group.entries
    )


def test_what_trains_for_costs_is_always_the_same() -> None:
    for work in DEEP:
        one, two = work.model().state_dict(), work.model().state_dict()
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert sum(len(x) for x, _ in work.batches()) == work.batch * work.steps
        assert work.rows()[0] is work.rows()[0]


def test_a_study_against_its_plan(tmp_path: Path) -> None:
    found = quickly(tmp_path / "results.json", "study_trunks")["study_trunks"]
    assert (found["unit"], found["target"]) == ("ms per study", "ratio <= 1.05")
    held = studies.shared(Setting((8, 16, 4), batch=8, steps=3), 8)
    paces = {node.key: [[0.0, 1.0, 1.0]] for node in held.ready.nodes}
    rows = [{"arm": node.arm, "paces": paces[node.key]} for node in held.ready.nodes]
    assert studies._cost(held.ready.nodes, rows) == trie.cost(held.ready.nodes) == 0.75 + 10 * 0.25


@pytest.mark.slow  # three processes, and each imports torch's compiler with its optimizers
def test_children() -> None:
    tiny = Setting((8, 16, 4), batch=8, steps=3)
    assert 0 < at_once(tiny, "whet", 2, together=True)() < 30
    assert 5e7 < memory(tiny, "hand-ema")() < 5e9  # bytes


@pytest.mark.slow  # workers of an ensemble, and the processes that tell whether cores are free
def test_members_side_by_side(tmp_path: Path) -> None:
    found = quickly(tmp_path / "results.json", "members_in_parallel")["members_in_parallel"]
    assert found["unit"] == "ms per ensemble"
    assert found["against"].startswith("one at a time")


def test_a_process_that_ends_is_told() -> None:
    with pytest.raises(RuntimeError, match="was to be measured has ended"):
        at_once(Setting((8, 4), batch=8, steps=1), "nothing")()


def test_quick_numbers_are_kept_only_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise AssertionError("results.json would be overwritten")

    monkeypatch.setattr(results, "write", write)
    main(["noop_ten_us", "--quick"])


def test_quick_measures_the_same() -> None:
    def targets(every: list[Group]) -> dict[str, str | None]:
        return {entry.name: entry.target for group in every for entry in group.entries}

    assert targets(quick()) == targets(groups())


def test_numbers_of_another_environment_are_dropped(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    out.write_text(json.dumps({"fgm": {}, "environment": {"torch": "1.0"}}), encoding="utf-8")
    main(["noop_ten_us", "--repeats", "1", "--out", str(out)])
    assert set(json.loads(out.read_text(encoding="utf-8"))) == {"noop_ten_us", "environment"}


def test_an_unknown_name_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fmg"])
    assert "unknown: fmg; there are noop_ten_us" in capsys.readouterr().err


def test_what_is_promised_is_measured() -> None:
    names = [entry.name for group in groups() for entry in group.entries]
    assert len(names) == len(set(names))
    assert set(names) >= PROMISED


def test_a_subset_makes_only_what_it_needs() -> None:
    (small,) = (group for group in groups() if group.entries[0].name == "engine_small")
    assert set(small.only(["fabric_small"]).contenders) == {"fabric", "hand loop"}
    assert set(small.only(["engine_small"]).contenders) == set(small.contenders)  # below every peer


def test_turns_alternate() -> None:
    order: list[str] = []

    def make(name: str) -> Chunk:
        def chunk() -> float:
            order.append(name)
            return float(len(order))

        return chunk

    times = interleave({name: partial(make, name) for name in "ab"}, repeats=2)
    assert order == ["a", "b", "a", "b", "a", "b", "b", "a"]  # imports, warm-up, two repeats
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 2, "b": 2}


def test_what_nothing_changes_is_made_once() -> None:
    made: list[str] = []

    def make(name: str) -> Chunk:
        made.append(name)
        return lambda: 1.0

    interleave({name: partial(make, name) for name in "ab"}, repeats=3, each=0)
    assert made == ["a", "b"]


def test_spread_and_interval() -> None:
    values = [float(n) for n in range(1, 102)]
    assert spread(values) == 50.0
    assert interval(values) == (41.0, 61.0)
    assert interval([3.0]) == (3.0, 3.0)


@pytest.mark.parametrize(
    ("entry", "ratio", "met"),
    [
        (Entry("a", "x", "y", most=1.1), 1.1, True),
        (Entry("a", "x", "y", most=1.1), 1.11, False),
        (Entry("a", "x", "y", least=10), 9.9, False),
        (Entry("a", "x", "y", added=5.0), 9.9, True),
        (Entry("a", "x", "y", most=1.1, below=("z",)), 1.05, False),
        (Entry("a", "x", "y"), 1.0, None),
    ],
)
def test_targets(entry: Entry, ratio: float, met: bool | None) -> None:
    assert entry.met(ratio, 4.0, {"z": 1.04}) is met


def test_what_is_taken_off_first() -> None:
    makers = {
        name: partial(partial, float, taken) for name, taken in zip("abc", (3, 2, 1), strict=True)
    }
    entry = Entry("a", "a", "b", most=1.0, less="c")
    found = results.measure(Group(makers, [entry], 1, 1, "step"), None)["a"]
    assert (found["ratio"], found["met"], found["target"]) == (1.0, True, "ratio <= 1, without c")
    assert set(Group(makers, [entry], 1, 1, "step").only(["a"]).contenders) == {"a", "b", "c"}


@pytest.mark.parametrize(("alone", "met"), [(2.0, True), (1.0, None)])
def test_a_target_for_a_machine_that_is_there(alone: float, met: bool | None) -> None:
    """Two at once take 2 s: with two free cores one alone takes as long, and with one half."""
    seconds = {"two": 2.5, "one": 4.0, "at once": 2.0, "alone": alone}
    where = Condition("with two free cores", "at once", "alone", 1.15)
    entry = Entry("a", "two", "one", most=0.65, where=where)
    makers = {name: partial(partial, float, taken) for name, taken in seconds.items()}
    group = Group(makers, [entry], 1, 1, "step")
    assert results.measure(group, None)["a"]["met"] is met
    assert entry.target == "ratio <= 0.65, with two free cores"
    assert set(group.only(["a"]).contenders) == set(seconds)
