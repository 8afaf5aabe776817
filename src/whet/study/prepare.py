"""From what the user asked for to a study's arms, seeds and nodes; mistakes are found here."""

from __future__ import annotations

import datetime
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.study import arms, budget, design, identity, plan
from whet.study.budget import Choice
from whet.study.design import Design
from whet.study.executors.choice import choose
from whet.study.plan import BASELINE, Arm, Node
from whet.study.rehearsal import FEW, MEASURED, Rehearsal, Run, rehearse

EVALUATIONS = 8  # in the course of a run and at its end
Card = Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """What the user asked for; None stands for the task's own choice.

    Args:
        task: the task's name.
        file: the file of a user's task.
        methods: as on the command line.
        seeds: how many.
        when: parts of training, `start,whole,end`.
        design: `add-one`, `leave-one-out` or `both`.
        budget: a span of time such as `8h`.
        fast: rehearse only.
        out: the study's folder.
        jobs: runs at a time.
        threads: torch threads of each run.
        device: `auto`, `cpu` or `cuda`.
        fresh: forget what is in the folder.
        code: identity of a task that is no file, when only this process knows it.
        ray: address of a Ray cluster that trains.
        executor: a file that says where batch jobs train.
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
    ray: str | None = None
    executor: Path | None = None

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
            "jobs": self.jobs, "ray": self.ray, "executor": self.executor,
        }  # fmt: skip
        usual = {"when": "whole", "design": "add-one", "threads": 1, "device": "auto"}
        given |= {n: None if getattr(self, n) == v else getattr(self, n) for n, v in usual.items()}
        for name, value in given.items():
            words += [] if value is None else [f"--{name}", str(value)]
        return shlex.join(words + (["--fast"] if self.fast else []))

    def asks(self) -> dict[str, Any]:
        """What decides the plan, in plain values."""
        names = ("task", "methods", "seeds", "when", "design", "budget")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Prepared:
    """A study that can begin."""

    study: dict[str, Any]
    nodes: list[Node]
    until: float
    rehearsal: Rehearsal | None


class Planner:
    """A request made concrete; what the request got wrong is said when this is made.

    Nothing is written and nothing trained before `prepare`.
    """

    def __init__(self, request: Request) -> None:
        from whet.methods import catalogue
        from whet.study.node import describe

        parts = design.check(request.design, request.when)
        if request.budget is not None:
            budget.seconds(request.budget)
        if request.seeds is not None and request.seeds < 1:
            raise InputError(
                f"--seeds is {request.seeds}; a study needs at least 1, and 3 for a verdict."
            )
        file = None if request.file is None else str(request.file)
        self.request, self.cards = request, catalogue()
        self.where = choose(
            request.ray, request.executor, threads=request.threads, jobs=request.jobs,
            device=request.device, alone=request.code is not None,
        )  # fmt: skip
        here = "cpu" if self.where.elsewhere else request.device
        self.task: dict[str, Any] = describe(request.task, file, here)
        self.device, self.jobs = self.where.look(self.task.pop("device"))
        self.open = request.methods is None and self.task["methods"] is None
        self.left_out: dict[str, str] = {}
        singles = self._singles()
        written = [arm.name for arm in singles if "during=" in arm.name]
        self.found, misplaced = design.placed(singles, parts, self.cards, written)
        self.left_out |= misplaced

    def _singles(self) -> list[Arm]:
        """One arm for each method that was asked for, once it has accepted its settings."""
        from whet.methods import make

        own = self.task.get("settings")
        if self.request.methods is None:
            self.left_out = dict(self.task["left_out"])
            every = [card["name"] for card in self.cards if card["name"] not in self.left_out]
            return arms.default(every if self.open else self.task["methods"], own)
        chosen = arms.parse(self.request.methods, self.cards, own)
        for arm in chosen:
            for settings in arm.methods:
                make(settings)
        return chosen

    def prepare(
        self, train: Run, earlier: Mapping[str, Any] | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> Prepared:  # fmt: skip
        """The study's manifest and its nodes, after a rehearsal where one is needed.

        Args:
            train: trains nodes and keeps them in a store, for the rehearsal.
            earlier: the manifest of the study that is continued.
            say: is told what happens.
        """
        began, request, found = time.monotonic(), self.request, self.found
        rehearsal: Rehearsal | None = None
        if request.fast or request.budget or request.design != "add-one" or self.open:
            say("rehearsal: a few updates of every arm")
            rehearsal = self.rehearse([arm for those in found.values() for arm in those], train)
            unfit = rehearsal.unfit()
            self.left_out |= unfit
            found = {part: [a for a in those if a.name not in unfit]
                     for part, those in found.items()}  # fmt: skip
        made = design.designed(request.design, found)
        if rehearsal is not None and (request.fast or request.budget):
            rehearsal = rehearsal.joined(self.rehearse(made.arms[1:], train))
        choice = self.choice(made, rehearsal, earlier, time.monotonic() - began)
        if choice is not None:
            self.left_out |= {arm.name: "the budget leaves no time for it" for arm in made.arms
                              if arm not in choice.arms}  # fmt: skip
            made = replace(made, arms=choice.arms, notes=[*made.notes, *choice.notes])
        until = float("inf") if not request.budget else began + budget.seconds(request.budget)
        return Prepared(*self.study(made, choice), until, rehearsal)

    def rehearse(self, those: Sequence[Arm], train: Run) -> Rehearsal:
        """A few updates of the baseline and of these arms."""
        count = MEASURED if self.request.budget else FEW

        def nodes(these: Sequence[Arm]) -> list[Node]:
            return self.nodes(these, [0], {"rehearse": count})

        return rehearse([Arm(BASELINE), *those], nodes, self.request.folder, train)

    def choice(
        self, made: Design, rehearsal: Rehearsal | None, earlier: Mapping[str, Any] | None,
        spent: float,
    ) -> Choice | None:  # fmt: skip
        """What the budget allows; the same as before where the study is continued."""
        if self.request.budget is None or rehearsal is None:
            return None
        if earlier and earlier.get("asked") == self.request.asks() and earlier.get("budget"):
            kept = [arm for arm in made.arms if arm.name in earlier["budget"]["arms"]]
            given = earlier["budget"]
            return Choice(kept, given["seeds"], given["share"], given["seconds"], given["notes"])
        costs = rehearsal.costs()
        return budget.choose(
            [arm for arm in made.arms if arm.name in costs], costs, self.task["updates"],
            EVALUATIONS, self.jobs, budget.seconds(self.request.budget) - spent,
            self.request.seeds, self.task["seeds"],
        )  # fmt: skip

    def nodes(
        self, those: Sequence[Arm], seeds: Sequence[int], options: Mapping[str, Any]
    ) -> list[Node]:
        """Arms times seeds."""
        every = {"threads": self.request.threads, "device": self.device, **options}
        every["data"] = self.task.get("data")
        file = None if self.request.file is None else str(self.request.file.resolve())
        return plan.nodes(self.task["name"], those, seeds, every, self._code, file)

    def _code(self, arm: Arm) -> str:
        beside = {card["name"]: card["companions"] for card in self.cards}
        names = {str(settings["name"]) for settings in arm.methods}
        names |= {one for name in names for one in beside[name]}
        request = self.request
        if request.code is not None:
            return identity.code_of(names) + request.code
        return identity.code_of(names, "" if request.file else request.task, request.file)

    def study(self, made: Design, choice: Choice | None) -> tuple[dict[str, Any], list[Node]]:
        """The study's manifest and its nodes."""
        count = self.request.seeds or self.task["seeds"]
        seeds = range(count if choice is None else choice.seeds)
        short = choice is not None and choice.share < 1.0
        length = round(choice.share * self.task["updates"]) if choice and short else None
        nodes = self.nodes(made.arms, seeds, {} if length is None else {"updates": length})
        kept = None if choice is None else asdict(choice)
        if kept is not None:
            kept["arms"] = [arm["name"] for arm in kept["arms"]]
        return {
            "task": self.task, "arms": [asdict(arm) for arm in made.arms], "seeds": list(seeds),
            "design": self.request.design, "when": self.request.when, "budget": kept,
            "threads": self.request.threads, "jobs": self.jobs, "command": self.request.command,
            "date": datetime.date.today().isoformat(), "versions": identity.versions(),
            "asked": self.request.asks(), "notes": made.notes, "left_out": self.left_out,
            "nodes": [node.to_json() for node in nodes],
        }, nodes  # fmt: skip
