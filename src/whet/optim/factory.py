"""Optimizers from plain values, so that a recipe can be written as JSON."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from whet.errors import InputError, UnknownName
from whet.optim.groups import Grouping, decay_groups, parameter_groups

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


UNDECAYED = ("sgd", "adam", "adagrad", "rmsprop")  # by custom, unless decay is asked for
IMPLEMENTATIONS = ("auto", "fused", "foreach", "loop")
DRAWS = "draws random numbers, and a resumed run would draw others"
JUDGES = "is judged with other weights than it trains, by a mode of its own: EMA or SWA do that"
CLOSURE, GRAPH = "evaluates the loss by a closure", "needs a graph of the gradients"
OWN_BACKWARD = "takes the backward pass or the model over"
UNFIT = {
    "alig": CLOSURE, "bsam": CLOSURE, "lbfgs": CLOSURE, "adahessian": GRAPH, "sophiah": GRAPH,
    "lomo": OWN_BACKWARD, "adalomo": OWN_BACKWARD, "adammini": OWN_BACKWARD,
}  # fmt: skip
UNSAFE = {
    "kron": DRAWS, "magma": DRAWS, "schedulefreeadamw": JUDGES, "schedulefreeradam": JUDGES,
    "schedulefreesgd": JUDGES,
}  # fmt: skip


def split(spec: Spec, default: str) -> tuple[str, dict[str, Any]]:
    """The name and the settings of a spec that is no function."""
    if spec is None or isinstance(spec, str):
        return spec or default, {}
    if not isinstance(spec, Mapping):
        raise InputError(
            f"cannot make an optimizer or schedule from a {type(spec).__name__}: give a name, "
            'settings such as {"name": "sgd", "lr": 0.1}, or a function that makes it.'
        )
    rest = dict(spec)
    return str(rest.pop("name", default)), rest


def optimizer(
    spec: Spec, parameters: Iterable[nn.Parameter], model: nn.Module | None = None
) -> torch.optim.Optimizer:
    """An optimizer from `"adamw"`, `{"name": "sgd", "lr": 0.1}`, or a function of parameters.

    Names are those of torch (sgd, adam, adamw, radam, nadam, adagrad, rmsprop) and any that the
    library pytorch_optimizer has (lars, lamb, lion, ...). Weight decay spares norms and biases.
    The default learning rate is 1e-3 (0.1 for sgd and lars). Settings beside the optimizer's own:

    - `groups`, `layer_decay`, `layers`, `no_decay`: rates and decay by name and by depth, as
      `whet.parameter_groups` has them;
    - `implementation`: `fused` (one kernel), `foreach` (a kernel an operation), `loop` (one for
      each parameter), or `auto`: fused on CUDA where there is such a kernel, else torch's choice.

    Args:
        spec: what is wanted.
        parameters: the trainable ones.
        model: whose they are, but for those that methods built; groups by name need it.

    Raises:
        UnknownName: no optimizer of that name.
        InputError: a setting that the optimizer does not have, or one that needs what this step
            does not give, such as a closure.
    """
    wanted = list(parameters)
    if callable(spec):
        made: torch.optim.Optimizer = spec(wanted)
        return made
    name, given = split(spec, "adamw")
    kind = _kind(name)
    values = {"lr": _usual_rate(name), "weight_decay": 0.01, **given}
    if name in UNDECAYED and "weight_decay" not in given:
        values["weight_decay"] = 0.0
    grouping = Grouping(
        values.pop("groups", ()), values.pop("layer_decay", None), values.pop("layers", None),
        values.pop("no_decay", ()),
    )  # fmt: skip
    how = _implementation(kind, str(values.pop("implementation", "auto")), wanted, name)
    _check_rules(grouping, kind, name)
    groups = _groups(grouping, wanted, values, model)
    try:
        return kind(groups, **values, **how)
    except (TypeError, ValueError, ImportError) as error:
        raise InputError(f"optimizer {name}: {error}") from error


def _check_rules(grouping: Grouping, kind: Callable[..., Any], name: str) -> None:
    """A group may set what the optimizer has, and that alone."""
    known = ["at", *inspect.signature(kind).parameters, *(["use_muon"] if "muon" in name else ())]
    for rule in grouping.rules:
        for key in rule:
            if key not in known:
                raise UnknownName(f"setting of a group of {name}", key, known)


def _groups(
    grouping: Grouping, wanted: list[nn.Parameter], values: Mapping[str, Any],
    model: nn.Module | None,
) -> list[dict[str, Any]]:  # fmt: skip
    decay = float(values["weight_decay"])
    if model is None and grouping.needs_names:
        raise InputError(
            "groups, layer_decay and no_decay go by names, and this optimizer is given parameters "
            "alone: make the groups with whet.parameter_groups(model, ...)."
        )
    if model is None:
        return decay_groups(wanted, decay)
    own = {id(parameter) for parameter in model.parameters()}
    groups = parameter_groups(
        model, float(values["lr"]), decay, rules=grouping.rules, layers=grouping.layers,
        layer_decay=grouping.layer_decay, no_decay=grouping.no_decay,
        built=[parameter for parameter in wanted if id(parameter) not in own],
    )  # fmt: skip
    if not grouping.needs_names:  # those that a schedule or method has no word on stay two groups
        for group in groups:
            del group["lr"]
    return groups


def _kind(name: str) -> Callable[..., torch.optim.Optimizer]:
    if name in _OPTIMIZERS:
        return _OPTIMIZERS[name]
    if name in UNFIT:
        raise InputError(
            f"optimizer {name} {UNFIT[name]}, and in a step of whet methods stand around these."
        )
    if name in UNSAFE:
        raise InputError(f"optimizer {name} {UNSAFE[name]}.")
    try:
        import pytorch_optimizer
    except ImportError as error:
        raise InputError(
            f"optimizer {name!r} is none of torch's that whet names ({', '.join(_OPTIMIZERS)}); "
            "for those of pytorch_optimizer: pip install 'whet[optim]'."
        ) from error
    refused = UNFIT | UNSAFE
    known = [one for one in pytorch_optimizer.get_supported_optimizers() if one not in refused]
    if name not in known:
        raise UnknownName("optimizer", name, [*_OPTIMIZERS, *known])
    kind: Callable[..., torch.optim.Optimizer] = pytorch_optimizer.load_optimizer(name)
    return kind


def _implementation(
    kind: Callable[..., Any], choice: str, parameters: Sequence[nn.Parameter], name: str
) -> dict[str, bool]:
    """The arguments that make the optimizer work in one way or another."""
    if choice not in IMPLEMENTATIONS:
        raise UnknownName("implementation of an optimizer", choice, IMPLEMENTATIONS)
    known = inspect.signature(kind).parameters
    if choice == "auto":
        cuda = bool(parameters) and all(p.is_cuda for p in parameters)
        return {"fused": True} if cuda and "fused" in known else {}
    wanted = {"fused": {"fused": True}, "foreach": {"foreach": True},
              "loop": dict.fromkeys(("foreach", "fused"), False)}[choice]  # fmt: skip
    if choice != "loop" and choice not in known:
        able = [
            each for each, its in _OPTIMIZERS.items() if choice in inspect.signature(its).parameters
        ]
        raise InputError(
            f"optimizer {name} has no {choice} implementation; {', '.join(able)} have."
        )
    return {key: value for key, value in wanted.items() if key in known}


def _usual_rate(name: str) -> float:
    return 0.1 if name in ("sgd", "lars") else 1e-3


def rate(spec: Spec) -> float | None:
    """The learning rate that a spec names or means; None for a function, which alone knows.

    >>> rate("sgd"), rate({"name": "adamw", "lr": 0.003})
    (0.1, 0.003)
    """
    if callable(spec):
        return None
    name, given = split(spec, "adamw")
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
    name, given = split(spec, "adamw")
    share = lr / (rate(spec) or lr)
    if "groups" in given:  # the rates of groups keep their share
        given["groups"] = [
            {**rule, "lr": rule["lr"] * share} if "lr" in rule else rule for rule in given["groups"]
        ]
    return {"name": name, **given, "lr": lr}
