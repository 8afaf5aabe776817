"""Parameter groups: which parameters decay, and at which rate each is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from whet import fsdp, modes
from whet.errors import CheckpointError, InputError
from whet.optim import depth

Rule = Mapping[str, Any]
REST = "the rest"


@dataclass(frozen=True)
class Grouping:
    """How parameters are divided.

    Args:
        rules: `{"at": "encoder", "lr": 1e-5, "weight_decay": 0.0}`: what the glob or module's
            name, or any of a list of them, matches is trained so; any setting of the optimizer's
            may stand there. A rule without `at` takes what no other does. Where there are rules,
            each parameter must match exactly one.
        layer_decay: d in (0, 1]: a parameter k layers below the last is trained at d^k of its
            rate.
        layers: patterns of the layers from input to output, where `whet.optim.layers(model)` does
            not see them.
        no_decay: further parameters without weight decay; norms, biases and other vectors never
            decay.
    """

    rules: Sequence[Rule] = ()
    layer_decay: float | None = None
    layers: Sequence[str | Sequence[str]] | None = None
    no_decay: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.layer_decay is not None and not 0.0 < self.layer_decay <= 1.0:
            raise InputError(f"layer_decay is {self.layer_decay}; it lies in (0, 1].")
        if self.layers is not None and self.layer_decay is None:
            raise InputError("layers name what layer_decay goes by: give layer_decay, too.")

    @property
    def needs_names(self) -> bool:
        """Whether it cannot be done on parameters alone."""
        return bool(self.rules or self.layer_decay is not None or self.no_decay)


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.0, *, rules: Sequence[Rule] = (),
    layer_decay: float | None = None, layers: Sequence[str | Sequence[str]] | None = None,
    no_decay: Sequence[str] = (), built: Sequence[nn.Parameter] = (),
) -> list[dict[str, Any]]:  # fmt: skip
    """A model's trainable parameters in groups for any torch optimizer.

    Norms, biases and other vectors do not decay. Frozen parameters are left out.

    Args:
        model: the model.
        lr: the rate of the last layer, and of whatever no rule gives another.
        weight_decay: of matrices, where no rule says another.
        rules: rates and decay by name, see `Grouping`.
        layer_decay: d in (0, 1]: each layer is trained at d times the rate of the next.
        layers: patterns of the layers from input to output, where the model's are not found.
        no_decay: patterns of further parameters that do not decay.
        built: parameters beside the model's, which methods built: `heads` in rules, and of the
            last layer.

    Raises:
        InputError: a parameter matches two rules or none, or a pattern matches nothing.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> groups = parameter_groups(model, 1e-3, 0.1, layer_decay=0.5)
    >>> [(group["name"], group["lr"], group["weight_decay"]) for group in groups]
    ... # doctest: +NORMALIZE_WHITESPACE
    [('layer 0', 0.0005, 0.1), ('layer 0, no decay', 0.0005, 0.0),
     ('layer 1', 0.001, 0.1), ('layer 1, no decay', 0.001, 0.0)]
    """
    grouping = Grouping(rules, layer_decay, layers, no_decay)
    heads = [(f"heads.{at}", parameter) for at, parameter in enumerate(built)]
    every = dict((*model.named_parameters(), *heads))
    named = {name: parameter for name, parameter in every.items() if parameter.requires_grad}
    ruled = _ruled(named, grouping.rules, [*every])
    levels, top = _levels(model, grouping)
    spared = _spared(model, named, grouping.no_decay, [*every])
    groups: dict[tuple[str, float, float], dict[str, Any]] = {}
    for name, parameter in named.items():
        rule, words = ruled[name]
        level = levels.get(name, top)
        rate = float(rule.get("lr", lr)) * (layer_decay or 1.0) ** (top - level)
        decay = 0.0 if name in spared else float(rule.get("weight_decay", weight_decay))
        parts = [words, f"layer {level}" * (layer_decay is not None), "no decay" * (name in spared)]
        label = ", ".join(filter(None, parts)) or "decay"
        own = {key: value for key, value in rule.items() if key != "at"}
        group = own | {"params": [], "lr": rate, "weight_decay": decay, "name": label}
        groups.setdefault((label, rate, decay), group)["params"].append(parameter)
    return list(groups.values())


def _ruled(
    named: Mapping[str, Any], rules: Sequence[Rule], every: Sequence[str]
) -> dict[str, tuple[Rule, str]]:
    """The rule of each trainable parameter, and what it is called.

    A rule that matches frozen ones alone has nothing to say; they may thaw in a later stage.
    """
    if not rules:
        return dict.fromkeys(named, ({}, ""))
    found: dict[str, list[tuple[Rule, str]]] = {name: [] for name in named}
    rest: list[Rule] = []
    for rule in rules:
        _check(rule)
        if "at" not in rule:
            rest.append(rule)
            continue
        at = [rule["at"]] if isinstance(rule["at"], str) else [*rule["at"]]
        matched = {name for one in at for name in modes.match([*named], one)}
        if not matched and not any(modes.match(every, one) for one in at):
            raise InputError(f"groups: no parameter matches {rule['at']!r}; {depth._tops(every)}")
        for name in matched:
            found[name].append((rule, ", ".join(at)))
    if len(rest) > 1:
        raise InputError("groups: two rules have no `at`; only one can take the rest.")
    if twice := [name for name, several in found.items() if len(several) > 1]:
        words = " and ".join(repr(words) for _, words in found[twice[0]])
        raise InputError(
            f"groups: {twice[0]} matches {words}. A parameter is in one group: narrow a pattern."
        )
    none = [name for name, several in found.items() if not several]
    if none and not rest:
        raise InputError(
            f"groups: {', '.join(none[:6])}{' ...' * (len(none) > 6)} in no group. Add a rule for "
            'them, or one without `at`, such as {"lr": 1e-3}, that takes the rest.'
        )
    return {name: several[0] if several else (rest[0], REST) for name, several in found.items()}


def _check(rule: Rule) -> None:
    for key in ("lr", "weight_decay"):
        value = rule.get(key, 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise InputError(f"groups: {key} is {value!r}; it must be a number of 0 or more.")


def _levels(model: nn.Module, grouping: Grouping) -> tuple[dict[str, int], int]:
    if grouping.layer_decay is None:
        return {}, 0
    given = grouping.layers
    found = depth.layers(model) if given is None else depth.listed(model, given)
    return {name: at for at, layer in enumerate(found) for name in layer}, max(0, len(found) - 1)


def _spared(
    model: nn.Module, named: Mapping[str, Any], no_decay: Sequence[str], every: Sequence[str]
) -> set[str]:
    """The parameters that do not decay."""
    norms = {id(p) for m in model.modules() if isinstance(m, depth.NORMS) for p in m.parameters()}
    spared = {name for name, p in named.items() if p.ndim < 2 or id(p) in norms}
    for pattern in no_decay:
        matched = modes.match(every, pattern)
        if not matched:
            raise InputError(f"no_decay: no parameter matches {pattern!r}; {depth._tops(every)}")
        spared.update(matched)
    return spared


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices decay; biases, norms' scales and shifts (below two dimensions) do not.

    >>> layer = nn.Linear(2, 3)
    >>> [len(group["params"]) for group in decay_groups(layer.parameters(), 0.1)]
    [1, 1]
    """
    wanted = list(parameters)
    matrices = [p for p in wanted if p.ndim >= 2]
    vectors = [p for p in wanted if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay, "name": "decay"},
        {"params": vectors, "weight_decay": 0.0, "name": "no decay"},
    ]
    return [group for group in groups if group["params"]]


