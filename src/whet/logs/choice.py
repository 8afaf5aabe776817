"""Which logs a run keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from whet.callback import Callback
from whet.errors import InputError, UnknownName
from whet.logs.bar import Bar
from whet.logs.table import CSV
from whet.logs.trackers import FabricLogger, MLflow, TensorBoard, WandB

LogLike = Any  # a name, a Log, a logger with the interface of Fabric's, or several of them

NAMES: dict[str, Callable[[], Callback]] = {
    "bar": Bar, "csv": CSV, "mlflow": MLflow, "tensorboard": TensorBoard, "wandb": WandB,
}  # fmt: skip


def chosen(given: LogLike, folder: Path | None) -> list[Callback]:
    """The logs that are asked for; before them a CSV where there is a folder, and a Bar.

    None means no log at all. A CSV or a Bar that is given stands in the usual one's place.

    Raises:
        InputError: something is no log, or a name that no log has.

    >>> [type(log).__name__ for log in chosen(["tensorboard"], Path("run"))]
    ['CSV', 'Bar', 'TensorBoard']
    """
    if given is None:
        return []
    several = isinstance(given, Iterable) and not isinstance(given, str)
    extra = [_made(each) for each in (given if several else [given])]
    usual: list[Callback] = [CSV()] if folder is not None else []
    kinds = {type(log) for log in extra}
    return [log for log in (*usual, Bar()) if type(log) not in kinds] + extra


def _made(given: LogLike) -> Callback:
    if isinstance(given, Callback):
        return given
    if isinstance(given, str):
        if given not in NAMES:
            raise UnknownName("log", given, NAMES)
        return NAMES[given]()
    if callable(getattr(given, "log_metrics", None)):
        return FabricLogger(given)
    raise InputError(
        f"log={given!r} is no log: give names ({', '.join(NAMES)}), whet's Logs, loggers of "
        "Lightning or Fabric, or None to log nothing."
    )
