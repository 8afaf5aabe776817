"""Trains nodes as batch jobs, through submitit: on Slurm, or as processes that stand for it.

The shared folder is the truth. Jobs are asked about only when their row does not appear: a job
that is gone without one was preempted or lost its machine, and the node is tried again. What
submitit pickles is the name of a function and a path. Jobs outlive a study that is killed; the
same command finds them again by the numbers that it wrote down.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import WhetError
from whet.study import files
from whet.study.executors import batches
from whet.study.executors.executor import Closing, Ended
from whet.study.executors.job import NAME, Jobs, perform
from whet.study.executors.processes import threads_set
from whet.study.executors.settings import Settings
from whet.study.plan import Node, Row
from whet.study.store import Store
from whet.study.worker import failed, last_words

FOLDER, NUMBER = "jobs", "batch.json"


@dataclass
class _Training:
    """A node whose job was submitted: when, and since when the job is gone."""

    node: Node
    job: Any
    since: float
    gone: float | None = None


class Batch(Closing):
    """Batch jobs.

    Args:
        store: of the study, in a folder that all machines see.
        train: what trains, as `module:function`.
        threads: torch threads of each run.
        settings: the executor file's.
        jobs: runs at a time; None for the settings' concurrency.
    """

    def __init__(
        self, store: Store, train: str, threads: int, settings: Settings, jobs: int | None = None
    ) -> None:
        self.slots, self.retries = jobs or settings.concurrency, settings.resubmissions
        self._store, self._settings, self._threads = store, settings, threads
        self._jobs = Jobs(store, train, threads)
        self._batch = batches.opened(store.folder.resolve() / FOLDER, settings, threads)
        self._waiting: list[Node] = []
        self._training: list[_Training] = []
        self._leaving: list[Any] = []  # jobs whose row is there, and whose process may be
        self._queue = batches.Queue()
        self._often = max(settings.period_s, settings.patience_s / 4)

    def submit(self, node: Node) -> None:
        found = self._found(node)
        if found is None:
            self._waiting.append(node)
        else:
            self._training.append(_Training(node, found, time.monotonic()))

    def ended(self) -> list[Ended]:
        self._submit()
        self._ask()
        found = []
        for each in self._training:
            row = self._row(each.node)
            if row is not None:
                found.append(Ended(each.node, row))
            elif self._gone(each):
                found.append(Ended(each.node, failed(each.node, self._why(each)), lost=True))
        for node, _, lost in found:
            self._forget(node, lost)
        if not found:
            time.sleep(self._settings.period_s)
        return found

    def close(self) -> None:
        for each in self._training:
            batches.cancel(each.job)
            self._leaving.append(each.job)
            self._clean(each.node)
        for job in self._leaving:
            batches.leave(job)
        self._training, self._waiting, self._leaving = [], [], []

    def _submit(self) -> None:
        """Submit what was handed over since; several jobs are one array."""
        paths = [self._jobs.write(node) for node in self._waiting]
        if not paths:
            return
        try:
            with threads_set(self._threads), self._batch.batch():
                jobs = [self._batch.submit(work, str(path)) for path in paths]
        except Exception as error:  # submitit's own, or that of `sbatch`
            raise WhetError(
                f"the jobs were not accepted: {error}. Mend the executor file; `whet doctor "
                "--executor FILE` tries it with one job."
            ) from error
        now = time.monotonic()
        for node, job in zip(self._waiting, jobs, strict=True):
            written = files.to_json({"job": job.job_id, "kind": self._settings.kind})
            files.write(self._store.folder_of(node) / NUMBER, written)
            self._training.append(_Training(node, job, now))
        self._waiting = []

    def _found(self, node: Node) -> Any:
        """The job of a study that was killed, if it is still there."""
        written = files.read_json(self._store.folder_of(node) / NUMBER) or {}
        if written.get("kind") != self._settings.kind:
            return None
        job = self._batch.job_class(self._batch.folder, str(written["job"]))
        self._ask()
        there = (self._store.folder_of(node) / NAME).exists()
        return job if there and self._queue.state(job) != batches.ENDED else None

    def _row(self, node: Node) -> Row | None:
        folder = self._store.folder_of(node)
        with suppress(FileNotFoundError):
            os.listdir(folder)  # NFS looks at a folder anew when it is listed
        return self._store.done(node) or self._store.failed(node)

    def _ask(self) -> None:
        late = time.monotonic() - self._queue.asked >= self._often
        if late and self._settings.kind == "slurm":
            self._queue.ask()

    def _gone(self, each: _Training) -> bool:
        """Whether a job is over for so long that its row would be seen by now."""
        if self._queue.state(each.job, each.since) != batches.ENDED:
            each.gone = None
            return False
        each.gone = each.gone or time.monotonic()
        return time.monotonic() - each.gone >= self._settings.patience_s

    def _forget(self, node: Node, lost: bool) -> None:
        """Of a node that ended; a lost job that Slurm would start again must not come back."""
        for each in [each for each in self._training if each.node is node]:
            self._training.remove(each)
            self._leaving.append(each.job)
            if lost:
                batches.cancel(each.job)
        self._clean(node)

    def _clean(self, node: Node) -> None:
        self._jobs.remove(node)
        (self._store.folder_of(node) / NUMBER).unlink(missing_ok=True)

    def _why(self, each: _Training) -> str:
        said = last_words(each.node, self._store) or batches.printed(each.job)
        return f"{said}job {each.job.job_id} is gone without a result"


def work(path: str) -> None:
    """What a job does. Signals are the training's: on SIGTERM it writes a checkpoint and ends."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    perform(path)
    Path(path).with_name(NUMBER).unlink(missing_ok=True)
