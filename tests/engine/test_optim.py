"""Optimizers and schedules from plain values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from tests.engine.tiny import linear
from whet import optim
from whet.errors import CheckpointError, InputError, UnknownName


def parameters() -> list[nn.Parameter]:
    return list(linear().parameters())


class TestOptimizers:
    @pytest.mark.parametrize(
        ("spec", "kind", "rate", "decay"),
        [
            (None, torch.optim.AdamW, 1e-3, 0.01),
            ("adamw", torch.optim.AdamW, 1e-3, 0.01),
            ("sgd", torch.optim.SGD, 0.1, 0.0),
            ("adam", torch.optim.Adam, 1e-3, 0.0),
            ({"name": "sgd", "lr": 0.5, "momentum": 0.9}, torch.optim.SGD, 0.5, 0.0),
            ({"name": "sgd", "weight_decay": 0.1}, torch.optim.SGD, 0.1, 0.1),
            ({"lr": 0.2}, torch.optim.AdamW, 0.2, 0.01),
            ({"name": "rmsprop"}, torch.optim.RMSprop, 1e-3, 0.0),
        ],
    )
    def test_by_name(self, spec: Any, kind: type, rate: float, decay: float) -> None:
        made = optim.optimizer(spec, parameters())
        assert type(made) is kind
        assert [group["lr"] for group in made.param_groups] == [rate, rate]
        assert [group["weight_decay"] for group in made.param_groups] == [decay, 0.0]

    def test_settings_reach_it(self) -> None:
        made = optim.optimizer({"name": "sgd", "momentum": 0.9, "nesterov": True}, parameters())
        assert made.param_groups[0]["momentum"] == 0.9
        assert made.param_groups[1]["nesterov"] is True

    def test_the_users_mapping_stays_whole(self) -> None:
        spec = {"name": "sgd", "lr": 0.5}
        optim.optimizer(spec, parameters())
        assert spec == {"name": "sgd", "lr": 0.5}

    def test_a_function(self) -> None:
        made = optim.optimizer(lambda p: torch.optim.SGD(p, lr=0.3), iter(parameters()))
        assert len(made.param_groups[0]["params"]) == 2

    def test_every_name_steps(self) -> None:
        for name in ("sgd", "adam", "adamw", "radam", "nadam", "adagrad", "rmsprop"):
            model = linear()
            before = model.weight.detach().clone()
            made = optim.optimizer(name, model.parameters())
            model(torch.ones(2, 5)).sum().backward()
            made.step()
            assert not torch.equal(before, model.weight)

    def test_mistakes(self) -> None:
        with pytest.raises(UnknownName, match=r"unknown optimizer 'adamww'; did you mean 'adamw'"):
            optim.optimizer("adamww", parameters())
        with pytest.raises(InputError, match=r"optimizer adamw: .*unexpected keyword .*momentum"):
            optim.optimizer({"name": "adamw", "momentum": 0.9}, parameters())
        with pytest.raises(InputError, match="optimizer sgd: Invalid learning rate: -1"):
            optim.optimizer({"name": "sgd", "lr": -1}, parameters())
        with pytest.raises(InputError, match="from a SGD: give a name, settings such as"):
            optim.optimizer(torch.optim.SGD(parameters()), parameters())  # type: ignore[arg-type]
        with pytest.raises(InputError, match="from a float"):
            optim.optimizer(0.1, parameters())  # type: ignore[arg-type]


class TestGroups:
    def test_matrices_decay_and_vectors_do_not(self) -> None:
        model = nn.Sequential(
            nn.Embedding(4, 3), nn.LayerNorm(3), nn.Linear(3, 2), nn.BatchNorm1d(2)
        )
        decayed, spared = optim.decay_groups(model.parameters(), 0.1)
        assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[2].weight)}
        assert len(spared["params"]) == 5
        assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)

    def test_an_empty_group_is_left_out(self) -> None:
        assert len(optim.decay_groups([nn.Parameter(torch.ones(3))], 0.1)) == 1

    def test_a_state_of_other_groups(self) -> None:
        saved = optim.optimizer("sgd", parameters()).state_dict()
        other = optim.optimizer("sgd", [nn.Parameter(torch.ones(3))])
        with pytest.raises(CheckpointError, match="optimizer holds other parameters"):
            optim.load_state(other, saved)


def rates(spec: Any, updates: int, steps: int | None = None) -> list[float]:
    optimizer = torch.optim.SGD(parameters(), lr=2.0)
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
        optimizer = torch.optim.SGD(parameters(), lr=2.0)
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

    def test_it_never_goes_below_its_end(self) -> None:
        assert rates("linear", 3, steps=6)[3:] == [0.0, 0.0, 0.0]

    def test_a_function(self) -> None:
        def plan(optimizer: torch.optim.Optimizer, updates: int) -> Any:
            return torch.optim.lr_scheduler.StepLR(optimizer, updates // 2, gamma=0.1)

        assert rates(plan, 4) == pytest.approx([2.0, 2.0, 0.2, 0.2])

    def test_mistakes(self) -> None:
        optimizer = torch.optim.SGD(parameters(), lr=2.0)
        with pytest.raises(UnknownName, match="unknown schedule 'cosin'; did you mean 'cosine'"):
            optim.schedule("cosin", optimizer, 5)
        with pytest.raises(
            UnknownName, match="setting of schedule cosine 'warm'; did you mean 'war"
        ):
            optim.schedule({"name": "cosine", "warm": 0.1}, optimizer, 5)
        for bad in ({"warmup": 1.0}, {"warmup": -0.1}, {"floor": 2.0}, {"peak": 0.0}, {"peak": 2}):
            with pytest.raises(InputError, match=r"warmup lies in \[0, 1\), floor"):
                optim.schedule({"name": "cosine", **bad}, optimizer, 5)
        with pytest.raises(InputError, match="from a int"):
            optim.schedule(3, optimizer, 5)  # type: ignore[arg-type]
