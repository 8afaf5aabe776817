"""`whet evaluate` and `whet predict`: a model from its folder, judged and asked."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.fit import tiny
from tests.fit.tiny import asked
from whet.batch import Batch
from whet.errors import CheckpointError, InputError, UnknownName
from whet.fit import saved
from whet.fit.conduct import fit
from whet.predict import Viewed
from whet.run import Run
from whet.stage import Stage

PARTS = ("select", "judge")
LABELS = "torch.stack([x[:, 0] > 0, x[:, 1] > 0], 1).long()"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny.write(tmp_path)
    return tmp_path


def load(place: Path, **changes: Any) -> saved.Saved:
    return saved.load(place / "model", "rows", place / "rows.py", device="cpu", **changes)


def lines(found: saved.Saved, part: str = "judge") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(saved.table(found, found.batches(part)))))


class TestEvaluate:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"precision": "bf16"},
            {"methods": "snapshot:cycles=2"},
            {"seed": 4},
            {"methods": "cosface:scale=8,temperature_scaling", "precision": "bf16"},
        ],
        ids=str,
    )
    def test_the_metrics_are_those_of_the_fit(self, changes: dict[str, Any], place: Path) -> None:
        told = fit(asked(place, **changes)).about
        found = load(place)
        assert (found.seed, found.notes) == (changes.get("seed", 0), [])
        assert {part: saved.evaluate(found, part) for part in PARTS} == told["metrics"]

    def test_a_view_of_the_tasks_own(self, place: Path) -> None:
        noise = """{"noise": lambda x, maker: x + torch.randn(x.shape, generator=maker)}"""
        given = f'classes=("no", "yes"), resources={noise}'
        tiny.write(place, tiny.TASK.replace('classes=("no", "yes")', given))
        told = fit(asked(place, methods='tta:views=["noise","noise"]')).about
        found = load(place)
        assert isinstance(found.predictor, Viewed)
        assert {part: saved.evaluate(found, part) for part in PARTS} == told["metrics"]
        run = Run(found.task, Stage(updates=1, starts_from=place / "model" / "model.safetensors"))
        weights = found.predictor.members()[0]
        assert all(torch.equal(weights[k], v) for k, v in run.module.state_dict().items())
        tiny.write(place)
        with pytest.raises(CheckpointError, match="it averages over the view 'noise'"):
            load(place)

    def test_another_part_and_another_seed(self, place: Path) -> None:
        fit(asked(place))
        assert saved.evaluate(load(place), "train") != saved.evaluate(load(place), "judge")
        found = load(place, seed=2)
        assert "hold rows that it was trained on" in found.notes[0]
        assert saved.evaluate(found) != saved.evaluate(load(place))
        with pytest.raises(UnknownName, match="did you mean 'judge'"):
            saved.evaluate(found, "juge")

    def test_another_task_and_other_data(self, place: Path) -> None:
        fit(asked(place))
        other = saved.load(
            place / "model", "other", tiny.write(place, name="other.py"), device="cpu"
        )
        assert other.notes == ["the model was fitted to rows, and this is other."]
        (place / "shift.txt").write_text("0.5")
        assert load(place).notes == [
            "the data of the task is not what it was when the model was fitted."
        ]

    def test_another_architecture(self, place: Path) -> None:
        fit(asked(place))
        tiny.write(place, tiny.TASK.replace(", 8)", ", 9)").replace("(8, 2)", "(9, 2)"))
        with pytest.raises(CheckpointError, match="fits another model"):
            load(place)

    def test_a_folder_without_a_model(self, place: Path) -> None:
        with pytest.raises(InputError, match=r"holds no model: there is no fit.json in it"):
            load(place)
        with pytest.raises(KeyboardInterrupt):
            fit(asked(place, log=[tiny.Watch(3)]))
        with pytest.raises(InputError, match=r"has not ended: give its command again \(whet fit"):
            load(place)

    @pytest.mark.parametrize(
        "change",
        [{"seed": -1}, {"seed": "0"}, {"precision": "fp8"}, {"batch_size": 0}, {"format": 2}],
        ids=str,
    )
    def test_a_file_that_was_changed(self, change: dict[str, Any], place: Path) -> None:
        fit(asked(place, updates=2))
        path = place / "model" / "fit.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(InputError, match=rf"fit.json is damaged.*\({next(iter(change))}: "):
            load(place)


class TestPredict:
    def test_probabilities_by_name_and_the_label(self, place: Path) -> None:
        told = fit(asked(place)).about
        found = load(place)
        rows = lines(found)
        assert list(rows[0]) == ["row", "p_no", "p_yes", "label"]
        assert [row["row"] for row in rows] == [str(n) for n in range(10)]
        p = np.array([[float(row["p_no"]), float(row["p_yes"])] for row in rows])
        inputs, targets = found.task.judge
        exact = found.predictor(Batch(inputs)).numpy()
        assert (p.astype(np.float32) == exact).all(), "nine digits are a whole float32"
        assert [row["label"] for row in rows] == [("no", "yes")[n] for n in exact.argmax(1)]
        labels = [("no", "yes")[target] for target in targets]
        right = np.mean([row["label"] == label for row, label in zip(rows, labels, strict=True)])
        assert right == told["metrics"]["judge"]["accuracy"]

    def test_rows_without_a_target_too(self, place: Path) -> None:
        fit(asked(place))
        tiny.write(place, tiny.TASK.replace("(x[50:], y[50:])", "x[50:]"))
        assert len(lines(load(place))) == 10

    def test_labels_that_do_not_exclude_each_other(self, place: Path) -> None:
        text = tiny.TASK.replace("(x[:, 0] > x[:, 1]).long()", LABELS)
        text = text.replace('metrics=["accuracy", "log_loss"]', 'objective="multi-label"')
        tiny.write(place, text)
        fit(asked(place))
        assert list(lines(load(place))[0]) == ["row", "p_no", "p_yes"]

    def test_reals(self, place: Path) -> None:
        text = tiny.TASK.replace("(x[:, 0] > x[:, 1]).long()", "x[:, :2] * 2")
        text = text.replace('metrics=["accuracy", "log_loss"], classes=("no", "yes")',
                            'objective="real"')  # fmt: skip
        tiny.write(place, text)
        fit(asked(place, updates=2))
        assert list(lines(load(place))[0]) == ["row", "value_0", "value_1"]
        one = text.replace("x[:, :2] * 2", "x[:, 0]").replace("(8, 2)", "(8, 1)")
        tiny.write(place, one)
        fit(asked(place, updates=2, fresh=True))
        assert list(lines(load(place))[0]) == ["row", "value"]

    def test_tokens_have_no_table(self, place: Path) -> None:
        fit(asked(place, updates=2))
        found = load(place)
        found.predictor.family = type("Tokens", (), {"name": "tokens"})()
        with pytest.raises(InputError, match=r"for every token has no table.*Predictor\.load"):
            lines(found)

    def test_names_that_are_too_few(self, place: Path) -> None:
        tiny.write(place, tiny.TASK.replace('("no", "yes")', '("no",)'))
        fit(asked(place, updates=2))
        with pytest.raises(InputError, match="names 1 classes and the model has 2 outputs"):
            lines(load(place))


class TestAFileOfRows:
    def test_the_task_reads_it(self, place: Path) -> None:
        fit(asked(place))
        found = load(place)
        x = torch.tensor([[3.0, -3.0, 0.0, 0.0], [-3.0, 3.0, 0.0, 0.0], [3.0, -2.0, 0.5, 0.0]])
        (place / "new.csv").write_text("\n".join(",".join(map(str, row)) for row in x.tolist()))
        text = saved.table(found, found.rows_of(place / "new.csv"))
        exact = found.predictor(Batch(x))
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [float(row["p_yes"]) for row in rows] == pytest.approx(exact[:, 1].tolist())

    def test_its_seed_is_the_models(self, place: Path) -> None:
        text = tiny.TASK.replace("    lines = path", "    assert seed == 3\n    lines = path")
        tiny.write(place, text)
        fit(asked(place, seed=3, updates=2))
        (place / "new.csv").write_text("1,2,3,4\n")
        found = load(place)
        assert saved.table(found, found.rows_of(place / "new.csv")).count("\n") == 2

    def test_mistakes(self, place: Path) -> None:
        fit(asked(place, updates=2))
        with pytest.raises(InputError, match=r"there is no file .*new.csv to predict for"):
            load(place).rows_of(place / "new.csv")
        (place / "new.csv").write_text("a,b\n")
        with pytest.raises(InputError, match=r"(?s)inputs\('new.csv', 0\) raised.*ValueError"):
            load(place).rows_of(place / "new.csv")
        tiny.write(place, tiny.TASK.partition("def inputs")[0])
        with pytest.raises(InputError, match=r"(?s)rows.py does not say how .*def inputs\(path"):
            load(place).rows_of(place / "new.csv")
