"""Whose the optimizer's step is: in a host it is the host's."""

from __future__ import annotations

from collections.abc import Sequence

from whet import nesting
from whet.errors import InputError
from whet.method import Method


def check_step(methods: Sequence[Method], host: str) -> None:
    """Refuse methods that wrap the whole step.

    Raises:
        InputError: naming the method and the remedy.
    """
    for method in methods:
        if nesting.overrides(method, "step"):
            raise InputError(
                f"{method.key} wraps the optimizer's step, which {host} keeps to itself. Train "
                "with Run, or in a plain loop with stack.step(batches)."
            )
