"""Optimizers and schedules from plain values, so that a recipe can be written as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from whet.errors import InputError, UnknownName
from whet.optim.groups import decay_groups

Spec = str | Mapping[str, Any] | Callable[..., Any] | None

_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    kind.__name__.lower(): kind
    for kind in (
        torch.optim.SGD,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.RAdam,
        torch.optim.NAdam,
        torch.optim.Adagrad,
        torch.optim.RMSprop,
    )
}


def _split(spec: Spec, default: str) -> tuple[str, dict[str, Any]]:
    if spec is None or isinstance(spec, str):
        return spec or default, {}
    if not isinstance(spec, Mapping):
        raise InputError(
            f"cannot make an optimizer or schedule from a {type(spec).__name__}: give a name, "
            'settings such as {"name": "sgd", "lr": 0.1}, or a function that makes it.'
        )
    rest = dict(spec)
    return str(rest.pop("name", default)), rest


def optimizer(spec: Spec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """An optimizer from `"adamw"`, `{"name": "sgd", "lr": 0.1}`, or a function of parameters.

    Weight decay spares biases and norms. The default learning rate is 1e-3 (0.1 for sgd).

    Raises:
        UnknownName: no optimizer of that name.
        InputError: a setting that the optimizer does not have.
    """
    wanted = list(parameters)
    if callable(spec):
        made: torch.optim.Optimizer = spec(wanted)
        return made
    name, given = _split(spec, "adamw")
    if name not in _OPTIMIZERS:
        raise UnknownName("optimizer", name, _OPTIMIZERS)
    values = {"lr": _usual_rate(name), "weight_decay": 0.01, **given}
    if name in ("sgd", "adam", "adagrad", "rmsprop") and "weight_decay" not in given:
        values["weight_decay"] = 0.0
    groups = decay_groups(wanted, values["weight_decay"])
    try:
        return _OPTIMIZERS[name](groups, **values)
    except (TypeError, ValueError) as error:
        raise InputError(f"optimizer {name}: {error}") from error


def _usual_rate(name: str) -> float:
    return 0.1 if name == "sgd" else 1e-3


def rate(spec: Spec) -> float | None:
    """The learning rate that a spec names or means; None for a function, which alone knows.

    >>> rate("sgd"), rate({"name": "adamw", "lr": 0.003})
    (0.1, 0.003)
    """
    if callable(spec):
        return None
    name, given = _split(spec, "adamw")
    return float(given.get("lr", _usual_rate(name)))


def with_rate(spec: Spec, lr: float) -> dict[str, Any]:
    """The same optimizer at another learning rate.

    Raises:
        InputError: it is a function.
    """
    if callable(spec):
        raise InputError(
            f"the optimizer is the function {getattr(spec, '__name__', spec)}, whose learning rate "
            'only it knows. Name it, as {"name": "adamw", "lr": 0.003}.'
        )
    name, given = _split(spec, "adamw")
    return {"name": name, **given, "lr": lr}


def _cosine(progress: float, floor: float) -> float:
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _linear(progress: float, floor: float) -> float:
    return floor + (1.0 - floor) * (1.0 - progress)


def _constant(progress: float, floor: float) -> float:
    return 1.0


_SHAPES = {"constant": _constant, "cosine": _cosine, "linear": _linear}


def _factor(
    update: int, *, shape: Callable[[float, float], float], warmup: int, updates: int,
    floor: float, peak: float,
) -> float:  # fmt: skip
    if update < warmup:
        return peak * (update + 1) / (warmup + 1)
    return peak * shape(min(1.0, (update - warmup) / max(1, updates - warmup)), floor)


def schedule(spec: Spec, given: torch.optim.Optimizer, updates: int) -> Any:
    """A scheduler stepped per update, or None for a constant rate without warm-up.

    Args:
        spec: `"cosine"`, `"linear"`, `"constant"`, or `{"name": "cosine", "warmup": 0.1, "floor":
            0.01, "peak": 1.0}` with warm-up as a fraction of the stage, floor as a share of the
            rate, and peak the share of the optimizer's rate that it begins from; or a function of
            (optimizer, updates).
        given: the optimizer.
        updates: length of the stage.
    """
    if spec is None:
        return None
    if callable(spec):
        return spec(given, updates)
    name, values = _split(spec, "constant")
    if name not in _SHAPES:
        raise UnknownName("schedule", name, _SHAPES)
    known = {"warmup": 0.0, "floor": 0.0, "peak": 1.0}
    warmup, floor, peak = (float(values.pop(each, usual)) for each, usual in known.items())
    if values:
        raise UnknownName(f"setting of schedule {name}", next(iter(values)), known)
    if not (0.0 <= warmup < 1.0 and 0.0 <= floor <= 1.0 and 0.0 < peak <= 1.0):
        raise InputError(
            f"schedule {name}: warmup lies in [0, 1), floor in [0, 1] and peak in (0, 1]."
        )
    if name == "constant" and warmup == 0.0 and peak == 1.0:
        return None
    factor = partial(
        _factor, shape=_SHAPES[name], warmup=round(warmup * updates), updates=updates, floor=floor,
        peak=peak,
    )  # fmt: skip
    return LambdaLR(given, factor)
