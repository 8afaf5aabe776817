r"""Comparisons of more than two arms: a weighted sum of results, seed by seed.

With weights $w_a$ that sum to zero over the arms of a contrast, a seed's value is
$\sum_a w_a x_{as}$, and what is said of a paired difference holds for it: the t interval of its
mean over seeds, Holm's levels over its family. A difference of two arms is one; so are the
interaction of two methods, and a method's main effect, the mean of the runs that hold it minus the
mean of those that do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from whet.study import statistics
from whet.study.plan import Row
from whet.study.statistics import Comparison

Weights = Mapping[str, float]
NOTHING = "nothing"  # what contrasts are held against: a result of 0 in every seed
SAME = 1e-12  # of the values: rounding of a sum, not a difference
RATIOS = ("seconds_per_update", "peak_memory")


def difference(arm: str, reference: str) -> dict[str, float]:
    """One arm against another."""
    return {arm: 1.0, reference: -1.0}


def interaction(both: str, one: str, other: str, neither: str) -> dict[str, float]:
    """What one method adds beside the other, beyond what it adds alone."""
    return {both: 1.0, one: -1.0, other: -1.0, neither: 1.0}


def main_effect(holding: Sequence[str], lacking: Sequence[str]) -> dict[str, float]:
    """The mean of the arms that hold a method minus the mean of those that do not."""
    return {name: 1 / len(holding) for name in holding} | {
        name: -1 / len(lacking) for name in lacking
    }


def crossed(*names: str) -> str:
    """What an interaction is called."""
    return " \N{MULTIPLICATION SIGN} ".join(names)


def compared(
    rows: Iterable[Row], contrasts: Mapping[str, Weights], metric: str, higher_is_better: bool,
    confidence: float = 0.95, margin: float | None = None,
) -> list[Comparison]:  # fmt: skip
    """Every contrast with its interval, as one family; positive where the metric is better.

    A seed in which an arm of the contrast came to no result is left out of it.

    Args:
        rows: one result for each arm and seed.
        contrasts: names, and for each the weights of arms.
        metric: what is compared, on the judge part.
        higher_is_better: its direction.
        confidence: of the intervals.
        margin: the largest difference that does not matter, if one was said.

    >>> rows = [{"arm": arm, "seed": seed, "status": "done", "metrics": {"judge": {"acc": value}}}
    ...         for arm, values in {"0": (0.5, 0.6), "a": (0.6, 0.7), "b": (0.7, 0.8),
    ...                             "a+b": (0.9, 0.8)}.items() for seed, value in enumerate(values)]
    >>> both = {"a x b": interaction("a+b", "a", "b", "0")}
    >>> [found] = compared(rows, both, "acc", True)
    >>> found.arm, round(found.gain, 3)
    ('a x b', 0.0)
    """
    arms: dict[str, dict[int, Row]] = {}
    for row in rows:
        arms.setdefault(row["arm"], {})[row["seed"]] = row
    seeds = sorted({seed for each in arms.values() for seed in each})
    made = [
        _row(name, seed, [(weight, arms[arm][seed]) for arm, weight in weights.items()], metric)
        for name, weights in contrasts.items()
        for seed in seeds
        if all(seed in arms.get(arm, {}) for arm in weights)
    ]
    there = {row["seed"] for row in made}
    nothing = [_result(NOTHING, seed, {metric: 0.0}, dict.fromkeys(RATIOS, 1.0)) for seed in there]
    return statistics.paired(
        [*nothing, *made], metric, higher_is_better, NOTHING, confidence, margin=margin,
        placements={name: statistics.placement({"name": name}) for name in contrasts},
    )  # fmt: skip


def _row(name: str, seed: int, parts: Sequence[tuple[float, Row]], metric: str) -> Row:
    """The contrast of one seed, as if it were the result of an arm."""
    lost = [row for _, row in parts if row["status"] != "done"]
    if lost:
        return {**_result(name, seed, {}, {}), "status": lost[0]["status"]}
    values = [(w, ((row.get("metrics") or {}).get("judge") or {}).get(metric)) for w, row in parts]
    terms = [math.nan if value is None else weight * value for weight, value in values]
    total = math.fsum(terms) if all(map(math.isfinite, terms)) else math.nan
    if abs(total) <= SAME * max(map(abs, terms)):
        total = 0.0
    return _result(name, seed, {metric: total}, _ratios(parts))


def _ratios(parts: Sequence[tuple[float, Row]]) -> dict[str, float]:
    """Time and memory of the one arm relative to the other's, where there are two."""
    if len(parts) != 2:
        return {}
    (_, ours), (_, theirs) = sorted(parts, key=lambda part: -part[0])
    return {name: ours[name] / theirs[name] for name in RATIOS
            if ours.get(name) and theirs.get(name)}  # fmt: skip


def _result(name: str, seed: int, metrics: Mapping[str, float], more: Mapping[str, float]) -> Row:
    return {"arm": name, "seed": seed, "status": "done", "metrics": {"judge": dict(metrics)},
            **more}  # fmt: skip
