"""Methods that only look on, riding on a training that does without them.

EMA, SWA at the schedule's rates and precise batch statistics change nothing in the training: what
they would judge can be had beside it, for their own cost alone. A rider is told of every update as
a method in the stack is, keeps its state in the run's checkpoints, and judges by its own weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from whet import evaluation, judging, nesting, optim, spans
from whet.callback import Callback
from whet.errors import NotApplicable, WhetError
from whet.method import Method
from whet.predict import Predictor
from whet.training import Training

if TYPE_CHECKING:
    from whet.run import Run

LOOKING = ("evaluated", "predictor")  # moments in which a method sees what is judged


def carries(methods: Sequence[Method]) -> bool:
    """Whether a training with these methods is the same whatever rides on it.

    One that looks at what is judged while it trains (Snapshot) would see the riders' weights.
    """
    return not any(nesting.overrides(m, moment) for m in methods for moment in LOOKING)


class Rider(Callback):
    """Observers on a run of somebody else; what they judge is what their own run would have.

    Args:
        key: tells riders of one run apart; the name of their state in a checkpoint.
        methods: observers, and nothing else.
        stage: number of the stage that they ride on.
        companions: names of methods among them that are left out where they do not apply.
    """

    def __init__(
        self, key: str, methods: Sequence[Method], stage: int = 0, companions: Iterable[str] = ()
    ) -> None:
        self.key, self.methods, self.stage = key, [m.clone() for m in methods], stage
        self.companions = frozenset(companions)
        self.history: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        self.rides = self.missed = False
        self._active: list[Method] = []
        self._next, self._epoch = spans.NEVER, 0

    # the run tells ---------------------------------------------------------------------------
    def began(self, run: Run) -> None:
        if run.stage_number == self.stage and not self.rides:
            # nobody kept what came before, or the training goes by what it judges itself
            self.missed = run.stack.run.updates > 0 or _goes_by_metrics(run)
            if not self.missed:
                self._enter(run)

    def entered(self, run: Run) -> None:
        self.began(run)

    def updated(self, run: Run) -> None:
        if not self._on(run):
            return
        began, training = time.perf_counter(), run.stack.run
        for method in self._active:
            method.after_update(training)
        if training.updates >= self._next:
            self._activate(run)
        if training.epoch > self._epoch:
            self._epoch = training.epoch
            for method in self._active:
                method.end_epoch(training)
        self.seconds.append(time.perf_counter() - began)

    def evaluated(self, run: Run, metrics: Mapping[str, float]) -> None:
        if run.stage_number < self.stage:  # the training is the same, and so is what is judged
            self.history.append({"update": run.updates, "metrics": dict(metrics)})
        elif self._on(run):
            judged = self.predictor(run), run.batches("select"), run.task.metrics
            found = evaluation.evaluate(*judged)
            for method in self._active:
                method.evaluated(run.stack.run, found)
            self.history.append({"update": run.updates, "metrics": found})

    def state_dict(self) -> dict[str, Any]:
        states = {method.key: method.state_dict() for method in self._active}
        return {
            "rides": self.rides, "missed": self.missed, "states": states, "history": self.history
        }  # fmt: skip

    def resumed(self, run: Run, state: Mapping[str, Any] | None) -> None:
        if state is None:
            return
        self.missed, self.history = bool(state["missed"]), list(state["history"])
        if state["rides"] and run.stage_number == self.stage:
            self._enter(run)
            for method in self._active:
                if method.key in state["states"]:
                    method.load_state_dict(state["states"][method.key])

    # what is judged --------------------------------------------------------------------------
    def predictor(self, run: Run) -> Predictor:
        """What a run with these methods in its stack would judge and export."""
        training = run.stack.run
        run.stack.settle()
        with self._judged(run):
            return judging.predictor(training, self._beside(run))

    def explain(self, run: Run) -> str:
        """The nesting that such a run would have."""
        return nesting.explain(run.stack.objective, [*run.stack.methods, *self.methods])

    # the rest --------------------------------------------------------------------------------
    def _on(self, run: Run) -> bool:
        return self.rides and not self.missed and run.stage_number == self.stage

    def _enter(self, run: Run) -> None:
        self._epoch = run.stack.run.epoch
        try:
            with self._known(run):
                self.methods = [m for m in self.methods if self._applies(m, run.stack.run)]
            self._activate(run)
            self.rides = True
        except WhetError:
            self.missed = True  # why, its own run will say

    def _applies(self, method: Method, training: Training) -> bool:
        try:
            method.build(training)
            return True
        except NotApplicable:
            if method.name in self.companions:
                return False
            raise

    def _activate(self, run: Run) -> None:
        training, before = run.stack.run, self._active
        self._active, self._next = spans.current(self.methods, training.total, training.updates)
        with self._known(run):
            for method in self._active:
                if method not in before:
                    method.start(training)

    def _beside(self, run: Run) -> list[Method]:
        """The methods of the run that act now, and these, as they nest."""
        training = run.stack.run
        here = spans.current(run.stack.methods, training.total, training.updates)[0]
        return nesting.arrange([*here, *self._active])

    @contextmanager
    def _known(self, run: Run) -> Iterator[None]:
        """While methods begin they see each other beside those of the run."""
        training = run.stack.run
        kept, training.beside = training.beside, [*run.stack.methods, *self.methods]
        try:
            yield
        finally:
            training.beside = kept

    @contextmanager
    def _judged(self, run: Run) -> Iterator[None]:
        training = run.stack.run
        kept, methods = training.evaluating, self._beside(run)
        training.evaluating = lambda: judging.evaluating(training, methods)
        try:
            yield
        finally:
            training.evaluating = kept


def _goes_by_metrics(run: Run) -> bool:
    waits = isinstance(run.stack.run.scheduler, optim.Plateau)
    return waits or run.stage.early_stopping is not None
