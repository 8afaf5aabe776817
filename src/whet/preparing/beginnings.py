"""Initial weights by rules: for kinds of modules, for single ones, and for parameters."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import init

from whet import modes, seeding
from whet.errors import InputError, UnknownName

WHO = "initialise"
Rule = str | Mapping[str, Any]
KNOWN = {
    name.removesuffix("_"): getattr(init, name) for name in dir(init)
    if name.endswith("_") and not name.startswith("_")
}  # fmt: skip


@dataclass(frozen=True)
class Initialised:
    """What was done to one parameter: its name and shape, the initialisation, and whose rule."""

    name: str
    shape: tuple[int, ...]
    by: str
    rule: str


class Initial(list[Initialised]):
    """What was done, parameter by parameter; printed as a table."""

    def __str__(self) -> str:
        rows = [("parameter", "shape", "initialised by", "rule")]
        rows += [(one.name, "x".join(map(str, one.shape)), one.by, one.rule) for one in self]
        widths = [max(len(row[at]) for row in rows) for at in range(4)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )


def initialise(
    model: nn.Module, rules: Mapping[str | type[nn.Module], Rule], *, seed: int = 0
) -> Initial:
    """Begin the parameters of a model as rules say; those that no rule is for stay as they are.

    Numbers are a function of the seed and of the parameter's name: the global generators do not
    move, all devices get the same ones, and a layer more or less changes no other's.

    Args:
        model: the module, changed in place.
        rules: from a kind of module (`nn.Linear`, also its subclasses), or a name or glob of
            modules or parameters (`encoder.*`, `*.bias`), to an initialisation of torch.nn.init:
            its name (`"kaiming_normal"`, `"zeros"`), or a mapping with its settings:
            `{"name": "trunc_normal", "std": 0.02}`. Of a module it is for the weights; its biases
            begin at 0, unless the mapping has another `"bias"`, or None, which leaves them. A name
            goes before a kind, a parameter's name before a module's, and a kind before those that
            it is a subclass of.
        seed: decides all numbers.

    Returns:
        What was done to which parameter; printed, a table.

    Raises:
        InputError: a rule is for nothing, two patterns are for one parameter, or an initialisation
            does not take the settings or the shape it is given.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> small = {"name": "normal", "std": 0.01}
    >>> print(initialise(model, {nn.Linear: "kaiming_normal", "2": small}))
    parameter  shape  initialised by    rule
    0.weight   4x3    kaiming_normal    Linear
    0.bias     4      zeros             Linear
    2.weight   2x4    normal(std=0.01)  2
    2.bias     2      zeros             2
    """
    modes.check_whole(model, WHO)
    chosen = _chosen(model, rules)
    values = [_drawn(name, p, rule, seed, said) for name, (p, said, rule) in chosen.items()]
    done = Initial()
    with torch.no_grad():  # all are drawn by now: rules of which one does not fit change nothing
        for (name, (parameter, said, rule)), value in zip(chosen.items(), values, strict=True):
            parameter.copy_(value)
            done.append(Initialised(name, tuple(parameter.shape), _words(rule), said))
        _clear_padding(model, {id(parameter) for parameter, _, _ in chosen.values()})
    return done


def _chosen(
    model: nn.Module, rules: Mapping[str | type[nn.Module], Rule]
) -> dict[str, tuple[nn.Parameter, str, Rule]]:
    """Each parameter that is begun anew, by its first name, with the rule that is for it."""
    found: dict[int, dict[str, tuple[int, Rule | None]]] = {}
    for key, rule in rules.items():
        before = len(found), sum(map(len, found.values()))
        for parameter, rank, own in _matched(model, key, rule):
            said = key if isinstance(key, str) else key.__name__
            held = found.setdefault(id(parameter), {})
            held[said] = min((rank, own), held.get(said, (rank, own)), key=lambda each: each[0])
        if before == (len(found), sum(map(len, found.values()))):
            raise InputError(f"{WHO}: the rule {_key(key)} is for nothing; {_there(model, key)}")
    chosen: dict[str, tuple[nn.Parameter, str, Rule]] = {}
    for name, parameter in model.named_parameters():
        ruled = found.get(id(parameter), {})
        nearest = min((rank for rank, _ in ruled.values()), default=0)
        first = [said for said, (rank, _) in ruled.items() if rank == nearest]
        if len(first) > 1:
            raise InputError(
                f"{WHO}: the rules {' and '.join(first)} are both for {name}. Narrow one, or give "
                f"a rule for {name} itself."
            )
        if first and (own := ruled[first[0]][1]) is not None:
            chosen[name] = parameter, first[0], own
    return chosen


def _matched(
    model: nn.Module, key: str | type[nn.Module], rule: Rule
) -> Iterator[tuple[nn.Parameter, int, Rule | None]]:
    """The parameters that a rule is for, how near it is to each (0 is nearest), and how."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if not isinstance(key, str):
        for module in modules.values():
            if isinstance(module, key):
                yield from _of_module(module, rule, 2 + type(module).__mro__.index(key))
        return
    named = [name for name in modes.match([*modules], key) if modules[name]._parameters]
    for name in named:
        yield from _of_module(modules[name], rule, 1)
    if not named:
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if fnmatch.fnmatchcase(name, key):
                yield parameter, 0, rule


def _of_module(
    module: nn.Module, rule: Rule, rank: int
) -> Iterator[tuple[nn.Parameter, int, Rule | None]]:
    of_biases = "zeros" if isinstance(rule, str) else rule.get("bias", "zeros")
    for name, parameter in module.named_parameters(recurse=False):
        yield parameter, rank, of_biases if "bias" in name else _without_bias(rule)


def _without_bias(rule: Rule) -> Rule:
    return rule if isinstance(rule, str) else {k: v for k, v in rule.items() if k != "bias"}


def _drawn(name: str, parameter: Tensor, rule: Rule, seed: int, said: str) -> Tensor:
    """A parameter's first value, drawn on the CPU in float32 at least."""
    given: dict[str, Any] = {"name": rule} if isinstance(rule, str) else dict(rule)
    kind = given.pop("name", None)
    if kind not in KNOWN:
        raise UnknownName(f"initialisation of the rule {said}", str(kind), KNOWN)
    function = KNOWN[kind]
    if "generator" in inspect.signature(function).parameters:
        given["generator"] = seeding.generator(seed, WHO, name)
    value = modes.wide(torch.empty(parameter.shape, dtype=parameter.dtype))
    try:
        with torch.no_grad():
            return cast("Tensor", function(value, **given))
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{WHO}: the rule {said} does not fit {name} of shape {tuple(parameter.shape)}: {error}"
        ) from error


def _clear_padding(model: nn.Module, begun: set[int]) -> None:
    """Rows for padding are 0, as torch makes them, and no gradient would ever move them there."""
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    for table in tables:
        if table.padding_idx is not None and id(table.weight) in begun:
            table.weight[table.padding_idx] = 0.0


def _words(rule: Rule) -> str:
    if isinstance(rule, str):
        return rule
    given = ", ".join(f"{key}={value}" for key, value in rule.items() if key != "name")
    return f"{rule['name']}({given})" if given else str(rule["name"])


def _key(key: str | type[nn.Module]) -> str:
    return repr(key) if isinstance(key, str) else key.__name__


def _there(model: nn.Module, key: str | type[nn.Module]) -> str:
    """What a rule could be for."""
    if isinstance(key, str):
        names = [name for name, module in model.named_modules() if name and module._parameters]
    else:
        names = sorted({type(module).__name__ for module in model.modules() if module._parameters})
    return f"there are: {', '.join(names[:30])}"
