"""A training as a task's own settings have it: its length and optimizer, and methods beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from whet import methods, nesting
from whet.errors import NotApplicable
from whet.loading import open_loader
from whet.run import Run
from whet.sources import PARTS, Source
from whet.stage import Recipe, Stage
from whet.task import Task
from whet.tasks import About

PASSES, FEWEST = 10, 300  # passes over the data, and updates, where the task says neither
Settings = Mapping[str, Any]


def compose(
    source: Source, given: Sequence[Settings], seed: int, *, updates: int | None = None,
    epochs: float | None = None, needs: Sequence[str] = PARTS, **run: Any,
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
        run: what else `Run` takes.

    Raises:
        NotApplicable, Clash, InputError: the methods cannot stand in this training.
    """
    extra = companions(given)
    while True:
        every = [*map(dict, given), *({"name": name} for name in extra)]
        task = source.task(seed, needs)
        stage = stage_of(source.about, task, every, updates, epochs)
        try:
            made = Run(task, stage, seed, **run)
            made.stack.open()
        except NotApplicable as error:
            if error.method not in extra:
                raise
            extra.remove(error.method)
        else:
            return every, made


def companions(given: Sequence[Settings]) -> list[str]:
    """What must stand beside the methods where it applies, and does not yet.

    >>> companions([{"name": "swa"}])
    ['precise_bn']
    """
    names = {str(each["name"]) for each in given}
    wanted = {one for name in names for one in methods.registry()[name].companions}
    return sorted(wanted - names)


def stage_of(
    about: About, task: Task, given: Sequence[Settings], updates: int | None = None,
    epochs: float | None = None,
) -> Stage:  # fmt: skip
    """The task's own stage with methods in it."""
    made = [methods.make(each) for each in given]
    # a method that owns the learning rate brings its own schedule; that is part of its arm
    owned = any(nesting.brings_schedule(method) for method in made)
    if updates is None and epochs is None:
        updates = length(about, task)
    return Stage(
        updates=updates, epochs=epochs, methods=made, batch_size=about.batch_size,
        accumulate=about.accumulate, optimizer=about.optimizer,
        schedule=None if owned else about.schedule,
    )  # fmt: skip


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
