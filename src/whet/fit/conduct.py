"""A fit from what was asked for to a model in its folder; the same request again continues it."""

from __future__ import annotations

import datetime
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet import composition, description, evaluation, optim, sources
from whet.callback import Callback
from whet.errors import CheckpointError
from whet.fit import recipes
from whet.fit.folder import ALONE, ANEW, Folder
from whet.fit.request import Request
from whet.methods import registry
from whet.run import Run
from whet.sources import Source
from whet.stopping import Terminated
from whet.study import identity
from whet.world import LAUNCHED

BATCH = 256
EVALUATIONS = 10  # of the select part in the course of a training
PARTS = ("select", "judge")


@dataclass(frozen=True)
class Fitted:
    """A model that was trained.

    Args:
        folder: where it is.
        about: what `fit.json` tells of it.
        model: the file.
        leads: whether this process wrote it, of several that trained together.
    """

    folder: Path
    about: dict[str, Any]
    model: Path
    leads: bool


def fit(request: Request, callbacks: Sequence[Callback] = ()) -> Fitted:
    """Train once and write the model; goes on where an earlier call was stopped.

    Args:
        request: what is asked for.
        callbacks: told of the training.

    Raises:
        InputError: the request, the task or the recipe has a mistake, or the folder holds
            something else.
        KeyboardInterrupt, Terminated: it was stopped; the same call goes on.
    """
    request.check()
    source = sources.load(request.task, request.file)
    folder = Folder(request.folder)
    with folder.held() if leads() else nullcontext():
        told, run = _begun(request, source, folder)
        run.callbacks += callbacks
        run.evaluate_every = max(1, composition.whole_length(run.recipe, run.task) // EVALUATIONS)
        with _interruptible(run):
            run.fit()
        told |= _judged(run, folder)
        if leads():
            folder.write({**told, "status": "done"})
    return Fitted(request.folder, told, folder.model, leads())


def leads() -> bool:
    """Whether this process writes; under torchrun the first one alone does."""
    return LAUNCHED not in os.environ or int(os.environ["RANK"]) == 0


def identified(request: Request, source: Source, kind: str = ALONE) -> dict[str, Any]:
    """What may not differ where a training goes on from files, as far as it is known before."""
    name = "" if request.file else source.name
    return {
        "task": source.name, "kind": kind, "seed": request.seed, "start": request.start,
        "precision": request.precision,
        "code": identity.code_of(registry(), name, request.file),
    }  # fmt: skip


def _begun(request: Request, source: Source, folder: Folder) -> tuple[dict[str, Any], Run]:
    """The run, which may stand where an earlier one was stopped, and what is known of its model.

    Only the process that writes looks at what is in the folder.
    """
    its = identified(request, source)
    if leads():
        folder.check_own()
        _free(request, source, folder, its)
    try:
        methods, run = recipes.made(request, source, folder=request.folder, log=request.log)
    except CheckpointError as error:
        error.add_note(f"of `whet fit`: {ANEW}")
        raise
    if request.start:
        sources.check_start(source, request.seed, run.task)
    its |= {"data": sources.fingerprint(run.task)}
    told = _about(request, source, run, methods, its)
    if leads():
        folder.claim(its)
        if not folder.model.exists():
            folder.write({**told, "status": "training"})
    return told, run


def _free(request: Request, source: Source, folder: Folder, its: dict[str, Any]) -> None:
    """See that nothing else was trained in the folder; `fresh` removes what was."""
    if not request.fresh:
        folder.claim(its)
        return
    alone = LAUNCHED not in os.environ  # several processes would have to make a run together
    if folder.trained() and alone:  # mistakes come up before anything is removed
        recipes.made(request, source, log=None)
    folder.clear()


def _about(
    request: Request, source: Source, run: Run, methods: list[dict[str, Any]] | None,
    its: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """What is known of a model before it is trained."""
    classes = run.task.classes
    return {
        "task": named(request, source) | {name: its[name] for name in ("code", "data")},
        "seed": request.seed, "start": request.start, "precision": request.precision,
        "batch_size": _evaluation_batch(run), "methods": methods,
        "recipe": description.describe(run.recipe), "explain": run.stack.explain(),
        "groups": optim.table(run.stack.optimizer, run.module),
        "classes": None if classes is None else [str(name) for name in classes],
        "versions": identity.versions(), "environment": run.manifest(),
        "date": datetime.date.today().isoformat(), "command": request.command,
    }  # fmt: skip


def named(request: Request, source: Source) -> dict[str, str | None]:
    """What a task is called, and its file; not where that lies."""
    title, file = source.about.title or source.name, request.file
    return {"name": source.name, "title": title, "file": None if file is None else file.name}


def _evaluation_batch(run: Run) -> int:
    """The rows of a batch in which `run` evaluates at its end: sums keep their order by it."""
    return max(run.recipe.stages[-1].batch_size, BATCH)


def _judged(run: Run, folder: Folder) -> dict[str, Any]:
    """Metrics of what is judged, which is then written."""
    predictor = run.predictor()
    metrics: dict[str, dict[str, float]] = {}
    for part in PARTS if predictor.family.name != "embedding" else ():
        if getattr(run.task, part) is not None:
            given = (predictor, run.batches(part), run.task.metrics, run.world)
            metrics[part] = evaluation.evaluate(*given)
    if leads():
        predictor.save(folder.model)
    kept = {"objective": predictor.family.name, "updates": run.updates}
    return kept | {"metrics": metrics, "explain": run.stack.explain(), "notes": list(run.notes)}


@contextmanager
def _interruptible(run: Run) -> Iterator[None]:
    """Ctrl-C ends the update in progress and leaves a checkpoint; a second one ends at once."""
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        run.keeper.asked.to_stop = True

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    except Terminated as stopped:
        if asked:
            raise KeyboardInterrupt(f"Stopped after update {run.updates}.") from stopped
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
