"""What a study is at, from its folder alone: nothing is written there, locked or waited for.

Another process or machine may conduct the study meanwhile, or nobody: it was stopped, killed, or
has ended. A file that is half written or gone by the time it is read counts as not there yet.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from whet.errors import WhetError
from whet.study import files, pulse, shapes, trie
from whet.study.executors.job import NAME as JOB
from whet.study.plan import Node, Row
from whet.study.pulse import Now
from whet.study.remaining import time_left
from whet.study.statistics import Comparison
from whet.study.store import LOCK, Store
from whet.study.view import (
    BASELINE,
    FINISHED,
    GONE,
    NOTHING,
    PREPARING,
    REHEARSED,
    RUNNING,
    SILENT,
    STOPPED,
    UNREADABLE,
    Ended,
    Holder,
    Verdicts,
    View,
)

BESIDE = ("rehearsal", "tuning", "confirmation")
BEATS = 3 * pulse.EVERY  # seconds after which whoever is not among the processes is gone


def look(folder: str | Path) -> View:
    """What the study in a folder is at, now.

    Only reads: neither the folder's lock is taken nor anything written, so that it works on a
    folder without permission to write and from any machine that sees it. One look reads every row;
    a `Watcher` reads each once.

    Args:
        folder: of the study, whether it runs, was stopped or has finished.

    Returns:
        A View; of a folder without a study its state is `nothing`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as empty:
    ...     look(empty).state
    'nothing'
    """
    return Watcher(folder).look()


class Watcher:
    """Looks at one study again and again, and reads again only what may have changed.

    Args:
        folder: of the study.
        clock: seconds since the epoch.
    """

    def __init__(self, folder: str | Path, clock: Callable[[], float] = time.time) -> None:
        self.store, self._clock = Store(Path(folder)), clock
        self._stamp: object = None
        self._plan: _Plan | None = None
        self._rows: dict[str, Row] = {}
        self._compared: tuple[object, Verdicts] = (None, ())

    def look(self) -> View:
        """What the study is at, now."""
        folder = self.store.folder
        holder = _holder(folder / LOCK, self._clock)
        beside = tuple(_beside(folder, holder, self._clock))
        try:
            plan = self._planned()
        except WhetError as error:
            return View(folder, UNREADABLE, holder=holder, note=str(error))
        if plan is None:
            return _unplanned(folder, holder, beside)
        there = _names(folder / "nodes")
        rows = self._read(plan, there)
        own = _running(folder, plan, rows, there, holder, self._clock)
        running = [each for each in own if each is not None]
        ended = tuple(Ended.of(rows[key], plan.metric) for key in plan.judged if key in rows)
        view = View(
            folder, "", plan.title, plan.metric, plan.study["command"], len(plan.judged), ended,
            (*running, *beside), len(own) - len(running), None, holder,
            self._verdicts(plan, rows),
        )  # fmt: skip
        at_work = holder is not None and not holder.gone
        waiting = [node for node, key, _ in plan.nodes if key not in rows]
        left = time_left(waiting, rows.values(), running, plan.study["jobs"]) if at_work else None
        return replace(view, state=_state(view), left=left)

    def _planned(self) -> _Plan | None:
        """The study's plan, read anew where it has changed; the one before, where it is torn."""
        path = self.store.folder / "study.json"
        try:
            about = path.stat()
        except OSError:
            self._stamp = self._plan = None
            return None
        stamp = about.st_mtime_ns, about.st_size, about.st_ino
        if stamp != self._stamp:
            try:
                study = self.store.study()
            except WhetError:
                if self._plan is not None:
                    return self._plan
                raise
            self._plan = None if study is None else _Plan(study)
            self._stamp, self._rows, self._compared = stamp, {}, (None, ())
        return self._plan

    def _read(self, plan: _Plan, there: set[str]) -> dict[str, Row]:
        """Rows by key; one that is done stays, one that failed may be tried again."""
        found = dict(self._rows)
        for node, key, name in plan.nodes:
            if key in found or name not in there:
                continue
            with suppress(WhetError):
                if (row := self.store.done(node)) is not None:
                    found[key] = self._rows[key] = row
                elif (row := self.store.failed(node)) is not None:
                    found[key] = row
        return found

    def _verdicts(self, plan: _Plan, rows: Mapping[str, Row]) -> Verdicts:
        """The answers so far, best first; computed again once another row is there."""
        known = [rows[key] for key in plan.judged if key in rows]
        stamp = [(row["key"], row["status"]) for row in known]
        if stamp != self._compared[0]:
            self._compared = (stamp, tuple(_answers(plan.study, known)))
        return self._compared[1]


