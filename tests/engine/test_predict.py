"""Predictors: copies that later training does not touch, files, and what they are judged by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.engine.tiny import linear, rows, sgd, stack
from whet import methods
from whet.batch import Batch
from whet.errors import CheckpointError, InputError, UnknownName
from whet.evaluation import evaluate, predict, score
from whet.objectives.families import family
from whet.predict import (
    MeanPredictor,
    ModelPredictor,
    Predictor,
    model_state,
    take_weights,
)
from whet.run import Run
from whet.stack import Stack
from whet.stage import Stage
from whet.task import Task


class Tied(nn.Module):
    """A language model's tied weights, a buffer, and keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor, more: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.norm(self.embed(ids) + more))}


def tied_batch() -> Batch:
    return Batch({"ids": torch.arange(6), "more": torch.ones(6, 4)}, torch.arange(6))


class TestCopies:
    def test_training_and_modes_do_not_touch_it(self) -> None:
        model = nn.Sequential(linear(), nn.BatchNorm1d(3), nn.Dropout(0.5))
        made = stack(model=model)
        made.step(rows(6))
        predictor = made.predictor()
        before = predictor(rows(6))
        for _ in range(3):
            made.step(rows(6))
        assert torch.equal(before, predictor(rows(6)))
        assert torch.equal(before, predictor(rows(6))), "nothing is drawn"
        assert model.training
        assert not before.requires_grad

    def test_predicting_leaves_training_alone(self) -> None:
        made = stack(model=nn.Sequential(linear(), nn.BatchNorm1d(3)))
        made.step(rows(6))
        before = model_state(made.run.module)
        made.predictor()(rows(6))
        after = model_state(made.run.module)
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_tied_weights(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        model = Tied()
        made = Stack(model, "categorical", [methods.make("ema")], optimizer=sgd)
        made.step(tied_batch())
        predictor = made.predictor()
        state = predictor.members()[0]
        assert state["embed.weight"] is state["head.weight"]
        with made.evaluating():
            expected = model(**tied_batch().inputs)["logits"].softmax(1)
        assert torch.equal(predictor(tied_batch()), expected)
        predictor.save(tmp_path / "tied.safetensors")
        loaded = Predictor.load(tmp_path / "tied.safetensors", Tied())
        assert torch.equal(loaded(tied_batch()), expected)

    def test_a_tuple_of_inputs(self) -> None:
        model = nn.Bilinear(2, 3, 4)
        predictor = ModelPredictor(model, model_state(model), family("categorical"))
        assert predictor(Batch((torch.ones(5, 2), torch.ones(5, 3)))).shape == (5, 4)

    def test_a_mean(self) -> None:
        one, other = linear(0), linear(1)
        kind = family("categorical")
        members = [ModelPredictor(m, model_state(m), kind) for m in (one, other)]
        mean = MeanPredictor(members)
        batch = rows(4)
        expected = (one(batch.inputs).softmax(1) + other(batch.inputs).softmax(1)) / 2
        assert torch.allclose(mean(batch), expected)
        assert len(mean.members()) == 2
        with pytest.raises(InputError, match="at least one"):
            MeanPredictor([])


class TestFiles:
    def test_one_model(self, tmp_path: Path) -> None:
        model = nn.Sequential(linear(), nn.BatchNorm1d(3))
        predictor = ModelPredictor(model, model_state(model), family("categorical"))
        predictor.save(tmp_path / "a" / "p.safetensors")
        loaded = Predictor.load(
            tmp_path / "a" / "p.safetensors", nn.Sequential(linear(5), nn.BatchNorm1d(3))
        )
        assert torch.equal(loaded(rows(4)), predictor(rows(4)))
        assert loaded.family.name == "categorical"
        assert loaded.members()[0]["1.num_batches_tracked"].dtype == torch.int64

    def test_several(self, tmp_path: Path) -> None:
        kind = family("multi-label")
        members = [
            ModelPredictor(m, model_state(m), kind) for m in (linear(0), linear(1), linear(2))
        ]
        MeanPredictor(members).save(tmp_path / "p.safetensors")
        loaded = Predictor.load(tmp_path / "p.safetensors", linear(9))
        assert isinstance(loaded, MeanPredictor)
        assert torch.equal(loaded(rows(4)), MeanPredictor(members)(rows(4)))
        with pytest.raises(InputError, match="holds 3 models"):
            take_weights(tmp_path / "p.safetensors", linear(9))

    def test_another_architecture(self, tmp_path: Path) -> None:
        path = tmp_path / "p.safetensors"
        model = linear()
        ModelPredictor(model, model_state(model), family("categorical")).save(path)
        with pytest.raises(CheckpointError, match=r"another model.*bias \(3,\) \(\(4,\)\), weight"):
            Predictor.load(path, linear(classes=4))
        with pytest.raises(CheckpointError, match=r"0\.bias missing.*Build the model that was"):
            Predictor.load(path, nn.Sequential(linear()))

    def test_what_is_no_predictor(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        (tmp_path / "text").write_text("hello")
        save_file({"w": torch.ones(1)}, tmp_path / "other.safetensors")
        for name in ("text", "other.safetensors", "missing"):
            with pytest.raises(CheckpointError, match=f"{name} is no predictor that whet saved"):
                Predictor.load(tmp_path / name, linear())

    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from whet import whole

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        path = tmp_path / "p.safetensors"
        predictor = ModelPredictor(linear(), model_state(linear()), family("categorical"))
        predictor.save(path)
        before = path.read_bytes()
        monkeypatch.setattr(whole, "write_synced", full)
        with pytest.raises(
            CheckpointError, match=r"No space left on device.*is untouched; make room"
        ):
            predictor.save(path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


class Fixed(Predictor):
    """Gives the inputs back."""

    def __init__(self, kind: str) -> None:
        self.family = family(kind)

    def __call__(self, batch: Batch) -> Tensor:
        return self.family.probabilities(batch.inputs)

    def members(self) -> list[dict[str, Tensor]]:
        return []


class TestJudging:
    def test_rows_without_target_are_left_out(self) -> None:
        batch = rows(6, dim=3).replace(mask=torch.tensor([True] * 4 + [False] * 2))
        output, targets = predict(Fixed("categorical"), [batch, Batch(batch.inputs)])
        assert output.shape == (4, 3)
        assert np.array_equal(targets, batch.targets[:4])  # type: ignore[index]
        assert output.dtype == np.float64

    def test_tokens(self) -> None:
        logits = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0))
        targets = torch.full((3, 4), -100)
        targets[0, 1], targets[1, 2], targets[2, 0] = 5, 6, 1
        mask = torch.tensor([True, True, False])
        output, truth = predict(Fixed("tokens"), [Batch(logits, targets, mask)])
        assert truth.tolist() == [5, 6]
        assert output.shape == (2, 7)

    @pytest.mark.parametrize("wide_output", [False, True])
    @pytest.mark.parametrize("wide_targets", [False, True])
    def test_reals_of_one_column(self, wide_output: bool, wide_targets: bool) -> None:
        """A DataFrame's column gives (N, 1) targets, a linear layer (N, 1) outputs."""
        x, y = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 4.0])
        batch = Batch(x[:, None] if wide_output else x, y[:, None] if wide_targets else y)
        found = evaluate(Fixed("real"), [batch])
        assert found["mse"] == pytest.approx(1 / 3)
        assert found["mae"] == pytest.approx(1 / 3)

    def test_a_run_on_a_frame_of_reals(self) -> None:
        import pandas as pd

        frame = pd.DataFrame({"a": np.arange(12.0), "b": np.ones(12), "price": np.arange(12.0)})
        part = (frame[["a", "b"]], frame[["price"]])
        task = Task(nn.Linear(2, 1), part, select=part, objective="real")
        stage = Stage(updates=2, batch_size=5, optimizer={"name": "sgd", "lr": 1e-4})
        run = Run(task, stage, device="cpu").fit()
        assert set(run.history[-1]["metrics"]) == {"mse", "mae", "r2"}

    def test_the_first_metric_decides_and_more_is_better(self) -> None:
        batch = rows(8, dim=3)
        found = evaluate(Fixed("categorical"), [batch], ["log_loss", "accuracy"])
        assert score(Fixed("categorical"), [batch], ["log_loss", "accuracy"]) == -found["log_loss"]
        assert score(Fixed("categorical"), [batch], ["accuracy"]) == found["accuracy"]
        assert score(Fixed("categorical"), [batch]) == found["accuracy"]

    def test_nothing_to_judge_by(self) -> None:
        for batches in ([], [Batch(torch.ones(2, 3))]):
            with pytest.raises(InputError, match="no row of the data has a target"):
                predict(Fixed("categorical"), batches)
        for function in (evaluate, score):
            with pytest.raises(InputError, match="embeddings have no targets"):
                function(Fixed("embedding"), [rows(3)])
        with pytest.raises(UnknownName, match="did you mean 'accuracy'"):
            evaluate(Fixed("categorical"), [rows(3, dim=3)], ["acuracy"])

    def test_a_models_answer_of_any_shape(self) -> None:
        class Answer(nn.Module):
            def __init__(self, wrap: Any) -> None:
                super().__init__()
                self.layer, self.wrap = linear(), wrap

            def forward(self, x: Tensor) -> Any:
                return self.wrap(self.layer(x))

        plain = None
        for wrap in (lambda t: t, lambda t: {"logits": t}, lambda t: (t, None)):
            model = Answer(wrap)
            predictor = ModelPredictor(model, model_state(model), family("categorical"))
            found = predictor(rows(4))
            assert plain is None or torch.equal(plain, found)
            plain = found
        model = Answer(str)
        predictor = ModelPredictor(model, model_state(model), family("categorical"))
        with pytest.raises(InputError, match="the model returned a str without logits"):
            predictor(rows(2))


def test_metadata_of_a_file(tmp_path: Path) -> None:
    from safetensors import safe_open

    model = linear()
    ModelPredictor(model, model_state(model), family("real")).save(tmp_path / "p.safetensors")
    with safe_open(tmp_path / "p.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["whet"]) == {"family": "real", "members": 1}
        assert sorted(file.keys()) == ["0/bias", "0/weight"]
