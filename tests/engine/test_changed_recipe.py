"""A checkpoint knows its recipe: a changed one is refused by name, or continued when asked."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.engine.tiny import linear
from whet import description, resume
from whet.errors import CheckpointError
from whet.methods import make
from whet.run import Run
from whet.stage import Recipe, Stage
from whet.task import Task

SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9}
STAGE = Stage(updates=8, batch_size=4, optimizer=SGD, schedule="cosine", methods=["ema"])


def task(data: Any = None) -> Task:
    rows = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    return Task(linear(), (rows, torch.arange(20) % 3) if data is None else data)


def run(recipe: Any, folder: Path | None = None, data: Any = None, **given: Any) -> Run:
    return Run(task(data), recipe, device="cpu", folder=folder, log=None, **given)


def changed(**changes: Any) -> Stage:
    return dataclasses.replace(STAGE, **changes)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "rate": ({"optimizer": {**SGD, "lr": 0.2}}, r"stage 0: optimizer\.lr 0\.1 -> 0\.2"),
    "momentum": ({"optimizer": {"name": "sgd", "lr": 0.1}}, r"momentum 0\.9 -> not given"),
    "optimizer": ({"optimizer": "adamw"}, r"optimizer\.name 'sgd' -> 'adamw'"),
    "length": ({"updates": 9}, "updates 8 -> 9"),
    "epochs": ({"updates": None, "epochs": 2}, "epochs None -> 2"),
    "batch size": ({"batch_size": 5}, "batch_size 4 -> 5"),
    "accumulation": ({"accumulate": 2}, "accumulate 1 -> 2"),
    "schedule": ({"schedule": "linear"}, r"schedule\.name 'cosine' -> 'linear'"),
    "warm-up": ({"schedule": {"name": "cosine", "warmup": 0.5}}, r"schedule\.warmup not given"),
    "frozen": ({"freeze": ["bias"]}, r"freeze \[\] -> \['bias'\]"),
    "objective": ({"objective": "multi-label"}, "objective None -> 'multi-label'"),
    "drop_last": ({"drop_last": True}, "drop_last False -> True"),
    "start": ({"starts_from": "evaluation"}, "starts_from 'training' -> 'evaluation'"),
    "early stopping": (
        {"early_stopping": {"patience": 3}},
        "early_stopping None -> .*'patience': 3",
    ),
    "setting": ({"methods": [{"name": "ema", "decay": 0.5}]}, r"methods\.ema\.decay"),
    "span": ({"methods": [make("ema").during(0.5, 1)]}, r"methods\.ema\.during"),
}


class TestRefused:
    @pytest.mark.parametrize("name", CHANGES)
    def test_with_what_changed(self, name: str, tmp_path: Path) -> None:
        changes, said = CHANGES[name]
        run(STAGE, tmp_path).fit(until=3)
        with pytest.raises(CheckpointError, match=said) as refused:
            run(changed(**changes), tmp_path)
        assert "on_change='continue'" in str(refused.value)

    def test_all_that_changed_is_named(self, tmp_path: Path) -> None:
        run(STAGE, tmp_path).fit(until=3)
        with pytest.raises(CheckpointError) as refused:
            run(changed(updates=9, batch_size=5), tmp_path)
        for said in ("updates 8 -> 9", "batch_size 4 -> 5"):
            assert said in str(refused.value)

    def test_the_same_said_otherwise_is_the_same(self, tmp_path: Path) -> None:
        run(STAGE, tmp_path).fit(until=3)
        spelled = changed(
            schedule={"name": "cosine"},
            methods=[make("ema")],
            optimizer=dict(reversed(SGD.items())),
        )
        assert run(Recipe([spelled]), tmp_path).updates == 3

    def test_workers_change_nothing(self, tmp_path: Path) -> None:
        run(STAGE, tmp_path).fit(until=3)
        assert run(changed(workers=1, prefetch=3), tmp_path).updates == 3

    def test_other_data_and_a_loader_of_another_size(self, tmp_path: Path) -> None:
        rows = TensorDataset(torch.randn(20, 5), torch.zeros(20, dtype=torch.long))

        def go(size: int) -> Run:
            return run(STAGE, tmp_path, DataLoader(rows, batch_size=size))

        go(4).fit(until=2)
        with pytest.raises(CheckpointError, match="batches in an epoch 5 -> 4"):
            go(5)
        assert go(4).updates == 2

    def test_every_field_of_a_stage_is_compared_or_said_not_to_be(self) -> None:
        [stage] = description.describe(Recipe([STAGE]))["stages"]
        fields = {field.name for field in dataclasses.fields(Stage)}
        assert set(stage) | description.NOT_COMPARED == fields
        assert description.MAY_CHANGE - fields == {"batches in an epoch"}

    def test_the_manifest_holds_the_recipe(self, tmp_path: Path) -> None:
        run(STAGE, tmp_path).fit(until=1)
        held = json.loads((tmp_path / "run.json").read_text())["recipe"]
        assert held == description.describe(Recipe([STAGE]))
        assert held["stages"][0]["optimizer"] == SGD


class TestFunctions:
    """An optimizer or a schedule that a function makes, told by its code."""

    def optimizer(self, rate: float) -> Any:
        return lambda parameters: torch.optim.SGD(parameters, lr=rate)

    def test_the_same_code_is_the_same(self) -> None:
        def told(optimizer: Any) -> Any:
            return description.describe(Recipe([changed(optimizer=optimizer)]))

        def one(parameters: Any) -> Any:
            return torch.optim.SGD(parameters, lr=0.1)

        first = told(one)

        def one(parameters: Any) -> Any:  # a comment

            return torch.optim.SGD(parameters, lr=0.1)

        assert told(one) == first

        def one(parameters: Any) -> Any:
            return torch.optim.SGD(parameters, lr=0.2)

        assert told(one) != first

    def test_a_partial_is_told_by_its_arguments(self) -> None:
        def told(rate: float) -> Any:
            given = partial(torch.optim.SGD, lr=rate)
            return description.describe(Recipe([changed(optimizer=given)]))

        assert told(0.1) == told(0.1) != told(0.2)

    def test_what_a_function_holds_on_to_is_compared(self) -> None:
        def told(rate: float) -> Any:
            return description.describe(Recipe([changed(optimizer=self.optimizer(rate))]))

        assert told(0.1) == told(0.1) != told(0.2)

    def test_a_name_in_a_set_has_no_order(self) -> None:
        source = "def f(p):\n    return p in {'a', 'b', 'c', 'd', 'e'}\n"
        scope: dict[str, Any] = {}
        exec(source, scope)
        [constant] = [c for c in scope["f"].__code__.co_consts if isinstance(c, frozenset)]
        assert description._constant(constant) == str(sorted(map(repr, constant)))


class TestContinued:
    def go_on(self, folder: Path, recipe: Any, until: int = 3) -> Run:
        run(STAGE, folder).fit(until=until)
        return run(recipe, folder, on_change="continue")

    def test_with_another_rate_the_moments_stay(self, tmp_path: Path) -> None:
        before = run(STAGE).fit(until=3)
        going = self.go_on(tmp_path, changed(optimizer={**SGD, "lr": 0.5, "momentum": 0.3}))
        [group] = going.stack.optimizer.param_groups[:1]
        fresh = run(changed(optimizer={**SGD, "lr": 0.5})).fit(until=3)
        assert group["lr"] == fresh.stack.optimizer.param_groups[0]["lr"] != 0.5
        assert group["momentum"] == 0.3
        kept = [
            before.stack.optimizer.state[p]["momentum_buffer"] for p in before.module.parameters()
        ]
        here = [
            going.stack.optimizer.state[p]["momentum_buffer"] for p in going.module.parameters()
        ]
        assert all(torch.equal(a, b) for a, b in zip(kept, here, strict=True))
        assert "optimizer.lr 0.1 -> 0.5" in going.notes[0]
        assert going.fit().updates == 8

    @pytest.mark.parametrize("schedule", ["linear", {"name": "cosine", "warmup": 0.5}, None])
    def test_with_another_schedule_as_if_it_had_always_been(
        self, tmp_path: Path, schedule: Any
    ) -> None:
        going = self.go_on(tmp_path, changed(schedule=schedule, updates=12))
        fresh = run(changed(schedule=schedule, updates=12)).fit(until=3)
        for _ in range(4):
            rates = [one.stack.optimizer.param_groups[0]["lr"] for one in (going, fresh)]
            assert rates[0] == rates[1]
            going.fit(until=going.updates + 1), fresh.fit(until=fresh.updates + 1)

    def test_from_a_finished_stage_to_a_longer_one(self, tmp_path: Path) -> None:
        assert self.go_on(tmp_path, changed(updates=12), until=8).fit().updates == 12

    def test_with_a_further_stage(self, tmp_path: Path) -> None:
        going = self.go_on(tmp_path, Recipe([STAGE, changed(optimizer="adamw")]), until=8)
        assert going.fit().updates == 16
        assert going.stage_number == 1

    def test_with_another_batch_size_the_same_rows_are_behind(self, tmp_path: Path) -> None:
        """Three batches of four rows of an epoch are six of two."""
        assert self.go_on(tmp_path, changed(batch_size=2)).offset == 6
        assert run(changed(batch_size=2), tmp_path, on_change="continue").fit().updates == 8

    @pytest.mark.parametrize("name", ["frozen", "setting", "span", "objective", "optimizer"])
    def test_not_with_what_its_state_depends_on(self, name: str, tmp_path: Path) -> None:
        said = "optimizer is SGD" if name == "optimizer" else "a stage that has begun"
        with pytest.raises(CheckpointError, match=said):
            self.go_on(tmp_path, changed(**CHANGES[name][0]))

    def test_the_recipe_that_it_goes_on_with_is_then_its_own(self, tmp_path: Path) -> None:
        self.go_on(tmp_path, changed(updates=9)).fit(until=5)
        assert run(changed(updates=9), tmp_path).updates == 5
        with pytest.raises(CheckpointError, match="updates 9 -> 8"):
            run(STAGE, tmp_path)

    def test_an_unchanged_one_goes_on_to_the_bit(self, tmp_path: Path) -> None:
        through = run(STAGE).fit()
        resumed = self.go_on(tmp_path, STAGE).fit()
        assert not resumed.notes
        for a, b in zip(through.module.parameters(), resumed.module.parameters(), strict=True):
            assert torch.equal(a, b)


def test_everything_that_is_saved_is_needed_and_its_lack_is_named() -> None:
    state = run(STAGE).fit(3).state_dict()
    assert set(resume.NEEDED) == set(state)
    for name in resume.NEEDED:
        less = {key: value for key, value in state.items() if key != name}
        with pytest.raises(CheckpointError, match=f"lacks {name}: it was not written by"):
            run(STAGE).load_state_dict(less)
