"""Which methods and faults a case gets, and the recipe that is made of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.contract.fixture import companions
from tests.contract.found import case
from whet import nesting
from whet.method import Method, Placement
from whet.stage import Recipe, Stage

FAULTS = (
    "SIGKILL", "SIGTERM", "exception in the loader", "exception in the model", "full disk",
    "torn file", "flipped bit",
)  # fmt: skip
DAMAGE = {"torn file", "flipped bit"}
EASY = 4  # attempts after which nothing is frozen and nothing has a span

OPTIMIZERS = (
    "adamw", {"name": "sgd", "lr": 0.1, "momentum": 0.9}, {"name": "adam", "lr": 0.01},
    {"name": "rmsprop", "lr": 0.003, "momentum": 0.5}, {"name": "sgd", "lr": 0.05},
)  # fmt: skip
SCHEDULES = (None, "cosine", {"name": "linear", "warmup": 0.3}, {"name": "cosine", "floor": 0.1})


@dataclass(frozen=True)
class Drawn:
    """One case: everything else about it is drawn from its number and the seed."""

    number: int
    seed: int
    methods: tuple[str, ...]
    faults: tuple[str, ...]

    def dice(self, *purpose: object) -> random.Random:
        return random.Random(f"{self.seed} {self.number} {purpose}")


def deal(count: int, methods: Iterable[str], seed: int = 0) -> list[Drawn]:
    """Cases of one to five methods and one to three faults; who was drawn least is drawn next."""
    dice, deck = random.Random(seed), sorted(methods)
    used: Counter[str] = Counter()

    def least(of: Sequence[str], size: int) -> tuple[str, ...]:
        taken = sorted(of, key=lambda one: (used[one], dice.random()))[:size]
        used.update(taken)
        dice.shuffle(taken)
        return tuple(taken)

    return [
        Drawn(number, seed, least(deck, dice.randint(1, 5)), least(FAULTS, dice.randint(1, 3)))
        for number in range(count)
    ]


def recipe(drawn: Drawn, attempt: int = 0) -> Recipe:
    """One to three stages, or more where the methods clash, in which each method has its place."""
    dice = drawn.dice("recipe", attempt)
    stages: list[list[Method]] = [[] for _ in range(dice.randint(1, 3))]
    through: list[Method] = []
    for name in drawn.methods:
        method = case(name).method
        others = [case(other).method for other in drawn.methods if other != name]
        if dice.random() < 0.25 and all(_strangers(method, other) for other in others):
            through.append(method.clone())
            continue
        _place(_spanned(method, dice, attempt), stages, through, dice)
    return Recipe([_stage(n, each, through, dice, attempt) for n, each in enumerate(stages)],
                  through)  # fmt: skip


def _place(
    method: Method, stages: list[list[Method]], through: list[Method], dice: random.Random
) -> None:
    """Into a stage where nothing clashes with it, sometimes two of them, or into a new one."""
    possible = [stage for stage in stages if _fits(method, [*stage, *through])]
    if not possible:
        stages.append([])
        possible = stages[-1:]
    for stage in dice.sample(possible, min(len(possible), 1 + (dice.random() < 0.3))):
        stage.append(method.clone())


def _fits(method: Method, others: Sequence[Method]) -> bool:
    """Whether a method may stand beside others; one may be there as a companion of another."""
    beside = {one.name for one in companions(others)}
    return method.name not in beside and all(
        nesting.clash(method, one) is None and method.key != one.key for one in others
    )


def _strangers(a: Method, b: Method) -> bool:
    """Whether one may stand in every stage, wherever the other stands."""
    return nesting.clash(a, b) is None and a.name not in b.companions and b.name not in a.companions


def _spanned(method: Method, dice: random.Random, attempt: int) -> Method:
    if attempt >= EASY or dice.random() < 0.6:
        return method
    first = 0.0 if method.placements is Placement.START else dice.choice((0.0, 0.25, 0.5))
    return method.during(first, dice.choice((first + 0.5, 1.0)))


def _stage(
    number: int, methods: list[Method], through: list[Method], dice: random.Random, attempt: int
) -> Stage:
    everyone = [*methods, *companions([*methods, *through])]
    owned = any(nesting.brings_schedule(method) for method in [*everyone, *through])
    stage = Stage(
        updates=dice.randint(3, 6), batch_size=dice.randint(4, 10), accumulate=dice.randint(1, 3),
        methods=everyone, optimizer=dice.choice(OPTIMIZERS),
        schedule=None if owned else dice.choice(SCHEDULES),
        starts_from="evaluation" if number and dice.random() < 0.4 else "training",
        drop_last=dice.random() < 0.3,
    )  # fmt: skip
    freeze = dice.choice(((), ("embed",), ("hidden",), ("norm",)))
    return stage if attempt >= EASY else replace(stage, freeze=freeze)


def engine(drawn: Drawn) -> dict[str, Any]:
    """How often the run is judged and saved, and what stays."""
    dice = drawn.dice("engine")
    often = bool(DAMAGE & set(drawn.faults))  # there must be a checkpoint that can be damaged
    return {
        "checkpoint_every": 1 if often else dice.choice((1, 2, 3, None, "auto")),
        "evaluate_every": dice.choice((None, 1, 2, 3)),
        "keep": dice.randint(1, 3), "keep_best": dice.randint(0, 1),
    }  # fmt: skip
