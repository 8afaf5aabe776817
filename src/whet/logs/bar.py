"""How far a run is: a bar on a terminal and in a notebook, else a line for each evaluation."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from whet.callback import Callback
from whet.logs.log import Pace

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from whet.run import Run

SECONDS = 1.0  # between two pictures, each of which costs some milliseconds


class Bar(Callback):
    """Loss, metrics, samples per second and the time left, on standard error.

    On a terminal and in a notebook it is a bar for each stage, drawn once a second at most, so
    that the loss is not waited for in between. Elsewhere each evaluation prints one line, and a
    run that evaluates nothing prints nothing. Notes of the run, such as a damaged checkpoint, are
    printed in either case.

    Args:
        console: of rich, where another one is wanted.
        seconds: between two pictures of the bar.
    """

    def __init__(self, console: Console | None = None, seconds: float = SECONDS) -> None:
        self.console, self.seconds = console, seconds
        self._progress: Progress | None = None
        self._shown = False

    def began(self, run: Run) -> None:
        self._shown = run.stack.run.rank == 0
        if not self._shown:
            return
        if self.console is None:
            from rich.console import Console

            self.console = Console(stderr=True)
        self._said, self._metrics = 0, dict[str, float]()
        self._pace, self._due = Pace(), 0.0
        self._speed = 0.0
        if draws(self.console):
            self._start(run)
        self.entered(run)
        self._notes(run)

    def entered(self, run: Run) -> None:
        """Another stage: a bar from its beginning."""
        if not self._shown:
            return
        self._began = time.perf_counter(), run.stack.run.updates
        if self._progress is not None:
            for task in self._progress.tasks:
                self._progress.remove_task(task.id)
            count = len(run.recipe.stages)
            name = "train" if count == 1 else f"stage {run.stage_number + 1}/{count}"
            self._task = self._progress.add_task(
                name, total=run.stack.run.total, completed=run.stack.run.updates, said="", left=""
            )

    def updated(self, run: Run) -> None:
        if self._shown:
            self._pace.updated(run)
            if self._progress is not None and time.perf_counter() >= self._due:
                self._draw(run)

    def evaluated(self, run: Run, metrics: Mapping[str, float]) -> None:
        if not self._shown:
            return
        self._pace.paused()
        self._metrics = dict(metrics)
        self._notes(run)
        if self._progress is not None:
            self._draw(run)
        else:
            position = run.stack.run
            stage = f"stage {run.stage_number + 1}, " if len(run.recipe.stages) > 1 else ""
            words = filter(None, [self._words(run, self._metrics), self._left(run)])
            self._print(f"{stage}update {position.updates}/{position.total}: {', '.join(words)}")

    def saved(self, run: Run, place: object) -> None:
        if self._shown:
            self._pace.paused()

    def ended(self, run: Run, error: BaseException | None) -> None:
        if not self._shown:
            return
        self._notes(run)
        if self._progress is not None:
            if error is None and run.stack.run.window:
                self._draw(run)
            self._progress.stop()
            self._progress = None

    # drawing ---------------------------------------------------------------------------------
    def _start(self, run: Run) -> None:
        from rich.errors import LiveError
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        progress = Progress(
            TextColumn("{task.description}"), BarColumn(max(8, min(40, self._width() - 80))),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False),
            console=self.console, auto_refresh=False,
        )  # fmt: skip
        try:
            progress.start()
        except LiveError:
            return  # another display has the terminal: lines stand above it
        self._progress = progress

    def _width(self) -> int:
        assert self.console is not None
        return self.console.width

    def _draw(self, run: Run) -> None:
        assert self._progress is not None
        deciding = dict(list(self._metrics.items())[:1])  # all of them find no room beside a bar
        said, left = self._words(run, deciding), self._left(run)
        updates = run.stack.run.updates
        self._progress.update(self._task, completed=updates, said=said, left=left)
        self._progress.refresh()
        self._due = time.perf_counter() + self.seconds

    def _words(self, run: Run, metrics: Mapping[str, float]) -> str:
        loss = run.stack.loss  # first: it waits until the device has done what is counted
        speed = self._pace.rate()
        self._speed = speed or self._speed
        words = [f"loss {loss:.4g}", *(f"{k} {v:.4g}" for k, v in metrics.items())]
        return ", ".join([*words, *([f"{self._speed:,.0f} samples/s"] if self._speed else [])])

    def _left(self, run: Run) -> str:
        """The time that the rest of the stage takes, evaluations included; nothing at its end."""
        since, first = self._began
        done, total = run.stack.run.updates - first, run.stack.run.total or 0
        if not done or first + done >= total:
            return ""
        left = (time.perf_counter() - since) / done * (total - first - done)
        return f"{duration(left)} left"

    def _notes(self, run: Run) -> None:
        for note in run.notes[self._said :]:
            self._print(note)
        self._said = len(run.notes)

    def _print(self, line: str) -> None:
        assert self.console is not None
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def draws(console: Any) -> bool:
    """Whether a console can redraw what it showed; a notebook needs ipywidgets for that."""
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return bool(console.is_terminal and not console.is_dumb_terminal)


def duration(seconds: float) -> str:
    """Hours, where there are any, minutes and seconds.

    >>> duration(4.2), duration(90), duration(7500)
    ('0:04', '1:30', '2:05:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
