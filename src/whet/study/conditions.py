"""The task as a node's options have it: at another rate, without some rows, judged on others.

| option | what it says |
|---|---|
| `lr` | the learning rate of every stage, in place of the task's own |
| `hold_out` | the share of the rows that no study may see |
| `data_fraction` | the fraction of the training part that is seen |
| `judge_on` | `aside`: those rows; `select`: the select part, where something is chosen |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from whet import composition, holdout, optim, sources, subset
from whet.sources import Source
from whet.study.plan import Node
from whet.task import Task
from whet.tasks import About

ASIDE, SELECT = "aside", "select"


def source(node: Node) -> Source:
    """A node's task under the node's options."""
    return under(sources.load(node.task, node.file), node.options)


def under(found: Source, options: Mapping[str, Any]) -> Source:
    """A task under options; without any of them it is the task as it was."""
    if options.get("lr") is not None:
        optimizer = optim.with_rate(found.about.optimizer, float(options["lr"]))
        found = replace(found, about=replace(found.about, optimizer=optimizer))
    fraction = options.get("data_fraction")
    if fraction is not None:
        found = replace(found, make=_cut(found.make, float(fraction)))
    share, judge_on = float(options.get("hold_out") or 0.0), options.get("judge_on")
    if not share and judge_on is None:
        return found

    def make(seed: int) -> Task:
        made = found.make(seed)
        if _lacking(made):
            return made  # and the Source says what is wrong with it
        if share:
            made = (holdout.judged_aside if judge_on == ASIDE else holdout.without)(made, share)
        return replace(made, judge=made.select) if judge_on == SELECT else made

    return replace(found, make=make)


def _cut(make: Callable[[int], Task], fraction: float) -> Callable[[int], Task]:
    def cut(seed: int) -> Task:
        made = make(seed)
        return made if _lacking(made) else subset.of(made, fraction, seed)

    return cut


def _lacking(made: object) -> bool:
    return not isinstance(made, Task) or made.select is None or made.judge is None


def set_aside(name: str, file: str | None, share: float) -> dict[str, Any]:
    """What a study should know of the rows that are set aside: how many they are, of how many.

    Raises:
        InputError: rows are not recognised under another seed.
    """
    found = sources.load(name, file)
    told = holdout.check(found.task(0), found.task(1), share)
    rest = under(found, {"hold_out": share})
    return told | {"share": share, "updates": composition.length(rest.about, rest.task(0))}


def plain_stage(about: About) -> dict[str, Any]:
    """What every training of a task is made with, in plain values; functions by their names."""
    return {
        "batch_size": about.batch_size, "accumulate": about.accumulate,
        "optimizer": _plain(about.optimizer), "schedule": _plain(about.schedule),
        "rate": optim.rate(about.optimizer),
    }  # fmt: skip


def _plain(spec: Any) -> Any:
    if callable(spec):
        return {"function": getattr(spec, "__qualname__", type(spec).__name__)}
    return dict(spec) if isinstance(spec, Mapping) else spec
