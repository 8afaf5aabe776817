"""Early stopping: a stage ends when evaluations bring nothing better, and its best is judged."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from whet import modes, settings
from whet.errors import InputError, UnknownName

if TYPE_CHECKING:
    from whet.run import Run


@dataclass(frozen=True)
class EarlyStopping:
    """When a stage ends before its length is reached.

    Args:
        patience: it ends when so many evaluations in a row brought nothing better, from 1.
        least: what counts as better: more than so much above the best so far.
        restore: judge, and hand over as `evaluation`, what the best evaluation judged, also where
            the stage reached its length; else what stands at the end.
    """

    patience: int = settings.number(5, 1, whole=True)
    least: float = settings.number(0.0, 0.0, open_high=True)
    restore: bool = True

    def __post_init__(self) -> None:
        settings.check(self, "early_stopping")


def settled(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """All settings of early stopping, checked; None where there is none.

    Raises:
        InputError, UnknownName: a setting out of its range, or of another name.

    >>> settled({"patience": 3})
    {'patience': 3, 'least': 0.0, 'restore': True}
    """
    if given is None:
        return None
    known = [field.name for field in settings.fields(EarlyStopping)]
    if not isinstance(given, Mapping):
        raise InputError(f'early_stopping is {given!r}; give settings such as {{"patience": 5}}.')
    for name in given:
        if name not in known:
            raise UnknownName("setting of early_stopping", str(name), known)
    return asdict(EarlyStopping(**given))


def check_sharded(rules: Mapping[str, Any] | None) -> None:
    """Refuse to keep the best weights of a model of which each process holds a part."""
    if rules is not None and rules["restore"]:
        raise InputError(
            "early stopping keeps a copy of the best weights, and with strategy='fsdp' no process "
            "holds them whole: give early_stopping={\"restore\": False}, or use strategy='ddp'."
        )


class Patience:
    """What a stage's evaluations brought so far, and a copy of where the best one was made.

    The copy is of weights, buffers and the methods' states. Training goes on untouched by it: the
    best is a view, for what is judged once the stage is over, so that a run may still be resumed,
    or made longer.
    """

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        self.rules = None if given is None else EarlyStopping(**given)
        self.best, self.waited = -math.inf, 0
        self.kept: dict[str, Any] | None = None
        self.ended = False

    def evaluated(self, run: Run) -> None:
        """The select part gave `run.stack.run.latest`, of which more is better."""
        score = run.stack.run.latest
        if self.rules is None or score is None:
            return
        if score > self.best + self.rules.least:
            self.best, self.waited = score, 0
            self.kept = _here(run) if self.rules.restore else None
        else:  # a NaN is never better
            self.waited += 1
        if self.waited >= self.rules.patience:
            run.stack.run.stopped = True

    def conclude(self, run: Run) -> None:
        """The evaluation that ends a stage is made; from here on its best is judged."""
        self.ended = run.stack.run.over
        if self.rules is not None and self.waited >= self.rules.patience:
            run.notes.append(
                f"the stage stopped early, after {run.stack.run.updates} updates: the last "
                f"{self.waited} evaluations brought nothing better."
            )

    @contextmanager
    def standing_at_best(self, run: Run) -> Iterator[bool]:
        """Within, a run whose stage is over stands where its best evaluation was made.

        Gives whether that is elsewhere than where it stood.
        """
        judging = run.stack.run.judging  # then what is judged stands there already
        if judging or not self.ended or self.kept is None or self.waited == 0:
            yield False
            return
        now, self.ended = _here(run), False  # what is judged within judges what stands there
        try:
            _put(run, self.kept)
            yield True
        finally:
            _put(run, now)
            self.ended = True

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state_dict` goes on."""
        best = None if self.best == -math.inf else self.best
        return {"best": best, "waited": self.waited, "ended": self.ended, "kept": self.kept}

    def load_state_dict(self, state: Mapping[str, Any], run: Run) -> None:
        """Go on from a state, of a run that has its own already."""
        self.best = -math.inf if state["best"] is None else state["best"]
        self.waited, self.kept = state["waited"], state["kept"]
        self.ended = state["ended"] and run.stack.run.over  # it may have been made longer


def _here(run: Run) -> dict[str, Any]:
    state = {"model": run.module.state_dict(), "stack": run.stack.state_dict()}
    return copy.deepcopy(state)


def _put(run: Run, state: Mapping[str, Any]) -> None:
    given = copy.deepcopy(state)  # methods may keep the tensors that they are given
    modes.load_state(run.module, given["model"])
    with modes.training_mode(run.module, run.frozen.modules):  # methods begin anew, and look at it
        run.stack.load_state_dict(given["stack"])