def table(optimizer: torch.optim.Optimizer, *modules: nn.Module) -> str:
    """What went where: every group with its rate, decay, size and the parameters in it.

    >>> model = nn.Linear(2, 3)
    >>> optimizer = torch.optim.SGD(decay_groups(model.parameters(), 0.1), lr=0.5)
    >>> print(table(optimizer, model))
    group     rate  decay  tensors  numbers  parameters
    decay     0.5   0.1    1        6        weight
    no decay  0.5   0      1        3        bias
    """
    names = {id(p): name for module in modules for name, p in module.named_parameters()}
    rows = [("group", "rate", "decay", "tensors", "numbers", "parameters")]
    for at, group in enumerate(optimizer.param_groups):
        held = [names.get(id(p), "?") for p in group["params"]]
        shown = ", ".join(held[:3]) + f" ... {held[-1]}" * (len(held) > 3)
        rate = float(group.get("initial_lr", group["lr"]))
        rows.append((
            str(group.get("name", at)), f"{rate:g}", f"{group.get('weight_decay', 0.0):g}",
            str(len(held)), f"{sum(p.numel() for p in group['params']):,}", shown,
        ))  # fmt: skip
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def check_holds(optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
    """Refuse an optimizer that lacks what methods built."""
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    lost = [name for name, p in module.named_parameters() if id(p) not in known]
    if lost:
        raise InputError(
            f"methods built parameters that the optimizer does not hold: {', '.join(lost)}. "
            "Make it from stack.parameters(), or pass optimizer=lambda p: AdamW(p, lr=...)."
        )


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Continue from an optimizer's state.

    Raises:
        CheckpointError: its groups are others.
    """
    try:
        optimizer.load_state_dict(fsdp.parted_optimizer(state, optimizer))
    except ValueError as error:
        raise CheckpointError(
            f"the checkpoint's optimizer holds other parameters: {error}. Train with the recipe "
            "that the checkpoint was made with, or use another folder."
        ) from error
