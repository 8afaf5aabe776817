"""Where tasks come from: a built-in name, a user's file, a function.

A user's file is Python and is run; it defines `task(seed) -> Task`, and may define `ABOUT` and
`inputs(path, seed)`, which reads rows that are no part of the task.
"""

from __future__ import annotations

import hashlib
import inspect
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from whet import code_files, places, rows, seeding, tasks
from whet.batch import leaves
from whet.errors import InputError, UnknownName, WhetError
from whet.task import Task
from whet.tasks import About

MakeTask = Callable[[int], Task]
PARTS = ("select", "judge")  # what a study needs beside the part to train on
_given: dict[str, MakeTask] = {}  # functions that a Study was given in this process


@dataclass(frozen=True)
class Source:
    """A task before it has a seed.

    Args:
        name: what a study of it is called.
        make: from a seed to a Task.
        about: what a study needs to know.
        file: the file it comes from; None for built-in ones and for functions.
        read: from a file of rows and a seed to inputs as that seed's model takes them.
    """

    name: str
    make: MakeTask
    about: About
    file: Path | None = None
    read: Callable[[Path, int], Any] | None = None

    def task(self, seed: int, needs: Sequence[str] = PARTS, start: int = 0) -> Task:
        """The task of one seed; what draws without a generator of its own is seeded by it.

        Args:
            seed: decides the split, the initial weights and whatever else the task draws.
            needs: parts that it must have, beside the one to train on.
            start: 0 for the task's own initial weights; another number for others on the same
                split, which the task's code draws by `seed` itself.

        Raises:
            InputError: the task's code raised, or gave no Task; with the lines it happened in.
        """
        with seeded(seed, start):
            try:
                made = self.make(seed)
            except WhetError:
                raise
            except Exception as error:
                raise InputError(code_files.told(f"task({seed})", self.file, error)) from error
        if not isinstance(made, Task):
            raise InputError(
                f"task({seed}) of {self.name} gave {type(made).__name__}, not a whet.Task. "
                "End it with `return Task(model, train=..., select=..., judge=...)`."
            )
        for part in needs:
            if getattr(made, part) is None:
                raise InputError(
                    f"task({seed}) of {self.name} has no {part} part. A study needs all three: "
                    "train, select (for choosing and stopping) and judge (for the verdict); "
                    "whet.data.split makes them."
                )
        return made


def load(name: str, file: str | Path | None = None) -> Source:
    """The source of a built-in task, of a file, or of a function given before.

    Raises:
        UnknownName, InputError: there is none; the file is called as a module that others import,
            cannot be imported, or has no `task`.
    """
    if file is not None:
        return _from_file(Path(file))
    if name in _given:
        return _from_function(name, _given[name])
    if name not in tasks.names() and Path(f"{name}.py").is_file():
        raise InputError(f"{name} is no built-in task. Did you mean the file {name}.py?")
    module = tasks.load(name)
    return Source(name, module.task, module.ABOUT, read=getattr(module, "inputs", None))


def give(make: MakeTask, name: str | None = None) -> str:
    """Keep a function for `load`; says under which name."""
    if not callable(make):
        raise InputError(
            f"a Study is of a task's name, a file, or a function seed -> Task; this is {make!r}."
        )
    name = name or re.sub(r"\W+", "-", getattr(make, "__name__", "task")).strip("-") or "task"
    if name in tasks.names():
        name = f"{name}-function"
    _given[name] = make
    return name


def _from_function(name: str, make: MakeTask) -> Source:
    module = inspect.getmodule(make)
    about = getattr(make, "about", None) or getattr(module, "ABOUT", None)
    return Source(name, make, _checked(about, name, inspect.getdoc(make)))


def _from_file(path: Path) -> Source:
    remedy = f"`whet new {path}` writes a task to begin with; built-in tasks: "
    module = code_files.imported(path, f"{remedy}{', '.join(tasks.names())}.")
    make = getattr(module, "task", None)
    if not callable(make):
        raise InputError(
            f"{path} defines no function `task(seed)`; functions in it: "
            f"{code_files.functions(module)}. `whet new task.py` writes a file to begin with."
        )
    about = _checked(getattr(module, "ABOUT", None), str(path), module.__doc__)
    return Source(places.name_of(path), make, about, path, getattr(module, "inputs", None))


