"""A recipe as plain values, so that a checkpoint knows what it was trained with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import partial
from types import CodeType
from typing import Any

from whet.method import Method
from whet.stage import Recipe, Stage

# How batches get here, not what is in them; and methods, which are told by their own settings.
NOT_COMPARED = {"workers", "prefetch", "pin_memory", "methods"}
# What a run may go on with in a stage that it has begun: nothing that it holds depends on these.
MAY_CHANGE = {
    "updates", "epochs", "batch_size", "accumulate", "micro_batch", "drop_last", "schedule",
    "optimizer", "batches in an epoch",
}  # fmt: skip

Description = dict[str, Any]


def describe(recipe: Recipe) -> Description:
    """Every setting of a recipe that the weights depend on.

    Functions are told by their name and code, data that a stage brings along by its kind.
    """
    stages = [
        {name: _plain(getattr(stage, name)) for name in _compared()}
        | {name: _named(getattr(stage, name)) for name in ("optimizer", "schedule")}
        | {"methods": _settings(recipe, stage)}
        for stage in recipe.stages
    ]
    return {"stages": stages}


def _compared() -> list[str]:
    return [field.name for field in fields(Stage) if field.name not in NOT_COMPARED]


def _settings(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    kept = recipe.kept()
    return {
        method.key: {name: _plain(value) for name, value in method.settings().items()}
        | {"through all stages": method.key in kept}
        for method in recipe.methods_of(stage)
    }


def _named(spec: Any) -> Any:
    return _plain({"name": spec} if isinstance(spec, str) else spec)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Method):
        return _plain(value.settings())
    if isinstance(value, partial):
        words = [_plain(value.func), _plain(value.args), _plain(value.keywords)]
        return f"partial {json.dumps(words)}"
    code = getattr(value, "__code__", None)
    if code is not None:
        held = [_plain(cell.cell_contents) for cell in value.__closure__ or ()]
        words = [_digest(code), _plain(value.__defaults__), _plain(value.__kwdefaults__), held]
        return f"function {value.__name__} {hashlib.sha256(repr(words).encode()).hexdigest()[:12]}"
    kind = value if isinstance(value, type) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _digest(code: CodeType) -> str:
    """The code without its place in the file; constants of inner functions included."""
    parts = [code.co_code.hex(), *code.co_names]
    parts += [_constant(constant) for constant in code.co_consts]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return _digest(value)
    several = isinstance(value, frozenset)  # its order is another one in each process
    return repr(sorted(map(repr, value))) if several else repr(value)


class Change:
    """One setting in which two recipes differ."""

    def __init__(self, path: tuple[str, ...], before: Any, now: Any) -> None:
        self.path, self.before, self.now = path, before, now

    @property
    def stage(self) -> int:
        """The stage that it belongs to."""
        return int(self.path[1])

    def __str__(self) -> str:
        where = ".".join(self.path[2:])
        if not where:
            return f"stage {self.stage} is {'new' if self.before is ABSENT else 'gone'}"
        return f"stage {self.stage}: {where} {_shown(self.before)} -> {_shown(self.now)}"

    def can_be_continued(self, stage: int) -> bool:
        """Whether a run that stands in a stage may go on with it; the other stages are free."""
        return self.stage != stage or (len(self.path) > 2 and self.path[2] in MAY_CHANGE)


ABSENT = object()


def _shown(value: Any) -> str:
    return "not given" if value is ABSENT else repr(value)


def changes(before: Description, now: Description) -> list[Change]:
    """The settings in which two descriptions differ."""
    return list(_differ((), before, now))


def _differ(path: tuple[str, ...], before: Any, now: Any) -> Iterator[Change]:
    if isinstance(before, list) and isinstance(now, list) and len(path) == 1:
        before, now = dict(enumerate(before)), dict(enumerate(now))
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in {**before, **now}:
            inner = (before.get(name, ABSENT), now.get(name, ABSENT))
            yield from _differ((*path, str(name)), *inner)
    elif before != now:
        yield Change(path, before, now)
