"""What a model is trained with: a recipe's file, or methods in the task's own stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet import code_files, composition, sources
from whet.errors import InputError, WhetError
from whet.fit.request import Request
from whet.methods import catalogue
from whet.run import Run
from whet.sources import Source
from whet.stage import Recipe, Stage
from whet.study import arms
from whet.task import Task

EXAMPLE = 'recipe = whet.Stage(updates=300, methods=["ema"])'


def made(request: Request, source: Source, **run: Any) -> tuple[list[dict[str, Any]] | None, Run]:
    """The run that is asked for, and the settings of its methods where no recipe has them.

    Raises:
        WhetError: a mistake in the task, the recipe or the methods; nothing was trained.
    """
    run = {"device": request.device, "precision": request.precision, **run}
    if request.recipe is None:
        given = _methods(request, source)
        return composition.compose(
            source, given, request.seed, updates=request.updates, epochs=request.epochs, needs=(),
            start=request.start, **run,
        )  # fmt: skip
    task = source.task(request.seed, needs=(), start=request.start)
    seed = sources.seed_of(request.seed, request.start)
    begun = Run(task, load(request.recipe, task, request.seed), seed, **run)
    begun.stack.open()  # what does not apply is said now
    return None, begun


def _methods(request: Request, source: Source) -> list[Mapping[str, Any]]:
    if request.methods is None:
        return []
    found = arms.parse(request.methods, catalogue(), source.about.settings)
    return [settings for arm in found for settings in arm.methods]


def load(path: Path, task: Task, seed: int) -> Recipe | Stage:
    """The recipe that a file defines: a Recipe or a Stage, or a function that makes it for a task.

    Raises:
        InputError: there is no such file, it defines no `recipe`, or its code raised.
    """
    remedy = f"A recipe is a Python file that holds a line such as `{EXAMPLE}`."
    module = code_files.imported(path, remedy)
    if not hasattr(module, "recipe"):
        raise InputError(
            f"{path} defines no `recipe`; functions in it: {code_files.functions(module)}. Let it "
            f"hold a line such as `{EXAMPLE}`, or a function `recipe(task)` that returns one."
        )
    found, what = module.recipe, "recipe"
    if callable(found):
        found, what = _called(found, path, task, seed), "recipe(task)"
    if not isinstance(found, Recipe | Stage):
        raise InputError(
            f"{what} of {path} is a {type(found).__name__}; make it a whet.Stage, or a "
            f"whet.Recipe of several: `{EXAMPLE}`."
        )
    return found


def _called(make: Any, path: Path, task: Task, seed: int) -> Any:
    with sources.seeded(seed):
        try:
            return make(task)
        except WhetError:
            raise
        except Exception as error:
            raise InputError(code_files.told("recipe(task)", path, error)) from error
