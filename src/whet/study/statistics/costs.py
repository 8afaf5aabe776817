r"""What an arm costs, relative to the baseline and with its uncertainty.

Times and sizes are compared as ratios, seed by seed, and ratios multiply: with $r_s$ the log of a
seed's ratio, the value is $e^{\bar r}$ (the geometric mean) and its interval
$e^{\bar r \pm t\, s_r / \sqrt n}$. A median would not move with one disturbed seed, and would
not say so either; here the interval grows.

Times are those of updates alone. Evaluation, checkpoints and start-up are not in them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from whet.study.plan import Row
from whet.study.statistics.pairing import LARGEST


@dataclass(frozen=True)
class Ratio:
    """A geometric mean of paired ratios and its interval, which takes two seeds.

    `n` is the number of seeds behind it.
    """

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Costs:
    """What an arm takes.

    Args:
        step: time per update, relative to the baseline's.
        seconds: of all updates, the median over seeds.
        whole: the same relative to the baseline's.
        target: the baseline's median final metric on the select part.
        reached: seeds in which the arm came to it.
        of: seeds with a curve.
        until: seconds of updates until half of the seeds were there; None where most never are.
        baseline_until: the same for the baseline.
        memory: peak memory of training, relative to the baseline's.
        passes: what each of its methods' cards says of its passes.
    """

    step: Ratio | None = None
    seconds: float | None = None
    whole: Ratio | None = None
    target: float | None = None
    reached: int = 0
    of: int = 0
    until: float | None = None
    baseline_until: float | None = None
    memory: Ratio | None = None
    passes: str | None = None


def costs(
    rows: Mapping[int, Row], reference: Mapping[int, Row], metric: str, sign: int,
    confidence: float = 0.95, passes: str | None = None,
) -> Costs | None:  # fmt: skip
    """What an arm takes against its reference; None where no run of it ended.

    Args:
        rows: the arm's results by seed.
        reference: the baseline's.
        metric: the one whose curve says when the target is reached.
        sign: 1 where higher is better, else -1.
        confidence: of the intervals.
        passes: from the methods' cards.
    """
    ours, theirs = _done(rows), _done(reference)
    if not ours:
        return None
    alpha = 1 - confidence
    goal = _target(theirs.values(), metric)
    steps, ends, peaks = (
        [(f(ours[seed]), f(theirs[seed])) for seed in ours if seed in theirs]
        for f in (_step, _seconds, lambda row: _size(row, "peak_memory"))
    )
    took = [each for each in map(_seconds, ours.values()) if each]
    reaching = _reaching(ours.values(), metric, sign, goal)
    before = _reaching(theirs.values(), metric, sign, goal)
    return Costs(
        step=ratio(steps, alpha), seconds=statistics.median(took) if took else None,
        whole=ratio(ends, alpha), target=goal, reached=sum(map(math.isfinite, reaching)),
        of=len(reaching), until=_median(reaching), baseline_until=_median(before),
        memory=ratio(peaks, alpha), passes=passes,
    )  # fmt: skip


def ratio(pairs: Sequence[tuple[float | None, float | None]], alpha: float) -> Ratio | None:
    """The geometric mean of paired ratios; what is not positive is left out.

    >>> round(ratio([(2.0, 1.0), (4.0, 1.0)], 0.05).value, 3)
    2.828
    """
    finite = [(a, b) for a, b in pairs if a and b and 0 < a < math.inf and 0 < b < math.inf]
    logs = [math.log(a) - math.log(b) for a, b in finite]
    if not logs:
        return None
    mean, n = statistics.fmean(logs), len(logs)
    if n < 2:
        return Ratio(_exp(mean), None, None, n)
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 1 - alpha / 2)) * statistics.stdev(logs) / math.sqrt(n)
    return Ratio(_exp(mean), _exp(mean - half), _exp(mean + half), n)


def _exp(log: float) -> float:
    """A ratio from its logarithm; an odd machine may lead beyond what a float holds."""
    return math.exp(max(-700.0, min(700.0, log)))


def _done(rows: Mapping[int, Row]) -> dict[int, Row]:
    return {seed: row for seed, row in rows.items() if row["status"] == "done"}


def _size(row: Row, name: str) -> float | None:
    """A number that ratios can be made of, None for any other."""
    value = row.get(name)
    return float(value) if value is not None and 0 < value <= LARGEST else None


def _step(row: Row) -> float | None:
    return _size(row, "seconds_per_update")


def _seconds(row: Row) -> float | None:
    step, updates = _step(row), _size(row, "updates")
    return step * updates if step and updates else None


def _curve(row: Row, metric: str) -> list[tuple[float, float]]:
    points = [(p["update"], p["metrics"].get(metric)) for p in row.get("curve") or []]
    return [(update, value) for update, value in points if value is not None]


def _target(rows: Iterable[Row], metric: str) -> float | None:
    curves = [_curve(row, metric) for row in rows]
    last = [curve[-1][1] for curve in curves if curve]
    return statistics.median(last) if last else None


def _reaching(rows: Iterable[Row], metric: str, sign: int, goal: float | None) -> list[float]:
    """Seconds of updates until each seed's curve reaches the goal; infinite where it does not."""
    found = []
    for row in rows:
        curve, step = _curve(row, metric), _step(row)
        if goal is not None and curve and step:
            first = (update for update, value in curve if sign * (value - goal) >= 0)
            found.append(step * next(first, math.inf))
    return found


def _median(values: Sequence[float]) -> float | None:
    middle = statistics.median_low(values) if values else math.inf
    return middle if math.isfinite(middle) else None
