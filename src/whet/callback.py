"""Who is told how a run goes: displays, logs, a user's own curiosity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whet.run import Run


class Callback:
    """Told how a run goes; overrides what it wants to know. It changes nothing in the training.

    What trains is a Method; a callback that draws random numbers or touches weights breaks the
    promise that a run resumes to the bit.

    >>> class Losses(Callback):
    ...     def __init__(self):
    ...         self.seen = []
    ...     def updated(self, run):
    ...         self.seen.append(run.stack.loss)
    """

    def began(self, run: Run) -> None:
        """`fit` was called."""

    def updated(self, run: Run) -> None:
        """An update happened."""

    def evaluated(self, run: Run, metrics: Mapping[str, float]) -> None:
        """The select part was evaluated."""

    def saved(self, run: Run, place: Path) -> None:
        """A checkpoint was written."""

    def ended(self, run: Run, error: BaseException | None) -> None:
        """`fit` ends; with what it raised, if it did."""


class AfterUpdate(Callback):
    """A plain function, called with the run after each update."""

    def __init__(self, function: Callable[[Run], object]) -> None:
        self.function = function

    def updated(self, run: Run) -> None:
        self.function(run)


CallbackLike = Callback | Callable[["Run"], object]


def made(given: Iterable[CallbackLike]) -> list[Callback]:
    """Callbacks, where plain functions stand for what is called after each update."""
    return [each if isinstance(each, Callback) else AfterUpdate(each) for each in given]


@contextmanager
def telling(run: Run) -> Iterator[None]:
    """Tell the callbacks that a run begins and, however it comes to it, that it ends."""
    for callback in run.callbacks:
        callback.began(run)
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        for callback in run.callbacks:
            callback.ended(run, error)
