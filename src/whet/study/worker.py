"""The worker process: trains one node after another, each into its own folder and log."""

from __future__ import annotations

import faulthandler
import gc
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from whet.errors import WhetError
from whet.stopping import Terminated
from whet.study import pulse, redact
from whet.study.plan import Node, Row
from whet.study.store import Store

Train = Callable[[Node, Path], Row]
LOG = "log.txt"
TAIL = 2000  # characters of a log that a row quotes


def serve(connection: Connection, folder: Path, train: str, threads: int) -> None:
    """Train the nodes that come in and keep their rows, until the connection closes."""
    _leave_interrupts_to_the_parent()
    _end_with_the_parent()
    store = Store(folder)
    while True:
        try:
            node: Node = connection.recv()
        except EOFError:
            return
        connection.send(run(node, store, train, threads))


def failed(node: Node, reason: str, seconds: float = 0.0) -> Row:
    """The row of a run that came to no result."""
    row: Row = {"arm": node.arm, "seed": node.seed, "status": "failed", "reason": reason}
    row |= {"metrics": {}, "curve": [], "updates": 0, "seconds": seconds}
    row |= {"seconds_per_update": None, "explain": "", "settings": list(node.methods)}
    return row | {"key": node.key, "environment": {}}


def last_words(node: Node, store: Store) -> str:
    """The end of what a node printed, as lines; nothing where it printed nothing."""
    log = store.folder_of(node) / LOG
    tail = log.read_text(errors="replace")[-TAIL:].strip() if log.exists() else ""
    return f"{tail}\n" if tail else ""


def run(node: Node, store: Store, train: str, threads: int, quiet: bool = True) -> Row:
    """Train one node and keep its row; in its own log what it prints, where `quiet`."""
    began = time.monotonic()
    folder = store.folder_of(node)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if quiet:
            _log_to(folder / LOG)
        pulse.begin(node, folder)
        row = _load(train, threads)(node, folder)
        beside = row.pop("riders", {})
        row = told(row, node)
        for rider in node.riders:
            if rider.key in beside:
                store.finish(rider, told(beside[rider.key], rider))
        store.finish(node, row)
        if node.until is None:
            store.release(node)
    except BaseException as error:  # a run that calls exit() must not take the worker along
        if isinstance(error, Terminated) or (isinstance(error, KeyboardInterrupt) and not quiet):
            raise  # who is asked to end leaves a checkpoint and no row: the node goes on later
        mistake = isinstance(error, WhetError)
        reason = str(error) if mistake else traceback.format_exc()
        row = told(failed(node, reason, time.monotonic() - began), node)
    finally:
        pulse.end(folder)
    if row["status"] == "failed":
        gc.collect()  # a training that raised is let go only now
    return row


def told(row: Row, node: Node) -> Row:
    """The row without secrets and names of people or machines; what it is paired by stays."""
    return {**redact.values(row), "arm": node.arm, "seed": node.seed, "key": node.key}


def _load(name: str, threads: int) -> Train:
    module, _, function = name.partition(":")
    train: Train = getattr(importlib.import_module(module), function)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
    return train


def _log_to(path: Path) -> None:
    """Send all output of this process, that of C libraries included, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    faulthandler.enable(2)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _end_with_the_parent() -> None:
    """A killed parent cannot stop its workers, and two would train one node after a restart."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
