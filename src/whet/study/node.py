"""Training one node of a study: the only part of it that needs torch."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whet import device as devices
from whet import methods, nesting, objectives, predict, sources
from whet import metrics as measures
from whet.callback import Callback
from whet.errors import Clash, NonFiniteLoss, NotApplicable
from whet.loading import open_loader
from whet.run import Run
from whet.sources import Source
from whet.stage import Stage
from whet.study.memory import Peak
from whet.study.plan import Node, Row, Settings
from whet.task import Task
from whet.tasks import About

PASSES, FEWEST = 10, 300  # passes over the data, and updates, where the task says neither
EVALUATIONS = 6  # of the select part in the course of one training
CLASSES = 200  # beyond so many, who was taken for whom fills pages that nobody reads


def describe(name: str, file: str | None = None, device: str = "auto") -> dict[str, Any]:
    """What a study needs to know of a task, and of this machine, before it trains."""
    source = sources.load(name, file)
    about, task = source.about, source.task(0)
    family = objectives.make(task.objective).family.name
    metrics = measures.resolve(task.metrics or measures.defaults(family), family)
    return {
        "device": devices.pick(device).type, "name": source.name,
        "title": about.title or source.name, "metric": metrics[0].name,
        "higher_is_better": metrics[0].higher_is_better,
        "metrics": [metric.name for metric in metrics], "seeds": about.seeds,
        "updates": _updates(about, task),
        "methods": None if about.methods is None else list(about.methods),
        "left_out": dict(about.left_out), "data": sources.fingerprint(task),
        "rows": sources.sizes(task),
        "settings": {name: dict(given) for name, given in about.settings.items()},
    }  # fmt: skip


def train(node: Node, folder: Path) -> Row:
    """Train a node and judge it; what cannot be trained comes back with status and reason.

    A node that was cut off continues from its own checkpoint in `folder`.
    """
    began = time.perf_counter()
    row: Row = {
        "arm": node.arm, "seed": node.seed, "key": node.key, "status": "done", "reason": None,
        "settings": [dict(given) for given in node.methods], "metrics": {}, "curve": [],
        "updates": 0, "seconds_per_update": None, "explain": "", "environment": environment(),
    }  # fmt: skip
    try:
        row |= _rehearse(node, folder) if "rehearse" in node.options else _train(node, folder)
    except NotApplicable as error:
        row |= {"status": "inapplicable", "reason": error.reason}
    except Clash as error:
        row |= {"status": "refused", "reason": str(error)}
    except NonFiniteLoss as error:
        row |= {"status": "diverged", "reason": str(error)}
    return row | {"seconds": time.perf_counter() - began}


def _train(node: Node, folder: Path) -> dict[str, Any]:
    source = sources.load(node.task, node.file)
    device = str(node.options.get("device", "cpu"))
    peak, clock = Peak(torch.device(device)), _Clock()
    given, run = _composed(source, node, folder, device)
    run.callbacks.append(clock)
    total = run.stack.run.total or 1
    run.evaluate_every = run.checkpoint_every = max(1, total // EVALUATIONS)
    run.fit()
    return _judged(run) | {
        "settings": given,
        "curve": [{"update": row["update"], "metrics": row["metrics"]} for row in run.history],
        "updates": run.updates, "seconds_per_update": clock.median(_cuts(node.methods)),
        "explain": run.stack.explain(), "peak_memory": peak.bytes(),
        "environment": environment() | {"device": _device_name(run.device)},
    }  # fmt: skip


def _rehearse(node: Node, folder: Path) -> dict[str, Any]:
    """A few updates of every part of training that the arm has, as if it were the whole of it.

    The stage is as long as in earnest, for methods that count in fractions of it.
    """
    source, count = sources.load(node.task, node.file), int(node.options["rehearse"])
    device = str(node.options.get("device", "cpu"))
    _composed(source, node, None, device)  # what only shows in the composition of all parts
    parts = []
    for a, b, active in _parts(node.methods):
        clock = _Clock()
        _, run = _composed(source, replace(node, methods=active), None, device)
        run.callbacks.append(clock)
        run.fit(until=min(count, run.stack.run.total or count))
        parts.append((b - a, clock.median(), run))
    last = parts[-1][-1]
    return _judged(last) | {
        "updates": count * len(parts), "explain": last.stack.explain(),
        "seconds_per_update": sum(share * each for share, each, _ in parts),
    }  # fmt: skip


def _parts(given: Sequence[Settings]) -> Iterator[tuple[float, float, tuple[Settings, ...]]]:
    """Where each part of training begins and ends, and its methods as if it were the whole."""
    spans = [tuple(each.get("during") or (0.0, 1.0)) for each in given]
    for a, b in pairwise(_cuts(given)):
        yield (
            a,
            b,
            tuple(
                {name: value for name, value in each.items() if name != "during"}
                for each, span in zip(given, spans, strict=True)
                if span[0] <= a and b <= span[1]
            ),
        )


def _cuts(given: Sequence[Settings]) -> list[float]:
    return sorted({0.0, 1.0, *(float(cut) for each in given for cut in each.get("during") or ())})


def _judged(run: Run) -> dict[str, Any]:
    """Metrics on the judge part, and where there are classes, which were taken for which."""
    began = time.perf_counter()
    predictor = run.predictor()
    metrics = predict.wanted(predictor, run.task.metrics)
    probabilities, targets = predict.predict(predictor, run.batches("judge"))
    judge = measures.evaluate(metrics, probabilities, targets)
    judging = time.perf_counter() - began
    found = {"metrics": {"judge": judge, "select": run.evaluate("select")}, "judging": judging}
    if predictor.family.name != "categorical":
        return found
    count = probabilities.shape[1]
    if count > CLASSES:
        return found
    cells = targets.astype(np.int64) * count + probabilities.argmax(1)
    matrix = np.bincount(cells, minlength=count * count).reshape(count, count)
    classes = _classes(run.task, count)
    return found | {"classes": classes, "confusion": matrix.tolist()}


def _classes(task: Task, count: int) -> list[str]:
    names = task.classes if task.classes is not None else range(count)
    return [str(name) for name in names]


def _composed(
    source: Source, node: Node, folder: Path | None, device: str
) -> tuple[list[Settings], Run]:
    """The run, with the companions that its methods must not stand without and that apply."""
    given = [dict(each) for each in node.methods]
    extra = companions(given)
    while True:
        every = [*given, *({"name": name} for name in extra)]
        task = source.task(node.seed)
        stage = _stage(source.about, task, every, node.options)
        try:
            run = Run(task, stage, node.seed, folder=folder, device=device, keep=1, log=None)
            run.stack.open()
        except NotApplicable as error:
            if error.method not in extra:
                raise
            extra.remove(error.method)
        else:
            return every, run


def companions(given: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must stand beside the methods where it applies, and does not yet."""
    names = {str(each["name"]) for each in given}
    wanted = {one for name in names for one in methods.registry()[name].companions}
    return sorted(wanted - names)


