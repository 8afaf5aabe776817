"""Bad input to the engine: each is named with its place and its remedy."""

from __future__ import annotations

import os
from pathlib import Path
from pickle import PicklingError
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.contract.fixture import equal, make_stack, weights
from tests.engine.tiny import linear, rows, tiny
from whet import checkpoint, methods, trouble
from whet.batch import Batch
from whet.errors import (
    CheckpointError,
    Clash,
    InputError,
    NonFiniteLoss,
    NotApplicable,
    UnknownName,
)
from whet.forward import Forward
from whet.method import Method
from whet.run import Run
from whet.stage import Stage
from whet.task import Task
from whet.training import Training


def run_of(train: Any = None, stage: dict[str, Any] | None = None, **changes: Any) -> Run:
    """A run of 20 rows of 5 numbers and 3 classes; changes go to the task or to the run."""
    of_task = {k: changes.pop(k) for k in ("model", "select", "judge", "objective", "metrics")
               if k in changes}  # fmt: skip
    given: dict[str, Any] = {"model": linear(), "train": rows(20) if train is None else train}
    plan: dict[str, Any] = {"updates": 4, "batch_size": 4} | (stage or {})
    return Run(Task(**(given | of_task)), Stage(**plan), device="cpu", **changes)


class TestMethods:
    def test_an_unknown_one(self) -> None:
        with pytest.raises(
            UnknownName, match=r"unknown method 'emma'; did you mean 'ema'.*There are"
        ):
            run_of(stage={"methods": ["emma"]})
        with pytest.raises(UnknownName, match=r"unknown method 'zzz'\. There are: "):
            run_of(stage={"methods": [{"name": "zzz"}]})
        with pytest.raises(UnknownName, match="unknown method ''"):
            run_of(stage={"methods": [{"decay": 0.9}]})

    def test_an_unknown_setting(self) -> None:
        with pytest.raises(
            UnknownName, match="unknown setting of ema 'decya'; did you mean 'decay'"
        ):
            run_of(stage={"methods": [{"name": "ema", "decya": 0.9}]})

    def test_a_clash(self) -> None:
        with pytest.raises(
            Clash, match=r"ema and ema:x both claim the evaluation weights\. Use one"
        ):
            run_of(stage={"methods": ["ema", {"name": "ema", "label": "x"}]})

    def test_a_pattern_without_a_match(self) -> None:
        with pytest.raises(NotApplicable, match=r"no embedding matches at='encoder'.*has: embed\."):
            make_stack([methods.make({"name": "fgm", "at": "encoder"})])
        with pytest.raises(InputError, match=r"freeze: no parameter matches 'encoder'; there are"):
            run_of(stage={"freeze": ["encoder"]})

    def test_a_resource_that_is_missing(self) -> None:
        with pytest.raises(
            UnknownName, match=r"resource \(needed by fixmatch.*\) 'strong'.*are: none"
        ):
            run_of(stage={"methods": ["fixmatch"]})
        with pytest.raises(NotApplicable) as found:  # so that a study sets the arm aside
            run_of(stage={"methods": ["fixmatch"]})
        assert found.value.method == "fixmatch"
        assert "resources={'strong': ...}" in found.value.reason


