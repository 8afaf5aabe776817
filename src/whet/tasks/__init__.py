"""Built-in tasks; each module offers `task(seed) -> Task` and a description `ABOUT`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from whet.errors import UnknownName


@dataclass(frozen=True)
class About:
    """What a study needs to know of a task before it makes one; a task's file may leave it out.

    Args:
        title: one line for people; by default the first line of the file's docstring.
        updates: length of one training; or give `epochs`, passes over the training data. Where
            neither is given it is ten passes, and 300 updates at least.
        epochs: see `updates`.
        batch_size: rows per batch, where the data is no DataLoader of its own.
        accumulate: micro-batches per update.
        optimizer: a name, or a mapping of name and settings.
        schedule: of the learning rate; None for a constant one.
        methods: the methods a study compares when none are named; None for all that can be
            trained on the task, which a rehearsal of two updates finds out.
        settings: a method's settings where the task's scale asks for others than the defaults.
        left_out: methods not compared by default, each with its reason.
        seeds: how many seeds by default.

    >>> About(updates=300, methods=("ema", "sam"), settings={"ema": {"decay": 0.98}}).batch_size
    64
    """

    title: str = ""
    updates: int | None = None
    epochs: float | None = None
    batch_size: int = 64
    accumulate: int = 1
    optimizer: str | Mapping[str, Any] = "adamw"
    schedule: str | Mapping[str, Any] | None = "cosine"
    methods: Sequence[str] | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    seeds: int = 5


def names() -> list[str]:
    """The built-in tasks."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """A built-in task's module.

    Raises:
        UnknownName: there is none of that name.
    """
    if name not in names():
        raise UnknownName("task", name, names())
    return importlib.import_module(f"{__name__}.{name}")