def _stage(
    about: About, task: Task, given: Sequence[Settings], options: Mapping[str, Any]
) -> Stage:
    made = [methods.make(each) for each in given]
    # a method that owns the learning rate brings its own schedule; that is part of its arm
    owned = any(nesting.brings_schedule(method) for method in made)
    return Stage(
        updates=int(options.get("updates") or _updates(about, task)), methods=made,
        batch_size=about.batch_size, accumulate=about.accumulate, optimizer=about.optimizer,
        schedule=None if owned else about.schedule,
    )  # fmt: skip


def _updates(about: About, task: Task) -> int:
    """The length of one training."""
    if about.updates is not None:
        return about.updates
    batches = open_loader(task.train, about.batch_size, collate=task.collate).batches
    length = Stage(epochs=about.epochs or PASSES, accumulate=about.accumulate).length(batches)
    return length if about.epochs is not None else max(FEWEST, length)


class _Clock(Callback):
    """Seconds per update, without evaluation and checkpoints: the median of all gaps.

    Where methods take part of the training only, it is the median of each part, weighted by how
    long the part is: a median of the whole would not know that they cost anything.
    """

    def __init__(self) -> None:
        self.last = time.perf_counter()
        self.gaps: list[tuple[float, float]] = []

    def updated(self, run: Run) -> None:
        now = time.perf_counter()
        self.gaps.append(((run.updates - 0.5) / (run.stack.run.total or 1), now - self.last))
        self.last = now

    def median(self, cuts: Sequence[float] = (0.0, 1.0)) -> float:
        """The median gap; of a part that this process saw nothing of, that of all."""
        every = [gap for _, gap in self.gaps]
        parts = [(b - a, [gap for at, gap in self.gaps if a < at < b]) for a, b in pairwise(cuts)]
        return sum(share * _median(gaps or every) for share, gaps in parts)


def _median(gaps: Sequence[float]) -> float:
    return sorted(gaps)[(len(gaps) - 1) // 2] if gaps else 0.0


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def environment() -> dict[str, Any]:
    """What the numbers depend on, without names of hosts or people."""
    return {
        "torch": torch.__version__, "python": platform.python_version(),
        "machine": platform.machine(), "system": platform.system(),
        "cores": os.cpu_count(), "threads": torch.get_num_threads(), "device": "cpu",
    }  # fmt: skip
