"""Who is told how a run goes: displays, logs, a user's own curiosity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whet.run import Run


class Callback:
    """Told how a run goes; overrides what it wants to know. It changes nothing in the training.

    What trains is a Method; a callback that draws random numbers or touches weights breaks the
    promise that a run resumes to the bit.

    Of several processes the first one alone has callbacks, so that none may wait for the others:
    there `run.evaluate`, `run.save`, `run.predictor` and `run.state_dict` are errors in a callback.

    `run.stack.loss` and `run.stack.terms` wait for an accelerator: a callback that reads them at
    every update slows training there.

    >>> class Losses(Callback):
    ...     def __init__(self):
    ...         self.seen = []
    ...     def updated(self, run):
    ...         if run.updates % 50 == 0:
    ...             self.seen.append(run.stack.loss)
    """

    key: str | None = None  # names its state in checkpoints; None keeps none

    def began(self, run: Run) -> None:
        """`fit` was called."""

    def entered(self, run: Run) -> None:
        """A later stage begins, with a stack and an optimizer of its own."""

    def updated(self, run: Run) -> None:
        """An update happened."""

    def evaluated(self, run: Run, metrics: Mapping[str, float]) -> None:
        """The select part was evaluated."""

    def saved(self, run: Run, place: Path) -> None:
        """A checkpoint was written."""

    def ended(self, run: Run, error: BaseException | None) -> None:
        """`fit` ends; with what it raised, if it did."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that a checkpoint keeps, where the callback has a key."""
        return {}

    def resumed(self, run: Run, state: Mapping[str, Any] | None) -> None:
        """The run goes on from a checkpoint; with what it kept of this callback, if it did."""


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


def tell(run: Run, moment: str, *about: Any) -> None:
    """Tell the callbacks, which the first process alone has."""
    with run.world.aside() if run.world.size > 1 else nullcontext():
        for callback in run.callbacks:
            getattr(callback, moment)(run, *about)


@contextmanager
def telling(run: Run) -> Iterator[None]:
    """Tell the callbacks that a run begins and, however it comes to it, that it ends.

    Each that was told of the beginning is told of the end, the last one first, also where another
    one's raises.
    """
    with ExitStack() as endings:
        for callback in run.callbacks:
            with run.world.aside():
                callback.began(run)
            endings.push(_ending(callback, run))
        yield


def _ending(callback: Callback, run: Run) -> Callable[..., None]:
    def end(kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        with run.world.aside():
            callback.ended(run, error)

    return end
