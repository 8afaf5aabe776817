"""metrics.csv, and the numbers that every log reads."""

from __future__ import annotations

import csv
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.contract.fixture import equal, weights
from tests.engine.tiny import linear, rows, stack, tiny
from whet import checkpoint, logs, methods
from whet.batch import Batch
from whet.callback import Callback
from whet.errors import InputError, UnknownName, WhetError
from whet.forward import Forward
from whet.logs.log import Pace, Rates, readings
from whet.logs.table import Table
from whet.logs.trackers import FabricLogger
from whet.method import Method
from whet.run import Run
from whet.stage import Recipe, Stage
from whet.task import Task

PLAIN = {"name": "sgd", "lr": 0.1}
TIMED = "samples_per_second"


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.1), nn.Linear(8, 3))


def run_of(folder: Path | None = None, recipe: Any = None, **changes: Any) -> Run:
    task = Task(net(), rows(20), select=rows(9, seed=1), metrics=["accuracy", "log_loss"])
    recipe = recipe or Stage(updates=10, batch_size=4, optimizer=PLAIN, methods=["r_drop"])
    given: dict[str, Any] = {
        "device": "cpu", "folder": folder, "log": [logs.CSV(every=2)], "evaluate_every": 4,
        "checkpoint_every": 3,
    }  # fmt: skip
    return Run(task, recipe, **(given | changes))


def lines(path: Path, timed: bool = False) -> list[dict[str, str]]:
    if path.is_dir():
        path = path / "metrics.csv"
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if timed or k != TIMED} for row in found]


def updates(path: Path) -> list[int]:
    return [int(row["update"]) for row in lines(path)]


class TestTerms:
    def test_each_term_has_its_own_normaliser_over_the_window(self) -> None:
        """By hand: weight x sum / total, over three micro-batches, two terms of one name."""

        def forward(self: Method, run: Any, batch: Batch, inner: Any) -> Forward:
            given = inner(batch)
            ones = torch.ones(batch.size)
            given = given.add("a", 2.0 * ones, per="rows", weight=0.5)
            return given.add("b", ones[:1], per="micros").add("a", ones, per="items", weight=3.0)

        watched = stack(tiny(forward=forward))
        watched.step([rows(4), rows(4, 1), rows(2, 2)])
        parts = watched.terms
        assert list(parts) == [watched.objective.name, "a", "b"]
        assert parts["a"] == pytest.approx(1.0 + 3.0)
        assert parts["b"] == pytest.approx(1.0)
        assert sum(parts.values()) == pytest.approx(watched.loss)
        plain = stack()
        plain.step([rows(4), rows(4, 1), rows(2, 2)])
        assert parts[watched.objective.name] == pytest.approx(plain.loss)

    def test_r_drop_against_its_formula(self) -> None:
        stage = Stage(updates=1, batch_size=20, methods=["r_drop"], optimizer=PLAIN)
        run = run_of(recipe=stage, log=None).fit()
        passes: list[torch.Tensor] = []
        again = run_of(recipe=stage, log=None)
        again.module.register_forward_hook(lambda *args: passes.append(args[2].detach()))
        again._update(next(again._windows()))
        logits = torch.cat(passes)
        p, q = (F.log_softmax(half, -1) for half in logits.chunk(2))
        kl = lambda a, b: (a.exp() * (a - b)).sum(-1)  # noqa: E731
        alpha = methods.registry()["r_drop"]().alpha  # type: ignore[attr-defined]
        expected = alpha * ((kl(p, q) + kl(q, p)) / 2).mean().item()
        assert expected > 0
        assert run.stack.terms["r_drop"] == pytest.approx(expected, rel=1e-4)

    def test_a_replayed_pass_counts_once(self) -> None:
        """SAM runs the window twice; the loss and its parts are those of the first pass."""

        def forward(self: Method, run: Any, batch: Batch, inner: Any) -> Forward:
            return inner(batch).add("extra", torch.ones(batch.size))

        extra = tiny(forward=forward)
        watched = stack(methods.make({"name": "sam", "rho": 0.1}), extra)
        watched.step(rows(6))
        assert watched.terms["extra"] == pytest.approx(1.0)
        assert sum(watched.terms.values()) == pytest.approx(watched.loss)

    def test_they_are_forgotten_with_their_window(self) -> None:
        def forward(self: Method, run: Any, batch: Batch, inner: Any) -> Forward:
            given = inner(batch)
            return given.add("first", torch.ones(1)) if run.window == 0 else given

        watched = stack(tiny(forward=forward))
        watched.step(rows(4))
        assert "first" in watched.terms
        watched.step(rows(4))
        assert list(watched.terms) == [watched.objective.name]

    def test_no_graph_is_kept(self) -> None:
        def forward(self: Method, run: Any, batch: Batch, inner: Any) -> Forward:
            given = inner(batch)
            return given.add("square", given.output.square().sum(-1))

        watched = stack(tiny(forward=forward))
        watched.step(rows(4))
        assert [values.grad_fn for _, values, _ in watched._watch._terms] == [None]


