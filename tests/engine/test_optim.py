"""Optimizers and schedules from plain values."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.engine.tiny import linear
from tests.methods.traps import trap
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

    def test_one_of_pytorch_optimizer(self) -> None:
        import pytorch_optimizer

        made = optim.optimizer({"name": "lamb", "lr": 0.02}, parameters())
        assert type(made) is pytorch_optimizer.Lamb
        assert [group["weight_decay"] for group in made.param_groups] == [0.01, 0.0]
        assert optim.optimizer("lars", parameters()).param_groups[0]["lr"] == 0.1

    def test_lars_takes_vectors_at_the_plain_rate(self) -> None:
        """Its trust ratio is of matrices alone: a bias would hardly move under it."""
        model = linear()
        made = optim.optimizer(
            {"name": "lars", "lr": 0.5, "momentum": 0.0, "weight_decay": 0.0}, model.parameters()
        )
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        model(torch.ones(2, 5)).sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}  # type: ignore[union-attr]
        made.step()
        moved = {name: before[name] - p.detach() for name, p in model.named_parameters()}
        assert torch.allclose(moved["bias"], 0.5 * gradients["bias"])
        weight, gradient = before["weight"], gradients["weight"]
        ratio = 1e-3 * weight.norm() / gradient.norm()
        assert torch.allclose(moved["weight"], 0.5 * ratio * gradient, atol=1e-7)

    @pytest.mark.parametrize("name", [
        "adabelief", "adan", "adopt", "lamb", "lars", "lion", "madgrad", "novograd", "prodigy",
        "qhadam", "ranger", "sgdp", "shampoo", "soap", "yogi",
    ])  # fmt: skip
    def test_it_goes_on_from_its_state_to_the_bit(self, name: str) -> None:
        x, model = torch.randn(6, 5), linear()

        def step(made: torch.optim.Optimizer, its: nn.Module) -> None:
            made.zero_grad()
            its(x).square().sum().backward()
            made.step()

        first = optim.optimizer({"name": name, "lr": 0.01}, model.parameters(), model)
        for _ in range(3):
            step(first, model)
        twin = copy.deepcopy(model)
        second = optim.optimizer({"name": name, "lr": 0.01}, twin.parameters(), twin)
        optim.load_state(second, copy.deepcopy(first.state_dict()))
        step(first, model)
        step(second, twin)
        assert torch.equal(model.weight, twin.weight)

    def test_every_other_name_steps_or_says_why_not(self) -> None:
        import pytorch_optimizer

        refused, odd = [], []
        for name in pytorch_optimizer.get_supported_optimizers():
            model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))
            try:
                made = optim.optimizer(name, model.parameters(), model)
            except InputError:
                refused.append(name)
                continue
            model(torch.ones(2, 5)).sum().backward()
            try:
                made.step()
            except (RuntimeError, ValueError):  # needs matrices alone
                odd.append(name)
        assert {"alig", "adahessian", "lomo", "schedulefreeadamw"} <= set(refused)
        assert len(refused) < 25
        assert len(odd) < 4

    @pytest.mark.parametrize(
        ("name", "told"),
        [("alig", "a closure"), ("sophiah", "a graph"), ("lomo", "backward pass"),
         ("schedulefreesgd", "EMA or SWA"), ("kron", "a resumed run would draw others")],
    )  # fmt: skip
    def test_what_no_step_can_serve(self, name: str, told: str) -> None:
        with pytest.raises(InputError, match=f"optimizer {name} .*{told}"):
            optim.optimizer(name, parameters())

    def test_without_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
        with pytest.raises(InputError, match=r"'lamb' is none of torch's.*whet\[optim\]"):
            optim.optimizer("lamb", parameters())
        assert type(optim.optimizer("sgd", parameters())) is torch.optim.SGD

    @pytest.mark.parametrize("how", ["fused", "foreach", "loop"])
    @pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
    def test_implementations_agree(self, name: str, how: str) -> None:
        models = [linear(), linear()]
        for model, implementation in zip(models, ("auto", how), strict=True):
            spec = {"name": name, "lr": 0.01, "implementation": implementation}
            made = optim.optimizer(spec, model.parameters())
            for _ in range(3):
                made.zero_grad()
                model(torch.ones(2, 5)).square().sum().backward()
                made.step()
        assert torch.allclose(models[0].weight, models[1].weight, atol=1e-6)
        assert made.param_groups[0].get(how, False) is (how != "loop")

    def test_an_implementation_that_is_not_there(self) -> None:
        with pytest.raises(InputError, match="radam has no fused implementation; sgd, adam, adamw"):
            optim.optimizer({"name": "radam", "implementation": "fused"}, parameters())
        with pytest.raises(UnknownName, match="'fuse'; did you mean 'fused'"):
            optim.optimizer({"name": "sgd", "implementation": "fuse"}, parameters())

    def test_another_rate_keeps_the_shares_of_groups(self) -> None:
        spec = {"name": "adamw", "lr": 0.1, "groups": [{"at": "a", "lr": 0.01}, {"at": "b"}]}
        changed = optim.with_rate(spec, 0.2)
        assert changed["groups"] == [{"at": "a", "lr": pytest.approx(0.02)}, {"at": "b"}]
        assert spec["groups"][0] == {"at": "a", "lr": 0.01}  # type: ignore[index]

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


# traps ------------------------------------------------------------------------------------------
Given = Callable[[nn.Module], torch.optim.Optimizer]


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def idle(make: Given, steps: int = 10) -> nn.Module:
    """What steps without a gradient leave of a model."""
    torch.manual_seed(0)
    model = normed()
    optimizer = make(model)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    return model


@trap(
    right=lambda model: optim.optimizer(
        {"name": "adamw", "lr": 0.1, "weight_decay": 0.1}, model.parameters()
    ),
    wrong=lambda model: torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1),
)
def test_norms_and_biases_do_not_decay(make: Given) -> None:
    torch.manual_seed(0)
    before, after = normed(), idle(make)
    for name, parameter in after.named_parameters():
        decays = name in ("0.weight", "2.weight")
        expected = dict(before.named_parameters())[name] * (0.99**10 if decays else 1.0)
        assert torch.allclose(parameter, expected), name


class RatioOfAll(torch.optim.Optimizer):
    """Wrong: LARS whose trust ratio is that of vectors too."""

    def __init__(self, model: nn.Module, lr: float) -> None:
        super().__init__(model.parameters(), {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * 0.001 * p.norm() / p.grad.norm() * p.grad)


@trap(
    right=lambda model: optim.optimizer(
        {"name": "lars", "lr": 0.5, "momentum": 0.0, "weight_decay": 0.0}, model.parameters()
    ),
    wrong=lambda model: RatioOfAll(model, 0.5),
)
def test_a_bias_that_begins_at_zero_moves_under_lars(make: Given) -> None:
    torch.manual_seed(0)
    model = normed()
    nn.init.zeros_(model[2].bias)
    optimizer = make(model)
    model(torch.randn(5, 3)).sum().backward()
    gradient, before = model[2].bias.grad.clone(), model[2].weight.detach().clone()
    optimizer.step()
    assert torch.allclose(model[2].bias, -0.5 * gradient)
    assert not torch.equal(model[2].weight, before)
