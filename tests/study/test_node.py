"""The real node on the real digits: what is trained, judged, refused, and how well."""

from __future__ import annotations

import gc
import os
import signal
import statistics
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from whet import checkpoint, composition, tasks
from whet.errors import InputError
from whet.metrics import METRICS
from whet.stopping import Terminated
from whet.study import node, worker
from whet.study.clock import Clock
from whet.study.memory import apart
from whet.study.paces import joined, mean
from whet.study.plan import Node
from whet.study.store import Store
from whet.tasks import digits


def make(arm: str, *methods: dict[str, Any], seed: int = 0, updates: int = 12) -> Node:
    return Node("digits", arm, methods, seed, {"updates": updates})


def test_description() -> None:
    about = node.describe("digits")
    assert about["metric"] in METRICS
    assert set(about["methods"]) & set(about["left_out"]) == set()
    assert about["seeds"] == 5
    assert about["rows"] == {"train": 800, "judge": 497}


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


@pytest.mark.parametrize("rehearsed", [{}, {"rehearse": 2}])
@pytest.mark.parametrize(
    ("name", "lacks"), [("distillation", "teacher"), ("fixmatch", "strong"), ("moco", "view")]
)
def test_an_arm_whose_resource_the_task_lacks_is_set_aside(
    tmp_path: Path, rehearsed: dict[str, int], name: str, lacks: str
) -> None:
    """By a rehearsal as by a training, with the remedy."""
    options = {"updates": 4} | rehearsed
    row = node.train(Node("churn", name, ({"name": name},), 0, options), tmp_path)
    assert row["status"] == "inapplicable"
    assert f"give it by resources={{'{lacks}': ...}}" in row["reason"]


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
    monkeypatch.setattr(Clock, "updated", lambda clock, run: seen.append(run.updates))
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


def test_the_time_of_a_part_counts_as_long_as_the_part_is() -> None:
    clock = Clock()
    clock.gaps = [((at + 0.5) / 8, 4.0 if at >= 6 else 1.0) for at in range(8)]
    clock.gaps[2] = (2.5 / 8, 60.0)  # an evaluation
    assert clock.median() == 1.0
    paces = clock.paces([0.0, 0.75, 1.0])
    assert paces == [[0.0, 0.75, 1.0], [0.75, 1.0, 4.0]]
    assert mean(paces) == pytest.approx(0.75 * 1.0 + 0.25 * 4.0)
    clock.gaps = clock.gaps[6:]  # resumed late: nothing is known of the first part
    assert mean(clock.paces([0.0, 0.75, 1.0])) == pytest.approx(4.0)
    assert joined([[0.0, 0.75, 1.0]], clock.paces([0.0, 1.0])) == [
        [0.0, 0.75, 1.0], [0.75, 1.0, 4.0]
    ]  # fmt: skip
    assert Clock().median() == mean([]) == 0.0


def test_every_part_of_training_is_rehearsed(tmp_path: Path) -> None:
    given = ({"name": "sam", "during": [0.75, 1.0]}, {"name": "ema"}, {"name": "snapshot"})
    parts = list(node._parts(Node("digits", "late", given, 0)))
    assert [(a, b, [one["name"] for one in active]) for a, b, active in parts] == [
        (0.0, 0.75, ["ema", "snapshot"]), (0.75, 1.0, ["sam", "ema", "snapshot"]),
    ]  # fmt: skip
    job = Node("digits", "late", given, 0, {"rehearse": 2})
    row = node.train(job, tmp_path)
    assert (row["status"], row["updates"]) == ("done", 4)
    assert not list(tmp_path.iterdir())
    clash = (*given, {"name": "sam", "during": [0.5, 1.0]})
    assert (
        node.train(Node("digits", "late", clash, 0, {"rehearse": 2}), tmp_path)["status"]
        == "refused"
    )


def test_parts_of_a_method_that_begins_late_are_measured_as_it_acts(tmp_path: Path) -> None:
    """Alone it is given all of training: a few updates of a rehearsal lie in its first quarter."""
    at_once = {"name": "fast_fgsm", "watch": 0, "during": [0.0, 1.0]}
    for during in ({}, {"during": [0.25, 1.0]}):
        given = ({"name": "fast_fgsm", "watch": 0, **during}, {"name": "ema"})
        parts = list(node._parts(Node("digits", "late", given, 0)))
        assert parts == [
            (0.0, 0.25, ({"name": "ema"},)), (0.25, 1.0, (at_once, {"name": "ema"})),
        ]  # fmt: skip
    [whole] = node._parts(Node("digits", "all", ({"name": "fgm", "during": [0, 1]},), 0))
    assert whole == (0.0, 1.0, ({"name": "fgm", "during": [0.0, 1.0]},))
    row = node.train(Node("digits", "late", given, 0, {"rehearse": 2}), tmp_path)
    assert (row["status"], row["updates"]) == ("done", 4)
    assert "fast_fgsm[" not in row["explain"]
    assert "fast_fgsm" in row["explain"]