def _checked(about: object, where: str, doc: str | None) -> About:
    if isinstance(about, Mapping):
        known = About.__dataclass_fields__
        for entry in about:
            if entry not in known:
                raise UnknownName(f"entry in ABOUT of {where}", str(entry), known)
        about = About(**about)
    if about is None:
        about = About()
    if not isinstance(about, About):
        raise InputError(f"ABOUT of {where} is {about!r}; make it whet.About(updates=300, ...).")
    title = about.title or ((doc or "").strip().splitlines() or [""])[0].rstrip(".")
    return About(**{**vars(about), "title": title})


def check_start(source: Source, seed: int, made: Task) -> None:
    """Refuse a task of another start whose parts hold other rows than those of the seed's own.

    An ensemble of such models would be judged on rows that some of its members were trained on.

    Raises:
        InputError: the data lies in memory and is another.
    """
    if fingerprint(made) != fingerprint(source.task(seed, needs=())):
        raise InputError(
            f"task({seed}) of {source.name} draws its rows from the global generators: with other "
            "initial weights its parts would hold other rows, and a member of an ensemble would be "
            "judged on what another was trained on. Draw and split them by the seed alone, as "
            "whet.data.split(..., seed=seed) does."
        )


def seed_of(seed: int, start: int) -> int:
    """The seed of a training that begins from other weights: that of the task, for its own.

    >>> seed_of(3, 0), seed_of(3, 1) == seed_of(3, 2)
    (3, False)
    """
    return seeding.key(seed, "start", start) >> 11 if start else seed  # 53 bits: whole in JSON


@contextmanager
def seeded(seed: int, start: int = 0) -> Iterator[None]:
    """Seed what a file draws from when it seeds nothing itself, and put it back."""
    drawn = seed_of(seed, start)
    numpys = np.random.get_state()  # noqa: NPY002 - the user's code may use the global one
    python = random.getstate()
    with seeding.borrowed(seeding.key(drawn, "task")), seeding.starting(start):
        np.random.seed(drawn % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(numpys)  # noqa: NPY002
            random.setstate(python)


def fingerprint(task: Task) -> str:
    """A digest of a task's data where it lies in memory; of other data, its kind and length.

    In memory are arrays, and the tensors of a TensorDataset, of a Subset of one or of a DataLoader
    over either. What another Dataset reads is not looked at: data that changed behind one of the
    same type and length is not noticed.
    """
    digest = hashlib.sha256()
    for name in ("train", "select", "judge"):
        digest.update(name.encode())
        part = getattr(task, name)
        for text in () if part is None else _described(part, task):
            digest.update(text)
    return digest.hexdigest()[:16]


def sizes(task: Task) -> dict[str, int]:
    """How many rows the parts to train on and to judge on have, where they say so."""
    found = {}
    for name in ("train", "judge"):
        data = task.part(name)
        part: Any = data.dataset if isinstance(data, DataLoader) else data
        opened = rows.open_rows(part, task.collate, "the data")
        if opened is not None:
            found[name] = len(opened)
    return found


def _described(data: Any, task: Task) -> Iterator[bytes]:
    if isinstance(data, DataLoader):
        yield b"DataLoader"
        yield from _of_samples(data.dataset)
        return
    opened = rows.open_rows(data, task.collate, "the data")
    if not isinstance(opened, rows.Arrays):
        yield from _of_samples(data)
        return
    whole = opened.whole
    found = [*leaves(whole.inputs), ("targets", whole.targets), ("mask", whole.mask)]
    for name, tensor in found:
        if tensor is not None:
            yield from _of_tensor(name, tensor)


def _of_samples(data: Any) -> Iterator[bytes]:
    """Of a Dataset, whatever is known of it without reading its samples."""
    yield f"{type(data).__name__} {len(data) if hasattr(data, '__len__') else '?'}".encode()
    if isinstance(data, Subset):
        yield str(np.asarray(data.indices).tolist()).encode()
        yield from _of_samples(data.dataset)
    if isinstance(data, TensorDataset):
        for at, tensor in enumerate(data.tensors):
            yield from _of_tensor(str(at), tensor)


def _of_tensor(name: str, tensor: Tensor) -> Iterator[bytes]:
    yield f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode()
    if tensor.layout is torch.strided:
        yield tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes()
