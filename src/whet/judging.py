"""What is judged: the model under the weights and buffers that the active methods put in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from whet import metrics as measures
from whet import modes, nesting, objectives, optim
from whet.errors import InputError
from whet.method import Method
from whet.objectives import Objective
from whet.predict import LivePredictor, ModelPredictor, Predictor
from whet.training import Training

if TYPE_CHECKING:
    from whet.run import Run
    from whet.stage import Stage
    from whet.task import Task


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
        modes.forget_casts()
        yield


def can_judge(task: Task, objective: Objective) -> bool:
    """Whether the select part says anything while a stage trains with this objective.

    The task's parts are judged by the task's kind of target; a stage that pre-trains with another
    kind, or without targets, has nothing to be judged by.
    """
    here = objective.family.name
    same = here == objectives.make(task.objective).family.name
    return task.select is not None and same and here != "embedding"


def judged(run: Run, metrics: Mapping[str, float]) -> None:
    """Tell methods and schedule what the select part gave."""
    name = run.stack.objective.family.name
    first = measures.resolve(run.task.metrics or measures.defaults(name), name)[0]
    value = metrics[first.name]
    run.stack.run.latest = value if first.higher_is_better else -value
    run.stack.evaluated(metrics)
    if isinstance(run.stack.run.scheduler, optim.Plateau):
        run.stack.run.scheduler.evaluated(run.stack.run.latest)
    run.patience.evaluated(run)


def check_plateau(run: Run) -> None:
    """Refuse a schedule that waits for evaluations where there are none.

    Raises:
        InputError: the task has no select part that says anything, or nobody asked for evaluations.
    """
    if isinstance(run.stack.run.scheduler, optim.Plateau):
        _check_watched(run, "the schedule plateau", run.judges, "another schedule")


def check_early_stopping(run: Run) -> None:
    """Refuse, before anything is trained, stages that wait for evaluations where there are none.

    Raises:
        InputError: as for a schedule.
    """
    for stage in run.recipe.stages[run.stage_number :]:
        if stage.early_stopping is not None:
            judges = can_judge(run.task, _objective(run, stage))
            _check_watched(run, "early stopping", judges, "a stage without early_stopping")


def _check_watched(run: Run, who: str, judges: bool, instead: str) -> None:
    if not judges:
        raise InputError(
            f"{who} goes by the select part, and this stage has none that tells anything: give "
            f"Task(select=...), or {instead}."
        )
    if run.evaluate_every is None:
        raise InputError(
            f"{who} goes by evaluations in the course of training: give Run(evaluate_every=N)."
        )


def _objective(run: Run, stage: Stage) -> Objective:
    return objectives.make(run.task.objective if stage.objective is None else stage.objective)


def resources(run: Run, stage: Stage) -> dict[str, Any]:
    """What the task gives methods, and its select part, where the stage learns its targets."""
    task = run.task
    judges = can_judge(task, _objective(run, stage))
    held = {"select": lambda: run.batches("select")} if judges else {}
    return {**held, **task.resources}


def _end(run: Training) -> None:
    run.judging = False
    run.views.clear()


def predictor(run: Training, active: Sequence[Method], live: bool = False) -> Predictor:
    """What is judged and exported: a copy that later training does not touch, unless it is live."""
    kind = LivePredictor if live else ModelPredictor

    def plain() -> Predictor:
        with run.evaluating():
            return kind.capture(run)

    call: Callable[[], Predictor] = plain
    for method in reversed(active):
        if nesting.overrides(method, "predictor"):
            call = partial(method.predictor, run, call)
    return call()
