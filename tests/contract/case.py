"""What a method's test file tells the contract suite about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from whet.method import Method


@dataclass(frozen=True)
class Case:
    """How a method stands in the contract suite; each tests/methods/test_NAME.py has one, `CASE`.

    Args:
        method: the method with settings under which it acts within six updates of the fixture.
        accumulates: True where k micro-batches equal one batch (without batch normalisation and
            dropout), or the reason why not.
        trains: False where it does not change training (an observer).
        judged: True where it changes what is judged.
        processes: with which settings several processes equal one on the same global batches
            (without batch normalisation and dropout), or the reason why none do; None for what
            `accumulates` says of the method as it is.
        neutral: changes to `make_run` under which the neutral form is compared.
    """

    method: Method
    accumulates: bool | str = True
    trains: bool = True
    judged: bool = False
    processes: Method | str | None = None
    neutral: dict[str, Any] = field(default_factory=dict)

    @property
    def in_processes(self) -> Method | str:
        """The method that several processes train as one does, or why there is none."""
        if self.processes is not None:
            return self.processes
        return self.method if self.accumulates is True else str(self.accumulates)