class TestData:
    def test_shapes_that_disagree(self) -> None:
        with pytest.raises(
            InputError, match=r"inputs has 20 rows and targets has 19 \(shape \(19,\)"
        ):
            run_of((rows(20).inputs, torch.zeros(19, dtype=torch.long)))

    def test_a_collate_function_that_loses_rows(self) -> None:
        dataset = [(torch.zeros(5), 1)] * 6
        task = Task(
            linear(), dataset, collate=lambda some: (torch.zeros(3, 5), torch.zeros(3).long())
        )
        run = Run(task, Stage(updates=1, batch_size=4), device="cpu")
        with pytest.raises(InputError, match=r"inputs has 3 rows and indices has 4.*collate"):
            run.fit()

    @pytest.mark.parametrize(
        ("targets", "objective", "words"),
        [
            (
                torch.arange(20) % 4,
                "categorical",
                r"3 outputs, so classes are 0 to 2; found 3 in data",
            ),
            (torch.arange(20) - 1, "categorical", r"found 4, 13, 14, 17 in data set rows"),
            (torch.rand(20), "categorical", r"dtype torch\.float32.*objective='real'"),
            (torch.zeros(20, 2).long(), "categorical", r"targets have shape \(\d, 2\)"),
            (torch.zeros(20, 3) + 2, "multi-label", r"labels lie in \[0, 1\], and data set rows"),
            (torch.zeros(20, 2), "multi-label", r"\(4, 2\) and the output \(4, 3\)"),
            (torch.zeros(20, 2), "real", r"\(4, 2\) and the output \(4, 3\)"),
            (torch.full((20, 3), float("nan")), "real", r"NaN or infinite in data set rows"),
            (torch.zeros(20, 3).long(), "tokens", r"targets \(N, T\) and logits \(N, T, V\)"),
        ],
    )
    def test_targets_out_of_range(self, targets: Any, objective: str, words: str) -> None:
        run = run_of((rows(20).inputs, targets), objective=objective)
        before = weights(run.module)
        with pytest.raises(InputError, match=words):
            run.fit()
        assert equal(before, weights(run.module))

    def test_targets_out_of_range_in_a_later_batch(self) -> None:
        """The first batch is looked at closely; a later one must be named as well."""
        for bad in (7, -100, -1):
            targets = rows(20).targets
            assert targets is not None
            last = run_of().loader.order(0)[-1]  # type: ignore[attr-defined]
            targets[last] = bad
            with pytest.raises(InputError, match=rf"found {bad} in data set rows {last}\b"):
                run_of((rows(20).inputs, targets), stage={"updates": 5}).fit()

    def test_an_output_that_does_not_fit(self) -> None:
        with pytest.raises(InputError, match=r"output has shape \(4, 1, 3\).*objective='tokens'"):
            run_of(model=nn.Sequential(linear(), nn.Unflatten(1, (1, 3)))).fit()

    def test_an_empty_loader(self) -> None:
        with pytest.raises(InputError, match="the data to train on is empty: it has no rows"):
            run_of((torch.zeros(0, 5), torch.zeros(0)))
        ready = DataLoader(TensorDataset(torch.zeros(3, 5)), batch_size=4, drop_last=True)
        with pytest.raises(InputError, match="the loader to train on gives no batch"):
            run_of(ready)

    def test_an_unknown_objective(self) -> None:
        with pytest.raises(
            UnknownName, match="unknown objective 'categoric'; did you mean 'categori"
        ):
            run_of(objective="categoric")


class TestParts:
    def test_a_part_that_is_not_there(self) -> None:
        run = run_of().fit()
        for part in ("select", "judge"):
            with pytest.raises(InputError, match=f"no {part} part to evaluate on: give it {part}="):
                run.evaluate(part)
        with pytest.raises(UnknownName, match=r"unknown part of a task 'test'.*judge, select, tra"):
            run.evaluate("test")
        assert run.evaluate("train")["accuracy"] >= 0

    def test_a_part_without_targets(self) -> None:
        with pytest.raises(InputError, match="no row of the data has a target"):
            run_of(judge=rows(5).inputs).evaluate()

    def test_an_unknown_metric(self) -> None:
        with pytest.raises(UnknownName, match="did you mean 'accuracy'"):
            run_of(select=rows(5), metrics=["acuracy"]).fit()


def poisoned(row: int = 13) -> Batch:
    batch = rows(20)
    batch.inputs[row] = float("nan")
    return batch


