"""Callbacks: what they are told, in which order, and that an end follows every beginning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.tiny import linear, rows
from whet import callback
from whet.callback import Callback
from whet.errors import InputError
from whet.run import Run
from whet.stage import Recipe, Stage
from whet.task import Task
from whet.world import World


class Told(Callback):
    """Keeps what it is told."""

    def __init__(self, heard: list[Any], name: str = "") -> None:
        self.heard, self.name = heard, name

    def began(self, run: Run) -> None:
        self.heard.append(f"began{self.name}")

    def entered(self, run: Run) -> None:
        self.heard.append(("entered", run.stage_number, run.stack.run.updates))

    def updated(self, run: Run) -> None:
        self.heard.append(run.updates)

    def evaluated(self, run: Run, metrics: Any) -> None:
        self.heard.append(list(metrics))

    def saved(self, run: Run, place: Path) -> None:
        assert place.is_dir()
        self.heard.append(place.name)

    def ended(self, run: Run, error: BaseException | None) -> None:
        self.heard.append((f"ended{self.name}", type(error).__name__))


def run_of(*callbacks: Any, folder: Path | None = None, stages: int = 1) -> Run:
    task = Task(linear(), rows(20), select=rows(9), metrics=["accuracy"])
    recipe = Recipe([Stage(updates=2, batch_size=4)] * stages)
    return Run(task, recipe, device="cpu", callbacks=callbacks, folder=folder, log=None)


def test_every_moment_in_its_order(tmp_path: Path) -> None:
    heard: list[Any] = []
    run_of(Told(heard), folder=tmp_path, stages=2).fit()
    assert heard == [
        "began", 1, 2, ["accuracy"], "00000002",
        ("entered", 1, 0), 3, 4, ["accuracy"], "00000004", ("ended", "NoneType"),
    ]  # fmt: skip


WAITING = {
    "evaluate": r"run.evaluate\(\) waits.*Run\(evaluate_every=",
    "save": r"run.save\(\) waits.*checkpoint_every=.*keep=",
    "predictor": r"run.predictor\(\) waits.*after fit",
    "state_dict": r"run.state_dict\(\) waits.*keep=",
}


def announce(run: Run, moment: str) -> None:
    if moment in ("began", "ended"):
        with callback.telling(run):
            return
    callback.tell(run, moment)


@pytest.mark.parametrize("moment", ["updated", "evaluated", "saved", "entered", "began", "ended"])
@pytest.mark.parametrize("what", [*WAITING])
def test_of_several_processes_none_is_waited_for(what: str, moment: str, tmp_path: Path) -> None:
    """Callbacks are the first process's alone: the others would never come."""
    waits = Told([])
    run = run_of(waits, folder=tmp_path)
    run.world = World(0, 2)
    setattr(waits, moment, lambda run, *about: getattr(run, what)())
    with pytest.raises(InputError, match=WAITING[what]):
        announce(run, moment)
    run.world.meet("fit", "")  # afterwards it stands with the others again


def test_what_waits_by_itself_is_refused_too() -> None:
    run = run_of(lambda run: run.world.sums(1.0))
    run.world = World(0, 2)
    with pytest.raises(InputError, match="Call it after fit, in every process"):
        callback.tell(run, "updated")


@pytest.mark.parametrize("what", ["evaluate", "save", "predictor", "state_dict"])
def test_one_process_waits_for_nobody(what: str, tmp_path: Path) -> None:
    seen: list[Any] = []
    run_of(lambda run: seen.append(getattr(run, what)("select") if what == "evaluate"
           else getattr(run, what)()), folder=tmp_path).fit()  # fmt: skip
    assert len(seen) == 2


def test_the_last_to_begin_is_the_first_to_end() -> None:
    heard: list[Any] = []
    run_of(Told(heard, "a"), Told(heard, "b")).fit(until=0)
    assert heard == ["begana", "beganb", ("endedb", "NoneType"), ("endeda", "NoneType")]


def test_all_are_told_of_an_end_by_an_error() -> None:
    heard: list[Any] = []

    class Breaks(Callback):
        def updated(self, run: Run) -> None:
            raise KeyError("in an update")

        def ended(self, run: Run, error: BaseException | None) -> None:
            raise RuntimeError("at the end")

    with pytest.raises(RuntimeError, match="at the end") as raised:
        run_of(Told(heard, "a"), Breaks(), Told(heard, "b")).fit()
    assert isinstance(raised.value.__context__, KeyError)
    assert heard == ["begana", "beganb", 1, ("endedb", "KeyError"), ("endeda", "RuntimeError")]


def test_who_was_not_told_of_the_beginning_is_not_told_of_the_end() -> None:
    heard: list[Any] = []

    class Breaks(Callback):
        def began(self, run: Run) -> None:
            raise KeyError("at the beginning")

    with pytest.raises(KeyError):
        run_of(Told(heard, "a"), Breaks(), Told(heard, "b")).fit()
    assert heard == ["begana", ("endeda", "KeyError")]
