"""TensorBoard, Weights & Biases and MLflow: Fabric's own loggers over recorded packages."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.tiny import linear, rows
from whet import logs
from whet.errors import InputError, WhetError
from whet.logs.trackers import settings_of
from whet.run import Run
from whet.stage import Recipe, Stage
from whet.task import Task

PLAIN = {"name": "sgd", "lr": 0.1}


def run_of(log: Any, folder: Path | None = None, **changes: Any) -> Run:
    task = Task(linear(), rows(20), select=rows(9, seed=1), metrics=["accuracy"])
    clip = {"name": "clip_grad_norm", "max_norm": 0.5, "label": "a"}
    stage = Stage(updates=6, batch_size=4, optimizer=PLAIN, methods=[clip])
    given = {"device": "cpu", "folder": folder, "evaluate_every": 3, "checkpoint_every": 4}
    return Run(task, stage, log=[log], **(given | changes))


def module(name: str, **members: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__dict__.update(members)
    return made


class Recorded:
    """A logger of Fabric's interface."""

    def __init__(self) -> None:
        self.points: list[tuple[int | None, dict[str, float]]] = []
        self.told: list[Any] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.points.append((step, metrics))

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self.told.append(params)

    def save(self) -> None:
        self.told.append("saved")

    def finalize(self, status: str) -> None:
        self.told.append(status)


class TestAnyLogger:
    def test_numbers_settings_and_the_end(self, tmp_path: Path) -> None:
        logger = Recorded()
        run = run_of(logs.FabricLogger(logger, every=2), tmp_path).fit()
        assert [(step, max(values)) for step, values in logger.points] == [
            (2, "samples_per_second"), (3, "select/accuracy"), (4, "samples_per_second"),
            (6, "samples_per_second"), (6, "select/accuracy"),
        ]  # fmt: skip
        assert list(logger.points[-1][1]) == ["select/accuracy"]  # no point of a curve twice
        assert logger.points[-1][1]["select/accuracy"] == run.history[-1]["metrics"]["accuracy"]
        assert "clip_grad_norm:a/norm" in logger.points[0][1]
        assert logger.told == [settings_of(run), "saved", "saved", "success"]

    def test_it_is_given_as_it_is(self) -> None:
        logger = Recorded()
        run_of(logger).fit()
        assert [step for step, _ in logger.points] == [3, 6, 6]

    def test_a_failed_run(self) -> None:
        def fail(run: Run) -> None:
            raise KeyError("broken")

        logger = Recorded()
        with pytest.raises(KeyError):
            run_of(logger, callbacks=[fail]).fit()
        assert logger.told[-1] == "failed"

    def test_a_continued_run_does_not_tell_its_settings_again(self, tmp_path: Path) -> None:
        run_of(Recorded(), tmp_path).fit(until=4)
        logger = Recorded()
        run_of(logger, tmp_path).fit()
        assert logger.told == ["saved", "success"]

    def test_fabrics_own_csv_logger(self, tmp_path: Path) -> None:
        from lightning_fabric.loggers.csv_logs import CSVLogger

        run_of(logs.FabricLogger(CSVLogger(tmp_path, name="", version="x"), every=2)).fit()
        header, *points = (tmp_path / "x" / "metrics.csv").read_text().splitlines()
        assert "select/accuracy" in header
        assert len(points) == 5

    def test_settings_are_plain_values(self) -> None:
        stages = [
            Stage(updates=1, optimizer=lambda parameters: None, methods=["ema"]),
            Stage(updates=2, optimizer=PLAIN, schedule={"name": "cosine", "warmup": 0.1}),
        ]
        task = Task(linear(), rows(20))
        run = Run(task, Recipe(stages[1:]), device="cpu", log=None)
        run.recipe = Recipe(stages, methods=["clip_grad_norm"])
        found = settings_of(run)
        assert json.loads(json.dumps(found)) == found
        assert "lambda" in found["stage_0"]["optimizer"]
        assert found["stage_0"]["methods"]["ema"]["decay"] == 0.999
        assert found["stage_1"]["schedule"] == {"name": "cosine", "warmup": 0.1}
        assert set(found["stage_1"]["methods"]) == {"clip_grad_norm"}


