"""A branch that begins from a trunk's checkpoint equals the run trained by itself, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract.fixture import (
    companions,
    equal,
    make_run,
    make_stage,
    make_task,
    members_of,
)
from tests.contract.found import by_itself, case, late, names
from tests.contract.test_singles import same
from whet.branching import Untold, branch
from whet.errors import CheckpointError
from whet.method import Method, Placement
from whet.methods import EMA, SAM, LabelSmoothing, Lookahead, MixUp
from whet.run import Run
from whet.stage import Recipe

CUT, ALL = 4, 8


def made(methods: list[Method], folder: Path | None = None, **changes: Any) -> Run:
    given = {"updates": ALL, "evaluate_every": 2, "schedule": "cosine"} | changes
    every = [*methods, *(m.during(*methods[0].span) for m in companions(methods))]
    return make_run(every, folder=folder, **given)


def trunk(methods: list[Method], folder: Path, until: int = CUT, **changes: Any) -> Run:
    run = made(methods, folder, **changes)
    run.callbacks.append(Untold(until))
    return run.fit(until=until)


def alike(alone: Run, branched: Run) -> bool:
    return (
        same(alone.state_dict(), branched.state_dict())
        and alone.evaluate() == branched.evaluate()
        and alone.history == branched.history
    )


def anytime() -> list[str]:
    every = {name: case(name).method for name in names()}
    return [n for n, m in every.items() if m.placements is not Placement.START]


@pytest.mark.parametrize("name", anytime())
def test_a_method_at_the_end_begins_from_the_baselines_trunk(name: str, tmp_path: Path) -> None:
    methods = [case(name).method.during(0.5, 1.0)]
    trunk([], tmp_path, members=members_of(methods))
    run = made(methods)
    branch(run, tmp_path / "checkpoints")
    assert run.updates == CUT
    assert alike(made(methods).fit(), run.fit())


@pytest.mark.parametrize("name", anytime())
def test_a_method_at_the_start_shares_its_trunk_with_the_whole(name: str, tmp_path: Path) -> None:
    method = case(name).method
    if method.looks_ahead:
        trunk([method], tmp_path)
        with pytest.raises(CheckpointError, match=r"during \[0.0, 1.0\] -> \[0.0, 0.5\]"):
            branch(made([method.during(0.0, 0.5)]), tmp_path / "checkpoints")
        return
    trunk([method], tmp_path)
    for end in (0.5, 1.0):
        run = made([method.during(0.0, end)])
        branch(run, tmp_path / "checkpoints")
        assert alike(made([method.during(0.0, end)]).fit(), run.fit())


@pytest.mark.parametrize("name", late())
def test_what_begins_late_by_itself_begins_from_the_baselines_trunk(
    name: str, tmp_path: Path
) -> None:
    method, at_once = by_itself(name), case(name).method
    trunk([], tmp_path, 2)
    run = made([method])
    branch(run, tmp_path / "checkpoints")
    assert run.updates == 2
    assert alike(made([method]).fit(), run.fit())
    with pytest.raises(CheckpointError, match=f"otherwise up to update 2: .*{name}"):
        branch(made([at_once]), tmp_path / "checkpoints")


@pytest.mark.parametrize("until", range(1, ALL))
def test_anywhere(until: int, tmp_path: Path) -> None:
    methods: list[Method] = [SAM(0.1).during(until / ALL, 1.0), EMA(0.9).during(until / ALL, 1.0)]
    beside: list[Method] = [LabelSmoothing(0.1), Lookahead(k=2)]
    trunk(beside, tmp_path, until)
    run = made([*beside, *methods])
    branch(run, tmp_path / "checkpoints")
    assert alike(made([*beside, *methods]).fit(), run.fit())


def test_a_finished_stage_is_the_trunk_of_a_second_one(tmp_path: Path) -> None:
    def stages(*more: Method) -> Run:
        second = make_stage(list(more), updates=3, optimizer={"name": "sgd", "lr": 0.01})
        recipe = Recipe([make_stage(updates=6), second])
        return Run(make_task(), recipe, 0, device="cpu", evaluate_every=2)

    trunk([], tmp_path, 6, updates=6, schedule=None)
    for methods in ([], [MixUp(0.4, at="floats")], [EMA(0.5)]):
        run = stages(*methods)
        branch(run, tmp_path / "checkpoints")
        assert alike(stages(*methods).fit(), run.fit())
    ended = made([], updates=6, schedule=None)
    branch(ended, tmp_path / "checkpoints")
    assert alike(made([], updates=6, schedule=None).fit(), ended)


def test_the_files_are_what_a_branch_begins_from(tmp_path: Path) -> None:
    """Branches go on for themselves: none moves the trunk's tensors, or another branch's."""
    trunk([], tmp_path)
    runs = [made([]), made([])]
    for run in runs:
        branch(run, tmp_path / "checkpoints")
    before = {name: tensor.clone() for name, tensor in runs[1].module.state_dict().items()}
    runs[0].fit()
    assert equal(before, runs[1].module.state_dict())


@pytest.mark.parametrize(
    ("methods", "changes", "words"),
    [
        ([LabelSmoothing(0.1)], {}, "label_smoothing"),
        ([LabelSmoothing(0.1).during(0.25, 1.0)], {}, "label_smoothing"),
        ([], {"batch_size": 5}, "batch_size 6 -> 5"),
        ([], {"schedule": "linear"}, "schedule"),
        ([], {"updates": 9}, "updates 8 -> 9"),
    ],
)
def test_what_was_trained_otherwise_is_refused(
    methods: list[Method], changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    trunk([], tmp_path)
    with pytest.raises(CheckpointError, match="trained otherwise up to update 4") as raised:
        branch(made(methods, **changes), tmp_path / "checkpoints")
    assert words in str(raised.value)


def test_a_method_that_has_acted_is_no_part_of_the_baseline(tmp_path: Path) -> None:
    trunk([LabelSmoothing(0.1)], tmp_path)
    with pytest.raises(CheckpointError, match="label_smoothing"):
        branch(made([]), tmp_path / "checkpoints")


def test_there_must_be_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        branch(made([]), tmp_path / "checkpoints")
