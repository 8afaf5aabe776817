"""Trains nodes in this process, one after another, for tasks that only this process knows."""

from __future__ import annotations

from whet.study.executors.executor import Closing, Ended
from whet.study.plan import Node
from whet.study.store import Store
from whet.study.worker import run


class Here(Closing):
    """This process. What a node prints is printed, and Ctrl-C reaches it."""

    slots, retries = 1, 0

    def __init__(self, store: Store, train: str, threads: int) -> None:
        self._given = (store, train, threads)
        self._waiting: list[Node] = []

    def submit(self, node: Node) -> None:
        self._waiting.append(node)

    def ended(self) -> list[Ended]:
        node = self._waiting.pop()
        return [Ended(node, run(node, *self._given, quiet=False))]