class _Plan:
    """A study's manifest with what is asked of it at every look."""

    def __init__(self, study: dict[str, Any]) -> None:
        self.study = study
        nodes = [Node.from_json(values) for values in study["nodes"]]
        # hashes, that would else be computed again at every look
        self.nodes = [(node, node.key, node.folder) for node in nodes]
        self.judged = [node.key for node in trie.judged(nodes)]
        self.title, self.metric = study["task"]["title"], study["task"]["metric"]


def _answers(
    study: dict[str, Any], rows: Sequence[Row]
) -> Iterator[tuple[str, tuple[Comparison, ...]]]:
    from whet.study import families, statistics
    from whet.study.evidence import compare
    from whet.study.prepare import CONFIDENCE

    found = families.divided(study, rows, compare(study, rows), CONFIDENCE)
    comparisons, leaving, further = found
    titled = [(BASELINE, comparisons), ("against all methods together", leaving)]
    titled += [(family.title, family.comparisons) for family in further]
    for title, those in titled:
        shown = tuple(each for each in statistics.ranked(those) if each.n)
        if shown:
            yield title, shown


def _holder(path: Path, clock: Callable[[], float]) -> Holder | None:
    written = files.holder(path)
    silent = pulse.age(path, clock)
    if written is None or silent is None:
        return None
    process, machine = written
    here = machine in ("", platform.node())
    return Holder(process, machine, here, silent, here and silent > BEATS and not _exists(process))


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _unplanned(folder: Path, holder: Holder | None, beside: tuple[Now, ...]) -> View:
    """Of a folder without a study's manifest."""
    if holder is not None and not holder.gone:
        return View(folder, PREPARING, running=beside, holder=holder)
    rows = [*_rows(folder / "rehearsal" / "nodes")]
    state = REHEARSED if rows else NOTHING
    ended = tuple(Ended.of(row, "") for row in rows)
    return View(folder, state, of=len(rows), ended=ended, holder=holder)


def _rows(nodes: Path) -> Iterator[Row]:
    """Rows of a folder whose plan is not written down: of each arm the newest attempt's."""
    for name in sorted(_names(nodes)):
        for kind in ("row.json", "failed.json"):
            row = pulse.seen(nodes / name / kind)
            if row is not None and shapes.wrong(shapes.Result, row) is None:
                yield row
                break


def _names(folder: Path) -> set[str]:
    with suppress(OSError):
        return set(os.listdir(folder))
    return set()


def _beside(folder: Path, holder: Holder | None, clock: Callable[[], float]) -> Iterator[Now]:
    """Runs in progress that precede the study or follow it."""
    for part in BESIDE:
        nodes = folder / part / "nodes"
        for name in sorted(_names(nodes)):
            now = pulse.read(nodes / name, part, clock)
            if now is not None and _lives(now, nodes / name, holder):
                yield now


def _running(
    folder: Path, plan: _Plan, rows: Mapping[str, Row], there: set[str], holder: Holder | None,
    clock: Callable[[], float],
) -> list[Now | None]:  # fmt: skip
    """Runs in progress; None for each that was cut off."""
    found: list[Now | None] = []
    for _, key, name in plan.nodes:
        if name not in there or key in rows:
            continue
        place = folder / "nodes" / name
        now = pulse.read(place, clock=clock)
        if now is not None:
            found.append(now if _lives(now, place, holder) else None)
    return found


def _lives(now: Now, folder: Path, holder: Holder | None) -> bool:
    """Whether a run may still be trained: somebody waits for it, it was seen, or it is a job."""
    waited_for = holder is not None and not holder.gone
    return waited_for or now.silent <= BEATS or (folder / JOB).exists()


def _state(view: View) -> str:
    if view.holder is not None:
        if view.holder.gone:
            return GONE
        return SILENT if view.holder.silent > pulse.QUIET else RUNNING
    return STOPPED if len(view.ended) < view.of else FINISHED
