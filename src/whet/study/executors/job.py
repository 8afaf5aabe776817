"""A node's training on another machine: told by a file in the shared folder, checked there.

The file is JSON, so nothing needs to be pickled; and a machine that cannot read it does not see
the folder. The machine keeps the node's row itself, as a worker process does.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.study import files, identity
from whet.study.plan import Node, Row
from whet.study.store import Store
from whet.study.worker import failed, run, told

NAME, LOCK = "job.json", "run.lock"
CODE = "whet's code"
HELD = 60.0  # seconds that a process of a killed study may take to end


class Jobs:
    """Writes the jobs of a study.

    Args:
        store: of the study, in a folder that all machines see under the same path.
        train: what trains, as `module:function`.
        threads: torch threads of each run.
    """

    def __init__(self, store: Store, train: str, threads: int) -> None:
        self.store = store
        self._given = {"folder": str(store.folder.resolve()), "train": train, "threads": threads}
        self._same: Callable[[str | None], dict[str, str]] = cache(same)

    def write(self, node: Node) -> Path:
        """Write a node's job and forget its last attempt; gives the job's file."""
        self.store.retry([node])
        path = self.store.folder_of(node).resolve() / NAME
        job = {**self._given, "node": node.to_json(), "file": node.file}
        files.write(path, files.to_json(job | {"same": self._same(node.file)}))
        return path

    def remove(self, node: Node) -> None:
        """A job that ended is no longer needed."""
        (self.store.folder_of(node) / NAME).unlink(missing_ok=True)


def perform(path: str) -> str:
    """Train the node of a job, in the process that this is called in.

    Returns:
        The node's row as JSON. It is in the study's folder by then.

    Raises:
        InputError: this machine does not see the file.
    """
    job = files.read_json(Path(path))
    if job is None:
        raise InputError(
            f"the worker's machine does not see {path}: give --out a folder that all machines "
            "share under the same path. `whet doctor` checks it."
        )
    node, store = Node.from_json({**job["node"], "file": job["file"]}), Store(Path(job["folder"]))
    try:
        _check(job)
        with _alone(node, store):
            row = store.done(node) or run(node, store, job["train"], job["threads"])
    except InputError as error:
        row = told(failed(node, str(error)), node)
    if row["status"] == "failed":
        store.finish(node, row)
    Path(path).unlink(missing_ok=True)
    return files.to_json(row)


def same(file: str | None = None) -> dict[str, str]:
    """What decides results and must be the same on all machines: versions and code."""
    found = identity.versions() | {CODE: _code()}
    if file is not None and Path(file).is_file():
        found[f"the code of {file}"] = identity.code_of([], file=Path(file))
    return found


def _code() -> str:
    digest = hashlib.sha256()
    for path in sorted(identity.PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(identity.PACKAGE)}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def differences(begun: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """What this machine has otherwise than the one where the study was begun, in words."""
    return [
        f"{name} is {ours.get(name, 'absent')}, not {begun.get(name, 'absent')}"
        for name in {**begun, **ours}
        if begun.get(name) != ours.get(name)
    ]


def _check(job: Mapping[str, Any]) -> None:
    found = differences(job["same"], same(job["file"]))
    if found:
        raise InputError(
            f"the worker's machine would train something else: {'; '.join(found)}. Let it be the "
            "same where the study is begun and where it is trained; `whet doctor` checks it."
        )


@contextmanager
def _alone(node: Node, store: Store) -> Iterator[None]:
    """Wait for a process that still trains the node, as one whose study was killed may."""
    until = time.monotonic() + HELD
    path, what = store.folder_of(node) / LOCK, f"The run {node.folder}"
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(files.locked(path, what))
                break
            except files.InUse:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
        yield


def answered(text: str) -> Row:
    """The row that `perform` gave."""
    row: Row = json.loads(text)
    return row
