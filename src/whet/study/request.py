"""What a user asks of a study, and the command line that asks for it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Request:
    """What the user asked for; None stands for the task's own choice.

    Args:
        task: the task's name.
        file: the file of a user's task.
        methods: as on the command line.
        seeds: how many.
        when: parts of training, `start,whole,end`.
        design: which arms there are; `design.DESIGNS` lists them.
        budget: a span of time such as `8h`.
        fast: rehearse only.
        out: the study's folder.
        jobs: runs at a time.
        threads: torch threads of each run.
        device: `auto`, `cpu` or `cuda`.
        fresh: forget what is in the folder.
        margin: the largest gain that does not matter, in the metric's units.
        code: identity of a task that is no file, when only this process knows it.
        data: fractions of the training part, `0.01,0.1,1`; None for all of it.
        equal_time: hold dearer methods against the baseline trained as long, too.
        tune_baseline: learning rates to try for the baseline first.
        hold_out: share of the rows that is set aside for `confirm`.
        confirm: seeds of a confirmation; 0 for as many as the study has.
        pick: write a recipe.
        ray: address of a Ray cluster that trains.
        executor: a file that says where batch jobs train.
        plan: say what the study would do, and do no more than measure it.
    """

    task: str
    file: Path | None = None
    methods: str | None = None
    seeds: int | None = None
    when: str = "whole"
    design: str = "add-one"
    budget: str | None = None
    fast: bool = False
    out: Path | None = None
    jobs: int | None = None
    threads: int = 1
    device: str = "auto"
    fresh: bool = False
    code: str | None = None
    data: str | None = None
    equal_time: bool = False
    tune_baseline: int | None = None
    hold_out: float | None = None
    confirm: int | None = None
    pick: bool = False
    margin: float | None = None
    ray: str | None = None
    executor: Path | None = None
    plan: bool = False

    @property
    def folder(self) -> Path:
        """Where the study's files go."""
        return self.out or Path("whet-studies") / self.task

    @property
    def command(self) -> str:
        """The command line that asks for this; it continues rather than begins anew."""
        words = ["whet", "study", str(self.file or self.task)]
        given = {
            "methods": self.methods, "seeds": self.seeds, "budget": self.budget, "out": self.out,
            "jobs": self.jobs, "data": self.data, "tune-baseline": self.tune_baseline,
            "hold-out": self.hold_out, "confirm": self.confirm, "margin": self.margin,
            "ray": self.ray, "executor": self.executor,
        }  # fmt: skip
        usual = {"when": "whole", "design": "add-one", "threads": 1, "device": "auto"}
        given |= {n: None if getattr(self, n) == v else getattr(self, n) for n, v in usual.items()}
        for name, value in given.items():
            words += [] if value is None else [f"--{name}", str(value)]
        flags = ("fast", "plan", "equal_time", "pick")
        return shlex.join(words + [f"--{f.replace('_', '-')}" for f in flags if getattr(self, f)])

    def asks(self) -> dict[str, Any]:
        """What decides the plan, in plain values."""
        names = ("task", "methods", "seeds", "when", "design", "budget", "data")
        said = {name: getattr(self, name) for name in ("equal_time", "tune_baseline", "hold_out")}
        return {name: getattr(self, name) for name in names} | {n: v for n, v in said.items() if v}
