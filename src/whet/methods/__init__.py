"""The methods: one flat file each, found by looking into this folder."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from whet import settings
from whet.errors import InputError, UnknownName
from whet.method import Method, Placement
from whet.method import Resource as Resource

if TYPE_CHECKING:
    from whet.methods.ema import EMA as EMA


@cache
def registry() -> dict[str, type[Method]]:
    """Every method by name."""
    found: dict[str, type[Method]] = {}
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        for kind in vars(loaded).values():
            own = inspect.isclass(kind) and kind.__module__ == loaded.__name__
            if own and issubclass(kind, Method) and hasattr(kind, "card"):
                found[kind.name] = kind
    return dict(sorted(found.items()))


def make(spec: Method | str | Mapping[str, Any]) -> Method:
    """A method from a Method (copied), a name, or settings such as `{"name": "ema"}`.

    >>> make({"name": "ema", "decay": 0.99, "during": [0.5, 1]})
    ema(decay=0.99).during(0.5, 1)
    """
    if isinstance(spec, Method):
        return spec.clone()
    given = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(given, Mapping):
        raise InputError(f"{given!r} is no method; give its name, or settings with a name.")
    name = str(given.get("name", ""))
    if name not in registry():
        raise UnknownName("method", name, registry())
    return registry()[name].of(given)


def span(given: Mapping[str, Any]) -> tuple[float, float]:
    """The part of training that a method's settings give it.

    >>> span({"name": "ema"}), span({"name": "fgm"}), span({"name": "fgm", "during": [0, 1]})
    ((0.0, 1.0), (0.25, 1.0), (0.0, 1.0))
    """
    a, b = given.get("during") or registry().get(str(given["name"]), Method).span
    return float(a), float(b)


def spanning(given: Mapping[str, Any], a: float, b: float) -> dict[str, Any]:
    """The settings with another part of training; its own is not written, so that equal is equal.

    >>> spanning({"name": "ema", "during": [0.0, 0.5]}, 0.0, 1.0), spanning({"name": "fgm"}, 0, 1)
    ({'name': 'ema'}, {'name': 'fgm', 'during': [0.0, 1.0]})
    """
    rest = {name: value for name, value in given.items() if name != "during"}
    own = (a, b) == span({"name": given["name"]})
    return rest if own else rest | {"during": [float(a), float(b)]}


def catalogue() -> list[dict[str, Any]]:
    """What `whet methods` shows: one plain entry per method."""
    return [_entry(kind) for kind in registry().values()]


def _entry(kind: type[Method]) -> dict[str, Any]:
    card = kind.card
    several = {"placements": _placements(kind.placements), "needs": sorted(kind.needs)}
    return {
        "name": kind.name, "title": card.title, "paper": card.paper,
        "layer": kind.layer.name.lower().replace("_", " "),
        "owns": sorted(one.value for one in kind.owns),
        "uses": sorted(one.value for one in kind.uses), **several,
        "companions": sorted(kind.companions), "looks_ahead": kind.looks_ahead,
        "during": list(kind.span),
        "cost": card.cost, "tier": card.tier, "phase": card.phase, "data": card.data,
        "avoid_when": card.avoid_when, "status": card.status, "zh": dict(card.zh),
        "settings": [_setting(field) for field in settings.fields(kind)],
        "doc": inspect.cleandoc(kind.__doc__ or ""),
    }  # fmt: skip


def _placements(placement: Placement) -> list[str]:
    return [placement.value]


def _setting(field: Any) -> dict[str, Any]:
    allowed = field.metadata.get("range")
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    text = str(allowed) if allowed is not None else "any"
    return {"name": field.name, "default": default, "range": text}


def __getattr__(name: str) -> Any:
    for kind in registry().values():
        if kind.__name__ == name:
            return kind
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *(kind.__name__ for kind in registry().values())])
