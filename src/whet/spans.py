"""Spans: which methods take part at which update of a stage."""

from __future__ import annotations

import math
from collections.abc import Sequence

from whet.errors import InputError
from whet.method import Method

NEVER = 1 << 62


def check(methods: Sequence[Method], total: int | None) -> None:
    """Refuse spans of a stage whose length nobody knows, or that hold no update of it."""
    partial = [m for m in methods if m.span != (0.0, 1.0)]
    if partial and total is None:
        raise InputError(
            f"{', '.join(map(_told, partial))} takes part in a fraction of training, so the stack "
            f"must know its length: pass updates=N to Stack, or {partial[0].key}.during(0, 1)."
        )
    for method in partial:
        enters, leaves = cuts(method, total)
        if enters >= min(leaves, total or 0):
            raise InputError(
                f"{method!r} takes part in no update: the stage has only {total}. Widen the span, "
                "or train longer."
            )


def _told(method: Method) -> str:
    a, b = method.span
    return f"{method.key} ({a:g} to {b:g}{', its default' * (method.span == type(method).span)})"


def cuts(method: Method, total: int | None) -> tuple[int, int]:
    """The updates at which a method enters and leaves; one that ends at 1.0 never leaves."""
    a, b = method.span
    endless = total is None or b == 1.0
    return cut(a, total or 0), NEVER if endless else cut(b, total or 0)


def cut(fraction: float, total: int) -> int:
    """floor(fraction x total), where 0.29 x 100 is 29 and not what floating point makes of it."""
    return math.floor(fraction * total + 1e-9)


def current(methods: Sequence[Method], total: int | None, updates: int) -> tuple[list[Method], int]:
    """The methods that take part after so many updates, and the update at which that changes."""
    spans = [(method, *cuts(method, total)) for method in methods]
    ahead = (at for _, a, b in spans for at in (a, b) if at > updates)
    return [method for method, a, b in spans if a <= updates < b], min(ahead, default=NEVER)
