"""Recipes cut from one stage: their stages, their rates, and that they resume to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import whet
from tests.contract.fixture import equal, make_task, weights
from tests.contract.test_singles import same
from tests.engine.tiny import linear, rows
from tests.methods.traps import trap
from whet.errors import InputError, UnknownName
from whet.recipes import growing_batch, switching, unfreezing
from whet.run import Run
from whet.stack import Stack
from whet.stage import Recipe, Stage
from whet.task import Task

SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9}
COSINE = {"name": "cosine", "warmup": 0.2}
EMA: dict[str, Any] = {"name": "ema", "decay": 0.9}
PARTS = ["embed", ["hidden", "norm"], "head"]


def plain(**changes: Any) -> Stage:
    given = {"updates": 11, "batch_size": 6, "optimizer": SGD, "schedule": COSINE} | changes
    return Stage(**given)


RECIPES: dict[str, Callable[[], Recipe | Stage]] = {
    "growth": lambda: growing_batch(
        plain(methods=[{"name": "ema", "half_life": 40}], accumulate=2), [4, 6, 10], "linear"
    ),
    "growth by epochs": lambda: growing_batch(
        plain(updates=None, epochs=2, methods=["precise_bn"]), [8, 16], "sqrt"
    ),
    "unfreezing": lambda: unfreezing(
        plain(methods=[EMA]), PARTS, [1, 1, 2], methods=[[], ["precise_bn"], ["precise_bn"]]
    ),
    "switch": lambda: switching(
        plain(methods=[EMA]), ["adamw", SGD, {**SGD, "lr": 0.05}],
        methods=[["fgm"], [], [{"name": "lookahead", "k": 2}]],
    ),
    "snapshots": lambda: plain(schedule=None, methods=[{"name": "snapshot", "cycles": 3}]),
    "snapshots through stages": lambda: growing_batch(
        plain(schedule=None, methods=[{"name": "snapshot", "cycles": 2}, EMA]), [4, 8]
    ),
}  # fmt: skip


def made(name: str, folder: Path | None = None) -> Run:
    return Run(make_task(), RECIPES[name](), seed=2, device="cpu", folder=folder, log=None,
               checkpoint_every=1, evaluate_every=3)  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_resumed_after_every_update(name: str, tmp_path: Path) -> None:
    """In the middle of each stage, and at its end."""
    through = made(name).fit()
    for stop in range(1, through.updates + 1):
        run = made(name, tmp_path)
        assert run.updates == stop - 1
        run.fit(until=stop)
    run = made(name, tmp_path)
    assert run.stage_number == len(run.recipe.stages) - 1
    assert same(through.state_dict(), run.state_dict())
    assert through.evaluate() == run.evaluate()
    members = zip(through.predictor().members(), run.predictor().members(), strict=True)
    assert all(equal(a, b) for a, b in members)


def rates(recipe: Recipe | Stage, **run: Any) -> list[float]:
    """The rate that each update was made at."""
    found: list[float] = []

    def note(run: Run) -> None:  # the scheduler has gone on by then
        found.append(before[-1])

    before: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        stepped = Stack.before_update

        def stepping(stack: Stack) -> None:
            stepped(stack)
            before.append(float(stack.optimizer.param_groups[0]["lr"]))

        patch.setattr(Stack, "before_update", stepping)
        task = Task(linear(), rows(40))
        Run(task, recipe, device="cpu", log=None, callbacks=[note], **run).fit()
    return found


@pytest.mark.parametrize("recipe", [
    lambda stage: switching(stage, [SGD, SGD], shares=[1, 2]),
    lambda stage: growing_batch(stage, [4, 8, 16]),
    lambda stage: unfreezing(stage, ["bias", "weight"]),
])  # fmt: skip
def test_the_rate_goes_through_the_stages_as_through_one(
    recipe: Callable[[Stage], Recipe],
) -> None:
    for schedule in (None, COSINE, {"name": "cyclic", "cycles": 4}, "linear"):
        stage = plain(updates=17, schedule=schedule)
        assert rates(recipe(stage)) == rates(stage)


@pytest.mark.parametrize("name", ["growth", "switch", "unfreezing", "one stage", "snapshots"])
def test_the_rate_counts_only_updates_that_happened(name: str) -> None:
    """A scaler skips some; the rates of those that happen are what they are without."""
    recipe: Recipe | Stage = {
        "growth": growing_batch(plain(), [4, 8], "linear"),
        "switch": switching(plain(), [SGD, {**SGD, "lr": 0.3}]),
        "unfreezing": unfreezing(plain(), ["bias", "weight"]),
        "one stage": plain(),
        "snapshots": plain(schedule=None, methods=[{"name": "snapshot", "cycles": 3}]),
    }[name]
    expected = rates(recipe)
    with skipped():
        assert rates(recipe) == expected
    assert len(expected) == 11
    assert len(set(expected)) > 3


@contextmanager
def skipped() -> Iterator[None]:
    """Some optimizer steps do not happen."""
    stepping, count = Stack.step_optimizer, iter(range(99))

    def skipping(stack: Stack) -> bool:
        return False if next(count) in (0, 3, 4, 9, 13) else stepping(stack)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stack, "step_optimizer", skipping)
        yield


def stepped_anyway(stack: Stack, happened: bool) -> None:
    """`scaler.step(optimizer); scaler.update(); scheduler.step()`."""
    if not happened and stack.run.scheduler is not None:
        stack.run.scheduler.step()
    AFTER(stack, happened)


AFTER = Stack.after_update


@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning")  # of the wrong one
@trap(right=AFTER, wrong=stepped_anyway)
def test_a_skipped_step_moves_no_schedule(after: Callable[[Stack, bool], None]) -> None:
    recipe = switching(plain(), [SGD, {**SGD, "lr": 0.3}])
    expected = rates(recipe)
    with pytest.MonkeyPatch.context() as patch, skipped():
        patch.setattr(Stack, "after_update", after)
        assert rates(recipe) == expected


class TestGrowing:
    def test_rates_and_lengths(self) -> None:
        for rule, factors in (
            ("constant", [1, 1, 1]),
            ("linear", [1, 2, 4]),
            ("sqrt", [1, 2**0.5, 2]),
        ):
            recipe = growing_batch(plain(), [8, 16, 32], rule, shares=[2, 1, 1])
            found = [one.optimizer["lr"] for one in recipe.stages]
            assert found == pytest.approx([0.1 * factor for factor in factors])
            assert [one.batch_size for one in recipe.stages] == [8, 16, 32]
            assert [one.updates for one in recipe.stages] == [6, 2, 3]
            assert all(one.optimizer["momentum"] == 0.9 for one in recipe.stages)

    def test_the_rates_of_groups_go_along(self) -> None:
        optimizer = {**SGD, "groups": [{"at": "head", "lr": 0.01}, {}]}
        first, second = growing_batch(plain(optimizer=optimizer), [8, 16], "linear").stages
        assert first.optimizer == optimizer
        assert second.optimizer["groups"] == [{"at": "head", "lr": 0.02}, {}]

    def test_a_function_keeps_its_rate_or_is_refused(self) -> None:
        def own(parameters: Any) -> Any:
            return torch.optim.SGD(parameters, lr=0.1)

        assert growing_batch(plain(optimizer=own), [8, 16]).stages[1].optimizer is own
        with pytest.raises(InputError, match="whose learning rate only it knows"):
            growing_batch(plain(optimizer=own), [8, 16], "linear")

    def test_an_unknown_rule(self) -> None:
        with pytest.raises(UnknownName, match="'liner'; did you mean 'linear'"):
            growing_batch(plain(), [8], "liner")


class TestUnfreezing:
    def moved(self, recipe: Recipe, until: int) -> set[str]:
        task = make_task()
        before = weights(task.model)
        Run(task, recipe, device="cpu", log=None).fit(until=until)
        after = weights(task.model)
        return {name for name in before if not torch.equal(before[name], after[name])}

    def test_the_top_first_and_the_rest_stands_still_in_evaluation_mode(self) -> None:
        recipe = unfreezing(plain(updates=6), PARTS)
        assert self.moved(recipe, 2) == {"head.weight", "head.bias"}
        assert {name.split(".")[0] for name in self.moved(recipe, 4)} == {"hidden", "norm", "head"}
        assert "norm.running_mean" in self.moved(recipe, 4)
        assert "embed.weight" in self.moved(recipe, 6)

    def test_the_parts_of_a_model(self) -> None:
        model = nn.Sequential(*(nn.Linear(5, 5) for _ in range(3)))
        frozen = [one.freeze for one in unfreezing(plain(), model).stages]
        first = ("0.weight", "0.bias")
        assert frozen == [(*first, "1.weight", "1.bias"), first, ()]
        Run(Task(model, rows(12)), unfreezing(plain(), model), device="cpu", log=None).fit()

    def test_what_is_frozen_anyway_stays_so_and_what_no_part_names_is_trained(self) -> None:
        recipe = unfreezing(plain(updates=4, freeze=["embed"]), ["hidden", "head"])
        assert [one.freeze for one in recipe.stages] == [("embed", "hidden"), ("embed",)]
        assert "norm.weight" in self.moved(recipe, 2)
        assert "embed.weight" not in self.moved(recipe, 4)

    def test_beside_rates_by_name_and_depth(self) -> None:
        """A rule for what is still frozen has nothing to say yet."""
        groups = [{"at": ["embed", "hidden"], "lr": 0.01}, {"at": ["norm", "head"], "lr": 0.1}]
        optimizer = {**SGD, "groups": groups, "no_decay": ["embed"]}
        recipe = unfreezing(plain(updates=6, optimizer=optimizer), PARTS)
        assert "embed.weight" in self.moved(recipe, 6)


class TestSwitching:
    def test_averages_live_through_it(self) -> None:
        run = made("switch").fit()
        assert run.stack.state_dict()["states"]["ema"]["updates"] == 11
        assert type(run.stack.optimizer) is torch.optim.SGD
        assert [method.key for method in run.stack.methods] == ["lookahead", "ema"]

    def test_methods_for_each(self) -> None:
        with pytest.raises(InputError, match=r"there are 2 stages and methods for 1: give a list"):
            switching(plain(), [SGD, SGD], methods=[["fgm"]])


class TestCut:
    def test_lengths_add_up(self) -> None:
        for shares in ([1, 1, 1], [5, 1, 1], [0.1, 0.2, 0.7]):
            stages = switching(plain(updates=10), [SGD] * 3, shares=shares).stages
            assert sum(one.updates or 0 for one in stages) == 10
            stages = switching(plain(updates=None, epochs=3), [SGD] * 3, shares=shares).stages
            assert sum(one.epochs or 0.0 for one in stages) == pytest.approx(3)

    def test_a_recipe_of_one_is_the_stage_itself(self) -> None:
        assert growing_batch(plain(), [6]).stages == (plain(),)

    def test_a_recipe_may_be_cut_again(self) -> None:
        [_, second] = switching(plain(updates=8), [SGD, SGD]).stages
        parts = [one.schedule["part"] for one in growing_batch(second, [4, 8]).stages]
        assert parts == [[0.5, 0.75], [0.75, 1.0]]

    def test_it_begins_as_the_stage_and_stops_early_at_its_end_only(self) -> None:
        stage = plain(starts_from="old.safetensors", early_stopping={"patience": 2})
        first, second = switching(stage, [SGD, SGD]).stages
        assert (first.starts_from, second.starts_from) == ("old.safetensors", "training")
        assert (first.early_stopping, second.early_stopping) == (None, stage.early_stopping)

    @pytest.mark.parametrize(
        ("changes", "shares", "words"),
        [
            ({}, [1], r"shares are \[1.0\]; they must be 2 numbers above 0"),
            ({}, [1, 0], "they must be 2 numbers above 0"),
            ({"updates": 1}, None, "1 updates are too few for 2 stages"),
            ({"schedule": "plateau"}, None, "schedule plateau has no parts"),
            ({"schedule": "OneCycleLR"}, None, "schedule OneCycleLR has no parts"),
            ({"schedule": lambda optimizer, updates: None}, None, "the schedule is a function"),
            (
                {"methods": [{**EMA, "during": [0.5, 1]}]},
                None,
                "ema lasts from 0.5 to 1 of a stage",
            ),
        ],
    )
    def test_what_cannot_be_cut(self, changes: dict[str, Any], shares: Any, words: str) -> None:
        with pytest.raises(InputError, match=words):
            switching(replace(plain(), **changes), [SGD, SGD], shares=shares)

    def test_nothing_to_cut_it_into(self) -> None:
        for cut in (growing_batch, unfreezing, switching):
            with pytest.raises(InputError, match="give one size, part or optimizer"):
                cut(plain(), [])


def test_the_module_is_whets() -> None:
    assert whet.recipes.switching is switching
    assert "recipes" in dir(whet)
