"""Trains nodes in worker processes of this machine.

A worker lives for many nodes, since starting one costs an import of torch. It writes its own row
and manifest, so that a parent killed in between loses nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from whet.study.executors.executor import RETRIES, Closing, Ended
from whet.study.plan import Node, Row
from whet.study.store import Store
from whet.study.worker import failed, last_words, serve

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PATIENCE = 5.0


class Processes(Closing):
    """Worker processes, each with one node at a time.

    Args:
        store: of the study.
        train: what trains, as `module:function`.
        threads: torch threads of each run.
        jobs: runs at a time.
        retries: how often a node is tried again whose worker died.
    """

    def __init__(
        self, store: Store, train: str, threads: int, jobs: int, retries: int = RETRIES
    ) -> None:
        self.slots, self.retries = jobs, retries
        self._given = (store, train, threads)
        self._workers: list[_Worker] = []

    def submit(self, node: Node) -> None:
        idle = next((worker for worker in self._workers if worker.node is None), None)
        if idle is None:
            idle = _Worker(*self._given)
            self._workers.append(idle)
        idle.take(node)

    def ended(self) -> list[Ended]:
        busy: dict[Connection, _Worker] = {w.connection: w for w in self._workers if w.node}
        ready = connection.wait(list(busy))
        found = [worker.answer() for each, worker in busy.items() if each in ready]
        self._workers = [worker for worker in self._workers if not worker.dead]
        return found

    def close(self) -> None:
        with _interrupts_blocked():
            for worker in self._workers:
                worker.connection.close()
                worker.process.terminate()
            for worker in self._workers:
                worker.process.join(PATIENCE)
                if worker.process.is_alive():
                    worker.process.kill()
                    worker.process.join()
        self._workers = []


class _Worker:
    """A worker process as its parent sees it."""

    def __init__(self, store: Store, train: str, threads: int) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, store.folder, train, threads)
        self.process: SpawnProcess = context.Process(target=serve, args=arguments)
        self.store = store
        self.node: Node | None = None
        self.dead = False
        with _interrupts_blocked(), threads_set(threads):
            self.process.start()
        theirs.close()

    def take(self, node: Node) -> None:
        """Hand over a node; a worker that is gone is noticed when its answer is read."""
        self.node = node
        with suppress(OSError):
            self.connection.send(node)

    def answer(self) -> Ended:
        """The finished node and its row; a worker that died leaves the reason as its row."""
        assert self.node is not None
        node, self.node = self.node, None
        try:
            row: Row = self.connection.recv()
        except (EOFError, OSError):
            self.dead = True
            done = self.store.done(node)
            return Ended(node, done or failed(node, self._death(node)), lost=done is None)
        return Ended(node, row)

    def _death(self, node: Node) -> str:
        self.process.join(PATIENCE)
        code = self.process.exitcode
        how = f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += ", which is often the system running out of memory (try fewer --jobs)"
        return last_words(node, self.store) + f"the worker process {how}"


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Hold Ctrl-C back for a moment; a process started meanwhile begins with it held back."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def threads_set(threads: int) -> Iterator[None]:
    """Libraries read their thread count when they load, which in a worker is after its start."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
