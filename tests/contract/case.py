"""What a method's test file tells the contract suite about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from whet.method import Method


@dataclass(frozen=True)
class Cost:
    """What a step over one batch of the fixture takes: passes, and memory beyond a plain step's.

    Args:
        forwards: of the model.
        backwards: through the model's output, those without gradients of weights included.
        rows: that are forwarded, in batches; None where each forward has the batch's rows.
        asked: forwards of other models: a teacher, a slow copy.
        kept: copies of the weights that are held from step to step.
        copies: of the weights, or of the table that is nearly all of them here, at most at a time.
        inputs: copies of the batch's inputs at most at a time, activations included; 1: fewer.
    """

    forwards: int = 1
    backwards: int = 1
    rows: int | None = None
    asked: int = 0
    kept: int = 0
    copies: int = 0
    inputs: int = 1


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
        cost: of a step; by default one forward, one backward, and no memory to speak of.
    """

    method: Method
    accumulates: bool | str = True
    trains: bool = True
    judged: bool = False
    processes: Method | str | None = None
    neutral: dict[str, Any] = field(default_factory=dict)
    cost: Cost = Cost()

    @property
    def in_processes(self) -> Method | str:
        """The method that several processes train as one does, or why there is none."""
        if self.processes is not None:
            return self.processes
        return self.method if self.accumulates is True else str(self.accumulates)
