"""The real node on the real digits: what is trained, judged, refused, and how well."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from whet import tasks
from whet.metrics import METRICS
from whet.study import node
from whet.study.plan import Node
from whet.tasks import digits


def make(arm: str, *methods: dict[str, Any], seed: int = 0, updates: int = 12) -> Node:
    return Node("digits", arm, methods, seed, {"updates": updates})


def test_description() -> None:
    about = node.describe("digits")
    assert about["metric"] in METRICS
    assert set(about["methods"]) & set(about["left_out"]) == set()
    assert about["seeds"] == 5


def test_baseline_is_a_fair_one(tmp_path: Path) -> None:
    """Median accuracy on the judge part, at the study's own length."""
    about = digits.ABOUT
    found = [
        node.train(make("baseline", seed=seed, updates=about.updates), tmp_path / str(seed))
        for seed in range(3)
    ]
    assert statistics.median(row["metrics"]["judge"]["accuracy"] for row in found) >= 0.97


def test_parts_are_disjoint_and_vary_with_the_seed() -> None:
    def rows(seed: int) -> dict[str, set[bytes]]:
        task = digits.task(seed)
        parts = {"train": task.train[0], "select": task.select[0], "judge": task.judge[0],
                 "unlabelled": task.resources["unlabelled"]}  # fmt: skip
        assert sum(map(len, parts.values())) == 1797
        return {name: {row.numpy().tobytes() for row in part} for name, part in parts.items()}

    one, two = rows(0), rows(1)
    names = list(one)
    for at, name in enumerate(names):
        for other in names[at + 1 :]:
            assert not one[name] & one[other], f"{name} and {other} share images"
        assert one[name] != two[name]


def test_a_row_has_what_the_report_needs(tmp_path: Path) -> None:
    row = node.train(make("ema", {"name": "ema", "decay": 0.9}), tmp_path)
    assert row["status"] == "done"
    assert set(row["metrics"]) == {"judge", "select"}
    assert [point["update"] for point in row["curve"]] == [2, 4, 6, 8, 10, 12]
    assert row["updates"] == 12
    assert row["seconds_per_update"] > 0
    assert "optimizer > ema" in row["explain"]


def test_an_arm_that_does_not_apply_says_why(tmp_path: Path) -> None:
    row = node.train(make("fgm", {"name": "fgm"}), tmp_path)
    assert row["status"] == "inapplicable"
    assert "no nn.Embedding" in row["reason"]


def test_an_arm_that_clashes_is_refused(tmp_path: Path) -> None:
    both = ({"name": "fgm"}, {"name": "freelb"})
    row = node.train(make("both", *both), tmp_path)
    assert row["status"] == "refused"
    assert "second gradient" in row["reason"]


def test_an_arm_that_diverges_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = digits.task

    def broken(seed: int) -> Any:
        task = whole(seed)
        task.train[0][5] = float("nan")
        return task

    monkeypatch.setattr(digits, "task", broken)
    row = node.train(make("baseline"), tmp_path)
    assert row["status"] == "diverged"
    assert "data set rows 5" in row["reason"]


def test_a_node_cut_off_continues_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make("sam", {"name": "sam"})
    wanted = node.train(job, tmp_path / "whole")["metrics"]
    steps = node.Run._update

    def stop(run: Any, batches: Any) -> bool:
        if run.updates == 7:
            raise KeyboardInterrupt
        return steps(run, batches)

    monkeypatch.setattr(node.Run, "_update", stop)
    with pytest.raises(KeyboardInterrupt):
        node.train(job, tmp_path / "cut")
    monkeypatch.undo()
    seen = []
    monkeypatch.setattr(node._Clock, "tick", lambda clock, run: seen.append(run.updates))
    assert node.train(job, tmp_path / "cut")["metrics"] == wanted
    assert seen == list(range(7, 13))


@pytest.mark.parametrize("name", ["fixmatch", "moco"])
def test_methods_left_out_by_default_can_be_asked_for(name: str, tmp_path: Path) -> None:
    given = {"name": name, **digits.ABOUT.settings[name]}
    assert node.train(make(name, given, updates=3), tmp_path)["status"] == "done"


def test_views_keep_shape_and_range() -> None:
    images = digits.task(0).train[0][:8]
    for view in (digits.shift, digits.strong):
        seen = view(images, torch.Generator().manual_seed(0))
        assert seen.shape == images.shape
        assert not torch.equal(seen, images)
        assert 0 <= seen.min() <= seen.max() <= 1


def test_every_task_is_found() -> None:
    assert "digits" in tasks.names()
