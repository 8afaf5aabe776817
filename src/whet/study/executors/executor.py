"""What a scheduler needs of whatever trains its nodes."""

from __future__ import annotations

import os
from typing import NamedTuple, Protocol, Self

from whet.errors import InputError
from whet.study.plan import Node, Row

RETRIES = 1


class Ended(NamedTuple):
    """A node that is no longer trained, and its row.

    `lost` tells that not the node but what trained it came to an end: a worker that was killed, a
    machine that is gone. Such a node may be tried again.
    """

    node: Node
    row: Row
    lost: bool = False


class Executor(Protocol):
    """Trains nodes, several at a time. Whoever trains a node keeps its row in the study's folder.

    ```
    with executor:
        executor.submit(node)            # never more than `slots` at a time
        for ended in executor.ended():   # waits; may come back empty, so that others are heard
            ...
    ```
    """

    @property
    def slots(self) -> int:
        """How many nodes it can train at a time, at least one; it may change with a cluster."""

    @property
    def retries(self) -> int:
        """How often a node is tried again that was lost."""

    def submit(self, node: Node) -> None:
        """Begin to train a node."""

    def ended(self) -> list[Ended]:
        """The nodes that ended; waits a while where none did."""

    def close(self) -> None:
        """End whatever is still trained. Nodes go on from their checkpoints later."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class Closing:
    """Closes on leaving its `with` block, however that is left."""

    def close(self) -> None:
        """End whatever is still trained."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def cores() -> int:
    """The cores this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def check_alone(who: str) -> None:
    """Refuse to be one of several processes that were started together.

    Raises:
        InputError: it is.
    """
    if os.environ.get("TORCHELASTIC_RUN_ID") and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            f"{who} starts its own processes: run it without torchrun, with --jobs for as many "
            "runs at a time as you want."
        )
