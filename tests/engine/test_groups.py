"""Parameter groups by rule and by depth, and the layers of models."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engine.tiny import rows, state
from tests.methods.traps import trap
from whet import optim, parameter_groups
from whet.ensembles import Concatenation
from whet.errors import InputError, UnknownName
from whet.members import Members
from whet.methods import MoCo
from whet.run import Run
from whet.stage import Stage
from whet.task import Task


class Block(nn.Module):
    def __init__(self, width: int, down: bool = False) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        short = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))
        self.downsample = short if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(x) + self.norm(self.conv(x)).relu()


class Residual(nn.Module):
    """A residual network as torchvision names its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Block(4), Block(4))
        self.layer2 = nn.Sequential(Block(4, True), Block(4))
        self.fc = nn.Linear(4, 3)


class Encoder(nn.Module):
    """A vision transformer's parts: a class token and positions beside the patches."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 8)), nn.Embedding(5, 8)
        self.patch = nn.Linear(5, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.body = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), 1, 8), self.patch(x)[:, None]], 1)
        x = x + self.positions.weight[: x.shape[1]]
        return self.head(self.norm(self.body(x))[:, 0])


def firsts(model: nn.Module) -> list[str]:
    return [layer[0] for layer in optim.layers(model)]


class TestLayers:
    def test_a_residual_network(self) -> None:
        assert firsts(Residual()) == [
            "conv1.weight", "layer1.0.conv.weight", "layer1.1.conv.weight", "layer2.0.conv.weight",
            "layer2.1.conv.weight", "fc.weight",
        ]  # fmt: skip
        assert "bn1.bias" in optim.layers(Residual())[0]

    def test_an_encoder(self) -> None:
        found = optim.layers(Encoder())
        assert found[0] == ["token", "positions.weight", "patch.weight", "patch.bias"]
        assert [len(layer) for layer in found] == [4, 12, 12, 14, 2]  # its last norm is the body's
        assert found[-1] == ["head.weight", "head.bias"]

    def test_a_plain_sequential(self) -> None:
        model = nn.Sequential(
            nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(),
            nn.Linear(4, 3),
        )  # fmt: skip
        assert firsts(model) == ["0.weight", "3.weight", "5.weight"]

    def test_one_of_transformers(self) -> None:
        from transformers import BertConfig, BertForSequenceClassification

        given = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
        model = BertForSequenceClassification(
            BertConfig(**given, vocab_size=20, num_hidden_layers=2)
        )
        found = optim.layers(model)
        assert len(found) == 4
        assert all(name.startswith("bert.embeddings") for name in found[0])
        assert found[-1][0] == "bert.pooler.dense.weight"
        assert found[-1][-1] == "classifier.bias"

    @pytest.mark.parametrize("model", [Residual(), Encoder(), nn.Linear(2, 2)])
    def test_every_parameter_is_in_one(self, model: nn.Module) -> None:
        names = [name for layer in optim.layers(model) for name in layer]
        assert sorted(names) == sorted(name for name, _ in model.named_parameters())

    def test_branches_count_from_their_outputs(self) -> None:
        """One after the other, the first of them would be trained at the lowest rates."""

        def deep(*widths: int) -> nn.Sequential:
            return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))

        both = Concatenation({"a": deep(4, 5, 6, 3), "b": deep(4, 3)}, 2, torch.ones(2, 4))
        assert firsts(both) == [
            "encoders.a.0.weight", "encoders.a.1.weight", "encoders.a.2.weight",
            "norms.a.weight",
        ]  # fmt: skip
        assert optim.layers(both)[2][2:] == ["encoders.b.0.weight", "encoders.b.0.bias"]
        assert optim.layers(both)[3][-2:] == ["head.weight", "head.bias"]
        on_a_trunk = nn.Sequential(nn.Linear(4, 4), Members(lambda: deep(4, 5, 3), 2))
        assert [layer[::2] for layer in optim.layers(on_a_trunk)] == [
            ["0.weight"], ["1.members.0.0.weight", "1.members.1.0.weight"],
            ["1.members.0.1.weight", "1.members.1.1.weight"],
        ]  # fmt: skip

    def test_a_tied_weight_is_where_it_is_read_first(self) -> None:
        model = nn.ModuleDict({"words": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})
        model["head"].weight = model["words"].weight
        assert optim.layers(model) == [["words.weight"]]


class TestDepth:
    def test_rates_fall_with_the_depth(self) -> None:
        model = Encoder()
        groups = parameter_groups(model, 1.0, 0.1, layer_decay=0.5)
        at = {id(p): group["lr"] for group in groups for p in group["params"]}
        assert at[id(model.token)] == 0.5**4
        assert at[id(model.body.layers[0].linear1.weight)] == 0.5**3
        assert at[id(model.body.layers[2].linear1.weight)] == at[id(model.norm.weight)] == 0.5
        assert at[id(model.head.weight)] == 1.0

    def test_layers_by_name(self) -> None:
        model = Encoder()
        given: list[Any] = [["token", "positions", "patch"], ["body", "norm"], "head"]
        groups = parameter_groups(model, 1.0, layer_decay=0.1, layers=given)
        assert sorted({group["lr"] for group in groups}) == pytest.approx([0.01, 0.1, 1.0])

    @pytest.mark.parametrize(
        ("layers", "told"),
        [(["nobody"], "no parameter matches 'nobody'; there are: "),
         (["*", "head"], "head.weight is in 2 layers"), (["head"], "token, .* in no layer")],
    )  # fmt: skip
    def test_mistakes(self, layers: list[str], told: str) -> None:
        with pytest.raises(InputError, match=told):
            parameter_groups(Encoder(), 1.0, layer_decay=0.5, layers=layers)
        with pytest.raises(InputError, match="give layer_decay, too"):
            parameter_groups(Encoder(), 1.0, layers=layers)
        with pytest.raises(InputError, match=r"layer_decay is 0; it lies in \(0, 1\]"):
            parameter_groups(Encoder(), 1.0, layer_decay=0)


class TestRules:
    def test_backbone_and_head(self) -> None:
        model = Encoder()
        rules = [{"at": "head", "lr": 1e-2}, {"lr": 1e-4, "weight_decay": 0.3}]
        groups = parameter_groups(model, 1.0, 0.1, rules=rules)
        told = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
        assert told == {
            "the rest": (1e-4, 0.3), "the rest, no decay": (1e-4, 0.0),
            "head": (1e-2, 0.1), "head, no decay": (1e-2, 0.0),
        }  # fmt: skip

    def test_norms_do_not_decay_whatever_their_dimensions(self) -> None:
        model = nn.Sequential(nn.LayerNorm((3, 5)), nn.Linear(5, 2))
        [spared] = [g for g in parameter_groups(model, 1.0, 0.1) if g["weight_decay"] == 0.0]
        assert {id(p) for p in spared["params"]} == {
            id(model[0].weight), id(model[0].bias), id(model[1].bias)
        }  # fmt: skip
        more = parameter_groups(model, 1.0, 0.1, no_decay=["1.weight"])
        assert [group["weight_decay"] for group in more] == [0.0]

    def test_frozen_parameters_are_left_out(self) -> None:
        model = Encoder()
        model.patch.requires_grad_(False)
        held = {id(p) for g in parameter_groups(model, 1.0) for p in g["params"]}
        assert held == {id(p) for p in model.parameters() if p.requires_grad}

    @pytest.mark.parametrize(
        ("rules", "told"),
        [([{"at": "head"}], "in no group. Add a rule for them, or one without `at`"),
         ([{"at": "head"}, {"at": "*.bias"}, {}], "head.bias matches 'head' and '\\*.bias'"),
         ([{"at": "hed"}, {}], "no parameter matches 'hed'; there are: "),
         ([{}, {"lr": 1}], "two rules have no `at`"),
         ([{"lr": -1}], "lr is -1; it must be a number of 0 or more"),
         ([{"lr": "1e-3"}], "lr is '1e-3'")],
    )  # fmt: skip
    def test_mistakes(self, rules: list[dict[str, Any]], told: str) -> None:
        with pytest.raises(InputError, match=told):
            parameter_groups(Encoder(), 1.0, rules=rules)

    def test_settings_of_the_optimizers_own(self) -> None:
        model = Encoder()
        spec = {"name": "adamw", "groups": [{"at": "head", "betas": [0.5, 0.9]}, {}]}
        made = optim.optimizer(spec, model.parameters(), model)
        found = {tuple(group["betas"]) for group in made.param_groups}
        assert found == {(0.5, 0.9), (0.9, 0.999)}
        with pytest.raises(UnknownName, match="setting of a group of adamw 'beta'"):
            optim.optimizer({"groups": [{"beta": 1}]}, model.parameters(), model)

    def test_muon_of_matrices(self) -> None:
        model = Encoder()
        rules = [{"at": "body.layers.*.linear?.weight", "use_muon": True},
                 {"use_muon": False, "lr": 1e-3}]  # fmt: skip
        made = optim.optimizer(
            {"name": "muon", "lr": 0.02, "groups": rules}, model.parameters(), model
        )
        model(torch.randn(4, 5)).sum().backward()
        before = model.body.layers[0].linear1.weight.detach().clone()
        made.step()
        assert not torch.equal(before, model.body.layers[0].linear1.weight)

    def test_names_are_needed(self) -> None:
        with pytest.raises(InputError, match=r"whet\.parameter_groups"):
            optim.optimizer({"layer_decay": 0.5}, Encoder().parameters())


def test_in_a_run_with_heads_of_methods_and_resumed(tmp_path: Path) -> None:
    def run(folder: Path | None = None) -> Run:
        torch.manual_seed(0)
        optimizer = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "layer_decay": 0.5,
                     "groups": [{"at": "heads", "lr": 0.3}, {}]}  # fmt: skip
        stage = Stage(
            updates=6, batch_size=8, optimizer=optimizer, schedule="cosine",
            methods=[MoCo(queue=16, at="head")],
        )  # fmt: skip
        task = Task(Encoder(), rows(40), resources={"view": lambda batch, generator: batch})
        return Run(task, stage, device="cpu", log=None, folder=folder)

    through = run().fit()
    told = optim.table(through.stack.optimizer, through.module)
    assert "layer 4" in told
    assert "heads, layer 4" in told
    run(tmp_path).fit(until=3)
    assert torch.equal(run(tmp_path).fit().module.head.weight, through.module.head.weight)


def test_the_table() -> None:
    model = Encoder(depth=1)
    made = optim.optimizer(
        {"name": "adamw", "lr": 1e-3, "layer_decay": 0.5}, model.parameters(), model
    )
    lines = optim.table(made, model).splitlines()
    assert lines[0].split() == ["group", "rate", "decay", "tensors", "numbers", "parameters"]
    assert any("layer 2, no decay" in line and "0.001" in line and "head.bias" in line
               for line in lines)  # fmt: skip
    numbers = [re.split(r"\s{2,}", line)[4].replace(",", "") for line in lines[1:]]
    assert sum(map(int, numbers)) == sum(p.numel() for p in model.parameters())


# traps --------------------------------------------------------------------------------------------
Groups = list[dict[str, Any]]
RULES: list[dict[str, Any]] = [{"at": "body", "lr": 1e-2}, {"at": "head", "lr": 0.5}]


def named() -> nn.Module:
    """A body, a norm after it, and a head that has a body of its own."""
    torch.manual_seed(0)
    head = nn.ModuleDict({"body": nn.Linear(4, 4), "out": nn.Linear(4, 2)})
    return nn.ModuleDict({"body": nn.Linear(3, 4), "norm": nn.LayerNorm(4), "head": head})


def stepped(model: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for optimizer in optimizers:
        optimizer.step()


def refusal_of(groups: Callable[[nn.Module], Groups], model: nn.Module) -> str:
    """What is said of the groups; the model is trained for a step where nothing is."""
    try:
        stepped(model, torch.optim.SGD(groups(model), lr=0.1))
    except InputError as error:
        return str(error)
    return ""


def by_parts(model: nn.Module) -> Groups:
    """A group for each part that one thought of."""
    return [{"params": [*model[rule["at"]].parameters()], "lr": rule["lr"]} for rule in RULES]


@trap(right=lambda model: parameter_groups(model, 0.1, rules=RULES), wrong=by_parts)
def test_what_is_in_no_group_is_named_or_trained(groups: Callable[[nn.Module], Groups]) -> None:
    model = named()
    before = state(model)
    told = refusal_of(groups, model)
    still = [name for name, now in state(model).items() if torch.equal(before[name], now)]
    assert not still or "norm.weight, norm.bias in no group" in told


def first_that_matches(model: nn.Module) -> Groups:
    """`for pattern in rates: if pattern in name: ...; break`."""
    groups: Groups = [{"params": [], "lr": rule["lr"]} for rule in (*RULES, {"lr": 0.1})]
    for name, parameter in model.named_parameters():
        found = next(at for at, part in enumerate(["body", "head", ""]) if part in name)
        groups[found]["params"].append(parameter)
    return groups


def rules(model: nn.Module) -> Groups:
    given = [{"at": "*body*", "lr": 1e-2}, {"at": "head", "lr": 0.5}, {}]
    return parameter_groups(model, 0.1, rules=given)


@trap(right=rules, wrong=first_that_matches)
def test_what_two_patterns_match_is_named(groups: Callable[[nn.Module], Groups]) -> None:
    told = refusal_of(groups, named())
    assert "head.body.weight matches '*body*' and 'head'" in told


def test_the_first_pattern_takes_the_heads_own_body() -> None:
    model = named()
    before = model["head"]["body"].weight.detach().clone()
    stepped(model, torch.optim.SGD(first_that_matches(model), lr=0.1))
    moved = before - model["head"]["body"].weight
    assert torch.allclose(moved, torch.tensor(0.01), atol=1e-6)  # where 0.5 is its head's rate


class Tied(nn.Module):
    """One table for the words that are read and those that are written."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.decoder.weight = self.encoder.weight


def one_for_all(model: nn.Module) -> list[torch.optim.Optimizer]:
    groups = parameter_groups(model, 0.1, rules=[{"at": "encoder"}, {}])
    return [torch.optim.SGD(groups, lr=0.1)]


def one_for_each_part(model: nn.Module) -> list[torch.optim.Optimizer]:
    return [torch.optim.SGD(part.parameters(), lr=0.1) for part in model.children()]


@trap(right=one_for_all, wrong=one_for_each_part)
def test_a_tied_weight_moves_once_an_update(make: Callable[[nn.Module], Any]) -> None:
    model = Tied()
    before = model.encoder.weight.detach().clone()
    stepped(model, *make(model))
    assert torch.allclose(before - model.encoder.weight, torch.tensor(0.1))
