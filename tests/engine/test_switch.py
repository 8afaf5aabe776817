"""Traps of a training that changes on its way: another optimizer, another rate, larger batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.engine.test_recipes import plain, rates
from tests.engine.tiny import linear, rows, same, state
from tests.methods.traps import trap
from whet.methods.ema import decay_at
from whet.recipes import growing_batch, switching
from whet.run import Run
from whet.stage import Recipe, Stage
from whet.task import Task

SLOW, FAST = {"name": "sgd", "lr": 0.1}, {"name": "sgd", "lr": 0.3}


def share(update: int, of: int) -> float:
    """The cosine's."""
    return (1.0 + math.cos(math.pi * update / of)) / 2.0


# the rate at the switch ---------------------------------------------------------------------------
def by_recipe() -> list[float]:
    return rates(switching(plain(updates=10, schedule="cosine"), [SLOW, FAST]))


def by_loop(change: Callable[[torch.optim.Optimizer, Any], tuple[Any, Any]]) -> list[float]:
    """The rates of a loop whose optimizer and schedule change after half of ten updates."""
    model = linear()
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler: Any = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    found = []
    for update in range(10):
        if update == 5:
            optimizer, scheduler = change(optimizer, scheduler)
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


def anew(old: torch.optim.Optimizer, scheduler: Any) -> tuple[Any, Any]:
    """A new optimizer, and a new schedule for it."""
    new = torch.optim.SGD(old.param_groups[0]["params"], lr=0.3)
    return new, torch.optim.lr_scheduler.CosineAnnealingLR(new, 10)


def cut(old: torch.optim.Optimizer, scheduler: Any) -> tuple[Any, Any]:
    """A new schedule as well, over what is left."""
    new = torch.optim.SGD(old.param_groups[0]["params"], lr=0.3)
    return new, torch.optim.lr_scheduler.CosineAnnealingLR(new, 5)


def inherited(old: torch.optim.Optimizer, scheduler: Any) -> tuple[Any, Any]:
    """A new optimizer at the old one's rate, under its schedule."""
    new = torch.optim.SGD(old.param_groups[0]["params"], lr=old.param_groups[0]["lr"])
    scheduler.optimizer = new
    return new, scheduler


def left_behind(old: torch.optim.Optimizer, scheduler: Any) -> tuple[Any, Any]:
    """A new optimizer, whose rate nobody moves: the schedule holds the old one."""
    return torch.optim.SGD(old.param_groups[0]["params"], lr=0.3), scheduler


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step:UserWarning")  # of the wrong ones
@pytest.mark.parametrize("change", [anew, cut, inherited, left_behind])
def test_the_rate_goes_on_from_where_the_schedule_stands(change: Any) -> None:
    """At the new optimizer's own rate."""

    @trap(right=by_recipe, wrong=lambda: by_loop(change))
    def check(run: Callable[[], list[float]]) -> None:
        expected = [(0.1 if t < 5 else 0.3) * share(t, 10) for t in range(10)]
        assert run() == pytest.approx(expected)

    check("right")
    check("wrong")


# a resume after the switch ------------------------------------------------------------------------
LENGTH = 10


def by_run(stop: int) -> dict[str, Tensor]:
    """What training leaves that was stopped, and resumed."""
    stage = Stage(updates=LENGTH, batch_size=6)
    recipe = switching(stage, [{"name": "adamw", "lr": 0.05}, SLOW])
    with TemporaryDirectory() as folder:
        for until in (stop, LENGTH):
            run = Run(Task(linear(), rows(40)), recipe, device="cpu", log=None, folder=folder,
                      checkpoint_every=1).fit(until=until)  # fmt: skip
    return state(run.stack.run.module)


