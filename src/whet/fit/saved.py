"""What is done with a model that was fitted: judging it, and predicting with it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from whet import code_files, evaluation, sources, tasks
from whet import device as devices
from whet.batch import Batch
from whet.errors import InputError, UnknownName, WhetError
from whet.fit.folder import About, Folder
from whet.loading import open_loader
from whet.predict import Predictor
from whet.sources import Source
from whet.task import Task

Array = NDArray[Any]
PARTS = ("judge", "select", "train")
READER = '''def inputs(path, seed):
    """The rows of a file, as the model of task(seed) takes them: encoded as its own are."""'''


@dataclass(frozen=True)
class Saved:
    """A saved model beside the task that it is held against.

    Args:
        source: the task.
        task: of the seed.
        seed: the one that the model was fitted with, where no other is asked for.
        about: what `fit.json` tells.
        predictor: the model.
        notes: what makes the numbers other than they look.
    """

    source: Source
    task: Task
    seed: int
    about: About
    predictor: Predictor
    notes: list[str]

    def batches(self, part: str) -> Iterator[Batch]:
        """The rows of a part, in their own order."""
        return self._opened(self.task.part(part), part)

    def rows_of(self, path: Path) -> Iterator[Batch]:
        """The rows of a file, read by the task's own `inputs(path, seed)`.

        Raises:
            InputError: there is no such file, the task does not read files, or its code raised.
        """
        if not path.is_file():
            raise InputError(f"there is no file {path} to predict for.")
        read = self.source.read
        if read is None:
            where = self.source.file or self.source.name
            raise InputError(
                f"{where} does not say how the rows of a file become inputs of its model. Define "
                f"there\n\n{READER}\n    ...\n    return ...\n\nor predict for a part of the task "
                "(--part) instead of a file."
            )
        data = _read(read, path, self.seed, self.source.file)
        given = data if isinstance(data, Batch | Dataset | DataLoader) else (data, None)
        return self._opened(given, f"inputs({path.name!r}, {self.seed})")

    def _opened(self, data: Any, purpose: str) -> Iterator[Batch]:
        loader = open_loader(
            data, self.about.batch_size, self.seed, purpose, shuffle=False,
            collate=self.task.collate,
        )  # fmt: skip
        return loader.epoch(0)


def load(
    folder: Path, task: str, file: Path | None, seed: int | None = None, device: str = "auto"
) -> Saved:
    """A model from its folder, with the task that a name or a file gives.

    Raises:
        InputError, CheckpointError: the folder holds no model, or one of another architecture.
    """
    about = Folder(folder).finished()
    source = sources.load(task, file)
    chosen = about.seed if seed is None else seed
    made = source.task(chosen, needs=())
    made.model.to(devices.pick(device))
    return opened(folder, about, source, made, chosen, device)


def task_of(folder: Path, task: str | None, data: Path | None) -> str:
    """The task to predict with: the one that is given, or a built-in one that `fit.json` names.

    A file is run, so that a folder, which may be anybody's, does not say which.

    Raises:
        InputError: a file made the model and is not given, or it is given in place of the data.
    """
    about = Folder(folder).finished()
    if data is not None and (data.suffix == ".py" or str(data) in tasks.names()):
        raise InputError(f"{data} is a task, and no file of rows: give it as --task {data}.")
    if task is not None:
        return task
    if about.task.file is None and about.task.name in tasks.names():
        return about.task.name
    raise InputError(
        f"the model was fitted to the task of a file ({about.task.file or about.task.name}), whose "
        "code says how rows are read: give --task FILE."
    )


def opened(
    folder: Path, about: About, source: Source, task: Task, seed: int, device: str
) -> Saved:  # fmt: skip
    """A model from its folder, beside a task that was made for it and stands on the device.

    Raises:
        CheckpointError: the file is damaged, or of another architecture.
    """
    predictor = Predictor.load(Folder(folder).model, task.model, task.resources)
    _compute_as_trained(predictor, about, device)
    return Saved(source, task, seed, about, predictor, _notes(about, source, task, seed))


def _read(read: Callable[[Path, int], Any], path: Path, seed: int, file: Path | None) -> Any:
    with sources.seeded(seed):
        try:
            return read(path, seed)
        except WhetError:
            raise
        except Exception as error:
            raise InputError(
                code_files.told(f"inputs({path.name!r}, {seed})", file, error)
            ) from error


def _compute_as_trained(predictor: Predictor, about: About, device: str) -> None:
    """In the precision of the training, in which the metrics of `fit.json` are."""
    where = devices.pick(device)
    fits = about.precision != "fp16" or where.type == "cuda"
    fabric = devices.open_fabric(where, about.precision, None) if fits else None
    for one in predictor.models():
        one.autocast = nullcontext if fabric is None else fabric.autocast


def _notes(about: About, source: Source, task: Task, seed: int) -> list[str]:
    if source.name != about.task.name:
        return [f"the model was fitted to {about.task.name}, and this is {source.name}."]
    if seed != about.seed:
        told = f"the model was fitted with seed {about.seed}: where the split varies with the seed,"
        return [f"{told} the parts of seed {seed} hold rows that it was trained on."]
    if about.task.data not in (None, sources.fingerprint(task)):
        return ["the data of the task is not what it was when the model was fitted."]
    return []


def evaluate(saved: Saved, part: str = "judge") -> dict[str, float]:
    """The task's metrics of a model on a part.

    Raises:
        InputError: the task has no such part.
    """
    if part not in PARTS:
        raise UnknownName("part of a task", part, PARTS)
    return evaluation.evaluate(saved.predictor, saved.batches(part), saved.task.metrics)


def predicted(saved: Saved, batches: Iterator[Batch]) -> tuple[list[str], Array]:
    """What each output is called, and its value for each row: `(rows, outputs)`.

    Raises:
        InputError: there is no row, or the model predicts a class for each token.
    """
    family = saved.predictor.family.name
    if family == "tokens":
        raise InputError(
            "a model that predicts a class for every token has no table of predictions: load it "
            "with whet.Predictor.load, and call that on a whet.Batch."
        )
    found = [saved.predictor(batch).cpu() for batch in batches]
    found = [values for values in found if len(values)]
    if not found:
        raise InputError("there is nothing to predict for: the data has no rows.")
    names = _names(saved.task, family, found[0])
    return names, np.concatenate([values.reshape(len(values), -1).numpy() for values in found])


def table(saved: Saved, batches: Iterator[Batch]) -> str:
    """Predictions as CSV, a line for each row in its order, whether it has a target or not.

    Of classes the probability of each, `p_NAME`, and the likeliest one's name, `label`; of labels
    that do not exclude each other the probabilities; of reals their values.

    Raises:
        InputError: the model predicts a class for each token, which is no table.
    """
    names, values = predicted(saved, batches)
    family = saved.predictor.family.name
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["row", *_columns(family, names)])
    for row, line in enumerate(values):
        label = [names[int(line.argmax())]] if family == "categorical" else []
        lines.writerow([row, *map(written, line), *label])
    return text.getvalue()


def written(value: float) -> str:
    """A number with as many digits as a float32 has."""
    return f"{value:.9g}"


def _names(task: Task, family: str, values: Tensor) -> list[str]:
    count = values[0].numel()
    if task.classes is None or family not in ("categorical", "multi-label"):
        return [str(number) for number in range(count)]
    if len(task.classes) != count:
        raise InputError(
            f"the task names {len(task.classes)} classes and the model has {count} outputs: mend "
            "Task(classes=...)."
        )
    return [str(name) for name in task.classes]


def _columns(family: str, names: Sequence[str]) -> list[str]:
    if family in ("categorical", "multi-label"):
        return [*(f"p_{name}" for name in names), *(["label"] if family == "categorical" else [])]
    return ["value"] if len(names) == 1 else [f"value_{name}" for name in names]
