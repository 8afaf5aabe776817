"""Training one node of a study: the only part of it that needs torch."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whet import (
    checkpoint,
    composition,
    evaluation,
    objectives,
    optim,
    parsing,
    resume,
    sources,
    spans,
    subset,
)
from whet import device as devices
from whet import metrics as measures
from whet.branching import Untold, branch
from whet.callback import Callback
from whet.errors import Clash, NonFiniteLoss, NotApplicable
from whet.methods import span, spanning
from whet.predict import Predictor
from whet.riding import Rider
from whet.run import Run
from whet.sources import Source
from whet.study import conditions, courses, paces, riders
from whet.study.clock import Clock
from whet.study.memory import Peak, apart
from whet.study.plan import Arm, Node, Row, Settings
from whet.study.pulse import Pulse
from whet.study.rehearsal import FEW
from whet.task import Task

EVALUATIONS = 6  # of the select part in the course of one training
ENOUGH, LONGEST = 0.3, 64  # seconds and updates that measure a step
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
        "updates": composition.length(about, task),
        "methods": None if about.methods is None else list(about.methods),
        "left_out": dict(about.left_out), "data": sources.fingerprint(task),
        "rows": sources.sizes(task),
        "settings": {name: dict(given) for name, given in about.settings.items()},
        "uncut": subset.refusal(task), "stage": conditions.plain_stage(about),
    }  # fmt: skip


def rates(
    name: str, file: str | None, arms: Sequence[Arm], updates: int, after: float,
    lr: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The learning rate in the course of every arm's training, at the task's own or at `lr`."""
    about = sources.load(name, file).about
    return courses.of(about, arms, updates, after, lr or optim.rate(about.optimizer))


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
    with apart():
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
    """The whole of a training, or what is left of it behind a trunk; or a trunk, unjudged."""
    source = conditions.source(node)
    device = str(node.options.get("device", "cpu"))
    peak, clock = Peak(torch.device(device)), Clock()
    given, run = _composed(source, node, folder, device, riders.made(node))
    total = run.stack.run.total or 1
    run.evaluate_every = run.checkpoint_every = max(1, total // EVALUATIONS)
    before = _branched(run, node, folder)
    until = None if node.until is None else spans.cut(node.until, total)
    run.callbacks += [clock, Pulse(node, folder, until)]
    run.callbacks.append(Unsaved() if until is None else Untold(until))
    run.fit(until)
    seen = paces.joined(before.get("paces", []), clock.paces(_cuts(node)))
    row: Row = {
        "settings": given,
        "curve": [{"update": row["update"], "metrics": row["metrics"]} for row in run.history],
        "updates": run.updates, "seconds_per_update": paces.mean(seen, _share(node)),
        "paces": seen, "explain": run.stack.explain(),
        "peak_memory": max(filter(None, (peak.bytes(), before.get("peak_memory"))), default=None),
        "environment": environment() | {"device": _device_name(run.device)},
    }  # fmt: skip
    if until is not None:
        return row
    beside = riders.rows(node, run, row, _share(node), _judged)
    return row | _judged(run, run.predictor()) | ({"riders": beside} if beside else {})


class Unsaved(Callback):
    """Saves nothing once a training has ended: what is kept of it is what it is judged to be.

    One that is killed before that goes on from the checkpoint before.
    """

    def updated(self, run: Run) -> None:
        last = run.stage_number + 1 == len(run.recipe.stages)
        if last and run.stack.run.updates >= (run.stack.run.total or 0):
            run.folder = None


def _branched(run: Run, node: Node, folder: Path) -> Row:
    """Begin from the node's trunk, if it has one, and say what came of that."""
    if node.parent is None:
        return {}
    [trunk] = folder.parent.glob(f"*-s{node.seed}-{node.parent[:8]}")
    if run.updates == 0:  # else it was cut off, and goes on from a checkpoint of its own
        branch(run, trunk / resume.FOLDER)
    row: Row = parsing.values((trunk / "row.json").read_bytes())
    return row


def _rehearse(node: Node, folder: Path) -> dict[str, Any]:
    """A few updates of every part of training that the arm has, as if it were the whole of it.

    The stage is as long as in earnest, for methods that count in fractions of it.
    """
    source, count = conditions.source(node), int(node.options["rehearse"])
    device = str(node.options.get("device", "cpu"))
    _composed(source, node, None, device)  # what only shows in the composition of all parts
    parts, beginning = [], 0.0
    for a, b, active in _parts(node):
        clock, began = Clock(), time.perf_counter()
        whole = replace(node, methods=active, after=None)
        _, run = _composed(source, whole, None, device)
        beginning = time.perf_counter() - began  # the first ones load what they need
        run.callbacks.append(clock)
        _fit_a_little(run, clock, count)
        parts.append((a, b, run, clock))
    last = parts[-1][2]
    seen = [[a, b, clock.median()] for a, b, _, clock in parts]
    states = [run.state_dict() for _, _, run, _ in parts]
    return _judged(last, last.predictor()) | {
        "updates": sum(run.updates for _, _, run, _ in parts), "explain": last.stack.explain(),
        "seconds_per_update": paces.mean(seen, _share(node)), "paces": seen,
        "state_bytes": max(map(_bytes, states)), "beginning": beginning,
        "saving": _saving(states[-1], folder),
    }  # fmt: skip


def _fit_a_little(run: Run, clock: Clock, count: int) -> None:
    """So many updates; where they measure a step, as many more as a short one takes to be known."""
    total = run.stack.run.total or count
    until = min(count, total)
    run.fit(until)
    while count > FEW and until < min(total, LONGEST) and sum(g for _, g in clock.gaps) < ENOUGH:
        until = min(2 * until, total, LONGEST)
        run.fit(until)


def _saving(state: Mapping[str, Any], folder: Path) -> float:
    """Seconds that a checkpoint of this state takes, which is written where the study's go."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        began = time.perf_counter()
        checkpoint.save(Path(place), 0, state, {})
        return time.perf_counter() - began


def _bytes(state: Any) -> int:
    """What the tensors of a state hold."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    parts = state.values() if isinstance(state, Mapping) else state
    return sum(map(_bytes, parts)) if isinstance(state, Mapping | list | tuple) else 0


def _parts(node: Node) -> Iterator[tuple[float, float, tuple[Settings, ...]]]:
    """Where each part of training begins and ends, and its methods as if it were the whole."""
    stages = [node.methods] if node.after is None else [node.methods, node.after]
    for at, given in enumerate(stages):
        each = [(span(settings), spanning(settings, 0.0, 1.0)) for settings in given]
        for a, b in pairwise(sorted({0.0, 1.0, *(cut for ends, _ in each for cut in ends)})):
            active = [settings for (c, d), settings in each if c <= a and b <= d]
            yield at + a, at + b, tuple(active)


def _cuts(node: Node) -> list[float]:
    """The ends of those parts, of a trunk up to its end; a stage that follows is from 1 to 2."""
    every = [0.0, *(b for _, b, _ in _parts(node))]
    return every if node.until is None else [*(c for c in every if c < node.until), node.until]


def _judged(run: Run, predictor: Predictor) -> dict[str, Any]:
    """Metrics on the judge part, and where there are classes, which were taken for which."""
    began = time.perf_counter()
    metrics = evaluation.wanted(predictor, run.task.metrics)
    judge, probabilities, targets = evaluation.judge(predictor, run.batches("judge"), metrics)
    judging = time.perf_counter() - began
    select = evaluation.evaluate(predictor, run.batches("select"), metrics)
    found = {"metrics": {"judge": judge, "select": select}, "judging": judging}
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
    source: Source, node: Node, folder: Path | None, device: str, beside: Sequence[Rider] = ()
) -> tuple[list[Settings], Run]:
    return composition.compose(
        source, node.methods, node.seed, updates=node.options.get("updates"), after=node.after,
        share=_share(node), folder=folder, device=device, keep=1,
        log=None, callbacks=beside,
    )  # fmt: skip


def _share(node: Node) -> float:
    """How long the stage that follows is, of the first one's length."""
    return float(node.options.get("after", 0.0))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def environment() -> dict[str, Any]:
    """What the numbers depend on, without names of hosts or people."""
    return {
        "torch": torch.__version__, "python": platform.python_version(),
        "machine": platform.machine(), "system": platform.system(),
        "cores": os.cpu_count(), "threads": torch.get_num_threads(), "device": "cpu",
    }  # fmt: skip
