"""Schedules: shapes, torch's own, plateau; counted in updates that happened, resumed exactly."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.tiny import linear, rows
from whet import optim
from whet.errors import InputError, UnknownName
from whet.run import Run
from whet.stage import Stage
from whet.task import Task


def rates(spec: Any, updates: int, steps: int | None = None) -> list[float]:
    optimizer = torch.optim.SGD(linear().parameters(), lr=2.0, momentum=0.9)
    plan = optim.schedule(spec, optimizer, updates)
    found = []
    for _ in range(steps or updates):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if plan is not None:
            plan.step()
    return found


class TestSchedules:
    def test_none_is_constant(self) -> None:
        optimizer = torch.optim.SGD(linear().parameters(), lr=2.0, momentum=0.9)
        for spec in (None, "constant", {"name": "constant"}):
            assert optim.schedule(spec, optimizer, 5) is None

    def test_cosine(self) -> None:
        expected = [2 * 0.5 * (1 + math.cos(math.pi * at / 8)) for at in range(8)]
        assert rates("cosine", 8) == pytest.approx(expected)

    def test_linear(self) -> None:
        assert rates("linear", 4) == pytest.approx([2.0, 1.5, 1.0, 0.5])

    def test_peak(self) -> None:
        low = rates({"name": "linear", "floor": 0.5, "peak": 0.1}, 4)
        assert low == pytest.approx([0.1 * r for r in rates({"name": "linear", "floor": 0.5}, 4)])
        assert rates({"name": "constant", "peak": 0.1}, 2) == pytest.approx([0.2] * 2)

    def test_floor(self) -> None:
        found = rates({"name": "linear", "floor": 0.5}, 4)
        assert found == pytest.approx([2 * (0.5 + 0.5 * (1 - at / 4)) for at in range(4)])
        assert rates({"name": "cosine", "floor": 0.1}, 4, steps=7)[4:] == pytest.approx([0.2] * 3)

    def test_warm_up(self) -> None:
        """Update u < w has the share (u + 1) / (w + 1); then the shape over what is left."""
        found = rates({"name": "linear", "warmup": 0.3}, 10)
        warm = [2 * (at + 1) / 4 for at in range(3)]
        rest = [2 * (1 - at / 7) for at in range(7)]
        assert found == pytest.approx(warm + rest)
        assert rates({"name": "constant", "warmup": 0.5}, 4) == pytest.approx([2 / 3, 4 / 3, 2, 2])

    @pytest.mark.parametrize("spec", [
        {"name": "cosine", "warmup": 0.1, "floor": 0.05}, {"name": "constant", "warmup": 0.4},
        "linear", {"name": "cyclic", "cycles": 3}, {"name": "stable", "warmup": 0.2},
        {"name": "steps", "at": [0.3, 0.7]}, {"name": "polynomial", "peak": 0.5},
    ], ids=str)  # fmt: skip
    @pytest.mark.parametrize("cuts", [[0, 3, 7, 20], [0, 1, 20], [0, 7, 13, 19, 20]], ids=str)
    def test_parts_are_together_the_whole_to_the_bit(self, spec: Any, cuts: list[int]) -> None:
        named = spec if isinstance(spec, dict) else {"name": spec}
        found: list[float] = []
        for a, b in pairwise(cuts):
            found += rates({**named, "part": [a / 20, b / 20]}, b - a)
        assert found == rates(named, 20)

    def test_a_part_in_updates_of_another_size(self) -> None:
        """Half of the epochs at batches twice as large: the shape goes by the share."""
        found = rates({"name": "linear", "part": [0.5, 1.0]}, 5)
        assert found == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])

    @pytest.mark.parametrize("part", [[0.5, 0.5], [-0.1, 1], [0, 1.1], [1], "ab", 3])
    def test_a_bad_part(self, part: Any) -> None:
        with pytest.raises(InputError, match="schedule cosine: part is"):
            rates({"name": "cosine", "part": part}, 4)

    @pytest.mark.parametrize("name", ["plateau", "one_cycle", "StepLR"])
    def test_what_has_no_parts(self, name: str) -> None:
        with pytest.raises(InputError, match=f"schedule {name} has no parts; those of constant"):
            rates({"name": name, "part": [0, 0.5]}, 4)

    def test_polynomial(self) -> None:
        """torch's PolynomialLR is the oracle, but for the floor."""
        optimizer = torch.optim.SGD(linear().parameters(), lr=2.0)
        theirs = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=8, power=3.0)
        expected = []
        for _ in range(8):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            theirs.step()
        assert rates({"name": "polynomial", "power": 3.0}, 8) == pytest.approx(expected)
        assert rates({"name": "polynomial", "floor": 0.5}, 4) == pytest.approx(
            [2 * (0.5 + 0.5 * (1 - at / 4) ** 2) for at in range(4)]
        )

    def test_cyclic(self) -> None:
        """Equal cycles are torch's warm restarts; the last cycle is whole in any case."""
        optimizer = torch.optim.SGD(linear().parameters(), lr=2.0)
        theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 4)
        expected = []
        for _ in range(12):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            theirs.step()
        assert rates({"name": "cyclic", "cycles": 3}, 12) == pytest.approx(expected)
        longer = rates({"name": "cyclic", "cycles": 2, "growth": 3.0, "decay": 0.5}, 8)
        assert longer[:3] == pytest.approx([2.0, 1.0, 1.0])  # of 8 updates the first cycle has 2
        assert longer[2:] == pytest.approx(
            [0.5 * (1 + math.cos(math.pi * at / 6)) for at in range(6)]
        )
        odd = rates({"name": "cyclic", "cycles": 3}, 100)
        assert odd[-1] < 0.01 * 2.0  # "t mod ceil(T / M)" would end far above

    def test_steps(self) -> None:
        found = rates({"name": "steps", "at": [0.5, 0.75], "factor": 0.1}, 8)
        assert found == pytest.approx([2.0] * 4 + [0.2] * 2 + [0.02] * 2)

    def test_stable(self) -> None:
        found = rates({"name": "stable", "decay": 0.4, "warmup": 0.2}, 10)
        assert found[2:6] == pytest.approx([2.0] * 4)
        assert found[-1] < 0.7
        assert found == sorted(found[:3]) + sorted(found[3:], reverse=True)

    def test_one_cycle_is_torchs(self) -> None:
        optimizer = torch.optim.SGD(linear().parameters(), lr=2.0, momentum=0.9)
        plan = optim.schedule({"name": "one_cycle", "pct_start": 0.25}, optimizer, 8)
        assert isinstance(plan, torch.optim.lr_scheduler.OneCycleLR)
        found = []
        for _ in range(8):
            found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
            optimizer.step()
            plan.step()
        assert max(rate for rate, _ in found) == pytest.approx(2.0)
        assert found[0][0] == pytest.approx(2.0 / 25)
        assert min(momentum for _, momentum in found) == pytest.approx(0.85)

    def test_torchs_by_their_class(self) -> None:
        found = rates({"name": "StepLR", "step_size": 2, "gamma": 0.5}, 4)
        assert found == pytest.approx([2.0, 2.0, 1.0, 1.0])
        found = rates({"name": "MultiStepLR", "milestones": [1, 3], "gamma": 0.5}, 4)
        assert found == pytest.approx([2.0, 1.0, 1.0, 0.5])

    def test_for_a_picture(self) -> None:
        assert optim.shares("cosine", 8) == pytest.approx([r / 2 for r in rates("cosine", 8)])
        assert optim.shares("plateau", 3) == [1.0, 1.0, 1.0]
        assert max(optim.shares("one_cycle", 40)) == pytest.approx(1.0, abs=0.01)

    def test_it_never_goes_below_its_end(self) -> None:
        assert rates("linear", 3, steps=6)[3:] == [0.0, 0.0, 0.0]

    def test_a_function(self) -> None:
        def plan(optimizer: torch.optim.Optimizer, updates: int) -> Any:
            return torch.optim.lr_scheduler.StepLR(optimizer, updates // 2, gamma=0.1)

        assert rates(plan, 4) == pytest.approx([2.0, 2.0, 0.2, 0.2])

    def test_mistakes(self) -> None:
        optimizer = torch.optim.SGD(linear().parameters(), lr=2.0, momentum=0.9)
        with pytest.raises(UnknownName, match="unknown schedule 'cosin'; did you mean 'cosine'"):
            optim.schedule("cosin", optimizer, 5)
        with pytest.raises(
            UnknownName, match="setting of schedule cosine 'warm'; did you mean 'war"
        ):
            optim.schedule({"name": "cosine", "warm": 0.1}, optimizer, 5)
        for bad in ({"warmup": 1.0}, {"warmup": -0.1}, {"floor": 2.0}, {"peak": 0.0}, {"peak": 2}):
            with pytest.raises(InputError, match=r"warmup lies in \[0, 1\), floor"):
                optim.schedule({"name": "cosine", **bad}, optimizer, 5)
        for bad, told in (
            ({"name": "polynomial", "power": 0}, "power lies above 0"),
            ({"name": "cyclic", "cycles": 2.5}, "cycles is a whole number"),
            ({"name": "steps", "at": [0.5, 2]}, "at holds shares"),
            ({"name": "steps", "at": 0.5}, "at holds shares"),
            ({"name": "stable", "decay": 0}, "decay lies in"),
            ({"name": "plateau", "factor": 2}, "factor lies in"),
            ({"name": "StepLR"}, "schedule StepLR: .*step_size"),
        ):
            with pytest.raises(InputError, match=told):
                optim.schedule(bad, optimizer, 5)
        with pytest.raises(UnknownName, match="unknown schedule 'SequentialLR'"):
            optim.schedule("SequentialLR", optimizer, 5)
        with pytest.raises(InputError, match="from a int"):
            optim.schedule(3, optimizer, 5)  # type: ignore[arg-type]


class TestPlateau:
    def plateau(self, **given: Any) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD(linear().parameters(), lr=2.0)
        return optimizer, optim.schedule({"name": "plateau", **given}, optimizer, 100)

    def test_it_is_torchs(self) -> None:
        """ReduceLROnPlateau is the oracle, evaluation by evaluation."""
        mine, plan = self.plateau(patience=1, factor=0.5)
        other = torch.optim.SGD(linear().parameters(), lr=2.0)
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
            other, mode="max", patience=1, factor=0.5, threshold=0.0, threshold_mode="abs"
        )
        for score in (1.0, 0.5, 0.9, 1.1, 1.1, 1.0, 1.0, 0.2, 3.0, 0.0, 0.0):
            mine.step()
            plan.evaluated(score)
            plan.step()
            theirs.step(score)
            assert plan.get_last_lr() == [group["lr"] for group in other.param_groups]

    def test_warm_up_and_floor(self) -> None:
        optimizer, plan = self.plateau(warmup=0.03, patience=0, factor=0.1, floor=0.05)
        found = []
        for _ in range(7):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            plan.evaluated(0.0)
            plan.step()
        assert found[:3] == pytest.approx([0.5, 1.0, 1.5])
        assert found[-1] == pytest.approx(0.1)

    def test_a_run_goes_by_its_select_part_and_resumes(self, tmp_path: Path) -> None:
        def run(folder: Path | None = None) -> Run:
            task = Task(linear(), rows(40), rows(12, 1), objective="categorical")
            spec = {"name": "plateau", "patience": 0, "factor": 0.5}
            stage = Stage(
                updates=12, batch_size=8, optimizer={"name": "sgd", "lr": 3.0}, schedule=spec
            )
            return Run(task, stage, device="cpu", log=None, evaluate_every=2, folder=folder)

        through = run().fit()
        assert through.stack.optimizer.param_groups[0]["lr"] < 3.0
        run(tmp_path).fit(until=7)
        resumed = run(tmp_path).fit()
        assert torch.equal(through.module.weight, resumed.module.weight)
        assert through.stack.run.scheduler.state_dict() == resumed.stack.run.scheduler.state_dict()

    def test_nothing_to_go_by(self) -> None:
        stage = Stage(updates=4, batch_size=8, schedule="plateau")
        with pytest.raises(InputError, match="give Task"):
            Run(Task(linear(), rows(16)), stage, device="cpu", log=None, evaluate_every=1).fit()
        with pytest.raises(InputError, match="evaluate_every=N"):
            Run(Task(linear(), rows(16), rows(8)), stage, device="cpu", log=None).fit()


@pytest.mark.parametrize("spec", [
    "polynomial", "cyclic", "steps", "stable", "one_cycle", {"name": "StepLR", "step_size": 2},
    {"name": "CosineAnnealingWarmRestarts", "T_0": 3}, {"name": "CyclicLR", "base_lr": 0.01,
    "max_lr": 0.1, "step_size_up": 2},
], ids=str)  # fmt: skip
def test_resumed_exactly(spec: Any, tmp_path: Path) -> None:
    def run(folder: Path | None = None) -> Run:
        stage = Stage(
            updates=10, batch_size=8, schedule=spec,
            optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.9},
        )  # fmt: skip
        return Run(Task(linear(), rows(40)), stage, device="cpu", log=None, folder=folder)

    through = run().fit()
    run(tmp_path).fit(until=4)
    resumed = run(tmp_path).fit()
    assert torch.equal(through.module.weight, resumed.module.weight)
    groups = [run.stack.optimizer.param_groups[0] for run in (through, resumed)]
    assert groups[0]["lr"] == groups[1]["lr"]
