"""Signs of life: what each run is at, in a small file, and that whoever conducts a study is there.

`now.json` in a run's folder is replaced every two seconds at most and removed when the run ends. It
is for people who look on: nothing reads it to decide anything, so it is not waited for on the disk,
and a run goes on where it cannot be written. After `kill -9` it stays, and its age tells.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet import whole
from whet.callback import Callback
from whet.study import files

if TYPE_CHECKING:
    from whet.run import Run
    from whet.study.plan import Node

NAME = "now.json"
EVERY = 2.0  # seconds between two signs of life
QUIET = 60.0  # seconds without a sign of life that are worth a word
PREPARES, TRAINS, JUDGES, WAITS = "prepares", "trains", "judges", "waits"
LONGEST = 1e9  # seconds: no time that a file tells is longer


@dataclass(frozen=True)
class Now:
    """What a run is at.

    Args:
        arm: its arm.
        seed: its seed.
        phase: `waits`, `prepares`, `trains` or `judges`.
        update: updates that happened.
        of: updates in all.
        metric: the deciding metric's name, once the select part was evaluated.
        value: its value there.
        seconds: since the run began, or went on, up to this moment.
        silent: seconds since its last sign of life.
        part: of the study: empty, `rehearsal`, `tuning` or `confirmation`.
    """

    arm: str
    seed: int
    phase: str = WAITS
    update: int | None = None
    of: int | None = None
    metric: str | None = None
    value: float | None = None
    seconds: float = 0.0
    silent: float = 0.0
    part: str = ""


class Pulse(Callback):
    """Writes what a run is at, every two seconds at most.

    Args:
        node: that is trained.
        folder: the node's.
        end: updates at which the training ends, where that is not the end of its stages.
        clock: seconds.
    """

    def __init__(
        self, node: Node, folder: Path, end: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._path, self._end, self._clock = folder / NAME, end, clock
        self._values = _begun(node) | (files.read_json(self._path) or {})
        self._due = 0.0

    def began(self, run: Run) -> None:
        self._tell(run, TRAINS)

    def updated(self, run: Run) -> None:
        if self._clock() >= self._due:
            self._tell(run, TRAINS)

    def evaluated(self, run: Run, metrics: Mapping[str, float]) -> None:
        for name in list(metrics)[:1]:  # the deciding one
            self._values |= {"metric": name, "value": metrics[name]}
        self.updated(run)

    def ended(self, run: Run, error: BaseException | None) -> None:
        if error is None:
            self._tell(run, JUDGES)

    def _tell(self, run: Run, phase: str) -> None:
        self._values |= {"phase": phase, "update": run.updates, "of": self._end or _length(run)}
        _write(self._path, self._values)
        self._due = self._clock() + EVERY


def _length(run: Run) -> int:
    """Updates of all stages; up to the end of this one, where one's length shows only later."""
    lengths = [stage.updates for stage in run.recipe.stages]
    here = run.updates - run.stack.run.updates + (run.stack.run.total or 0)
    return here if None in lengths else sum(filter(None, lengths))


def begin(node: Node, folder: Path) -> None:
    """A process has taken up a run."""
    _write(folder / NAME, _begun(node))


def end(folder: Path) -> None:
    """The run is over, or was ended and goes on later."""
    with suppress(OSError):
        (folder / NAME).unlink(missing_ok=True)


def _begun(node: Node) -> dict[str, Any]:
    return {"arm": node.arm, "seed": node.seed, "phase": PREPARES, "began": time.time()}


def _write(path: Path, values: Mapping[str, Any]) -> None:
    """Replace the file whole, without waiting for the disk; where that fails, nobody minds."""
    draft = path.with_name(f".{path.name}.{os.getpid()}{whole.DRAFT}")
    with suppress(OSError):
        draft.write_text(files.to_json({**values, "at": time.time()}), encoding="utf-8")
        draft.replace(path)


def read(folder: Path, part: str = "", clock: Callable[[], float] = time.time) -> Now | None:
    """What the run in a folder is at; None where no run is, or nothing whole stands there.

    Its age is that of the file, by the clock of the disk that holds it, which all machines share.
    """
    from whet.study import shapes

    path = folder / NAME
    values = seen(path)
    if values is None or shapes.wrong(shapes.Now, values) is not None:
        return None
    silent = age(path, clock)
    if silent is None:
        return None
    known = {name: values.get(name) for name in ("update", "of", "metric", "value")}
    seconds = _bounded(values["at"] - values["began"]) + silent
    return Now(values["arm"], values["seed"], values["phase"], seconds=seconds, silent=silent,
               part=part, **known)  # fmt: skip


def seen(path: Path) -> dict[str, Any] | None:
    """The object in a file that somebody may be writing, removing or hiding at this moment."""
    with suppress(Exception):
        return files.read_json(path)
    return None


def age(path: Path, clock: Callable[[], float] = time.time) -> float | None:
    """Seconds since a file was written or touched; None where there is none."""
    try:
        return _bounded(clock() - path.stat().st_mtime)
    except OSError:
        return None


def _bounded(seconds: float) -> float:
    return min(LONGEST, max(0.0, seconds))


@contextmanager
def beating(path: Path, every: float = EVERY) -> Iterator[None]:
    """Touch a file every few seconds, until the block is left or the process ends."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(every):
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
