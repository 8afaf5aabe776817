"""What whet raises for a user's mistake: every message names the thing and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WhetError(Exception):
    """A mistake that the user can mend; the command line prints it without a traceback."""


class InputError(WhetError, ValueError):
    """Data, a setting or a file is not what it should be."""


class UnknownName(InputError):
    """A name that nothing answers to; the message lists the closest ones.

    >>> print(UnknownName("method", "emma", ["ema", "sam"]))
    unknown method 'emma'; did you mean 'ema'? There are: ema, sam
    """

    def __init__(self, kind: str, name: str, candidates: Iterable[str]) -> None:
        known = sorted(candidates)
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        guess = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
        there = ", ".join(known) if known else "none"
        super().__init__(f"unknown {kind} {name!r}{guess} There are: {there}")
        self.kind, self.name, self.candidates = kind, name, known


class Clash(WhetError):
    """Two methods that cannot stand in one training step, or an order that is a cycle."""


class NotApplicable(WhetError):
    """A method has nothing to work on in this model, data or task."""

    def __init__(self, method: str, reason: str) -> None:
        super().__init__(f"{method} does not apply: {reason}")
        self.method, self.reason = method, reason


class NonFiniteLoss(WhetError):
    """The loss became NaN or infinite; names the step and the rows."""


class CheckpointError(WhetError):
    """A checkpoint is damaged, or belongs to another recipe."""