def at_the_epoch(stop: int) -> dict[str, Tensor]:
    """`if epoch == k: optimizer = SGD(...)`, in a loop that goes on from the saved epoch."""
    saved, begin = state(linear()), 0
    for until in (stop, LENGTH):
        model = linear()
        model.load_state_dict(saved)
        optimizer: Any = torch.optim.AdamW(model.parameters(), lr=0.05)
        for update in range(begin, until):
            if update == LENGTH // 2:
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            batch = rows(6, update)
            optimizer.zero_grad()
            F.cross_entropy(model(batch.inputs), batch.targets).backward()
            optimizer.step()
        saved, begin = state(model), until
    return saved


@trap(right=by_run, wrong=at_the_epoch)
def test_resumed_after_the_switch_it_is_the_second_optimizers(
    resumed: Callable[[int], dict[str, Tensor]],
) -> None:
    through = resumed(LENGTH)
    assert all(same(resumed(stop), through) for stop in (7, 9))


# an average across the switch ---------------------------------------------------------------------
def kept(stage: Stage) -> Recipe:
    return switching(stage, [SLOW, FAST], shares=[97, 3])


def begun_anew(stage: Stage) -> Recipe:
    """The average is made with the optimizer, once more at the switch."""
    return Recipe([replace(one, methods=stage.methods) for one in kept(stage).stages])


@trap(right=kept, wrong=begun_anew)
def test_an_average_goes_on_across_the_switch(recipe: Callable[[Stage], Recipe]) -> None:
    trail: list[Tensor] = []
    stage = Stage(updates=100, batch_size=6, methods=[{"name": "ema", "decay": 0.9}])
    task = Task(linear(), rows(40))
    expected = task.model.weight.detach().clone()
    run = Run(task, recipe(stage), device="cpu", log=None, callbacks=[
        lambda run: trail.append(run.stack.run.module.weight.detach().clone())
    ]).fit()  # fmt: skip
    assert len(trail) == 100
    for update, weight in enumerate(trail, 1):
        expected.lerp_(weight, 1.0 - decay_at(update, 0.9, "ratio"))
    [shadow] = run.stack.state_dict()["states"]["ema"]["shadows"]
    assert torch.allclose(shadow["weight"], expected, atol=1e-6)


# growing batches ----------------------------------------------------------------------------------
def by_growing() -> list[float]:
    stage = plain(updates=12, schedule="cosine", optimizer=SLOW)
    return rates(growing_batch(stage, [4, 16], "linear"))


def beneath_the_schedule() -> list[float]:
    """`group["lr"] *= 4` when the batch grows, beneath a schedule that starts from its own rate."""
    optimizer = torch.optim.SGD(linear().parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: share(update, 12))
    found = []
    for update in range(12):
        if update == 6:
            optimizer.param_groups[0]["lr"] *= 4
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


@trap(right=by_growing, wrong=beneath_the_schedule)
def test_the_rate_grows_for_as_long_as_the_batch_has(run: Callable[[], list[float]]) -> None:
    assert run() == pytest.approx([0.1 * share(t, 12) * (4 if t >= 6 else 1) for t in range(12)])


def moved(rule: str) -> float:
    """How far an epoch of batches of twenty goes, of the way of one of batches of four."""
    ways: list[Tensor] = []
    optimizer = {"name": "sgd", "lr": 1e-4, "weight_decay": 0.0}
    stage = Stage(epochs=2, optimizer=optimizer)
    task = Task(linear(), rows(40))
    ways.append(task.model.weight.detach().clone())
    run = Run(task, growing_batch(stage, [4, 20], rule), device="cpu", log=None, callbacks=[
        lambda run: ways.append(run.stack.run.module.weight.detach().clone())
    ]).fit()  # fmt: skip
    assert run.updates == 12
    return float((ways[12] - ways[10]).norm() / (ways[10] - ways[0]).norm())


@trap(right="linear", wrong="constant")
def test_an_epoch_of_larger_batches_goes_as_far(rule: str) -> None:
    assert moved(rule) == pytest.approx(1.0, abs=0.01)