class TestTensorBoard:
    @pytest.fixture
    def writers(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Stands in for `torch.utils.tensorboard`, under Fabric's own TensorBoardLogger."""
        made: list[Any] = []

        class SummaryWriter:
            def __init__(self, log_dir: str, purge_step: int | None = None) -> None:
                self.log_dir, self.purge_step = log_dir, purge_step
                self.points: list[tuple[str, float, int]] = []
                self.open = True
                made.append(self)

            def add_scalar(self, name: str, value: float, step: int) -> None:
                self.points.append((name, value, step))

            def flush(self) -> None:
                assert self.open

            def close(self) -> None:
                self.open = False

        name = "torch.utils.tensorboard"
        monkeypatch.setitem(sys.modules, name, module(name, SummaryWriter=SummaryWriter))
        monkeypatch.setattr("lightning_fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE", True)
        return made

    def test_points_in_the_runs_folder(self, writers: list[Any], tmp_path: Path) -> None:
        run = run_of("tensorboard", tmp_path).fit()
        (writer,) = writers
        assert Path(writer.log_dir) == tmp_path / "tensorboard"
        assert (writer.purge_step, writer.open) == (None, False)
        assert ("loss", run.stack.loss, 6) in writer.points
        accuracy = run.history[0]["metrics"]["accuracy"]
        assert ("select/accuracy", accuracy, 3) in writer.points
        steps = [(name, step) for name, _, step in writer.points]
        assert len(set(steps)) == len(steps)

    def test_a_continued_run_hides_what_it_trains_again(
        self, writers: list[Any], tmp_path: Path
    ) -> None:
        def fail(run: Run) -> None:
            if run.updates == 5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_of(logs.TensorBoard(every=1), tmp_path, callbacks=[fail]).fit()
        run_of(logs.TensorBoard(every=1), tmp_path).fit()
        first, second = writers
        assert second.log_dir == first.log_dir
        assert second.purge_step == 5
        assert {step for _, _, step in second.points} == {5, 6}

    def test_a_folder_of_its_own(self, writers: list[Any], tmp_path: Path) -> None:
        run_of(logs.TensorBoard(folder=tmp_path / "tb")).fit()
        assert Path(writers[0].log_dir) == tmp_path / "tb"
        with pytest.raises(InputError, match=r"pass folder= to Run, or folder= to TensorBoard"):
            run_of("tensorboard").fit()

    def test_absent(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
            monkeypatch.setattr(f"lightning_fabric.loggers.tensorboard.{name}", False)
        with pytest.raises(WhetError, match=r"pip install tensorboard, or leave it out"):
            run_of("tensorboard", tmp_path).fit()


class TestWandB:
    @pytest.fixture
    def runs(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Stands in for `wandb`, under Lightning's own WandbLogger."""
        made: list[Any] = []

        class OfWandB:
            def __init__(self, **given: Any) -> None:
                self.given, self.id = given, given["id"] or f"id{len(made)}"
                self.points: list[dict[str, float]] = []
                self.settings: dict[str, Any] = {}
                self.config, self.ended = self, None
                made.append(self)

            def define_metric(self, *_: Any, **__: Any) -> None: ...

            def update(self, settings: dict[str, Any], allow_val_change: bool) -> None:
                self.settings |= settings

            def log(self, values: dict[str, float]) -> None:
                self.points.append(values)

            def finish(self, exit_code: int) -> None:
                self.ended = exit_code

        lib = module("wandb.sdk.lib", RunDisabled=type("RunDisabled", (), {}))
        fakes = [
            module("wandb", run=None, init=OfWandB), module("wandb.sdk", lib=lib), lib,
            module("wandb.wandb_run", Run=OfWandB),
        ]  # fmt: skip
        for each in fakes:
            monkeypatch.setitem(sys.modules, each.__name__, each)
        monkeypatch.setattr("pytorch_lightning.loggers.wandb._WANDB_AVAILABLE", True)
        monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
        return made

    def test_numbers_and_settings(self, runs: list[Any], tmp_path: Path) -> None:
        run = run_of(logs.WandB(every=2, project="mine", tags=["x"]), tmp_path).fit()
        (made,) = runs
        assert made.given["project"] == "mine"
        assert made.given["tags"] == ["x"]
        assert made.given["dir"] == str(tmp_path)
        assert [point["trainer/global_step"] for point in made.points] == [2, 3, 4, 6, 6]
        assert made.points[3]["loss"] == run.stack.loss
        assert made.settings["seed"] == 0
        assert made.ended == 0

    def test_continued_under_the_same_id(self, runs: list[Any], tmp_path: Path) -> None:
        run_of("wandb", tmp_path).fit(until=4)
        again = run_of("wandb", tmp_path)
        again.fit(until=5)
        again.fit()
        assert [made.given["id"] for made in runs] == [None, "id0", "id0"]
        assert [made.given["resume"] for made in runs] == ["allow"] * 3
        assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": "id0"}

    @pytest.mark.parametrize("written", ["{", "[1]", '{"wandb": 3}', "[" * 9000, "\xff"])
    def test_a_damaged_file_of_ids_begins_a_new_one(
        self, runs: list[Any], tmp_path: Path, written: str
    ) -> None:
        run_of("wandb", tmp_path).fit(until=4)
        (tmp_path / "trackers.json").write_text(written, encoding="latin-1")
        run_of("wandb", tmp_path).fit()
        assert [made.given["id"] for made in runs] == [None, None]
        assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": "id1"}

    def test_from_the_start_it_is_another_run(self, runs: list[Any], tmp_path: Path) -> None:
        def fail(run: Run) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_of("wandb", tmp_path, callbacks=[fail]).fit()
        assert runs[0].ended == 1
        run_of("wandb", tmp_path).fit()
        assert [made.given["id"] for made in runs] == [None, None]

    def test_absent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "wandb", None)
        monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
        monkeypatch.setattr("pytorch_lightning.loggers.wandb._WANDB_AVAILABLE", False)
        with pytest.raises(WhetError, match=r"pip install wandb lightning, or leave it out"):
            run_of("wandb").fit()


class TestMLflow:
    @pytest.fixture
    def client(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Stands in for `mlflow`, under Lightning's own MLFlowLogger."""

        class Client:
            def __init__(self, uri: str) -> None:
                client.uri = uri

            def __getattr__(self, name: str) -> Callable[..., Any]:
                return getattr(client, name)  # type: ignore[no-any-return]

        client = types.SimpleNamespace(runs=[], points=[], params={}, ended=[], uri="")

        def of(run_id: str) -> Any:
            return types.SimpleNamespace(
                info=types.SimpleNamespace(run_id=run_id, experiment_id="e")
            )

        def create_run(experiment_id: str, tags: Any) -> Any:
            client.runs.append(f"run{len(client.runs)}")
            return of(client.runs[-1])

        def log_batch(run_id: str, metrics: Any = (), params: Any = ()) -> None:
            client.points += [(run_id, m.key, m.value, m.step) for m in metrics]
            client.params |= {p.key: p.value for p in params}

        client.create_run, client.log_batch, client.get_run = create_run, log_batch, of
        client.get_experiment_by_name = lambda name: None
        client.create_experiment = lambda name, artifact_location: "e"
        client.set_terminated = lambda run_id, status: client.ended.append((run_id, status))
        plain: Any = types.SimpleNamespace
        tracking = module(
            "mlflow.tracking", MlflowClient=Client,
            context=module("context", registry=module("registry", resolve_tags=lambda tags: tags)),
        )  # fmt: skip
        fakes = [
            module("mlflow", set_tracking_uri=lambda uri: None, tracking=tracking,
                   get_tracking_uri=lambda: "its own choice"),
            tracking,
            module("mlflow.entities", Metric=plain, Param=plain),
        ]  # fmt: skip
        for each in fakes:
            monkeypatch.setitem(sys.modules, each.__name__, each)
        for home in ("lightning.pytorch", "pytorch_lightning"):
            monkeypatch.setattr(f"{home}.loggers.mlflow._MLFLOW_AVAILABLE", True)
            monkeypatch.setattr(
                f"{home}.loggers.mlflow._get_resolve_tags", lambda: lambda tags: tags
            )
        return client

    def test_numbers_and_settings(self, client: Any, tmp_path: Path) -> None:
        log = logs.MLflow(every=2, tracking_uri=f"file:{tmp_path}/ml")
        run = run_of(log, tmp_path / "run").fit()
        assert client.uri == f"file:{tmp_path}/ml"
        assert ("run0", "loss", run.stack.loss, 6) in client.points
        assert client.params["stage_0/methods/clip_grad_norm.a/max_norm"] == "0.5"
        # a colon would be dropped there, with a warning
        assert any(name == "clip_grad_norm.a/norm" for _, name, _, _ in client.points)
        assert client.ended == [("run0", "FINISHED")]

    def test_where_the_runs_are_kept(self, client: Any, tmp_path: Path) -> None:
        """Lightning's default is a folder of files, which MLflow 3.17 refuses."""
        run_of("mlflow").fit()
        assert client.uri == "its own choice"
        run_of(logs.MLflow(save_dir=str(tmp_path))).fit()
        assert client.uri == f"file:{tmp_path}"

    def test_continued_under_the_same_id(self, client: Any, tmp_path: Path) -> None:
        run_of("mlflow", tmp_path).fit(until=4)
        run_of("mlflow", tmp_path).fit()
        assert client.runs == ["run0"]
        assert {run_id for run_id, *_ in client.points} == {"run0"}
        assert json.loads((tmp_path / "trackers.json").read_text()) == {"mlflow": "run0"}

    def test_absent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for home in ("lightning.pytorch", "pytorch_lightning"):
            monkeypatch.setattr(f"{home}.loggers.mlflow._MLFLOW_AVAILABLE", False)
        with pytest.raises(WhetError, match=r"pip install mlflow lightning, or leave it out"):
            run_of("mlflow").fit()


class TestTheRealOnes:
    """Offline, in a folder. Together they bring 162 MB, so the dev extra leaves them out; where
    they are installed (`pip install wandb mlflow-skinny`), these tests run.
    """

    def test_wandb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("wandb", reason="wandb is large: no part of the dev extra")
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setenv("WANDB_SILENT", "true")
        run_of(logs.WandB(every=2, offline=True), tmp_path).fit(until=4)
        run_of(logs.WandB(every=2, offline=True), tmp_path).fit()
        known = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
        written = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
        assert [path.name for path in written] == [f"run-{known}.wandb"] * 2
        for path in written:
            text = path.read_bytes()
            assert b"select/accuracy" in text
            assert b"clip_grad_norm:a/norm" in text
        assert b"stage_0" in written[0].read_bytes()  # the settings, once

    def test_mlflow(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mlflow = pytest.importorskip("mlflow", reason="mlflow is large: no part of the dev extra")
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the one store of mlflow-skinny
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/ml")
        mlflow.set_tracking_uri(None)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/ml")
        run_of("mlflow", tmp_path).fit(until=4)
        last = run_of("mlflow", tmp_path).fit()
        known = json.loads((tmp_path / "trackers.json").read_text())["mlflow"]
        client = mlflow.MlflowClient(f"file:{tmp_path}/ml")
        (experiment,) = client.search_experiments(filter_string="name = 'whet'")
        (run,) = client.search_runs([experiment.experiment_id])
        assert (run.info.run_id, run.info.status) == (known, "FINISHED")
        assert run.data.params["stage_0/methods/clip_grad_norm.a/max_norm"] == "0.5"
        points = client.get_metric_history(known, "select/accuracy")
        assert [(point.step, point.value) for point in points] == [
            (row["update"], row["metrics"]["accuracy"]) for row in last.history
        ]
