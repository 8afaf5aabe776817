"""A baseline at a rate that was looked for: what a better rate gives is no merit of a method.

The baseline alone is trained at several learning rates around the task's own, in steps of the
square root of ten, on seeds that no study has, and chosen by the select part. Where the best rate
is at the grid's edge, the grid grows by a step, twice at most. Every arm then has that rate.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.errors import InputError
from whet.study import wording
from whet.study.plan import BASELINE, Arm, Node, Row
from whet.study.rehearsal import Run
from whet.study.store import Store

FOLDER = "tuning"
STEP = math.sqrt(10)
FEWEST, USUAL = 5, 5  # rates
SEEDS = range(1000, 1003)  # far from those of any study
GROWS = 2
MakeNodes = Callable[[Sequence[Arm], Sequence[int], Mapping[str, Any]], list[Node]]
Values = Sequence[float | None]
Measure = Callable[[Sequence[float]], list[Values]]


@dataclass(frozen=True)
class Tuning:
    """What came of the search.

    Args:
        rate: the best one.
        own: the task's.
        metric: by which it was chosen, on the select part.
        seeds: those of the search.
        table: of each rate its values by seed, None where training failed or diverged, and their
            mean, None where one is.
        at_edge: the best rate is still at the edge of all that were tried.
    """

    rate: float
    own: float
    metric: str
    seeds: list[int]
    table: list[dict[str, Any]]
    at_edge: bool = False


def check(count: int | None, stage: Mapping[str, Any]) -> None:
    """Refuse what cannot be tuned, before anything is trained.

    Raises:
        InputError: too few rates, or an optimizer whose rate only its function knows.
    """
    if count is None:
        return
    if count < FEWEST:
        raise InputError(f"--tune-baseline {count}: it takes at least {FEWEST} rates.")
    if stage.get("rate") is None:
        made = (stage.get("optimizer") or {}).get("function", "a function")
        raise InputError(
            f"--tune-baseline cannot set a rate: the task's optimizer is made by {made}, and only "
            'that knows its rate. Name the optimizer in ABOUT, as {"name": "adamw", "lr": 0.003}.'
        )


def grid(own: float, count: int) -> list[float]:
    """Rates around the task's own, ascending; of an even number the odd one is below.

    >>> grid(0.001, 5)
    [0.0001, 0.000316, 0.001, 0.00316, 0.01]
    """
    return [step(own, at) for at in range(-(count // 2), count - count // 2)]


def step(own: float, at: int) -> float:
    """The rate so many steps above the task's own, in three digits."""
    return own if at == 0 else float(f"{own * STEP**at:.3g}")


def search(
    own: float, count: int, higher: bool, measure: Measure,
    metric: str = "", seeds: Sequence[int] = SEEDS,
) -> Tuning:  # fmt: skip
    """The best rate of a grid that grows towards it.

    Args:
        own: the task's rate.
        count: rates to begin with.
        higher: whether more is better.
        measure: from rates to the values of each by seed.
        metric: its name, for the record.
        seeds: likewise.

    Raises:
        InputError: no rate came to a result under every seed.
    """
    first = range(-(count // 2), count - count // 2)
    values = dict(zip(first, measure(grid(own, count)), strict=True))
    best = _best(values, higher)
    for _ in range(GROWS):
        if best not in (min(values), max(values)):
            break
        at = best - 1 if best == min(values) else best + 1
        [values[at]] = measure([step(own, at)])
        best = _best(values, higher)
    table = [
        {"rate": step(own, at), "values": list(values[at]), "mean": _mean(values[at])}
        for at in sorted(values)
    ]
    edge = best in (min(values), max(values))
    return Tuning(step(own, best), own, metric, list(seeds), table, edge)


def _mean(values: Values) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _best(values: Mapping[int, Values], higher: bool) -> int:
    """The best mean; of equal ones the rate nearest to the task's own."""
    means = {at: mean for at, each in values.items() if (mean := _mean(each)) is not None}
    if not means:
        raise InputError(
            "--tune-baseline: at no learning rate did the baseline come to a result under every "
            "seed. `whet study TASK --fast` shows what is wrong."
        )
    sign = 1.0 if higher else -1.0
    return max(means, key=lambda at: (sign * means[at], -abs(at), -at))


def tune(
    task: Mapping[str, Any], count: int, nodes: MakeNodes, store: Store, train: Run
) -> Tuning:  # fmt: skip
    """Search with runs that are kept in a store, so that the same command does not repeat them."""
    metric = task["metric"]

    def measure(rates: Sequence[float]) -> list[Values]:
        each = [nodes([Arm(BASELINE)], SEEDS, {"lr": r, "judge_on": "select"}) for r in rates]
        made = [node for those in each for node in those]
        waiting = [node for node in made if store.done(node) is None]
        store.retry(waiting)
        if waiting:
            train(waiting, store)
        rows = {row["key"]: row for row in store.rows(made)}
        return [[_value(rows.get(node.key), metric) for node in those] for those in each]

    return search(task["stage"]["rate"], count, task["higher_is_better"], measure, metric)


def _value(row: Row | None, metric: str) -> float | None:
    if row is None or row["status"] != "done":
        return None
    value = ((row.get("metrics") or {}).get("select") or {}).get(metric)
    return None if value is None else float(value)


def lines(tuning: Tuning) -> list[str]:
    """The table for people: a line for each rate."""
    head = f"learning rate   {tuning.metric} on the select part, mean of {len(tuning.seeds)} seeds"
    said = []
    for each in tuning.table:
        value = "failed or diverged" if each["mean"] is None else f"{each['mean']:.4f}"
        marks = [mark for mark, at in (("best", tuning.rate), ("the task's own", tuning.own))
                 if at == each["rate"]]  # fmt: skip
        said.append(f"{each['rate']:<13g}   {value}  {', '.join(marks)}".rstrip())
    return [head, *said]


def note(tuning: Tuning | None, rate: float | None) -> str:
    """What a reader should know of the baseline's rate."""
    if tuning is None:
        own = "" if rate is None else f" of {rate:g}"
        return (
            f"Baseline untuned: its learning rate{own} is the task's own, and a gain may be what a "
            "better rate would give. --tune-baseline looks for one first."
        )
    tried = wording.counted(len(tuning.table), "rate")
    changed = "the task's own" if tuning.rate == tuning.own else f"the task's own is {tuning.own:g}"
    edge = " It is the outermost that was tried." if tuning.at_edge else ""
    return (
        f"Baseline tuned: of {tried} the learning rate {tuning.rate:g} was best on the select part "
        f"({changed}); every arm has it.{edge}"
    )
