"""FixRes: who moves and who stands still, and its control at equal work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract.fixture import equal, weights
from tests.methods.traps import trap
from whet.augmenting.sizes import random_crops, resized
from whet.errors import InputError, UnknownName
from whet.fixres import control, fixres, last_layers
from whet.run import Run
from whet.stage import Recipe, Stage
from whet.task import Task

STAGE = Stage(updates=4, batch_size=8, optimizer={"name": "sgd", "lr": 0.1})


class Net(nn.Module):
    """Norms with and without parameters, dropout, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)
        )
        self.plain = nn.BatchNorm2d(4, affine=False)
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.norm(self.drop(self.plain(self.body(x)))).mean((2, 3)))
        return found


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def data(size: int) -> tuple[Tensor, Tensor]:
    maker = torch.Generator().manual_seed(0)
    return resized(torch.rand(24, 1, 8, 8, generator=maker), size), torch.arange(24) % 2


def tuned(recipe: Callable[..., Recipe] = fixres, **changes: Any) -> tuple[dict[str, Any], ...]:
    """State before and after the second stage."""
    model = net()
    made = recipe(model, STAGE, data(8), data(12), share=1.0, **changes)
    run = Run(Task(model, data(8)), made, device="cpu", log=None).fit(until=STAGE.updates)
    before = weights(run.module)
    return before, weights(run.fit().module)


def moved(found: tuple[dict[str, Any], ...]) -> set[str]:
    before, after = found
    counts = {n for n in before if n.endswith("num_batches_tracked")}
    return {n for n in before if not torch.equal(before[n], after[n])} - counts


def by_freezing(model: nn.Module, stage: Stage, train: Any, test: Any, **settings: Any) -> Recipe:
    """Frozen parameters alone, as most code does it: what has none goes on in training mode."""
    made = fixres(model, stage, train, test, **settings)
    frozen = Stage(updates=4, batch_size=8, data=test, freeze=["body"], optimizer="sgd")
    return Recipe([made.stages[0], frozen])


HEAD = {"head.weight", "head.bias"}
AFFINE = {"norm.weight", "norm.bias"}
STATISTICS = {"norm.running_mean", "norm.running_var"}


@trap(right=fixres, wrong=by_freezing)
def test_statistics_of_frozen_layers_stand_still(recipe: Callable[..., Recipe]) -> None:
    assert moved(tuned(recipe)) == HEAD | AFFINE | STATISTICS


def test_they_stand_still_whoever_calls_train() -> None:
    model = net()
    made = fixres(model, STAGE, data(8), data(12), share=1.0)
    keen = [lambda run: run.module.train()]
    run = Run(Task(model, data(8)), made, device="cpu", log=None, callbacks=keen)
    before = weights(run.fit(until=4).module)
    assert moved((before, weights(run.fit().module))) == HEAD | AFFINE | STATISTICS


def test_an_affine_that_is_kept() -> None:
    assert moved(tuned(affine=False)) == HEAD | STATISTICS


def test_a_norm_without_parameters_follows() -> None:
    found = moved(tuned(norm="plain"))
    assert found == HEAD | {"plain.running_mean", "plain.running_var"}


def test_the_classifier_alone() -> None:
    assert moved(tuned(norm="")) == HEAD


def test_dropout_is_out_of_the_tuning() -> None:
    """The tuned layers are those of a plain loop over features without dropout."""
    _, after = tuned(optimizer={"name": "sgd", "lr": 0.1})
    model = net()
    Run(Task(model, data(8)), STAGE, device="cpu", log=None).fit()
    run = Run(Task(net(), data(8)), fixres(net(), STAGE, data(8), data(12), share=1.0),
              device="cpu", log=None).fit(until=4)  # fmt: skip
    seen: list[Tensor] = []
    run.module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    run.fit()
    optimizer = torch.optim.SGD([*model.norm.parameters(), *model.head.parameters()], lr=0.1)
    model.eval()
    model.norm.train()
    images, labels = data(12)
    for batch in seen[:4]:
        rows = [int((images == row).flatten(1).all(1).nonzero()[0, 0]) for row in batch]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), labels[rows]).backward()
        optimizer.step()
    for name in HEAD | AFFINE | STATISTICS:
        assert torch.allclose(after[name], model.state_dict()[name], atol=1e-6), name


def test_it_begins_from_what_is_judged() -> None:
    made = fixres(net(), STAGE, data(8), data(12))
    assert made.stages[1].starts_from == "evaluation"
    assert made.stages[0].data[0].shape[-1] == 8
    assert made.stages[1].data[0].shape[-1] == 12


@pytest.mark.parametrize("at", [2, 4, 6])
def test_it_resumes(tmp_path: Path, at: int) -> None:
    def run(folder: Path | None) -> Run:
        model = net()
        stage = replace(STAGE, methods=[{"name": "augment", "kind": "view", "view": "crops"}])
        made = fixres(model, stage, data(8), data(12), share=1.0)
        task = Task(model, data(8), resources={"crops": random_crops(6)})
        return Run(task, made, device="cpu", log=None, folder=folder)

    run(tmp_path).fit(until=at)
    assert equal(weights(run(tmp_path).fit().module), weights(run(None).fit().module))


def test_everything_trains_again_afterwards() -> None:
    model = net()
    made = fixres(model, STAGE, data(8), data(12), share=1.0)
    run = Run(Task(model, data(8)), Recipe([*made.stages, STAGE]), device="cpu", log=None)
    before = weights(run.fit(until=8).module)
    after = weights(run.fit().module)
    assert moved((before, after)) >= {"body.0.weight", "plain.running_mean"} | HEAD


class TestNames:
    def test_are_found(self) -> None:
        assert last_layers(net()) == ("head", "norm")
        assert last_layers(nn.Sequential(nn.Linear(2, 2))) == ("0", "")

    def test_are_refused_before_training(self) -> None:
        with pytest.raises(UnknownName, match="'hed'; did you mean 'head'"):
            fixres(net(), STAGE, data(8), data(12), classifier="hed")
        with pytest.raises(UnknownName, match="'nrm'"):
            fixres(net(), STAGE, data(8), data(12), norm="nrm")
        with pytest.raises(InputError, match="classifier=NAME"):
            last_layers(nn.Conv2d(1, 1, 1))


class TestControl:
    def test_takes_as_much_work(self) -> None:
        stage = replace(STAGE, updates=1200)
        assert control(stage, data(12), sizes=(24, 32), share=0.0).updates == 675
        assert control(stage, data(12), sizes=(24, 32), share=0.25).updates == 775
        assert control(stage, data(12), sizes=(32, 32), share=0.0).updates == 1200

    def test_in_epochs(self) -> None:
        stage = replace(STAGE, updates=None, epochs=8)
        assert control(stage, None, sizes=(1, 2), share=0.0).epochs == 2
        assert fixres(net(), stage, None, None).stages[1].epochs == 2

    def test_settings_out_of_range(self) -> None:
        with pytest.raises(InputError, match="0 < s <= r"):
            control(STAGE, None, sizes=(32, 24))
        with pytest.raises(InputError, match="share=0"):
            fixres(net(), STAGE, None, None, share=0.0)
