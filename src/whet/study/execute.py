"""Trains nodes in worker processes; whatever happens to a worker, its node gets a row.

The loop: hand every idle worker the next node; wait until a worker answers or dies; keep the row;
repeat. A worker lives for many nodes, since starting one costs an import of torch. It writes its
own row and manifest, so that a parent killed in between loses nothing.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Protocol

from whet.study.plan import Node, Row
from whet.study.store import Store
from whet.study.worker import LOG, failed, run, serve

TRAIN = "whet.study.node:train"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PATIENCE = 5.0
TAIL = 2000


class Watch(Protocol):
    """Who is told how a study goes."""

    def started(self, node: Node) -> None:
        """A node was handed to a worker."""

    def ended(self, node: Node, row: Row) -> None:
        """A node has its row."""


def cores() -> int:
    """The cores this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def execute(
    nodes: Sequence[Node],
    store: Store,
    watch: Watch,
    jobs: int,
    threads: int,
    train: str = TRAIN,
    until: float = math.inf,
) -> None:
    """Train the nodes in their order, `jobs` at a time; any exit stops the workers first.

    Once `time.monotonic()` passes `until`, no further node begins.
    """
    waiting = deque(nodes)
    workers: list[Worker] = []
    try:
        while waiting or any(worker.node for worker in workers):
            if time.monotonic() > until:
                waiting.clear()
            while waiting and sum(worker.node is not None for worker in workers) < jobs:
                worker = _idle(workers) or _start(workers, store, train, threads)
                node = waiting.popleft()
                watch.started(node)
                worker.take(node)
            for worker in _ready(workers) if any(worker.node for worker in workers) else ():
                node, row = worker.answer(store)
                store.append(row)
                watch.ended(node, row)
                if worker.dead:
                    workers.remove(worker)
    finally:
        _stop(workers)


def execute_here(
    nodes: Sequence[Node], store: Store, watch: Watch, threads: int, until: float = math.inf
) -> None:
    """Train the nodes in this process, for tasks that only this process knows."""
    for node in nodes:
        if time.monotonic() > until:
            return
        watch.started(node)
        row = run(node, store, TRAIN, threads, quiet=False)
        if row["status"] == "failed":
            store.finish(node, row)
        store.append(row)
        watch.ended(node, row)


class Worker:
    """A worker process as its parent sees it."""

    def __init__(self, store: Store, train: str, threads: int) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, store.folder, train, threads)
        self.process: SpawnProcess = context.Process(target=serve, args=arguments)
        self.node: Node | None = None
        self.dead = False
        with _interrupts_blocked(), _threads_set(threads):
            self.process.start()
        theirs.close()

    def take(self, node: Node) -> None:
        """Hand over a node; a worker that is gone is noticed when its answer is read."""
        self.node = node
        with suppress(OSError):
            self.connection.send(node)

    def answer(self, store: Store) -> tuple[Node, Row]:
        """The finished node and its row; a worker that died leaves the reason as its row."""
        assert self.node is not None
        node, self.node = self.node, None
        try:
            row: Row = self.connection.recv()
        except (EOFError, OSError):
            self.dead = True
            row = store.done(node) or failed(node, self._death(node, store))
        if row["status"] == "failed":
            store.finish(node, row)
        return node, row

    def _death(self, node: Node, store: Store) -> str:
        self.process.join(PATIENCE)
        code = self.process.exitcode
        how = f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += ", which is often the system running out of memory (try fewer --jobs)"
        log = store.folder_of(node) / LOG
        tail = log.read_text(errors="replace")[-TAIL:].strip() if log.exists() else ""
        return (f"{tail}\n" if tail else "") + f"the worker process {how}"


def _idle(workers: Sequence[Worker]) -> Worker | None:
    return next((worker for worker in workers if worker.node is None), None)


def _start(workers: list[Worker], store: Store, train: str, threads: int) -> Worker:
    workers.append(Worker(store, train, threads))
    return workers[-1]


def _ready(workers: Sequence[Worker]) -> list[Worker]:
    """Wait until workers have answered or died."""
    busy: dict[Connection, Worker] = {w.connection: w for w in workers if w.node is not None}
    ready = connection.wait(list(busy))
    return [worker for each, worker in busy.items() if each in ready]


def _stop(workers: Sequence[Worker]) -> None:
    with _interrupts_blocked():
        for worker in workers:
            worker.connection.close()
            worker.process.terminate()
        for worker in workers:
            worker.process.join(PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


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
def _threads_set(threads: int) -> Iterator[None]:
    """Libraries read their thread count when they load, which in a worker is after its start."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
