"""Initial weights by rules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import init

import whet
from tests.contract.fixture import equal, weights
from tests.methods.traps import trap
from whet import seeding
from whet.errors import InputError, UnknownName
from whet.preparing import initialise


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 16), nn.Linear(16, 4)
    )


@pytest.mark.parametrize("name", [
    "kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform", "orthogonal", "normal",
    "trunc_normal", "uniform",
])  # fmt: skip
def test_draws_what_torch_draws(name: str) -> None:
    model = network()
    initialise(model, {nn.Linear: name}, seed=3)
    wanted = torch.empty(16, 32)
    getattr(init, f"{name}_")(wanted, generator=seeding.generator(3, "initialise", "3.weight"))
    assert torch.equal(model[3].weight, wanted)
    assert not model[3].bias.any()


@pytest.mark.parametrize(("rule", "wanted"), [
    ("zeros", torch.zeros(4, 16)), ("eye", torch.eye(4, 16)),
    ({"name": "constant", "val": 0.5}, torch.full((4, 16), 0.5)),
])  # fmt: skip
def test_what_draws_nothing(rule: Any, wanted: Tensor) -> None:
    model = network()
    initialise(model, {"4": rule})
    assert torch.equal(model[4].weight, wanted)


def test_settings_reach_torch() -> None:
    model = nn.Linear(400, 400)
    table = initialise(model, {nn.Linear: {"name": "trunc_normal", "std": 0.02, "bias": "ones"}})
    assert float(model.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert torch.equal(model.bias, torch.ones(400))
    assert [one.by for one in table] == ["trunc_normal(std=0.02)", "ones"]
    kept = torch.full((400,), 7.0)
    with torch.no_grad():
        model.bias.copy_(kept)
    initialise(model, {nn.Linear: {"name": "zeros", "bias": None}})
    assert torch.equal(model.bias, kept)


def test_the_nearest_rule_wins() -> None:
    class Mine(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4), Mine(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    two, three = ({"name": "constant", "val": value} for value in (2.0, 3.0))
    rules = {nn.Module: "zeros", nn.Linear: "ones", Mine: "eye", "2": two, "3": "ones",
             "3.weight": three}  # fmt: skip
    table = initialise(model, rules)
    assert [float(model[n].weight.detach()[0, 1]) for n in range(4)] == [1.0, 0.0, 2.0, 3.0]
    assert [one.rule for one in table if one.name.endswith("weight")] == [
        "Linear", "Mine", "2", "3.weight",
    ]  # fmt: skip


def test_others_stay_and_the_table_says_what_was_done() -> None:
    model = network()
    before = weights(model)
    table = initialise(model, {nn.Conv2d: "kaiming_normal"})
    assert [one.name for one in table] == ["0.weight", "0.bias"]
    same = {n for n, t in weights(model).items() if torch.equal(t, before[n])}
    assert set(before) - same == {"0.weight", "0.bias"}
    assert str(table).splitlines()[1].split() == ["0.weight", "8x3x3x3", "kaiming_normal", "Conv2d"]


def test_dtype_is_kept_and_half_precision_draws_in_float32() -> None:
    half, full = nn.Linear(8, 8).bfloat16(), nn.Linear(8, 8)
    for model in (half, full):
        initialise(model, {nn.Linear: "orthogonal"})  # which bf16 has no kernel for
    assert half.weight.dtype == torch.bfloat16
    assert torch.equal(half.weight, full.weight.bfloat16())


# traps ---------------------------------------------------------------------------------------


def applied(model: nn.Module, rules: Any, *, seed: int = 0) -> None:
    """The usual `model.apply(init_weights)`, after a `manual_seed`."""
    torch.manual_seed(seed)
    function = getattr(init, f"{next(iter(rules.values()))}_")

    def begin(module: nn.Module) -> None:
        if isinstance(module, tuple(rules)):
            function(module.weight)

    model.apply(begin)


@trap(right=initialise, wrong=applied)
def test_global_generators_do_not_move(begin: Any) -> None:
    model = network()
    before = torch.default_generator.get_state()
    begin(model, {nn.Linear: "kaiming_normal"}, seed=5)
    assert torch.equal(before, torch.default_generator.get_state())


@trap(right=initialise, wrong=applied)
def test_a_layer_more_changes_no_other(begin: Any) -> None:
    """Two arms of a comparison, of which one has a layer more, else begin apart."""
    one = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    more = nn.ModuleDict({"new": nn.Linear(4, 4), "a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    for model in (one, more):
        begin(model, {nn.Linear: "kaiming_normal"})
    assert torch.equal(one["b"].weight, more["b"].weight)
    assert not torch.equal(one["a"].weight, one["b"].weight)


@trap(right=initialise, wrong=applied)
def test_padding_stays_zero(begin: Any) -> None:
    table = nn.Embedding(9, 4, padding_idx=0)
    begin(table, {nn.Embedding: "normal"})
    assert not table.weight[0].any()
    assert table.weight[1:].all()


@trap(right=initialise, wrong=applied)
def test_tied_weights_are_begun_by_one_rule(begin: Any) -> None:
    """By the last one in the model's order otherwise, whichever that is."""
    model = nn.ModuleDict({"embed": nn.Embedding(9, 4), "out": nn.Linear(4, 9, bias=False)})
    model["out"].weight = model["embed"].weight
    rules = {nn.Embedding: "normal", nn.Linear: "xavier_normal"}
    told = ""
    try:
        begin(model, rules)
    except InputError as refused:
        told = str(refused)
    assert "Embedding and Linear are both for embed.weight" in told
    begin(model, rules | {"embed.weight": "zeros"})
    assert not model["out"].weight.any()


# refusals ------------------------------------------------------------------------------------


def test_what_does_not_fit_changes_nothing() -> None:
    model = network()
    before = weights(model)
    for rules, told in (
        ({nn.Linear: "zeros", nn.BatchNorm2d: "kaiming_normal"}, "does not fit 1.weight of shape"),
        ({nn.Linear: {"name": "normal", "sd": 1.0}}, "does not fit 3.weight.*sd"),
        ({nn.LSTM: "orthogonal"}, "the rule LSTM is for nothing.*Conv2d"),
        ({"decoder.*": "zeros"}, "the rule 'decoder.*' is for nothing.*there are: 0, 1"),
        ({"[34]": "zeros", "3": "ones"}, "and 3 are both for 3.weight"),
    ):
        with pytest.raises(InputError, match=told):
            initialise(model, rules)
    with pytest.raises(UnknownName, match="did you mean 'kaiming_normal'"):
        initialise(model, {nn.Linear: "kaiming_normall"})
    with pytest.raises(UnknownName):
        initialise(model, {nn.Linear: {"std": 1.0}})
    assert equal(before, weights(model))


def test_public() -> None:
    assert whet.initialise is initialise
