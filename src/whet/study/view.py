"""A study at one moment, as who looks on sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from whet.study import wording
from whet.study.plan import Row
from whet.study.pulse import Now
from whet.study.statistics import Comparison

NOTHING, REHEARSED, PREPARING = "nothing", "rehearsed", "preparing"
RUNNING, SILENT, GONE, STOPPED = "running", "silent", "gone", "stopped"
BASELINE = "against the baseline"  # among a view's verdicts
FINISHED, UNREADABLE = "finished", "unreadable"
Verdicts = tuple[tuple[str, tuple[Comparison, ...]], ...]


@dataclass(frozen=True)
class Holder:
    """Who conducts a study, as the lock's file says.

    Args:
        process: its number.
        machine: where it runs.
        here: whether that is this machine.
        silent: seconds since its last sign of life.
        gone: whether it is known to have ended without a word.
    """

    process: int
    machine: str
    here: bool
    silent: float
    gone: bool


@dataclass(frozen=True)
class Ended:
    """A run that has its row.

    Args:
        arm: its arm.
        seed: its seed.
        status: `done`, `failed`, `diverged`, `inapplicable` or `refused`.
        value: the deciding metric on the judge part.
        seconds: that it took.
        reason: why it came to nothing; the last line.
    """

    arm: str
    seed: int
    status: str
    value: float | None = None
    seconds: float = 0.0
    reason: str | None = None

    @classmethod
    def of(cls, row: Row, metric: str) -> Ended:
        """What a row tells of its run."""
        value = ((row.get("metrics") or {}).get("judge") or {}).get(metric)
        reason = None if row["status"] == "done" else wording.last_line(row.get("reason"))
        seconds = row.get("seconds") or 0.0
        return cls(row["arm"], row["seed"], row["status"], value, seconds, reason)


@dataclass(frozen=True)
class View:
    """A study at one moment.

    Args:
        folder: the study's.
        state: `nothing` there, only `rehearsed`, `preparing`, `running`, `silent` (whoever
            conducts it gave no sign of life for a minute), `gone` (was killed), `stopped`,
            `finished`, or `unreadable`.
        title: of the task.
        metric: the deciding one.
        command: that continues the study.
        of: how many runs it has.
        ended: those that have their row, in the plan's order.
        running: those in progress.
        interrupted: runs that were cut off, and go on from their checkpoints.
        left: seconds that the missing runs may take; None where nothing is known, or nobody works.
        holder: who conducts it, if anybody.
        verdicts: what was asked, and the answers so far; provisional while runs are missing.
        note: what else is to be said of the folder.
    """

    folder: Path
    state: str
    title: str = ""
    metric: str = ""
    command: str = ""
    of: int = 0
    ended: tuple[Ended, ...] = ()
    running: tuple[Now, ...] = ()
    interrupted: int = 0
    left: float | None = None
    holder: Holder | None = None
    verdicts: Verdicts = field(default=(), repr=False)
    note: str = ""

    @property
    def done(self) -> int:
        """Runs that have a row and did not fail."""
        return sum(each.status != "failed" for each in self.ended)

    @property
    def troubles(self) -> tuple[Ended, ...]:
        """Runs that failed or diverged."""
        return tuple(each for each in self.ended if each.status in ("failed", "diverged"))

    @property
    def failed(self) -> int:
        """Runs that failed."""
        return len(self.ended) - self.done

    @property
    def missing(self) -> int:
        """Runs without a row, or with that of a failure: the same command trains them."""
        return self.of - self.done
