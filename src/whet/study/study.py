"""A study in Python: in a script or a notebook what `whet study` is on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from whet import places, sources
from whet.errors import InputError
from whet.study import arms, identity
from whet.study.conduct import conduct
from whet.study.evidence import Evidence
from whet.study.planned import Plan
from whet.study.rehearsal import Rehearsal
from whet.study.request import Request
from whet.task import Task


class Study:
    """Arms times seeds, trained, compared and reported; in a notebook the report is shown inline.

    Args:
        task: a built-in task's name, a file that defines `task(seed)`, or the function itself. A
            function is trained in this process, one run after another.
        methods: names or settings, as `["ema", {"name": "fgm", "during": [0.5, 1]}]` or as on the
            command line; None for all that suit the task. A setting that is a
            `whet.study.Grid(0.9, 0.99)` gives an arm for each of its values; a list is one value.
        seeds: how many; None for the task's own.
        when: parts of training: `start`, `whole`, `end`, `after`, or several as `"start,end"`.
        design: `add-one`, `leave-one-out`, `both`, `ladder`, `pairs`, `screening`, `fractional`.
        data: fractions of the training part to train on, as `[0.01, 0.1, 1]` or `"0.01,0.1,1"`.
        budget: a span of time such as `"8h"`.
        out: the study's folder.
        jobs: runs at a time.
        threads: torch threads of each run.
        device: `auto`, `cpu` or `cuda`.
        equal_time: hold methods that cost more against the baseline trained as long, too.
        tune_baseline: learning rates (5 or more) to try for the baseline first.
        hold_out: share of the rows that is set aside for `confirm`, from the start.
        margin: the largest gain that does not matter, in the metric's units; with it an arm may be
            shown to make no difference.
        ray: address of a Ray cluster that trains; `local` for one on this machine.
        executor: a file that says where batch jobs train.
        console: where progress goes.

    Raises:
        InputError: before anything is trained, for what the task or the methods do not take.

    >>> import tempfile, torch
    >>> from whet import Study, Task
    >>> def task(seed):
    ...     x, y = torch.randn(60, 3), torch.arange(60) % 2
    ...     parts = [(x[a:b], y[a:b]) for a, b in ((0, 30), (30, 45), (45, 60))]
    ...     return Task(torch.nn.Linear(3, 2), *parts)
    >>> task.about = {"updates": 4}
    >>> with tempfile.TemporaryDirectory() as out:
    ...     study = Study(task, methods=["ema", "sam"], seeds=3, out=out,
    ...                   console=Console(quiet=True))
    ...     [each.arm for each in study.run().comparisons]
    ['ema', 'sam']
    """

    def __init__(
        self, task: str | Path | Callable[[int], Task], *,
        methods: str | Sequence[str | Mapping[str, Any]] | None = None, seeds: int | None = None,
        when: str = "whole", design: str = "add-one", budget: str | None = None,
        data: str | Sequence[float] | None = None, out: str | Path | None = None,
        jobs: int | None = None, threads: int = 1, device: str = "auto", equal_time: bool = False,
        tune_baseline: int | None = None, hold_out: float | None = None,
        margin: float | None = None, ray: str | None = None, executor: str | Path | None = None,
        console: Console | None = None,
    ) -> None:  # fmt: skip
        self._console = console
        name, file, code = _named(task)
        self.request = Request(
            name, file, methods if methods is None or isinstance(methods, str)
            else arms.written(methods), seeds, when, design, budget,
            out=None if out is None else Path(out), jobs=jobs, threads=threads, device=device,
            code=code, equal_time=equal_time, tune_baseline=tune_baseline, hold_out=hold_out,
            data=data if data is None or isinstance(data, str) else ",".join(map(str, data)),
            margin=margin, ray=ray, executor=None if executor is None else Path(executor),
        )  # fmt: skip

    def run(self, *, fresh: bool = False) -> Evidence:
        """Train what is not there yet, and compare; called again, it continues.

        `fresh` forgets the results in the folder.
        """
        found = self._conduct(fresh=fresh)
        assert isinstance(found, Evidence)
        return found

    def confirm(self, seeds: int | None = None) -> Evidence:
        """What helped, once more: fresh seeds, judged on the rows that `hold_out` set aside.

        Args:
            seeds: how many; None for as many as the study has.
        """
        found = self._conduct(confirm=seeds or 0)
        assert isinstance(found, Evidence)
        return found

    def rehearse(self) -> Rehearsal:
        """Two updates of everything, to find mistakes early."""
        found = self._conduct(fast=True)
        assert isinstance(found, Rehearsal)
        return found

    def plan(self) -> Plan:
        """What the study would do and what is left of it, measured by eight updates of each arm.

        Nothing else is trained, and a later `run` begins with what was measured.
        """
        found = self._conduct(plan=True)
        assert isinstance(found, Plan)
        return found

    def _conduct(self, **changes: Any) -> Evidence | Rehearsal | Plan:
        return conduct(replace(self.request, **changes), self._console or Console())


def _named(task: Any) -> tuple[str, Path | None, str | None]:
    """Name, file, and identity of the code where only this process can run it."""
    if isinstance(task, Task):
        raise InputError(
            "a Study needs a new Task for every seed: give it the function seed -> Task, not the "
            "Task that one call of it made."
        )
    if isinstance(task, str | Path):
        file = places.file_of(str(task))
        return (str(task), None, None) if file is None else (places.name_of(file), file, None)
    name = sources.give(task)
    if not inspect.isfunction(task):
        raise InputError(
            f"{task!r} is no plain function. Define `def task(seed): ...` that calls it, so that "
            "a study can tell when its code has changed."
        )
    written = Path(inspect.getsourcefile(task) or "")
    if task.__module__ == "__main__" or written.suffix != ".py" or not written.is_file():
        return name, None, identity.code_of_function(task)
    return name, None, identity.code_of([], file=written)
