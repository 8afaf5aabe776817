"""The switches of a run: overfit, profile, anomaly."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract.fixture import equal, weights
from tests.engine.test_loading import Augmented
from tests.engine.tiny import linear, rows
from whet.diagnosis import Overfit
from whet.errors import CheckpointError, InputError
from whet.run import Run
from whet.stage import Recipe, Stage
from whet.task import Task

FAST = {"name": "adamw", "lr": 0.1, "weight_decay": 0.0}


def run_of(data: Any = None, model: nn.Module | None = None, **changes: Any) -> Run:
    stage = {name: changes.pop(name) for name in ("updates", "accumulate", "methods", "optimizer",
             "epochs") if name in changes}  # fmt: skip
    given: dict[str, Any] = {"batch_size": 4, "optimizer": FAST, **stage}
    if "epochs" not in given:
        given.setdefault("updates", 4)
    task = Task(linear() if model is None else model, rows(40) if data is None else data)
    return Run(task, Stage(**given), device="cpu", **changes)


class TestOverfit:
    def test_it_trains_on_so_many_batches(self) -> None:
        seen: list[list[int]] = []

        def note(run: Run) -> None:
            current = run.stack.run.window - 1
            batch = run.loader.kept[current % 2]  # type: ignore[attr-defined]
            seen.append(batch.indices.tolist())

        run = run_of(overfit=2, updates=6, callbacks=[note]).fit()
        assert run.loader.batches == 2
        assert seen[0] == seen[2] == seen[4] != seen[1] == seen[3]
        assert run.stack.run.epoch == 3

    def test_a_loss_that_goes_to_zero(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "whet"):
            run = run_of(overfit=1, updates=150).fit()
        [told] = [note for note in run.notes if note.startswith("overfit: ")]
        assert told.endswith("in 150 updates: they are learned.")
        assert run.stack.loss < 0.05
        assert (told, "INFO") in [(each.message, each.levelname) for each in caplog.records]

    def test_a_loss_that_does_not(self, caplog: pytest.LogCaptureFixture) -> None:
        """One row under two labels: nothing can learn it."""
        data = (torch.ones(4, 5), torch.tensor([0, 1, 0, 1]))
        run = run_of(data, overfit=1, updates=60, methods=["label_smoothing"]).fit()
        [told] = [note for note in run.notes if note.startswith("overfit: ")]
        assert "and should come near 0" in told
        assert "perhaps label_smoothing" in told
        assert "targets that do not belong" in told
        assert ("WARNING", told) in [(each.levelname, each.message) for each in caplog.records]

    def test_the_losses_are_of_whole_passes(self) -> None:
        watch = Overfit(3)
        losses: list[float] = []
        run_of(
            overfit=3, accumulate=2, updates=5,
            callbacks=[watch, lambda run: losses.append(run.stack.loss)],
        ).fit()  # fmt: skip
        assert watch.first == losses[:2], "three batches in windows of two"
        assert watch.last == losses[-2:]

    def test_augmentation_stands_still(self) -> None:
        run = run_of(Augmented(), linear(dim=4), overfit=2).fit()
        first = [batch.inputs for batch in run.loader.epoch(0)]
        later = [batch.inputs for batch in run.loader.epoch(5)]
        assert all(torch.equal(a, b) for a, b in zip(first, later, strict=True))

    def test_the_stage_is_as_long_as_ever(self) -> None:
        assert run_of(overfit=1, epochs=1.0).stack.run.total == 10

    def test_methods_read_the_same_batches(self) -> None:
        run = run_of(overfit=2)
        read = [batch.indices.tolist() for batch in run.stack.run.data("precise_bn")]  # type: ignore[union-attr]
        assert read == [b.indices.tolist() for b in run.loader.epoch(0)]  # type: ignore[union-attr]

    def test_a_later_stage_too(self) -> None:
        stage = Stage(updates=2, batch_size=4)
        run = Run(Task(linear(), rows(40)), Recipe([stage, stage]), device="cpu", overfit=1).fit()
        assert run.loader.batches == 1

    def test_resumed_is_uninterrupted(self, tmp_path: Path) -> None:
        through = run_of(overfit=3, updates=7).fit()
        run_of(overfit=3, updates=7, folder=tmp_path).fit(until=4)
        resumed = run_of(overfit=3, updates=7, folder=tmp_path).fit()
        assert equal(weights(through.module), weights(resumed.module))

    def test_a_folder_of_the_whole_data_is_another_run(self, tmp_path: Path) -> None:
        run_of(folder=tmp_path).fit(until=2)
        with pytest.raises(CheckpointError, match=r"overfit None and this run 2.*other data"):
            run_of(folder=tmp_path, overfit=2)

    def test_a_number_of_batches(self) -> None:
        with pytest.raises(InputError, match="overfit is 0"):
            run_of(overfit=0)


class TestProfile:
    def test_a_trace_and_a_table(self, tmp_path: Path) -> None:
        plain = run_of(updates=8).fit()
        run = run_of(updates=8, profile=3, folder=tmp_path).fit()
        events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
        steps = {e["name"] for e in events if str(e.get("name", "")).startswith("ProfilerStep")}
        assert len(steps) == 3
        assert any("aten::addmm" in str(event.get("name")) for event in events)
        assert "Self CPU" in (tmp_path / "profile.txt").read_text()
        assert equal(weights(plain.module), weights(run.module)), "it only watches"

    def test_a_run_that_ends_while_recording(self, tmp_path: Path) -> None:
        run_of(updates=4, profile=50, folder=tmp_path).fit()
        assert (tmp_path / "trace.json").exists()

    def test_a_run_too_short_to_warm_up(self, tmp_path: Path) -> None:
        run = run_of(updates=1, profile=5, folder=tmp_path).fit()
        assert not (tmp_path / "trace.json").exists()
        assert any(note.startswith("profile: nothing was traced") for note in run.notes)

    def test_a_run_that_fails_leaves_no_profiler_running(self, tmp_path: Path) -> None:
        def fail(run: Run) -> None:
            if run.updates == 3:
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            run_of(updates=6, profile=5, folder=tmp_path, callbacks=[fail]).fit()
        run_of(updates=4, profile=1, folder=tmp_path / "next").fit()
        assert (tmp_path / "next" / "trace.json").exists()

    def test_it_needs_a_folder_and_a_number(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="profile writes a trace into the run's folder"):
            run_of(profile=3)
        with pytest.raises(InputError, match="profile is 0"):
            run_of(profile=0, folder=tmp_path)


class Ill(torch.autograd.Function):
    """Gives a NaN back, once the loss is fine."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * float("nan")


