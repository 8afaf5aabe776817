"""Built-in tasks; each module offers `task(seed) -> Task` and a description `ABOUT`."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from whet.errors import UnknownName


@dataclass(frozen=True)
class About:
    """What a study needs to know of a task before it makes one.

    Args:
        title: one line for people.
        metric: the metric that decides.
        updates: length of one training.
        batch_size: rows per batch.
        optimizer: settings of the optimizer.
        schedule: settings of the schedule.
        methods: the methods a study compares when none are named.
        settings: a method's settings where the task's scale asks for others than the defaults.
        left_out: methods not compared by default, each with its reason.
        seeds: how many seeds by default.
    """

    title: str
    metric: str
    updates: int
    batch_size: int
    optimizer: dict[str, Any]
    schedule: str | dict[str, Any] | None
    methods: tuple[str, ...]
    settings: dict[str, dict[str, Any]]
    left_out: dict[str, str]
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
