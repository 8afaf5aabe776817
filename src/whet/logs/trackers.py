"""TensorBoard, Weights & Biases and MLflow, through Fabric's and Lightning's loggers."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from whet import checkpoint, parsing
from whet.errors import InputError, WhetError
from whet.logs.log import EVERY, Log

if TYPE_CHECKING:
    from whet.run import Run

FILE = "trackers.json"  # in the run's folder: under which identity each tracker knows the run


class Logger(Protocol):
    """The part of Fabric's `Logger` that is needed: what any of its loggers has."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Note numbers at a step."""

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        """Note settings."""

    def save(self) -> None:
        """Write out what is buffered."""

    def finalize(self, status: str) -> None:
        """The run ends, with `success` or `failed`."""


class Tracker(Log):
    """Gives a run's numbers and settings to a logger with the interface of Fabric's.

    Args:
        every: updates between readings.
    """

    def __init__(self, every: int = EVERY) -> None:
        super().__init__(every)
        self.logger: Any = None

    @abstractmethod
    def connect(self, run: Run) -> Logger:
        """The logger; for a run that is continued, at the place where it was."""

    def open(self, run: Run) -> None:
        self.logger = self.connect(run)
        if run.updates == 0:  # trackers refuse settings that change
            self.logger.log_hyperparams(settings_of(run))

    def write(self, run: Run, values: dict[str, float]) -> None:
        self.logger.log_metrics(dict(values), step=run.updates)

    def evaluated(self, run: Run, metrics: Mapping[str, float]) -> None:
        read = self._read[0] if self._open else -1
        if read == run.updates:  # a point of a curve is drawn once: what is new, and no more
            self._pace.paused()
            self.write(run, {f"select/{name}": value for name, value in metrics.items()})
        else:
            super().evaluated(run, metrics)

    def saved(self, run: Run, place: object) -> None:
        super().saved(run, place)
        if self._open:
            self.logger.save()

    def close(self, run: Run, error: BaseException | None) -> None:
        self.logger.finalize("success" if error is None else "failed")


class FabricLogger(Tracker):
    """A logger that is made already: any of Fabric's or Lightning's, or one of the same interface.

    >>> from lightning_fabric.loggers import CSVLogger
    >>> log = FabricLogger(CSVLogger("logs"), every=10)
    """

    def __init__(self, logger: Logger, every: int = EVERY) -> None:
        super().__init__(every)
        self.given = logger

    def connect(self, run: Run) -> Logger:
        return self.given

    def open(self, run: Run) -> None:
        with suppress(NotImplementedError):  # Fabric's CSVLogger takes no settings
            super().open(run)


class TensorBoard(Tracker):
    """Event files in the run's folder, for `tensorboard --logdir`.

    A run that is continued hides the points after its checkpoint, which it trains again.

    Args:
        every: updates between points.
        folder: where, if not `tensorboard` in the run's folder.

    Raises:
        InputError: the run has no folder and none is given.
        WhetError: tensorboard is not installed.
    """

    def __init__(self, every: int = EVERY, folder: str | Path | None = None) -> None:
        super().__init__(every)
        self.folder = folder

    def connect(self, run: Run) -> Logger:
        if self.folder is None and run.folder is None:
            raise InputError(
                "TensorBoard() has no place: pass folder= to Run, or folder= to TensorBoard."
            )
        place = Path(run.folder or "") / "tensorboard" if self.folder is None else self.folder
        given = {
            "root_dir": str(place), "name": "", "version": "", "default_hp_metric": False,
            "purge_step": run.updates + 1 if run.updates else None,
        }  # fmt: skip
        made: Logger = _made("tensorboard", _tensorboard, given)
        return made


class _Identified(Tracker):
    """A tracker that gives a run an identity, under which it is continued."""

    kind: ClassVar[str]

    def __init__(self, every: int = EVERY, **settings: Any) -> None:
        super().__init__(every)
        self.settings = settings
        self._id: str | None = None

    def open(self, run: Run) -> None:
        super().open(run)
        self._id = self._identity()
        if run.folder is not None:
            known = _identities(run.folder) | {self.kind: self._id}
            checkpoint.write_whole(run.folder / FILE, json.dumps(known).encode())

    def _identity(self) -> str:
        return str(self.logger.version)

    def _known(self, run: Run) -> str | None:
        """The identity of the run that is continued; a run from the start has a new one."""
        if not run.updates:
            return None
        return self._id or (_identities(run.folder).get(self.kind) if run.folder else None)


