"""Recipes of several stages, cut from one: growing batches, thawing parts, changing optimizers.

Each function takes a Stage as it would stand alone, and shares: how long the stages are, relative
to one another. The learning rate goes through all of them as it would through the one: a schedule's
shape and warm-up are of the whole. The stage's methods are the recipe's, and live through; each
stage has an optimizer of its own, whose moments begin anew. Early stopping is the last stage's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

from torch import nn

from whet import methods as catalogue
from whet import optim
from whet.errors import InputError, UnknownName
from whet.optim.factory import Spec, split
from whet.stage import MethodLike, Recipe, Stage

Part = str | Sequence[str]
RULES: dict[str, Callable[[float], float]] = {
    "constant": lambda growth: 1.0,
    "linear": lambda growth: growth,
    "sqrt": math.sqrt,
}


def growing_batch(
    stage: Stage, sizes: Sequence[int], rule: str = "constant",
    shares: Sequence[float] | None = None,
) -> Recipe:  # fmt: skip
    """A stage whose batches grow, instead of or beside a rate that falls.

    Args:
        stage: its optimizer's rate is that of the first size; its batch size is not used.
        sizes: rows per micro-batch, stage by stage.
        rule: how the rate goes with the size: `constant`, `linear`, or `sqrt`.
        shares: of the length, which is in updates or in epochs as the stage has it; None for equal
            ones.

    An average that forgets by updates would forget ever more rows: `EMA(half_life=N)` does not.

    Raises:
        InputError: sizes and shares do not go together, the optimizer is a function (whose rate
            only it knows), or the stage cannot be cut.

    Paper: Smith et al. 2018, arXiv:1711.00489; linear: Goyal et al. 2017, arXiv:1706.02677; sqrt:
    Krizhevsky 2014, arXiv:1404.5997.

    >>> recipe = growing_batch(Stage(epochs=6, optimizer={"name": "sgd", "lr": 0.1}), [32, 64, 128],
    ...     rule="linear")
    >>> [(one.batch_size, one.epochs, one.optimizer["lr"]) for one in recipe.stages]
    [(32, 2.0, 0.1), (64, 2.0, 0.2), (128, 2.0, 0.4)]
    """
    if rule not in RULES:
        raise UnknownName("rule for the rate of a growing batch", rule, RULES)
    stages = _cut(stage, len(sizes), shares)
    rates = [RULES[rule](size / sizes[0]) for size in sizes]
    return _recipe(stage, [
        replace(one, batch_size=size, optimizer=_scaled(stage.optimizer, rate))
        for one, size, rate in zip(stages, sizes, rates, strict=True)
    ])  # fmt: skip


def unfreezing(
    stage: Stage, parts: nn.Module | Sequence[Part], shares: Sequence[float] | None = None,
    methods: Sequence[Sequence[MethodLike]] = (),
) -> Recipe:  # fmt: skip
    """A model that thaws from its top: the last part is trained first, and then one more at a time.

    Frozen parts stand still in evaluation mode, batch statistics included.

    Args:
        stage: what it freezes stays frozen.
        parts: from input to output, each the name of a module, a glob, or several of these; or the
            model, whose parts are then `whet.optim.layers(model)`. What no part names is trained
            from the beginning.
        shares: of the length, stage by stage; None for equal ones.
        methods: of each stage alone, beside those of the whole: `precise_bn` belongs to stages in
            which a batch normalisation is trained.

    Raises:
        InputError: parts, methods and shares do not go together, or the stage cannot be cut.

    Paper: Howard & Ruder 2018, arXiv:1801.06146.

    >>> [one.freeze for one in unfreezing(Stage(updates=9), ["stem", "body", "head"]).stages]
    [('stem', 'body'), ('stem',), ()]
    """
    named = optim.layers(parts) if isinstance(parts, nn.Module) else list(parts)
    flat = [(part,) if isinstance(part, str) else tuple(part) for part in named]
    stages = _cut(stage, len(flat), shares, methods)
    return _recipe(stage, [
        replace(one, freeze=(*stage.freeze, *(name for part in flat[:-at] for name in part)))
        for at, one in enumerate(stages, 1)
    ])  # fmt: skip


def switching(
    stage: Stage, optimizers: Sequence[Spec], shares: Sequence[float] | None = None,
    methods: Sequence[Sequence[MethodLike]] = (),
) -> Recipe:  # fmt: skip
    """A stage whose optimizer changes, as from AdamW to SGD for the end.

    Args:
        stage: its own optimizer is not used.
        optimizers: one after the other, each at its own rate, which the schedule's share is of.
        shares: of the length, stage by stage; None for equal ones.
        methods: of each stage alone, beside those of the whole; none where it is left out.

    Raises:
        InputError: optimizers, methods and shares do not go together, or the stage cannot be cut.

    Paper: Keskar & Socher 2017, arXiv:1712.07628.

    >>> sgd = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
    >>> recipe = switching(Stage(updates=80, methods=["ema"], schedule="cosine"),
    ...     ["adamw", sgd, sgd], shares=[2, 1, 1], methods=[[], [], ["lookahead"]])
    >>> [(one.updates, one.schedule["part"], one.methods) for one in recipe.stages]
    [(40, [0.0, 0.5], ()), (20, [0.5, 0.75], ()), (20, [0.75, 1.0], ('lookahead',))]
    >>> recipe.methods
    ('ema',)
    """
    stages = _cut(stage, len(optimizers), shares, methods)
    return _recipe(stage, [
        replace(one, optimizer=optimizer)
        for one, optimizer in zip(stages, optimizers, strict=True)
    ])  # fmt: skip


def _recipe(stage: Stage, stages: Sequence[Stage]) -> Recipe:
    recipe = Recipe(tuple(stages), methods=tuple(stage.methods))
    for method in map(catalogue.make, stage.methods):
        if method.span != (0.0, 1.0):
            raise InputError(
                f"{method.key} lasts from {method.span[0]:g} to {method.span[1]:g} of a stage that "
                "is cut. Leave its span out, or write the stages of the recipe by hand."
            )
    return recipe


def _cut(
    stage: Stage, count: int, shares: Sequence[float] | None,
    methods: Sequence[Sequence[MethodLike]] = (),
) -> list[Stage]:  # fmt: skip
    """So many stages that are together as long as the one, with its schedule in parts."""
    beside = [tuple(one) for one in methods] or [()] * count
    if len(beside) != count:
        raise InputError(
            f"there are {count} stages and methods for {len(beside)}: give a list for each, [] "
            "where there are none."
        )
    ends = _ends(count, shares)
    if stage.updates is not None:
        whole = [round(end * stage.updates) for end in ends]
        if any(a == b for a, b in pairwise(whole)):
            raise InputError(
                f"{stage.updates} updates are too few for {count} stages of these shares."
            )
        ends = [end / stage.updates for end in whole]
        lengths: list[dict[str, Any]] = [{"updates": b - a} for a, b in pairwise(whole)]
    else:
        assert stage.epochs is not None
        lengths = [{"epochs": round(stage.epochs * (b - a), 9)} for a, b in pairwise(ends)]
    return [
        replace(
            stage, **length, methods=own, schedule=_part(stage.schedule, a, b),
            starts_from=stage.starts_from if a == 0.0 else "training",
            early_stopping=stage.early_stopping if b == 1.0 else None,
        )
        for length, own, (a, b) in zip(lengths, beside, pairwise(ends), strict=True)
    ]  # fmt: skip


def _ends(count: int, shares: Sequence[float] | None) -> list[float]:
    """Where the stages begin and end, as fractions of the whole."""
    given = [1.0] * count if shares is None else [float(share) for share in shares]
    if not count:
        raise InputError("a recipe has at least one stage: give one size, part or optimizer.")
    if len(given) != count or not all(0 < share < math.inf for share in given):
        raise InputError(
            f"shares are {given}; they must be {count} numbers above 0, one for each stage."
        )
    total = sum(given)
    return [0.0, *(sum_ / total for sum_ in accumulate(given[:-1])), 1.0]


def _part(schedule: Any, begin: float, end: float) -> Any:
    """A schedule's part; refused where it has none."""
    if schedule is None or (begin, end) == (0.0, 1.0):
        return schedule
    if callable(schedule):
        raise InputError(
            "the schedule is a function, which goes over one stage. Name it, as "
            '{"name": "cosine", "warmup": 0.1}, or write the stages of the recipe by hand.'
        )
    name, values = split(schedule, "constant")
    a, b = values.pop("part", (0.0, 1.0))
    whole = {"name": name, **values, "part": [a + (b - a) * begin, a + (b - a) * end]}
    optim.shares(whole, 1)  # one that has no parts is refused here
    return whole


def _scaled(optimizer: Spec, factor: float) -> Spec:
    if factor == 1.0:
        return optimizer
    return optim.with_rate(optimizer, factor * (optim.rate(optimizer) or 0.0))
