"""The benchmarks run, and write what the README and the reports read."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.catalogue import Entry, groups
from benchmarks.timing import Chunk, interleave, interval, spread

FIELDS = {
    "ratio": float, "median": float, "spread": float, "interval": list, "unit": str,
    "target": str, "met": bool, "repeats": int, "against": str, "threads": int, "command": str,
    "note": str,
}  # fmt: skip
PROMISED = {
    "engine_small", "engine_10ms", "fabric_small", "accelerate_small", "lightning_small",
    "ema_vs_limit", "ema_vs_clone", "fgm", "noop_ten_us",
}  # fmt: skip


def test_results_have_their_fields(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    threads = torch.get_num_threads()
    main(["noop_ten_us", "--repeats", "1", "--out", str(out)])
    main(["fgm", "--repeats", "1", "--out", str(out)])
    results = json.loads(out.read_text(encoding="utf-8"))
    assert set(results) == {"noop_ten_us", "fgm", "environment"}  # the first run's is kept
    for name in ("noop_ten_us", "fgm"):
        entry = results[name]
        assert {key: type(value) for key, value in entry.items()} == FIELDS
        assert entry["repeats"] == 1
        assert entry["ratio"] > 0
        assert entry["command"] == f"python -m benchmarks {name}"
    assert {"torch", "cpu", "cores", "threads"} <= set(results["environment"])
    assert torch.get_num_threads() == threads


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