class TestReadings:
    def test_the_gradients_norm_where_it_is_clipped(self) -> None:
        clip = methods.make({"name": "clip_grad_norm", "max_norm": 0.01})
        watched = stack(clip)
        watched.step(rows(6))
        model, batch = linear(), rows(6)
        assert batch.targets is not None
        F.cross_entropy(model(batch.inputs), batch.targets).backward()
        norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        assert readings(watched)["clip_grad_norm/norm"] == pytest.approx(norm.norm().item())

    def test_only_of_methods_that_took_part(self) -> None:
        """A norm from before the cut must not be drawn on as if it were measured."""
        clip = methods.make("clip_grad_norm").during(0, 0.5)
        watched = stack(clip, updates=4)
        seen = []
        for _ in range(4):
            watched.step(rows(4))
            seen.append("clip_grad_norm/norm" in readings(watched))
        assert seen == [True, True, False, False]

    def test_no_terms_where_nothing_was_added(self) -> None:
        watched = stack()
        watched.step(rows(4))
        assert list(readings(watched)) == ["loss"]

    def test_rates_are_those_of_the_step(self, tmp_path: Path) -> None:
        """Afterwards the scheduler has moved on, and SWA's loan has ended."""
        taken: list[float] = []

        class Recording(torch.optim.SGD):
            def step(self, *args: Any) -> None:  # type: ignore[override]
                taken.append(self.param_groups[0]["lr"])
                super().step(*args)

        stage = Stage(
            updates=8, batch_size=4, optimizer=lambda parameters: Recording(parameters, lr=0.1),
            schedule={"name": "linear", "warmup": 0.5}, methods=[{"name": "swa", "lr": 0.3}],
        )  # fmt: skip
        run_of(tmp_path, stage, log=[logs.CSV(every=1)]).fit()
        assert [float(row["lr"]) for row in lines(tmp_path)] == taken
        assert taken[-1] == pytest.approx(0.03)
        assert len(set(taken)) > 4

    def test_groups_with_rates_of_their_own(self) -> None:
        a, b = nn.Linear(2, 2), nn.Linear(2, 2)
        groups = [{"params": a.parameters(), "lr": torch.tensor(0.5)}, {"params": b.parameters()}]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        rates = Rates(optimizer)
        optimizer.step()
        optimizer.param_groups[0]["lr"].fill_(9.0)  # a captured optimizer's rate moves in place
        assert rates.named() == {"lr_0": 0.5, "lr_1": pytest.approx(0.1)}
        rates.close()
        optimizer.step()
        assert rates.named()["lr_0"] == 0.5

    def test_pauses_are_no_training(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 0.0
        monkeypatch.setattr("whet.logs.log.time.perf_counter", lambda: now)
        run = run_of()
        run.stack.step(rows(8))
        pace = Pace()
        now = -50.0
        pace.paused()
        for at in (0.0, 1.0, 2.0):  # the first is not counted: much begins with it
            now = at
            pace.updated(run)
        assert Pace().rate() == 0.0
        now = 10.0  # an evaluation of eight seconds
        pace.paused()
        now = 12.0
        pace.updated(run)
        assert pace.rate() == pytest.approx(24 / 4)
        now = 13.0
        pace.updated(run)
        assert pace.rate() == pytest.approx(8.0)


class TestCSV:
    def test_a_line_for_each_reading_and_evaluation(self, tmp_path: Path) -> None:
        seen: dict[int, float] = {}
        run = run_of(tmp_path, callbacks=[lambda run: seen.update({run.updates: run.stack.loss})])
        run.fit()
        found = lines(tmp_path, timed=True)
        assert [int(row["update"]) for row in found] == [2, 4, 6, 8, 10]
        assert [float(row["loss"]) for row in found] == [seen[u] for u in (2, 4, 6, 8, 10)]
        assert all(float(row[TIMED]) > 0 for row in found)
        judged = {row["update"]: row["metrics"]["accuracy"] for row in run.history}
        told = {int(r["update"]): r["select/accuracy"] for r in found if r["select/accuracy"]}
        assert {at: float(value) for at, value in told.items()} == judged
        for row in found:
            parts = float(row["terms/supervised"]) + float(row["terms/r_drop"])
            assert parts == pytest.approx(float(row["loss"]))

    def test_an_evaluation_between_two_readings(self, tmp_path: Path) -> None:
        run_of(tmp_path, evaluate_every=3).fit()
        assert updates(tmp_path) == [2, 3, 4, 6, 8, 9, 10]

    def test_a_short_run_has_its_last_update(self, tmp_path: Path) -> None:
        recipe = Recipe([Stage(updates=2, batch_size=4), Stage(updates=3, batch_size=4)])
        run_of(tmp_path, recipe, log=(), evaluate_every=None).fit()
        assert [(row["update"], row["stage"]) for row in lines(tmp_path)] == [
            ("2", "0"),
            ("5", "1"),
        ]

    def test_terms_of_a_later_stage_make_columns(self, tmp_path: Path) -> None:
        later = Stage(updates=4, batch_size=4, methods=["r_drop", "clip_grad_norm"])
        run_of(tmp_path, Recipe([Stage(updates=4, batch_size=4), later])).fit()
        found = lines(tmp_path)
        assert [bool(row["terms/r_drop"]) for row in found] == [False, False, True, True]
        assert [bool(row["clip_grad_norm/norm"]) for row in found] == [False, False, True, True]
        assert [bool(row["lr"]) for row in found] == [True] * 4

    @pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
    @pytest.mark.parametrize(
        ("moment", "fatal"),
        [("updated", 1), ("updated", 2), ("updated", 4), ("updated", 6), ("updated", 7),
         ("updated", 10), ("evaluated", 4), ("evaluated", 10), ("saved", 3), ("saved", 6)],
    )  # fmt: skip
    def test_continued_it_is_the_file_of_an_uninterrupted_run(
        self, tmp_path: Path, moment: str, fatal: int, before: bool
    ) -> None:
        """Cut off before and after the line was written, with a torn line behind it."""

        class Kill(Callback):
            def fail(self, run: Run, *_: Any) -> None:
                if run.updates >= fatal:
                    raise KeyboardInterrupt

        setattr(Kill, moment, Kill.fail)
        run_of(tmp_path / "whole").fit()
        run = run_of(tmp_path / "cut")
        run.callbacks.insert(0 if before else 1, Kill())
        with pytest.raises(KeyboardInterrupt):
            run.fit()
        path = tmp_path / "cut" / "metrics.csv"
        if path.exists():
            with path.open("ab") as file:
                file.write(b"11,0,2,0.3")  # what a kill within a write leaves
        resumed = run_of(tmp_path / "cut").fit()
        assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
        assert resumed.notes == []

    def test_an_earlier_checkpoint_takes_later_lines_back(self, tmp_path: Path) -> None:
        run_of(tmp_path / "whole").fit()
        run = run_of(tmp_path / "cut", keep=9)
        run.fit(until=8)
        for number in checkpoint.numbers(tmp_path / "cut" / "checkpoints"):
            if number > 3:
                place = tmp_path / "cut" / "checkpoints" / f"{number:08d}" / "state.pt"
                place.write_bytes(place.read_bytes()[:-9])
        again = run_of(tmp_path / "cut")
        assert again.updates == 3
        again.fit()
        assert lines(tmp_path / "cut") == lines(tmp_path / "whole")

    def test_fit_in_parts_is_fit(self, tmp_path: Path) -> None:
        run_of(tmp_path / "whole").fit()
        run = run_of(tmp_path / "parts")
        for until in (1, 4, 5, 9, 10, 10):
            run.fit(until=until)
        assert lines(tmp_path / "parts") == lines(tmp_path / "whole")

    def test_training_is_the_same_with_and_without(self, tmp_path: Path) -> None:
        plain = run_of(log=None).fit()
        logged = run_of(tmp_path, log=[logs.CSV(every=1)]).fit()
        assert equal(weights(plain.module), weights(logged.module))
        assert not logged.stack.optimizer._optimizer_step_pre_hooks

    def test_another_process_than_the_first_writes_nothing(self, tmp_path: Path) -> None:
        run = run_of(tmp_path)
        run.stack.run.rank = 1
        run.fit(until=2)
        assert not (tmp_path / "metrics.csv").exists()

    def test_without_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"pass folder= to Run, or path= to CSV"):
            run_of(log=[logs.CSV()]).fit()
        run_of(log=[logs.CSV(path=tmp_path / "mine.csv")]).fit()
        assert updates(tmp_path / "mine.csv") == [4, 8, 10]

    def test_a_disk_that_refuses(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.csv").mkdir()
        with pytest.raises(WhetError, match=r"metrics\.csv cannot be written .*log=None"):
            run_of(tmp_path).fit()

    def test_the_disk_refuses_later(self, tmp_path: Path) -> None:
        def remove(run: Run) -> None:
            if run.updates == 3:
                (tmp_path / "metrics.csv").unlink()

        with pytest.raises(WhetError, match=r"metrics\.csv cannot be written"):
            run_of(tmp_path, callbacks=[remove]).fit()

    def test_every_must_be_a_count(self) -> None:
        with pytest.raises(InputError, match="every is 0"):
            logs.CSV(every=0)


class TestTable:
    def table(self, path: Path) -> Table:
        table = Table(path / "t.csv")
        table.open(0)
        table.put({"update": 1, "loss": 0.5})
        table.put({"update": 2, "loss": 0.25, 'a,b"c': 1})
        return table

    def test_names_and_numbers_come_back(self, tmp_path: Path) -> None:
        self.table(tmp_path).put({"update": 3, "loss": math.nan, "x": 1e-300})
        found = lines(tmp_path / "t.csv")
        assert found[1]['a,b"c'] == "1"
        assert math.isnan(float(found[2]["loss"]))
        assert float(found[2]["x"]) == 1e-300
        assert found[0]["x"] == ""

    def test_the_same_update_takes_its_lines_place(self, tmp_path: Path) -> None:
        table = self.table(tmp_path)
        table.put({"update": 2, "loss": 0.125})
        table.put({"update": 2, "loss": 0.0625, "new": 7.0})
        table.put({"update": 3, "loss": 1.0})
        assert [(row["update"], row["loss"]) for row in lines(tmp_path / "t.csv")] == [
            ("1", "0.5"), ("2", "0.0625"), ("3", "1.0"),
        ]  # fmt: skip

    def test_another_ones_file_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.csv"
        path.write_text("epoch,loss\n1,0.5\n")
        with pytest.raises(InputError, match=r"no log of whet.*Move it away"):
            run_of(tmp_path).fit()
        assert path.read_text() == "epoch,loss\n1,0.5\n"

    def test_damaged_lines_are_left_out_and_told(self, tmp_path: Path) -> None:
        run_of(tmp_path).fit(until=6)
        path = tmp_path / "metrics.csv"
        text = re.sub(r"^4,", "4x,", path.read_text(), flags=re.MULTILINE)
        path.write_text(text)
        run = run_of(tmp_path).fit()
        assert updates(tmp_path) == [2, 6, 8, 10]
        assert any("1 damaged line" in note for note in run.notes)

    def test_no_bytes_raise_anything_else(self, tmp_path: Path) -> None:
        draw = random.Random(0)
        whole = (self.table(tmp_path).path).read_bytes()
        kinds = set()
        for number in range(400):
            data = bytearray(whole)
            for _ in range(draw.randrange(1, 6)):
                at = draw.randrange(len(data))
                data[at : at + draw.randrange(3)] = draw.randbytes(draw.randrange(3))
                data = data or bytearray(b"x")
            path = tmp_path / f"{number}.csv"
            path.write_bytes(data)
            table = Table(path)
            try:
                table.open(10)
            except InputError:
                kinds.add("refused")
                assert path.read_bytes() == data
                continue
            kinds.add("read")
            table.put({"update": 11, "loss": 1.0})
            assert lines(path)[-1]["update"] == "11"
        assert kinds == {"refused", "read"}


class TestChoice:
    def kinds(self, given: Any, folder: Path | None = None) -> list[str]:
        return [type(log).__name__ for log in logs.chosen(given, folder)]

    def test_the_usual_ones(self) -> None:
        assert self.kinds((), Path("run")) == ["CSV", "Bar"]
        assert self.kinds(()) == ["Bar"]
        assert self.kinds(None, Path("run")) == []
        assert self.kinds("mlflow") == ["Bar", "MLflow"]
        assert self.kinds(["wandb", "tensorboard"], Path("run")) == [
            "CSV", "Bar", "WandB", "TensorBoard",
        ]  # fmt: skip

    def test_a_given_one_stands_in_the_usual_ones_place(self) -> None:
        mine = logs.CSV(every=3)
        found = logs.chosen(mine, Path("run"))
        assert [type(log).__name__ for log in found] == ["Bar", "CSV"]
        assert found[1] is mine

    def test_any_logger_of_fabrics_interface(self) -> None:
        class Mine:
            def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
                pass

        (_, log) = logs.chosen(Mine(), None)
        assert isinstance(log, FabricLogger)

    def test_what_is_no_log(self) -> None:
        with pytest.raises(UnknownName, match="unknown log 'tensorbord'; did you mean 'tensorb"):
            logs.chosen("tensorbord", None)
        with pytest.raises(InputError, match=r"log=3 is no log: give names \(bar, csv"):
            logs.chosen([3], None)

    def test_a_study_prints_nothing_of_its_runs(self) -> None:
        """Its display has the terminal, and its folders their own files."""
        import inspect

        from whet.study import node

        assert "log=None" in inspect.getsource(node._composed)
