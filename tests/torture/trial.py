"""One case: a run that is let alone, and its twin that is interrupted again and again."""

from __future__ import annotations

import json
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tests.contract.fixture import data, make_task, members_of
from tests.contract.found import case
from tests.contract.test_singles import flat
from tests.torture import drawing
from tests.torture.drawing import Drawn
from tests.torture.faults import Events, Interruption, watched_disk
from whet import description
from whet.batch import Batch
from whet.callback import Callback
from whet.errors import Clash, InputError, NotApplicable
from whet.run import Run
from whet.stage import Recipe
from whet.task import Task

ATTEMPTS = 8


class Rows(Dataset[Any]):
    """The fixture's rows as a map-style Dataset."""

    def __init__(self, given: Mapping[str, Tensor], events: Events) -> None:
        self.given, self.events = given, events
        self.targets = given["labels"]  # for methods that count classes and read no sample

    def __len__(self) -> int:
        return len(self.given["labels"])

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        self.events.happened("fetch")
        return {name: tensor[number] for name, tensor in self.given.items()}


class Updates(Callback):
    def __init__(self, events: Events) -> None:
        self.events = events

    def updated(self, run: Run) -> None:
        self.events.happened("update")


@dataclass
class Outcome:
    """How a case went: what struck, what differs, and how often the recipe was drawn anew."""

    drawn: Drawn
    recipe: Recipe
    struck: list[str]
    wrong: str | None
    redrawn: int

    def told(self) -> str:
        recipe = json.dumps(description.describe(self.recipe), indent=1)
        return (
            f"case {self.drawn.number}: {self.wrong}\nmethods {', '.join(self.drawn.methods)}; "
            f"faults {', '.join(self.drawn.faults)}; {drawing.engine(self.drawn)}\n{recipe}"
        )


def task(drawn: Drawn, events: Events) -> Task:
    members = members_of([case(name).method for name in drawn.methods])
    made = make_task(drawn.number, members=members)
    made.model.register_forward_hook(lambda *_: events.happened("forward"))
    by_sample = "exception in the loader" in drawn.faults or drawn.dice("data").random() < 0.3
    return replace(made, train=Rows(data(), events)) if by_sample else made


def go(drawn: Drawn, folder: Path) -> Outcome:
    """Train, interrupt, resume, compare."""
    struck: list[str] = []
    attempt, recipe = 0, drawing.recipe(drawn)
    try:
        while True:
            events = Events()
            try:
                through = _run(drawn, recipe, events, folder / f"through-{attempt}")
                with watched_disk(events):
                    through.fit()
                break
            except (NotApplicable, InputError, Clash):  # a frozen table cannot be attacked, ...
                if attempt == ATTEMPTS:
                    raise
            attempt += 1
            recipe = drawing.recipe(drawn, attempt)
        resumed = _interrupted(drawn, recipe, events, folder / "twin", struck)
        wrong = difference(through, resumed)
    except Exception as error:
        where = "".join(traceback.format_tb(error.__traceback__)[-2:])
        wrong = f"after {', '.join(struck) or 'nothing'}: {type(error).__name__}: {error}\n{where}"
    return Outcome(drawn, recipe, struck, wrong, attempt)


def _run(drawn: Drawn, recipe: Recipe, events: Events, folder: Path) -> Run:
    return Run(
        task(drawn, events), recipe, drawn.number, folder=folder, device="cpu", log=None,
        callbacks=[Updates(events)], **drawing.engine(drawn),
    )  # fmt: skip


def _interrupted(
    drawn: Drawn, recipe: Recipe, events: Events, folder: Path, struck: list[str]
) -> Run:
    folder.mkdir()
    sessions = len(drawn.faults) + 1
    shares = Counter({event: max(1, seen // sessions) for event, seen in events.seen.items()})
    dice = drawn.dice("faults")
    events.at = None

    def make() -> Run:
        return _run(drawn, recipe, events, folder)

    session = Interruption(make, events, folder, shares, dice)
    struck.extend(fault for fault in drawn.faults if session.suffer(fault))
    return make().fit()


def difference(through: Run, resumed: Run) -> str | None:
    """Where two runs differ in a bit; None where they do not."""
    left, right = flat(through.state_dict()), flat(resumed.state_dict())
    if left.keys() != right.keys():
        return f"the states hold other things: {sorted(left.keys() ^ right.keys())[:5]}"
    for path, value in left.items():
        other = right[path]
        equal = torch.equal(value, other) if isinstance(value, Tensor) else value == other
        if not equal:
            return f"{path} differs"
    batch = Batch.of(data(20, 2))
    if not torch.equal(through.predictor()(batch), resumed.predictor()(batch)):
        return "the predictions differ"
    assert resumed.folder is not None
    leftover = [path.name for path in (resumed.folder / "checkpoints").glob(".*")]
    return f"drafts are left: {leftover}" if leftover else None