class WandB(_Identified):
    """Weights & Biases, through Lightning's `WandbLogger`.

    A run that is continued goes on under its own id, which `trackers.json` in its folder keeps.
    Weights & Biases takes no point back: those after the checkpoint stand twice.

    Args:
        every: updates between points.
        settings: for `WandbLogger`: project, name, offline, and so on.

    Raises:
        WhetError: wandb or lightning is not installed.
    """

    kind = "wandb"

    def connect(self, run: Run) -> Logger:
        place = {} if run.folder is None else {"save_dir": str(run.folder)}
        if run.folder is not None:
            run.folder.mkdir(parents=True, exist_ok=True)
        given = {"project": "whet", "version": self._known(run)} | place | self.settings
        made: Logger = _made("wandb", _wandb, given)
        return made

    def _identity(self) -> str:
        return str(self.logger.experiment.id)  # begins the run, if nothing has yet

    def close(self, run: Run, error: BaseException | None) -> None:
        super().close(run, error)
        self.logger.experiment.finish(exit_code=int(error is not None))  # the next has its own


class MLflow(_Identified):
    """MLflow, through Lightning's `MLFlowLogger`.

    A run that is continued goes on under its own id, which `trackers.json` in its folder keeps.
    MLflow takes no point back: those after the checkpoint stand twice.

    Args:
        every: updates between points.
        settings: for `MLFlowLogger`: experiment_name, tracking_uri, run_name, and so on. Without a
            tracking_uri or save_dir it is MLflow's own choice: `MLFLOW_TRACKING_URI`, or a
            database in the current folder.

    Raises:
        WhetError: mlflow or lightning is not installed.
    """

    kind = "mlflow"

    def connect(self, run: Run) -> Logger:
        given = {"experiment_name": "whet", "run_id": self._known(run)} | self.settings
        made: Logger = _made("mlflow", _mlflow, given)
        return made

    def write(self, run: Run, values: dict[str, float]) -> None:
        # the colon of a labelled method is no character of a name there
        super().write(run, {name.replace(":", "."): value for name, value in values.items()})


def _tensorboard(given: dict[str, Any]) -> Any:
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    return TensorBoardLogger(**given)


def _wandb(given: dict[str, Any]) -> Any:
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(**given)


def _mlflow(given: dict[str, Any]) -> Any:
    from lightning.pytorch.loggers import MLFlowLogger

    if not {"tracking_uri", "save_dir"} & given.keys():
        import mlflow  # Lightning would choose a folder of files, which MLflow now refuses

        given = {"tracking_uri": mlflow.get_tracking_uri(), **given}
    return MLFlowLogger(**given)


def _made(name: str, make: Callable[[dict[str, Any]], Any], given: dict[str, Any]) -> Any:
    try:
        return make(given)
    except ModuleNotFoundError as error:
        also = "" if name == "tensorboard" else " lightning"
        raise WhetError(
            f"the log {name!r} needs a package that is not installed ({error.name or error}): "
            f"pip install {name}{also}, or leave it out of log=."
        ) from error


def _identities(folder: Path) -> dict[str, str]:
    """What `trackers.json` holds; nothing where it is absent or damaged."""
    try:
        known = parsing.values((folder / FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in known.items() if isinstance(v, str)} if isinstance(known, dict) else {}


def settings_of(run: Run) -> dict[str, Any]:
    """What a run was given, as a nest of plain values; a function stands by its name."""
    found = {"seed": run.seed, "precision": run.precision, "device": str(run.device)}
    for number, stage in enumerate(run.recipe.stages):
        methods = {m.key: m.settings() for m in run.recipe.methods_of(stage)}
        names = ("updates", "epochs", "batch_size", "accumulate", "optimizer", "schedule")
        given = {name: _plain(getattr(stage, name)) for name in names}
        found[f"stage_{number}"] = given | {"methods": _dotted(methods)}
    return found


def _dotted(methods: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    return {key.replace(":", "."): _plain(given) for key, given in methods.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items() if name != "name"} | (
            {"name": value["name"]} if "name" in value else {}
        )
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", type(value).__name__)
