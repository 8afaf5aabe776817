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
        neutral: changes to `make_run` under which the neutral form is compared.
    """

    method: Method
    accumulates: bool | str = True
    trains: bool = True
    judged: bool = False
    neutral: dict[str, Any] = field(default_factory=dict)
