"""Members of an ensemble trained side by side, and made one model.

Each member is a model of its own in `members/NAME`, as `whet fit` writes one; the ensemble's folder
is a model's, too.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from whet import device as devices
from whet import ensembles, objectives, sources
from whet import metrics as measures
from whet.errors import InputError, WhetError
from whet.fit import conduct, member, recipes, saved
from whet.fit.ensemble import Ensemble
from whet.fit.folder import ABOUT, ENSEMBLE, MEMBERS, Folder
from whet.predict import MeanPredictor
from whet.sources import Source
from whet.study import display, identity, wording
from whet.study.executors.choice import Choice, choose
from whet.study.executors.executor import check_alone
from whet.study.plan import Node
from whet.study.schedule import schedule
from whet.study.store import Store
from whet.task import Task

KEPT = ("start", "methods", "recipe", "metrics", "updates")  # of a member's `fit.json`
ALIKE = (
    "every member begins from the same weights, for the task seeds them itself: members differ in "
    "the order of the rows and in noise alone."
)


def fit(asked: Ensemble, console: Console) -> dict[str, Any]:
    """Train the members that are not there yet, and write their mean; gives what `fit.json` tells.

    Raises:
        InputError: the request, the task or a recipe has a mistake, or the folder holds something
            else.
        WhetError: a member could not be trained.
        KeyboardInterrupt, Terminated: it was stopped; the same call goes on.
    """
    check_alone("an ensemble")
    asked.check()
    source = sources.load(asked.request.task, asked.request.file)
    where = choose(
        asked.ray, asked.executor, threads=asked.threads, jobs=asked.jobs,
        device=asked.request.device,
    )  # fmt: skip
    folder = Folder(asked.folder)
    with folder.held():
        folder.check_own()
        task, its, notes = _checked(asked, source)
        if asked.request.fresh:
            folder.clear()
        folder.claim(its)
        told = _about(asked, source, task, its) | {"notes": notes}
        if not folder.model.exists():
            folder.write({**told, "status": "training"})
        _train(asked, where, its["code"], _deciding(task), console)
        told |= _combined(asked, source, task, folder)
        folder.write({**told, "status": "done"})
    return told


def _checked(asked: Ensemble, source: Source) -> tuple[Task, dict[str, Any], list[str]]:
    """The task, what may not differ between it and the files, and notes; mistakes come up here."""
    begun = set()
    for each in asked.requests().values():  # one of each variant
        if (each.methods, each.recipe) not in begun:
            begun.add((each.methods, each.recipe))
            recipes.made(each, source, log=None)
    seed = asked.request.seed
    task = source.task(seed, needs=("select",) if asked.combine == "weighted" else ())
    other = source.task(seed, needs=(), start=1)
    sources.check_start(source, seed, other)
    pairs = zip(task.model.parameters(), other.model.parameters(), strict=True)
    alike = all(torch.equal(a, b) for a, b in pairs)
    its = conduct.identified(asked.request, source, ENSEMBLE)
    return task, its | {"data": sources.fingerprint(task)}, [ALIKE] if alike else []


def _about(
    asked: Ensemble, source: Source, task: Task, its: dict[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """What is known before training."""
    classes, named = task.classes, conduct.named(asked.request, source)
    return {
        "task": named | {name: its[name] for name in ("code", "data")},
        "seed": asked.request.seed, "precision": asked.request.precision,
        "batch_size": conduct.BATCH, "combine": asked.combine,
        "members": [{"name": name, "start": each.start} for name, each in asked.requests().items()],
        "classes": None if classes is None else [str(name) for name in classes],
        "versions": identity.versions(), "date": datetime.date.today().isoformat(),
        "command": asked.command,
    }  # fmt: skip


def _deciding(task: Task) -> str:
    """The name of the metric that decides, where there is one."""
    family = objectives.make(task.objective).family.name
    found = measures.resolve(task.metrics or measures.defaults(family), family)
    return found[0].name if found else ""


def _nodes(asked: Ensemble, device: str, code: str) -> list[Node]:
    """The trainings, for whatever executor."""
    found = []
    for name, each in asked.requests().items():
        recipe = None if each.recipe is None else each.recipe.absolute()
        options = {
            "start": each.start, "methods": each.methods, "updates": each.updates,
            "epochs": each.epochs, "device": device, "precision": each.precision,
            "threads": asked.threads, "recipe": None if recipe is None else str(recipe),
            "recipe_code": None if recipe is None else _digest(recipe),
        }  # fmt: skip
        file = None if each.file is None else str(each.file.absolute())
        found.append(Node(each.task, name, (), each.seed, options, code, file))
    return found


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _train(
    asked: Ensemble, where: Choice, code: str, metric: str, console: Console
) -> None:  # fmt: skip
    device, slots = where.look(devices.pick(asked.request.device).type)
    nodes, store = _nodes(asked, device, code), Store(asked.folder / "training")
    store.mend()
    for node in nodes:
        if not Folder(asked.folder / MEMBERS / node.arm).model.exists():
            shutil.rmtree(store.folder_of(node), ignore_errors=True)  # its row is of what is lost
    waiting = [node for node in nodes if store.done(node) is None]
    store.retry(waiting)
    store.rebuild(nodes)
    jobs = max(1, min(slots, len(waiting)))
    done = f"{len(nodes) - len(waiting)} of {wording.counted(len(nodes), 'member')} done"
    beside = f", {jobs} at a time" if jobs > 1 else ""
    console.print(
        wording.plain(f"{done}{beside}, in {asked.folder}"), markup=False, highlight=False
    )
    if waiting:
        with display.progress(console, len(waiting), metric, store, "members") as watch:
            schedule(waiting, store, watch, where.open(store, member.TRAIN, device, jobs))
    missing = [(node, store.failed(node)) for node in nodes if store.done(node) is None]
    if missing:
        node, row = missing[0]
        reason = "" if row is None else f": {row['reason']}"
        raise WhetError(
            f"{wording.counted(len(missing), 'member')} of {len(nodes)} could not be trained; the "
            f"same command tries again. {node.arm}{reason}"
        )


def _combined(asked: Ensemble, source: Source, task: Task, folder: Folder) -> dict[str, Any]:
    """Load the members, weigh and judge them together, and write the model."""
    device = asked.request.device
    task.model.to(devices.pick(device))
    members = list(_members(asked, source, task))
    names, predictors = list(asked.requests()), [each.predictor for each in members]
    weights = None
    if asked.combine == "weighted":
        weights = ensembles.fit_weights(predictors, list(members[0].batches("select")))
    together = MeanPredictor(predictors, weights)
    whole = replace(members[0], predictor=together)
    metrics = {part: saved.evaluate(whole, part) for part in _judged(task, whole)}
    shares = [1.0 / len(names)] * len(names) if weights is None else weights
    each = [_told(asked, name) | {"weight": w} for name, w in zip(names, shares, strict=True)]
    told: dict[str, Any] = {
        "metrics": metrics, "objective": together.family.name, "members": each,
    }  # fmt: skip
    with contextlib.suppress(InputError):  # of rows that tell who is right
        if "select" in metrics:
            found = ensembles.diversity(together, list(whole.batches("select")), names)
            told["diversity"] = found.values()
    whole.predictor.save(folder.model)
    return told


def _members(asked: Ensemble, source: Source, task: Task) -> Iterator[saved.Saved]:
    for each in asked.requests().values():
        about = Folder(each.folder).finished()
        yield saved.opened(each.folder, about, source, task, each.seed, asked.request.device)


def _judged(task: Task, whole: saved.Saved) -> list[str]:
    if whole.predictor.family.name == "embedding":
        return []
    return [part for part in conduct.PARTS if getattr(task, part) is not None]


def _told(asked: Ensemble, name: str) -> dict[str, Any]:
    """What the ensemble's `fit.json` tells of a member; its own tells more."""
    told = json.loads((asked.folder / MEMBERS / name / ABOUT).read_text("utf-8"))
    return {"name": name, **{key: told[key] for key in KEPT}}