def test_companions_join_where_they_apply(tmp_path: Path) -> None:
    row = node.train(make("swa", {"name": "swa"}), tmp_path)
    assert row["status"] == "done"
    assert [one["name"] for one in row["settings"]] == ["swa", "precise_bn"]
    assert "precise_bn" in row["explain"]


def test_a_row_knows_the_classes_and_the_memory(tmp_path: Path) -> None:
    row = node.train(make("baseline"), tmp_path)
    confusion = torch.tensor(row["confusion"])
    assert row["classes"] == [str(n) for n in range(10)]
    accuracy = confusion.diag().sum() / confusion.sum()
    assert accuracy.item() == pytest.approx(row["metrics"]["judge"]["accuracy"])
    assert confusion.sum(1).tolist() == torch.bincount(digits.task(0).judge[1]).tolist()
    assert row["peak_memory"] is None or row["peak_memory"] > 0


def test_a_node_that_is_asked_to_end_leaves_a_checkpoint_and_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM to a worker: its process ends with 143, and the node goes on where it was."""
    job, store = make("ema", {"name": "ema"}), Store(tmp_path)
    tell = Clock.updated

    def ask(clock: Any, run: Any) -> None:
        tell(clock, run)
        if run.updates == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Clock, "updated", ask)
    with pytest.raises(Terminated):
        worker.run(job, store, "whet.study.node:train", 1, quiet=False)
    assert store.done(job) is None
    seen: list[int] = []
    monkeypatch.setattr(Clock, "updated", lambda clock, run: seen.append(run.updates))
    assert worker.run(job, store, "whet.study.node:train", 1, quiet=False)["status"] == "done"
    assert seen == list(range(8, 13))


def test_a_stage_that_follows_counts_as_long_as_it_is() -> None:
    parts = [[0.0, 1.0, 1.0], [1.0, 2.0, 4.0]]
    assert mean(parts, after=0.25) == pytest.approx((1.0 + 0.25 * 4.0) / 1.25)
    assert mean(parts[:1], after=0.0) == mean(parts[:1]) == 1.0


def test_a_training_that_has_ended_is_judged_and_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it is judged, it goes on from the checkpoint before, to the same result."""
    job = make("ema", {"name": "ema"}, updates=24)
    whole = node.train(job, tmp_path / "whole")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(node, "_judged", killed)
        with pytest.raises(KeyboardInterrupt):
            node.train(job, tmp_path / "cut")
    assert checkpoint.numbers(tmp_path / "cut" / "checkpoints") == [20]
    assert node.train(job, tmp_path / "cut")["metrics"] == whole["metrics"]


class Held:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


def test_a_trainings_garbage_goes_with_it() -> None:
    gc.disable()
    try:
        with apart():
            made = weakref.ref(Held())
            assert gc.get_freeze_count() > 0  # what was there before is not looked through
            assert made() is not None
        assert made() is None
        assert gc.get_freeze_count() == 0
        with pytest.raises(ZeroDivisionError), apart():
            1 / 0  # noqa: B018
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()


def test_a_training_that_raises_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Held]] = []

    def raises(job: Node, folder: Path) -> None:
        with apart():
            held = Held()
            made.append(weakref.ref(held))
            raise RuntimeError("no")

    monkeypatch.setattr(node, "train", raises)
    gc.disable()
    try:
        row = worker.run(make("a"), Store(tmp_path), "whet.study.node:train", 1, quiet=False)
        assert row["status"] == "failed"
        assert made[0]() is None
    finally:
        gc.enable()


def test_fine_tuning_wants_a_schedule_by_its_name() -> None:
    def mine(optimizer: torch.optim.Optimizer, updates: int) -> object:
        return torch.optim.lr_scheduler.ConstantLR(optimizer)

    with pytest.raises(InputError, match=r"the schedule is a function, .*mine, whose rates"):
        composition.fine_schedule(mine)
