"""The learning-rate finder: what it sweeps, what it suggests, and that it touches nothing."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import whet
from tests.contract.fixture import equal, make_stage, make_task, weights
from tests.engine.test_loading import Augmented
from tests.engine.test_streams import Resumable
from tests.engine.tiny import linear, rows, tiny
from whet.errors import InputError
from whet.method import Layer, Method, Resource
from whet.rate_finder import RateCurve, find_lr
from whet.stage import Stage
from whet.task import Task
from whet.training import Training

PLAIN = Stage(epochs=3, batch_size=16, optimizer="sgd")


def regression(curvature: float = 4.0) -> Task:
    """Least squares whose loss has one curvature c: plain descent diverges at lr = 2 / c."""
    maker = torch.Generator().manual_seed(0)
    x = torch.linalg.qr(torch.randn(64, 4, generator=maker)).Q * (64 * curvature / 2) ** 0.5
    y = x @ torch.tensor([1.0, -2.0, 0.5, 1.5])
    model = nn.Linear(4, 1, bias=False)
    nn.init.zeros_(model.weight)
    return Task(nn.Sequential(model, nn.Flatten(0)), (x, y), objective="real")


class TestCurve:
    def test_rates_grow_by_one_factor(self) -> None:
        curve = find_lr(Task(linear(), rows(40)), PLAIN, low=1e-4, high=1e-2, updates=21)
        assert curve.rates == pytest.approx(np.geomspace(1e-4, 1e-2, 21))
        assert len(curve.losses) == 21

    def test_a_stage_that_would_stop_early_or_is_one_of_several(self) -> None:
        part = {"name": "cosine", "part": [0.5, 1.0]}
        stage = replace(PLAIN, early_stopping={"patience": 1}, schedule=part)
        task = Task(linear(), rows(40))
        found, expected = (find_lr(task, one, updates=21).losses for one in (stage, PLAIN))
        assert found == expected

    def test_it_is_the_training_that_is_swept(self) -> None:
        """By hand: the same order, one update a rate, each loss from before its update."""
        task = Task(linear(), rows(32))
        curve = find_lr(task, PLAIN, low=1e-3, high=1.0, updates=10, seed=4)
        model = copy.deepcopy(task.model)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        from whet.loading import open_loader

        loader = open_loader(task.train, 16, 4, "find_lr")
        batches = [batch for epoch in range(5) for batch in loader.epoch(epoch)]
        for batch, rate, loss in zip(batches, curve.rates, curve.losses, strict=True):
            optimizer.param_groups[0]["lr"] = rate
            found = nn.functional.cross_entropy(model(batch.inputs), batch.targets)
            assert loss == pytest.approx(found.item(), rel=1e-5)
            optimizer.zero_grad()
            found.backward()
            optimizer.step()

    @pytest.mark.parametrize("curvature", [0.1, 4.0, 100.0])
    def test_the_suggestion_follows_the_curvature(self, curvature: float) -> None:
        stage = Stage(epochs=1, batch_size=64, optimizer="sgd")
        curve = find_lr(regression(curvature), stage, low=1e-6, high=1e3, updates=120)
        assert curve.suggestion is not None
        assert 0.002 / curvature < curve.suggestion < 2 / curvature
        assert curve.rates[-1] < 1e3, "it ended where the loss exploded"
        assert curve.losses[-1] > min(curve.losses) * 4

    def test_groups_keep_their_ratio(self) -> None:
        seen: list[list[float]] = []

        def two(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
            groups = [{"params": parameters[:1], "lr": 0.5}, {"params": parameters[1:], "lr": 0.05}]
            return torch.optim.SGD(groups)  # type: ignore[arg-type]

        def before(self: Method, run: Training) -> None:
            assert run.optimizer is not None
            seen.append([group["lr"] for group in run.optimizer.param_groups])

        stage = Stage(updates=5, optimizer=two, methods=[tiny(before_update=before)])
        curve = find_lr(Task(linear(), rows(40)), stage, low=1e-3, high=1e-1, updates=10)
        assert [each[0] for each in seen] == pytest.approx(curve.rates)
        assert all(first == pytest.approx(10 * second) for first, second in seen)

    def test_a_loss_that_never_falls(self) -> None:
        class Deaf(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) * 0

        curve = find_lr(Task(Deaf(5, 3), rows(40)), PLAIN, updates=12)
        assert curve.suggestion is None
        assert "never falls, so there is no suggestion" in str(curve)

    def test_in_words(self) -> None:
        curve = RateCurve((1e-3, 1e-2, 1e-1), (3.0, 2.0, 1.0), 0.01)
        told = "learning rate 0.001 to 0.1 in 3 updates: the loss falls steepest at 0.01"
        assert str(curve) == told
        assert curve.smoothed[0] == pytest.approx(3.0)
        assert curve.smoothed[1] == pytest.approx((0.9 * 3 + 2) / 1.9)


class TestMethods:
    def test_those_that_own_the_rate_are_left_out(self) -> None:
        stage = make_stage(batch_size=8, accumulate=1)
        stage = Stage(**{**stage.__dict__, "methods": ["swa", "precise_bn", "label_smoothing"]})
        curve = find_lr(make_task(), stage, updates=12)
        assert curve.left_out == ("swa",)

    def test_those_that_begin_late_by_themselves_act_from_the_first_rate_on(self) -> None:
        seen: list[tuple[str, int]] = []

        class Late(Method):
            name, layer, span = "late", Layer.OBJECTIVE, (0.25, 1.0)

            def after_update(self, run: Training) -> None:
                seen.append((self.key, run.updates))

        stage = replace(PLAIN, methods=[Late(), Late().labelled("told").during(0.5, 1.0)])
        find_lr(Task(linear(), rows(40)), stage, updates=12)
        assert [at for key, at in seen if key == "late"] == [*range(1, 13)]
        assert [at for key, at in seen if key == "late:told"] == [*range(7, 13)]
        assert stage.methods[0].span == (0.25, 1.0)

    def test_one_that_makes_room_for_another_stays_late(self) -> None:
        class Late(Method):
            name, layer, span = "late", Layer.OBJECTIVE, (0.25, 1.0)
            owns = frozenset({Resource.SECOND_GRADIENT})

        stage = replace(PLAIN, methods=[Late(), Late().labelled("early").during(0.0, 0.25)])
        assert len(find_lr(Task(linear(), rows(40)), stage, updates=12).losses) == 12

    def test_the_stages_schedule_is_left_out(self) -> None:
        stage = Stage(epochs=1, schedule={"name": "cosine", "warmup": 0.5})
        curve = find_lr(Task(linear(), rows(40)), stage, low=1e-4, high=1e-3, updates=10)
        assert curve.rates == pytest.approx(np.geomspace(1e-4, 1e-3, 10))

    def test_one_that_would_clash_is_not_met(self) -> None:
        owner = tiny("owner", owns=frozenset({Resource.LEARNING_RATE}))
        stage = Stage(updates=5, methods=[owner])
        assert find_lr(Task(linear(), rows(40)), stage, updates=10).left_out == ("owner",)


class TestNothingIsTouched:
    def test_model_and_resources(self) -> None:
        task = make_task()
        task.model.embed.weight.requires_grad_(False)  # type: ignore[union-attr]
        task.model.eval()
        before, teacher = weights(task.model), weights(task.resources["teacher"])
        stage = make_stage(freeze=["hidden"])
        stage = Stage(**{**stage.__dict__, "methods": [{"name": "distillation"}, "ema"]})
        find_lr(task, stage, updates=12)
        assert equal(before, weights(task.model))
        assert equal(teacher, weights(task.resources["teacher"]))
        assert not any(module.training for module in task.model.modules())
        moving = [name for name, p in task.model.named_parameters() if not p.requires_grad]
        assert moving == ["embed.weight"]
        assert all(parameter.grad is None for parameter in task.model.parameters())

    def test_generators(self) -> None:
        task = Task(nn.Sequential(linear(dim=4), nn.Dropout(0.5)), Augmented(40))

        def draw() -> tuple[Any, ...]:
            return torch.rand(1).item(), random.random(), float(np.random.rand())  # noqa: NPY002

        def seed() -> None:
            torch.manual_seed(1)
            random.seed(1)
            np.random.seed(1)  # noqa: NPY002

        seed()
        expected = draw()
        seed()
        find_lr(task, PLAIN, updates=12)
        assert draw() == expected

    def test_a_users_loader(self) -> None:
        batch, chance = rows(40), torch.Generator().manual_seed(3)
        data = TensorDataset(batch.inputs, batch.targets)  # type: ignore[arg-type]
        ready = DataLoader(data, batch_size=8, shuffle=True, generator=chance)
        state = chance.get_state()
        curve = find_lr(Task(linear(), ready), PLAIN, updates=12)
        assert len(curve.losses) == 12
        assert torch.equal(chance.get_state(), state)

    def test_a_stream_that_says_where_it_stands(self) -> None:
        source = Resumable(40)
        find_lr(Task(linear(dim=4), source), Stage(updates=3, batch_size=8), updates=12)
        assert source.read == []
        assert source.state_dict() == {"at": 0}

    def test_it_does_not_matter_what_was_drawn_before(self) -> None:
        task = Task(nn.Sequential(linear(), nn.Dropout(0.5)), rows(40))
        curves = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            curves.append(find_lr(task, PLAIN, updates=12))
        assert curves[0] == curves[1]


class TestPlot:
    curve = RateCurve((1e-3, 1e-2, 1e-1), (3.0, 2.0, 1.0), 0.01)

    @pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
    def test_it_is_written(self, ending: str, tmp_path: Path) -> None:
        path = tmp_path / "plots" / f"rates.{ending}"
        figure = self.curve.plot(path)
        heads = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
        assert path.read_bytes().startswith(heads[ending])
        [axes] = figure.axes
        assert axes.get_xscale() == "log"
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [
            "loss", "smoothed", "suggestion 0.01",
        ]  # fmt: skip

    def test_without_a_suggestion_or_a_file(self) -> None:
        figure = RateCurve((1e-3, 1e-2), (1.0, 2.0), None).plot()
        assert len(figure.axes[0].get_legend().get_texts()) == 2

    def test_an_ending_that_nobody_knows(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"cannot write the plot to .*curve\.docx"):
            self.curve.plot(tmp_path / "curve.docx")
        assert list(tmp_path.iterdir()) == []


class TestRefusals:
    @pytest.mark.parametrize(
        "wrong", [{"low": 0.0}, {"low": 1.0, "high": 1.0}, {"updates": 9}, {"low": -1.0}]
    )
    def test_a_range_that_is_none(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="0 < low < high, in at least 10 updates"):
            find_lr(Task(linear(), rows(40)), PLAIN, **wrong)

    def test_a_loss_that_is_ill_from_the_start(self) -> None:
        class Ill(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) * float("nan")

        with pytest.raises(InputError, match="not finite at the very first update"):
            find_lr(Task(Ill(5, 3), rows(40)), PLAIN, updates=12)


def test_it_is_public() -> None:
    assert whet.find_lr is find_lr
