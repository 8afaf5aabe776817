"""The bar, and the lines that stand in for it where nothing can be redrawn."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.errors import LiveError
from rich.live import Live
from rich.progress import Progress

from tests.engine.tiny import linear, rows
from whet import logs
from whet.callback import Callback
from whet.logs.bar import draws
from whet.run import Run
from whet.stack import Stack
from whet.stage import Recipe, Stage
from whet.task import Task

PLAIN = {"name": "sgd", "lr": 0.1}


def console(terminal: bool, width: int = 120) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)


def run_of(shown: logs.Bar, stages: int = 1, select: bool = True, **changes: Any) -> Run:
    given = {"select": rows(9, seed=1), "metrics": ["accuracy", "log_loss"]} if select else {}
    task = Task(linear(), rows(20), **given)
    recipe = Recipe([Stage(updates=6, batch_size=4, optimizer=PLAIN)] * stages)
    return Run(task, recipe, device="cpu", log=shown, **({"evaluate_every": 4} | changes))


def text(given: Console) -> str:
    assert isinstance(given.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", given.file.getvalue())


class TestLines:
    def test_one_for_each_evaluation(self) -> None:
        to = console(terminal=False)
        run = run_of(logs.Bar(to)).fit()
        first, last = text(to).splitlines()
        accuracy = run.history[0]["metrics"]["accuracy"]
        loss = run.history[0]["loss"]
        assert first.startswith(f"update 4/6: loss {loss:.4g}, accuracy {accuracy:.4g}, log_loss ")
        assert re.search(r", [\d,]+ samples/s, \d+:\d\d left$", first)
        assert last.startswith("update 6/6: ")
        assert last.endswith(" samples/s")

    def test_the_stage_is_named_where_there_are_several(self) -> None:
        to = console(terminal=False)
        run_of(logs.Bar(to), stages=2, evaluate_every=None).fit()
        starts = [line.partition(":")[0] for line in text(to).splitlines()]
        assert starts == ["stage 1, update 6/6", "stage 2, update 6/6"]

    def test_quiet_where_nothing_is_evaluated(self) -> None:
        to = console(terminal=False)
        run_of(logs.Bar(to), select=False).fit()
        assert text(to) == ""

    def test_quiet_where_nothing_is_logged(self, capfd: pytest.CaptureFixture[str]) -> None:
        task = Task(linear(), rows(20), select=rows(9), metrics=["accuracy"])
        Run(task, Stage(updates=2, batch_size=4), device="cpu", log=None).fit()
        assert capfd.readouterr() == ("", "")

    def test_by_itself_it_speaks_on_standard_error(self, capfd: pytest.CaptureFixture[str]) -> None:
        run_of(logs.Bar()).fit()
        out, err = capfd.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 2

    def test_other_processes_than_the_first_are_quiet(self) -> None:
        to = console(terminal=False)
        run = run_of(logs.Bar(to))
        run.stack.run.rank = 1
        run.notes.append("a note")
        run.fit()
        assert text(to) == ""

    def test_notes_are_told_once_and_as_they_are(self) -> None:
        to = console(terminal=False)
        run = run_of(logs.Bar(to))
        run.notes.append("checkpoint [bold]3[/] is damaged")
        run.fit()
        assert text(to).splitlines()[0] == "checkpoint [bold]3[/] is damaged"
        assert text(to).count("damaged") == 1


class TestBar:
    def test_loss_metric_speed_and_time_left(self) -> None:
        to = console(terminal=True)
        run = run_of(logs.Bar(to, seconds=0.0)).fit()
        drawn = re.split(r"[\r\n]+", text(to))
        middle = next(line for line in drawn if " 5/6 " in line)
        accuracy = run.history[0]["metrics"]["accuracy"]
        assert middle.startswith("train ")
        assert re.search(r"loss [\d.]+, accuracy [\d.]+, [\d,]+ samples/s +\d+:\d\d left", middle)
        assert f"accuracy {accuracy:.4g}" in middle
        assert "log_loss" not in text(to)  # only the deciding metric has room
        assert " 6/6 " in drawn[-2] or " 6/6 " in drawn[-1]

    def test_each_stage_has_its_own(self) -> None:
        to = console(terminal=True)
        run_of(logs.Bar(to, seconds=0.0), stages=2).fit()
        for number in (1, 2):
            assert all(f"stage {number}/2" in text(to) for number in (1, 2))
            assert re.search(rf"stage {number}/2 .* 6/6 ", text(to))

    def test_the_loss_is_read_when_it_draws_and_not_in_between(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[int] = []

        def loss(self: Stack) -> float:
            read.append(self.run.updates)
            return 0.5

        monkeypatch.setattr(Stack, "loss", property(loss))
        run_of(logs.Bar(console(terminal=True), seconds=1000.0), select=False).fit()
        assert read == [1, 6]  # the first picture and the last

    def test_the_terminal_is_given_back_after_an_error(self) -> None:
        class Breaks(Callback):
            def updated(self, run: Run) -> None:
                raise KeyError("broken")

        to = console(terminal=True)
        run = run_of(logs.Bar(to), callbacks=[Breaks()])
        with pytest.raises(KeyError):
            run.fit()
        with Live("free again", console=to):
            pass
        assert "\x1b[?25h" in to.file.getvalue()  # type: ignore[attr-defined]

    def test_within_another_display_it_is_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Before rich 14 a terminal had one display at most."""

        def refuse(self: Progress) -> None:
            raise LiveError("Only one live display may be active at once")

        monkeypatch.setattr(Progress, "start", refuse)
        to = console(terminal=True)
        run_of(logs.Bar(to, seconds=0.0)).fit()
        assert "update 6/6: loss" in text(to)

    def test_within_another_display_both_are_shown_or_lines(self) -> None:
        to = console(terminal=True)
        with Live("mine", console=to, auto_refresh=False):
            run_of(logs.Bar(to, seconds=0.0)).fit()
        assert re.search(r"6/6:? loss", text(to))

    def test_fit_may_be_called_again(self) -> None:
        to = console(terminal=True)
        run = run_of(logs.Bar(to, seconds=0.0))
        for until in (2, 2, 6):
            run.fit(until=until)
        assert " 6/6 " in text(to)

    def test_it_changes_nothing_in_the_training(self) -> None:
        plain = run_of(logs.Bar(console(terminal=False)))
        drawn = run_of(logs.Bar(console(terminal=True), seconds=0.0))
        a, b = (run.fit().module.state_dict() for run in (plain, drawn))
        assert all(torch.equal(a[name], b[name]) for name in a)


class TestWhatCanDraw:
    def test_pipes_and_dumb_terminals_cannot(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert draws(console(terminal=True))
        assert not draws(console(terminal=False))
        monkeypatch.setenv("TERM", "dumb")
        assert not draws(console(terminal=True))

    @pytest.mark.parametrize("installed", [True, False])
    def test_a_notebook_needs_ipywidgets(
        self, installed: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("whet.logs.bar.find_spec", lambda name: object() if installed else None)
        assert draws(Console(force_jupyter=True)) is installed
