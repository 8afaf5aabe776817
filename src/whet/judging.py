"""What is judged: the model under the weights and buffers that the active methods put in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from whet import modes, nesting
from whet.method import Method
from whet.predict import ModelPredictor, Predictor
from whet.training import Training


@contextmanager
def evaluating(run: Training, active: Sequence[Method]) -> Iterator[None]:
    """Evaluation mode under the weights and buffers that are judged; undone on exit.

    Within another such `with` nothing changes: what is judged stands already.
    """
    if run.judging:
        yield
        return
    with ExitStack() as stack:
        run.judging = True
        stack.callback(_end, run)
        stack.enter_context(modes.evaluation_mode(run.module))
        for method in active:
            if nesting.overrides(method, "evaluating"):
                stack.enter_context(method.evaluating(run))
                run.views.append(method.view)
        yield


def _end(run: Training) -> None:
    run.judging = False
    run.views.clear()


def predictor(run: Training, active: Sequence[Method]) -> Predictor:
    """What is judged and exported: a copy that later training does not touch."""

    def plain() -> Predictor:
        with run.evaluating():
            return ModelPredictor.capture(run)

    call: Callable[[], Predictor] = plain
    for method in reversed(active):
        if nesting.overrides(method, "predictor"):
            call = partial(method.predictor, run, call)
    return call()