class Sick(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(Ill.apply(x * self.weight.sum()))  # type: ignore[no-untyped-call]


class TestAnomaly:
    @pytest.mark.filterwarnings("ignore:Error detected in IllBackward:UserWarning")
    def test_the_operation_is_named(self) -> None:
        run = run_of(model=Sick(5, 3), anomaly=True)
        with pytest.raises(RuntimeError, match="'IllBackward' returned nan"):
            run.fit()
        assert not torch.is_anomaly_enabled()

    def test_it_changes_nothing_else(self) -> None:
        on: list[bool] = []
        watched = run_of(anomaly=True, callbacks=[lambda _: on.append(torch.is_anomaly_enabled())])
        assert equal(weights(watched.fit().module), weights(run_of().fit().module))
        assert on == [True] * 4
        assert not torch.is_anomaly_enabled()

    def test_a_mode_that_was_on_stays_on(self) -> None:
        torch.autograd.set_detect_anomaly(True)
        try:
            run_of(anomaly=True).fit()
            assert torch.is_anomaly_enabled()
        finally:
            torch.autograd.set_detect_anomaly(False)

    def test_overflows_of_fp16_are_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("whet.device.check", lambda *_: None)
        with pytest.raises(InputError, match="in fp16 overflows are normal"):
            run_of(anomaly=True, precision="fp16")
