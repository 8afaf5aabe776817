"""A training as a task's own settings have it: its length and optimizer, and methods beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from whet import methods, nesting, optim, sources
from whet.errors import InputError, NotApplicable
from whet.loading import open_loader
from whet.method import Method
from whet.run import Run
from whet.sources import PARTS, Source
from whet.stage import Recipe, Stage
from whet.task import Task
from whet.tasks import About

FINE = 0.1  # of the rate: what fine-tuning begins from
PASSES, FEWEST = 10, 300  # passes over the data, and updates, where the task says neither
Settings = Mapping[str, Any]


def compose(
    source: Source, given: Sequence[Settings], seed: int, *, updates: int | None = None,
    epochs: float | None = None, needs: Sequence[str] = PARTS,
    after: Sequence[Settings] | None = None, share: float = 0.25, start: int = 0, **run: Any,
) -> tuple[list[dict[str, Any]], Run]:  # fmt: skip
    """A run of a task with methods, and the companions that these must not stand without.

    A companion that does not apply, such as PreciseBN where there is no batch normalisation, is
    left out.

    Args:
        source: the task.
        given: settings of the methods.
        seed: of the task and the run.
        updates: length in updates, where it is not the task's own; or `epochs`.
        epochs: length in passes over the training data.
        needs: parts that the task must have.
        after: settings of the methods of a stage of fine-tuning that follows; None has none.
        share: of the length: how long that stage is.
        start: which initial weights, as `Source.task` has it; order and noise are others too.
        run: what else `Run` takes.

    Raises:
        NotApplicable, Clash, InputError: the methods cannot stand in this training.
    """
    extra, later = companions(given), None
    if after is not None:  # which of its companions apply shows in a run of its own
        beside = {name: value for name, value in run.items() if name not in ("folder", "callbacks")}
        later, _ = compose(
            source, after, seed, updates=updates, epochs=epochs, needs=needs, start=start, **beside
        )
    while True:
        every = [*map(dict, given), *extra]
        task = source.task(seed, needs, start)
        stages = [stage_of(source.about, task, every, updates, epochs)]
        if later is not None:
            stages.append(_fine(source.about, task, stages[0], later, share))
        try:
            made = Run(task, Recipe(stages), sources.seed_of(seed, start), **run)
            made.stack.open()
        except NotApplicable as error:
            if error.method not in [each["name"] for each in extra]:
                raise
            extra = [each for each in extra if each["name"] != error.method]
        else:
            return [*every, *(later or ())], made


def companions(given: Sequence[Settings]) -> list[dict[str, Any]]:
    """What must stand beside the methods where it applies, and does not yet; as long as they do.

    No longer: what precedes is then the same as without them, and can be shared.

    >>> companions([{"name": "swa"}]), companions([{"name": "swa", "during": [0.5, 1.0]}])
    ([{'name': 'precise_bn'}], [{'name': 'precise_bn', 'during': [0.5, 1.0]}])
    """
    names = {str(each["name"]) for each in given}
    ends: dict[str, list[float]] = {}
    for each in given:
        for one in methods.registry()[str(each["name"])].companions - names:
            ends.setdefault(one, []).extend(methods.span(each))
    return [
        methods.spanning({"name": name}, min(those), max(those))
        for name, those in sorted(ends.items())
    ]


def _fine(
    about: About, task: Task, before: Stage, given: Sequence[Settings], share: float
) -> Stage:
    """The stage of fine-tuning that follows: a share of the one before, at a tenth of its rate."""
    stage = stage_of(about, task, given, fine_length(updates_of(before, task), share))
    return replace(stage, schedule=schedule_of(about, [*map(methods.make, given)], fine=True))


def fine_length(updates: int, share: float) -> int:
    """The updates of a stage of fine-tuning that is a share of the one before."""
    return max(1, round(share * updates))


def fine_schedule(schedule: Any) -> dict[str, Any]:
    """The same shape at a tenth of the rate, without warm-up.

    Raises:
        InputError: it is a function, whose rate only itself can lower.

    >>> fine_schedule("cosine")
    {'name': 'cosine', 'warmup': 0.0, 'peak': 0.1}
    """
    if callable(schedule):
        raise InputError(
            "a stage of fine-tuning goes at a tenth of the rate, and the schedule is a function, "
            f"{optim.schedule_name(schedule).removeprefix('the function ')}, whose rates it alone "
            'knows. Name the schedule in ABOUT, as {"name": "cosine", "warmup": 0.1}.'
        )
    named = schedule if isinstance(schedule, Mapping) else {"name": schedule or "constant"}
    return {**named, "warmup": 0.0, "peak": FINE}


def stage_of(
    about: About, task: Task, given: Sequence[Settings], updates: int | None = None,
    epochs: float | None = None,
) -> Stage:  # fmt: skip
    """The task's own stage with methods in it."""
    made = [methods.make(each) for each in given]
    if updates is None and epochs is None:
        updates = length(about, task)
    return Stage(
        updates=updates, epochs=epochs, methods=made, batch_size=about.batch_size,
        accumulate=about.accumulate, optimizer=about.optimizer,
        schedule=schedule_of(about, made),
    )  # fmt: skip


def schedule_of(about: About, given: Sequence[Method], fine: bool = False) -> Any:
    """The task's schedule, or a fine-tuning's; none where a method of the arm brings one."""
    if any(nesting.brings_schedule(method) for method in given):
        return None
    return fine_schedule(about.schedule) if fine else about.schedule


def length(about: About, task: Task) -> int:
    """The updates of one training, as the task has it."""
    if about.updates is not None:
        return about.updates
    stage = Stage(
        epochs=about.epochs or PASSES, accumulate=about.accumulate, batch_size=about.batch_size
    )
    found = updates_of(stage, task)
    return found if about.epochs is not None else max(FEWEST, found)


def updates_of(stage: Stage, task: Task) -> int:
    """The updates of a stage on a task's data."""
    if stage.updates is not None:
        return stage.updates
    data = task.train if stage.data is None else stage.data
    loader = open_loader(data, stage.batch_size, drop_last=stage.drop_last, collate=task.collate)
    return stage.length(loader.batches)


def whole_length(recipe: Recipe, task: Task) -> int:
    """The updates of all stages of a recipe."""
    return sum(updates_of(stage, task) for stage in recipe.stages)
