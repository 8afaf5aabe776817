"""What whet raises for a user's mistake: every message names the thing and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from typing import Any, Self


class WhetError(Exception):
    """A mistake that the user can mend; the command line prints it without a traceback.

    Its note, which a traceback shows below the message, is the page that explains this kind.

    >>> WhetError.page().rpartition("/")[2]
    'errors.html#wheterror'
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Noted here and not in the constructor, which subclasses override."""
        error = super().__new__(cls, *args, **kwargs)
        page = cls.page()
        if page is not None:
            error.add_note(f"more: {page}")
        return error

    @classmethod
    def page(cls) -> str | None:
        """The address that explains this kind, or whet's nearest above it; None without a site."""
        address = site()
        known = next(kind for kind in cls.__mro__ if kind.__module__.partition(".")[0] == "whet")
        return None if address is None else f"{address}errors.html#{known.__name__.lower()}"

    def __reduce__(self) -> tuple[Any, ...]:
        """By the message: constructors take other arguments, and processes exchange errors."""
        return _again, (type(self), self.args), self.__dict__


def _again(kind: type[WhetError], args: tuple[Any, ...]) -> WhetError:
    return kind.__new__(kind, *args)


@cache
def site() -> str | None:
    """Where the documentation is published: the package's own metadata, from pyproject.toml."""
    try:
        found = metadata.metadata("whet").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return None  # run from the sources without an installation
    urls = dict(line.split(", ", 1) for line in found)
    address = urls.get("Documentation")
    return None if address is None else f"{address.rstrip('/')}/"


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


class MissingResource(NotApplicable, UnknownName):
    """A method needs a resource that the task does not give.

    >>> MissingResource("distillation", "teacher", ["techer"]).reason.partition(") ")[2]
    "'teacher'; did you mean 'techer'? There are: techer"
    """

    def __init__(self, method: str, name: str, candidates: Iterable[str]) -> None:
        kind = f"resource (needed by {method}; give it by resources={{{name!r}: ...}})"
        UnknownName.__init__(self, kind, name, candidates)
        self.method, self.reason = method, str(self)


class NonFiniteLoss(WhetError):
    """The loss became NaN or infinite; names the step and the rows."""


class CheckpointError(WhetError):
    """A checkpoint is damaged, or belongs to another recipe."""
