"""When a run is saved, and which of its checkpoints stay."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from whet import checkpoint, metrics, resume, settings, stopping
from whet.errors import InputError

if TYPE_CHECKING:
    from whet.run import Run
    from whet.task import Task

Window = TypeVar("Window")

AUTO = "auto"
SHARE = 0.05  # of the time that training takes: what saving may cost where nobody says how often
GAP = 60.0  # seconds between two checkpoints at least: nobody minds the loss of a minute
About = Mapping[str, Any]


class Pace:
    """Spaces checkpoints by time, so that saving costs at most a share of the training.

    One is due when the last is a minute old and the time for it, taken as that of the slowest so
    far, is there: all saving stays within 5 % of all training. The first is due after a minute;
    where it takes longer than 5 % of that, the next waits until it is made good.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.saving = self.slowest = 0.0
        self._passed = self._entered = self._last = 0.0

    @contextmanager
    def training(self) -> Iterator[None]:
        """Time goes by within `fit` only; a notebook may rest for hours in between."""
        self._entered = self._last = self.clock()
        try:
            yield
        finally:
            self._passed += self.clock() - self._entered

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Time that goes into saving."""
        began = self.clock()
        try:
            yield
        finally:
            self._last = self.clock()
            self.saving += self._last - began
            self.slowest = max(self.slowest, self._last - began)

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        now = self.clock()
        if now - self._last < GAP:
            return False
        trained = self._passed + now - self._entered - self.saving
        return self.saving + self.slowest <= SHARE * trained


class Keeper:
    """Decides for a run when it is saved and which checkpoints stay.

    Args:
        every: updates between checkpoints; "auto" spaces them by time, None leaves stage ends.
        newest: how many of the newest stay.
        best: how many of the best by the deciding metric on the select part stay beside them.
        at: updates at which a checkpoint is written that stays: where branches begin.
        on_change: whether a checkpoint of a changed recipe is refused or continued.
    """

    def __init__(
        self, task: Task, every: int | str | None, newest: int, best: int, at: Iterable[int],
        on_change: str,
    ) -> None:  # fmt: skip
        if isinstance(every, str):
            if every != AUTO:
                raise InputError(f"checkpoint_every is {every!r}; it is a number, None or 'auto'.")
        else:
            settings.at_least_one(checkpoint_every=every)
        settings.at_least_one(keep=newest)
        if best < 0:
            raise InputError(f"keep_best is {best}; it must be at least 0.")
        if best and task.select is None:
            raise InputError("keep_best judges on the select part: give the task one (select=).")
        if on_change not in (resume.REFUSE, resume.CONTINUE):
            raise InputError(f"on_change is {on_change!r}; it is 'refuse' or 'continue'.")
        self.every, self.most_recent, self.best, self.at = every, newest, best, frozenset(at)
        self.on_change = on_change
        self.pace, self.asked = Pace(), stopping.Asked()
        self.saved_at: int | None = None
        self.doubtful: set[int] = set()

    @contextmanager
    def training(self) -> Iterator[None]:
        """While a run trains, time is taken and SIGTERM is a request."""
        with self.pace.training(), stopping.listening() as self.asked:
            yield

    def heeding(self, run: Run, windows: Iterator[Window]) -> Iterator[Window]:
        """The windows of a training; between two, a process that was asked to stop saves and ends.

        A loader's worker processes often get the same signal and die before the window is there.
        """
        while True:
            if run.world.any(self.asked.to_stop):  # the signal comes at different moments
                self._stop(run)
            try:
                window = next(windows)
            except StopIteration:
                return
            except Exception:
                if self.asked.to_stop and run.world.size == 1:
                    self._stop(run)
                raise
            yield window

    def _stop(self, run: Run) -> NoReturn:
        if run.folder is not None and self.saved_at != run.updates:
            run.save()
        raise stopping.Terminated(f"SIGTERM stopped the run after update {run.updates}.")

    def newest(self, run: Run) -> dict[str, Any] | None:
        """The newest whole checkpoint; what is newer is damaged, and no reason to keep less."""
        state = resume.newest(run)
        if run.folder is not None:
            self.saved_at = None if state is None else state["updates"]
            at = -1 if state is None else state["updates"]
            there = checkpoint.numbers(run.folder / resume.FOLDER)
            self.doubtful = {number for number in there if number > at}
        return state

    def due(self, run: Run, ended: bool) -> bool:
        """Whether a checkpoint is to be written after this update."""
        every = run.checkpoint_every
        if ended or run.updates in self.at:
            return True
        if isinstance(every, int) and run.updates % every == 0:
            return True
        timely = every == AUTO and run.world.any(self.pace.due())  # clocks differ
        return timely or (self.best > 0 and self._among_the_best(run))

    def save(self, run: Run) -> Path:
        """Write a checkpoint, and only then remove what nobody needs."""
        with self.pace.measured():
            place = resume.save(run, self._about(run))
            self.saved_at = run.updates
            self.doubtful.discard(run.updates)
            found = _found(place.parent) if run.world.leads else {}
            staying = stays(
                {number: told for number, told in found.items() if number not in self.doubtful},
                self.most_recent, self.best,
            )  # fmt: skip
            for number in found.keys() - staying - {run.updates}:
                checkpoint.remove(place.parent, number)
            run.world.wait()
        return place

    def _about(self, run: Run) -> About:
        ended = run.stack.run.over
        return {
            "update": run.updates, "stage": run.stage_number,
            "stays": ended or run.updates in self.at, "judged": _judged(run),
        }  # fmt: skip

    def _among_the_best(self, run: Run) -> bool:
        judged = _judged(run)
        if run.folder is None or judged is None:
            return False
        there = _found(run.folder / resume.FOLDER)
        sound = [told for number, told in there.items() if number not in self.doubtful]
        ranks = [_rank(told) for told in sound if told is not None and told["judged"]]
        return len(ranks) < self.best or _rank({"judged": judged}) > sorted(ranks)[-self.best]


def stays(found: Mapping[int, About | None], newest: int, best: int) -> set[int]:
    """The checkpoints that stay, of those found; a damaged manifest (None) is no reason to.

    The newest, the best, the ends of stages and where branches begin.
    """
    whole = {number: told for number, told in found.items() if told is not None}
    ranked = [number for number, told in whole.items() if told["judged"]]
    ranked.sort(key=lambda number: (-_rank(whole[number]), number))
    marked = {number for number, told in whole.items() if told["stays"]}
    return marked | set(sorted(whole)[-newest:]) | set(ranked[:best])


def _found(folder: Path) -> dict[int, About | None]:
    numbers = checkpoint.numbers(folder)
    return {number: checkpoint.about(folder / f"{number:08d}") for number in numbers}


def _rank(told: About) -> float:
    judged = told["judged"]
    value = float(judged["value"])
    if math.isnan(value):
        return -math.inf
    return value if judged["higher_is_better"] else -value


def _judged(run: Run) -> About | None:
    """The deciding metric on the select part, where it was evaluated after this very update."""
    if not run.history or run.history[-1]["update"] != run.updates:
        return None
    family = run.stack.objective.family.name
    decisive = metrics.resolve(run.task.metrics or metrics.defaults(family), family)[0]
    value = run.history[-1]["metrics"][decisive.name]
    return {
        "metric": decisive.name, "value": value, "higher_is_better": decisive.higher_is_better
    }  # fmt: skip