class TestNaN:
    def test_it_names_step_and_row_and_spares_the_weights(self, tmp_path: Path) -> None:
        seen: list[dict[str, Any]] = []
        run = run_of(poisoned(), {"updates": 9}, folder=tmp_path, checkpoint_every=1,
                     callbacks=[lambda run: seen.append(weights(run.module))])  # fmt: skip
        with pytest.raises(NonFiniteLoss) as caught:
            run.fit()
        at = run.updates
        order = run.loader.order(0).tolist()  # type: ignore[attr-defined]
        assert at == order.index(13) // 4
        assert f"at stage 0, update {at} (window {at}): inputs of data set rows 13. Look" in str(
            caught.value
        )
        assert "clip_grad_norm" in str(caught.value)
        if seen:
            assert equal(weights(run.module), seen[-1])
        assert all(t.isfinite().all() for t in weights(run.module).values())
        assert checkpoint.numbers(tmp_path / "checkpoints")[-1:] == ([at] if at else [])

    def test_a_term(self) -> None:
        def forward(self: Method, run: Training, batch: Batch, inner: Any) -> Forward:
            found: Forward = inner(batch)
            bad = found.output.sum(1) * (float("inf") if run.updates == 2 else 1.0)
            return found.add("consistency", bad, weight=0.0 if run.updates < 2 else 1.0)

        run = run_of(stage={"methods": [tiny(forward=forward)]})
        with pytest.raises(NonFiniteLoss, match=r"update 2 \(window 2\): term consistency\. Look"):
            run.fit()
        assert run.updates == 2

    def test_late(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As on an accelerator: the step is named, and no checkpoint holds what a NaN reached."""
        monkeypatch.setattr(trouble, "at_once", lambda loss: False)
        at = run_of().loader.order(0).tolist().index(13) // 4  # type: ignore[attr-defined]
        for every in (1, 100):
            folder = tmp_path / str(every)
            run = run_of(poisoned(), {"updates": 9}, folder=folder, checkpoint_every=every)
            with pytest.raises(
                NonFiniteLoss, match=rf"update {at} \(window {at}\): inputs of data set rows 13"
            ):
                run.fit()
            for number in checkpoint.numbers(folder / "checkpoints"):
                saved = checkpoint.load(folder / "checkpoints" / f"{number:08d}")
                assert all(t.isfinite().all() for t in saved["model"].values())

    def test_late_and_last(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The last window of a run has no next one that would look at it."""
        monkeypatch.setattr(trouble, "at_once", lambda loss: False)
        at = run_of().loader.order(0).tolist().index(13) // 4  # type: ignore[attr-defined]
        with pytest.raises(NonFiniteLoss, match=f"update {at}"):
            run_of(poisoned(), {"updates": at + 1}).fit()

    def test_a_judgement_of_nan(self) -> None:
        model = linear()
        run = run_of(model=model, select=rows(5))
        with torch.no_grad():
            model.weight[0, 0] = float("nan")
        with pytest.raises(InputError, match="predictions are NaN in 5 of 5 rows"):
            run.evaluate("select")


class TestCheckpoints:
    def test_a_truncated_one(self, tmp_path: Path) -> None:
        run_of(folder=tmp_path, checkpoint_every=1).fit()
        place = tmp_path / "checkpoints" / "00000004"
        content = (place / "state.pt").read_bytes()
        for length in (0, 10, len(content) // 2, len(content) - 1):
            (place / "state.pt").write_bytes(content[:length])
            with pytest.raises(CheckpointError, match=rf"damaged: state\.pt has {length} bytes of"):
                checkpoint.load(place)
            run = run_of(folder=tmp_path)
            assert run.updates == 3
            assert "00000004 is damaged" in run.notes[0]

    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            (lambda p: (p / "state.pt").unlink(), r"state\.pt is missing"),
            (lambda p: (p / "manifest.json").unlink(), r"manifest\.json is missing"),
            (lambda p: (p / "manifest.json").write_text("{"), r"manifest\.json cannot be read"),
            (lambda p: (p / "manifest.json").write_text("[]"), r"manifest\.json cannot be read"),
            (lambda p: (p / "manifest.json").write_text('{"format": 9}'), "fails its checksum"),
        ],
    )
    def test_other_damage(self, tmp_path: Path, damage: Any, words: str) -> None:
        run_of(folder=tmp_path).fit()
        place = tmp_path / "checkpoints" / "00000004"
        damage(place)
        with pytest.raises(CheckpointError, match=words):
            checkpoint.load(place)
        run = run_of(folder=tmp_path)
        assert run.updates == 0
        assert len(run.notes) == 1

    def test_other_methods(self, tmp_path: Path) -> None:
        run_of(stage={"methods": ["ema"]}, folder=tmp_path).fit(until=2)
        with pytest.raises(
            CheckpointError, match=r"methods \[ema\] and this stack \[\]\. Continue"
        ):
            run_of(folder=tmp_path)

    @pytest.mark.parametrize("at", [3_000, 100_000])
    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        """The disk fills while the state is written; torch's writer puts its own error on top."""
        real = Path.open

        class Filling:
            def __init__(self, file: Any) -> None:
                self.file, self.left = file, at

            def write(self, content: Any) -> int:
                if len(content) > self.left:
                    raise OSError(28, "No space left on device")
                self.left -= len(content)
                return int(self.file.write(content))

            def __getattr__(self, name: str) -> Any:
                return getattr(self.file, name)

            def __enter__(self) -> Filling:
                return self

            def __exit__(self, *_: object) -> None:
                self.file.close()

        model = nn.Sequential(nn.Linear(5, 9000), nn.Linear(9000, 3))
        run = run_of(model=model, folder=tmp_path, stage={"optimizer": "sgd"}).fit(until=1)
        monkeypatch.setattr(
            Path, "open",
            lambda self, *args: Filling(real(self, *args)) if self.name == "state.pt"
            else real(self, *args),
        )  # fmt: skip
        with pytest.raises(CheckpointError, match=r"could not save .*No space left.*make room"):
            run.fit(until=2)
        monkeypatch.undo()
        assert os.listdir(tmp_path / "checkpoints") == ["00000001"]
        assert run.updates == 2
        run.save()
        assert checkpoint.numbers(tmp_path / "checkpoints") == [1, 2]

    def test_errors_that_are_not_the_disks(self, tmp_path: Path) -> None:
        with pytest.raises((AttributeError, PicklingError), match="lambda"):
            checkpoint.save(tmp_path, 1, {"w": lambda: 0})
        assert list(tmp_path.iterdir()) == []


def test_names_of_methods_are_close() -> None:
    for name in methods.registry():
        with pytest.raises(UnknownName, match=f"'{name}'"):
            methods.make(name + "x")
