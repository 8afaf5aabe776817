"""A run that begins where another one stands: up to there both were trained alike.

Everything random is a function of position, so that a run of another recipe, which would have come
to the very same state, may begin from it. Which recipes would is decided by their descriptions:
the stages and methods that have acted so far, and nothing of what lies ahead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet import checkpoint, description, spans
from whet.callback import Callback
from whet.errors import CheckpointError
from whet.method import Method
from whet.methods import registry, span

if TYPE_CHECKING:
    from whet.description import Description
    from whet.run import Run


def branch(run: Run, folder: Path) -> None:
    """Put a run that stands at its beginning where the newest whole checkpoint in a folder is.

    The state is read from the file, so that no branch shares a tensor with another. Methods that
    end there are left behind with their states; those that begin there start. An evaluation that is
    due at that update is the branch's own, since what it judges may be: see `Untold`.

    Raises:
        CheckpointError: there is none, or the run would have been trained otherwise up to there.
    """
    state, notes = checkpoint.newest(folder)
    if state is None:
        raise CheckpointError(f"there is no whole checkpoint in {folder} to begin from.")
    run.notes += notes
    run.load_state_dict(_as_if(run, state, folder))
    run.judge_if_due(ended=run.stack.run.over)


class Untold(Callback):
    """Ends a trunk at an update without evaluating there: each branch does that by itself."""

    def __init__(self, last: int) -> None:
        self.last = last

    def updated(self, run: Run) -> None:
        if run.updates == self.last:
            run.judges = False


def _as_if(run: Run, state: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The state as the run would have left it at that update, had it been trained by itself."""
    here, at = description.describe(run.recipe), state["stage"]
    stage = run.recipe.stages[min(at, len(run.recipe.stages) - 1)]
    total, updates = run.stack.run.total or 0, state["stack"]["position"]["updates"]
    found = description.changes(
        so_far(state["recipe"], at, updates, total), so_far(here, at, updates, total)
    )
    if found:
        told = "; ".join(map(str, found))
        raise CheckpointError(
            f"the checkpoint in {folder} was trained otherwise up to update {updates}: {told}. A "
            "branch may differ in what comes after."
        )
    methods = run.recipe.methods_of(stage)
    best = state["early_stopping"]
    if (kept := best["kept"]) is not None:
        best = {**best, "kept": {**kept, "stack": _of(methods, kept["stack"], total)}}
    stack = _of(methods, state["stack"], total)
    return {**state, "recipe": here, "stack": stack, "early_stopping": best}


def _of(methods: Sequence[Method], stack: Mapping[str, Any], total: int) -> dict[str, Any]:
    """A stack's state without what methods that are not these, or not active, left in it."""
    active = spans.current(methods, total, stack["position"]["updates"])[0]
    keys = {method.key for method in active}
    states = {key: value for key, value in stack["states"].items() if key in keys}
    return {**stack, "methods": [method.key for method in methods], "states": states}


def so_far(recipe: Description, at: int, updates: int, total: int) -> Description:
    """What a recipe has done when so many of a stage's `total` updates have happened.

    A method that has not begun is left out, and one that has not ended has no end yet, unless what
    it does depends on that.
    """
    stages = recipe["stages"][: at + 1]
    if at >= len(stages):
        return {"stages": stages}
    methods = {
        key: given | {"during": _open(key, given, updates, total)}
        for key, given in stages[at]["methods"].items()
        if spans.cut(span(given)[0], total) < updates
    }
    return {"stages": [*stages[:at], stages[at] | {"methods": methods}]}


def _open(key: str, given: Mapping[str, Any], updates: int, total: int) -> list[float]:
    a, b = span(given)
    ahead = spans.cut(b, total) >= updates and not registry()[key.partition(":")[0]].looks_ahead
    return [a, 1.0 if ahead else b]
