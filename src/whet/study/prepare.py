"""From what the user asked for to a study's arms, seeds and nodes; mistakes are found here."""

from __future__ import annotations

import datetime
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from whet.errors import InputError
from whet.study import (
    arms,
    budget,
    controls,
    design,
    fractions,
    identity,
    screening,
    statistics,
    trie,
)
from whet.study.budget import Choice
from whet.study.composing import Design, methods_of
from whet.study.executors.choice import choose
from whet.study.plan import BASELINE, Arm, Node
from whet.study.precautions import Precautions
from whet.study.rehearsal import FEW, MEASURED, Rehearsal, Run, rehearse
from whet.study.request import Request

AFTER = 0.25  # of a training: how long the stage is that `after` adds
CONFIDENCE = 0.95
EVALUATIONS = 8  # in the course of a run and at its end
Card = Mapping[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A study that can begin."""

    study: dict[str, Any]
    nodes: list[Node]
    until: float
    rehearsal: Rehearsal | None
    made: Design


class Planner:
    """A request made concrete; what the request got wrong is said when this is made.

    Nothing is written and nothing trained before `prepare`.
    """

    def __init__(self, request: Request) -> None:
        from whet.methods import catalogue
        from whet.study.node import describe

        parts = design.check(request.design, request.when)
        self.fractions = fractions.parse(request.data)
        if request.budget is not None:
            budget.seconds(request.budget)
        if request.seeds is not None and request.seeds < 1:
            raise InputError(
                f"--seeds is {request.seeds}; a study needs at least 1, and 3 for a verdict."
            )
        file = None if request.file is None else str(request.file)
        statistics.check(CONFIDENCE, request.margin)
        self.request, self.cards = request, catalogue()
        self.ahead = {card["name"] for card in self.cards if card["looks_ahead"]}
        self.where = choose(
            request.ray, request.executor, threads=request.threads, jobs=request.jobs,
            device=request.device, alone=request.code is not None,
        )  # fmt: skip
        here = "cpu" if self.where.elsewhere else request.device
        self.task: dict[str, Any] = describe(request.task, file, here)
        uncut = self.task.pop("uncut", None)
        if uncut and self.fractions != [1.0]:
            raise InputError(uncut)
        self.device, self.jobs = self.where.look(self.task.pop("device"))
        self.care = Precautions(
            self.task, request.task, file, request.hold_out, request.tune_baseline
        )
        self.open = request.methods is None and self.task["methods"] is None
        self.left_out: dict[str, str] = {}
        singles = self._singles()
        written = [arm.name for arm in singles if "during=" in arm.name]
        self.found, misplaced = design.placed(singles, parts, self.cards, written)
        self.left_out |= misplaced
        if not self.open:  # else what applies is found by trying, and what clashes after that
            self.designed(self.found)

    def _singles(self) -> list[Arm]:
        """One arm for each method that was asked for, once it has accepted its settings."""
        from whet.methods import make

        own = self.task.get("settings")
        if self.request.methods is None:
            self.left_out = dict(self.task["left_out"])
            every = [card["name"] for card in self.cards if card["name"] not in self.left_out]
            return arms.default(every if self.open else self.task["methods"], self.cards, own)
        chosen = arms.parse(self.request.methods, self.cards, own)
        for arm in chosen:
            for settings in arm.methods:
                make(settings)
        return chosen

    def prepare(
        self, train: Run, earlier: Mapping[str, Any] | None = None,
        say: Callable[[str], None] = lambda text: None, tune: Run | None = None,
    ) -> Prepared:  # fmt: skip
        """The study's manifest and its nodes, after a rehearsal where one is needed.

        Args:
            train: trains nodes and keeps them in a store, for the rehearsal.
            earlier: the manifest of the study that is continued.
            say: is told what happens.
            tune: the same as `train` for whole runs, of which several go at a time.
        """
        began, request, found = time.monotonic(), self.request, self.found
        if not (request.fast or request.plan):
            self.care.tune(self.task, request.folder, self.nodes, tune or train, say)
        rehearsal: Rehearsal | None = None
        measured = self.measured
        if request.fast or measured or request.design != "add-one" or self.open:
            say("rehearsal: a few updates of every arm")
            rehearsal = self.rehearse([arm for those in found.values() for arm in those], train)
            unfit = rehearsal.unfit()
            self.left_out |= unfit
            found = {part: [a for a in those if a.name not in unfit]
                     for part, those in found.items()}  # fmt: skip
        made = self.designed(found)
        self.left_out |= made.left_out
        if rehearsal is not None and (request.fast or measured):
            rehearsal = rehearsal.joined(self.rehearse(made.arms[1:], train))
        if rehearsal is not None and request.plan:  # an arm that cannot be trained takes no time
            wrong = rehearsal.unfit()
            self.left_out |= wrong
            made = made.kept([arm for arm in made.arms if arm.name not in wrong])
        if rehearsal is not None and request.equal_time:
            made = self.care.control(made, rehearsal, earlier)
        choice = self.choice(made, rehearsal, earlier, time.monotonic() - began)
        if choice is not None:
            self.left_out |= {arm.name: "the budget leaves no time for it" for arm in made.arms
                              if arm not in choice.arms}  # fmt: skip
            made = replace(made.kept(choice.arms), notes=[*made.notes, *choice.notes])
        until = float("inf") if not request.budget else began + budget.seconds(request.budget)
        return Prepared(*self.study(made, choice), until, rehearsal, made)

    @property
    def measured(self) -> bool:
        """Whether what is asked for needs the time of an update."""
        return bool(self.request.budget or self.request.equal_time or self.request.plan)

    def designed(self, found: Mapping[str, Sequence[Arm]]) -> Design:
        """The arms of the design that was asked for, on every fraction of the data."""
        return fractions.spread(design.designed(self.request.design, found), self.fractions)

    def rehearse(self, those: Sequence[Arm], train: Run) -> Rehearsal:
        """A few updates of the baseline and of these arms."""
        count = MEASURED if self.measured else FEW

        def nodes(these: Sequence[Arm], updates: int) -> list[Node]:
            return self.nodes(these, [0], {"rehearse": updates})

        return rehearse([Arm(BASELINE), *those], nodes, self.request.folder, train, count)

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
        costs = controls.longer_costs(made.arms, rehearsal.costs(), AFTER)
        whole = self.request.design in screening.KINDS
        if whole:
            screening.check_runs(self.request.design, rehearsal.unfit())
        return budget.choose(
            [arm for arm in made.arms if arm.name in costs], costs, self.task["updates"],
            EVALUATIONS, self.jobs, budget.seconds(self.request.budget) - spent,
            self.request.seeds, self.task["seeds"], ahead=self.ahead, after=AFTER,
            riding=self.riding(made.arms), whole=whole,
        )  # fmt: skip

    def riding(self, those: Sequence[Arm]) -> dict[str, str]:
        """The arms whose methods only look on, each with the arm whose training takes it along."""
        from whet.study.riders import looks_on, takes_along

        return trie.hosts(those, looks_on, takes_along)

    def nodes(
        self, those: Sequence[Arm], seeds: Sequence[int], options: Mapping[str, Any]
    ) -> list[Node]:
        """Arms times seeds, with the trunks that arms share; a rehearsal has none."""
        every = {
            "threads": self.request.threads,
            "device": self.device,
            **self.care.told,
            **options,
        }
        every["data"] = self.task.get("data")
        file = None if self.request.file is None else str(self.request.file.resolve())
        code = functools.cache(self._code)

        def node(arm: Arm, seed: int) -> Node:
            used = (*arm.methods, *(arm.after or ()))
            identity = code(frozenset(str(settings["name"]) for settings in used))
            told = every if arm.after is None else {**every, "after": AFTER * arm.times}
            updates = every.get("updates") or self.task["updates"]
            if arm.times != 1.0 and arm.after is None:
                told = {**told, "updates": round(arm.times * updates)}
            if arm.data != 1.0:  # for as many updates as with all data
                told = {"updates": updates, **told, "data_fraction": arm.data}
            return Node(self.task["name"], arm.name, arm.methods, seed, told, identity, file,
                        arm.after)  # fmt: skip

        if "rehearse" in options:
            return trie.grown(those, seeds, node, share=False)
        return trie.grown(those, seeds, node, self.ahead, self.riding(those))

    def _code(self, methods: frozenset[str]) -> str:
        beside = {card["name"]: card["companions"] for card in self.cards}
        names = methods | {one for name in methods for one in beside[name]}
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
        costs = {card["name"]: card["cost"] for card in self.cards}
        kept = None if choice is None else asdict(choice)
        if kept is not None:
            kept["arms"] = [arm["name"] for arm in kept["arms"]]
        return {
            "task": self.task, "arms": [asdict(arm) for arm in made.arms], "seeds": list(seeds),
            "design": self.request.design, "when": self.request.when, "budget": kept,
            "contrasts": made.contrasts,
            "threads": self.request.threads, "jobs": self.jobs, "command": self.request.command,
            "date": datetime.date.today().isoformat(), "versions": identity.versions(),
            "asked": self.request.asks(), "left_out": self.left_out,
            "notes": [*made.notes, *self.care.notes()], **self.care.kept(),
            "margin": self.request.margin, "rates": self._rates(made.arms, length),
            "passes": {arm.name: ", ".join(f"{each['name']}: {costs[each['name']]}"
                                           for each in methods_of(arm)) for arm in made.arms},
            "nodes": [node.to_json() for node in nodes],
        }, nodes  # fmt: skip

    def _rates(self, those: Sequence[Arm], length: int | None) -> dict[str, Any]:
        """The learning rate in the course of every arm's training."""
        from whet.study.node import rates

        file = None if self.request.file is None else str(self.request.file)
        updates = length or self.task["updates"]
        return rates(self.request.task, file, those, updates, AFTER, self.care.told.get("lr"))
