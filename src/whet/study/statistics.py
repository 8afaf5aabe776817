r"""Paired differences to the baseline, their t intervals, and verdicts by one stated rule.

Arm and baseline of one seed share split, initial weights and order of the data, so the seed's
difference $d_s$ carries the method and little else. Over $n$ seeds

$$\bar d \pm t_{n-1,\,1-\alpha/2}\; s / \sqrt n,\qquad p = 2\,P(T_{n-1} > |\bar d|\sqrt n / s).$$

Several arms are several chances to be lucky, so verdicts use Holm's step-down levels: the arm
with the smallest p at $\alpha/m$, the next at $\alpha/(m-1)$ and so on, until the first arm whose
interval holds zero; that arm and all after it keep that level. An interval at its arm's level then
leaves zero out exactly where Holm's adjusted p is below $\alpha$.

Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from whet.errors import InputError
from whet.study.plan import BASELINE, Row

FEWEST = 3
SAME = 1e-12
HELPS, HURTS, NONE = "helps", "hurts", "no effect found"
IDENTICAL, SPREADLESS = "identical to the baseline", "no verdict: all differences are equal"
TOO_FEW = "too few seeds"


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline. Intervals are of the gain, which is positive where better."""

    arm: str
    n: int
    gains: tuple[tuple[int, float], ...]
    left_out: tuple[tuple[int, str], ...]
    diverged: int
    seeds: int
    difference: float | None = None
    gain: float | None = None
    standard_deviation: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    level: float | None = None
    holm_low: float | None = None
    holm_high: float | None = None
    cost: float | None = None
    verdict: str = TOO_FEW


def paired(
    results: Iterable[Row],
    metric: str,
    higher_is_better: bool,
    baseline: str = BASELINE,
    confidence: float = 0.95,
    part: str = "judge",
) -> list[Comparison]:
    """Compare every arm with the baseline, seed by seed, in the order the arms appear.

    A seed that failed, diverged or has no finite metric in either arm is left out of the pairs
    and listed in `left_out` with its reason.
    """
    if not 0.5 <= confidence < 1:
        raise InputError(f"confidence is {confidence}; it must be in [0.5, 1).")
    arms = _by_arm(results)
    sign = 1 if higher_is_better else -1
    found = [
        _compare(arms, arm, baseline, (part, metric), sign, confidence)
        for arm in arms
        if arm != baseline
    ]
    return [_judged(each) for each in _holm(found, 1 - confidence)]


def ranked(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Largest gain first, arms without a gain last."""
    return sorted(comparisons, key=lambda each: (each.gain is None, -(each.gain or 0.0)))


def rule(confidence: float = 0.95) -> str:
    """The rule behind the verdicts, for people."""
    alpha = f"{1 - confidence:.2g}"
    return (
        "Arm and baseline are compared seed by seed: both see the same split, initial weights and "
        f"order of the data. The interval is the {confidence:.0%} t interval of the mean paired "
        "gain; p is from the two-sided paired t test. A verdict allows for the number of arms "
        f"(Holm): with m arms of at least {FEWEST} pairs, the arm with the smallest p is judged "
        f"by its interval at level {alpha}/m, the next at {alpha}/(m-1) and so on, until one "
        'interval holds zero; that level then stays. "helps" and "hurts": that interval lies '
        'above or below zero. "no effect found": it holds zero, which is no proof that there is '
        "no effect; the interval shows how large one could be. Where all differences are equal "
        "their spread is unknown, and there is no verdict. Seeds that failed or diverged cannot "
        "be paired; they are counted and listed, and an arm that diverged gets no other verdict."
    )


def _by_arm(results: Iterable[Row]) -> dict[str, dict[int, Row]]:
    arms: dict[str, dict[int, Row]] = {}
    for row in results:
        seeds = arms.setdefault(row["arm"], {})
        if row["seed"] in seeds:
            raise InputError(f"two results of arm {row['arm']!r} and seed {row['seed']}.")
        seeds[row["seed"]] = row
    return arms


def _compare(
    arms: Mapping[str, Mapping[int, Row]],
    arm: str,
    baseline: str,
    where: tuple[str, str],
    sign: int,
    confidence: float,
) -> Comparison:
    rows, reference = arms[arm], arms.get(baseline, {})
    left_out, differences, scale = [], {}, 0.0
    for seed in sorted({*rows, *reference}):
        reason = _unusable(rows.get(seed), where) or _unusable(reference.get(seed), where, baseline)
        if reason:
            left_out.append((seed, reason))
            continue
        ours, theirs = _value(rows[seed], where), _value(reference[seed], where)
        differences[seed] = ours - theirs
        scale = max(scale, abs(ours), abs(theirs))
    found = Comparison(
        arm=arm,
        n=len(differences),
        gains=tuple((seed, sign * d) for seed, d in differences.items()),
        left_out=tuple(left_out),
        diverged=sum(row["status"] == "diverged" for row in rows.values()),
        seeds=len(rows),
        cost=_cost(rows, reference),
        verdict=_absent(rows),
    )
    return _interval(found, sign, scale, 1 - confidence) if differences else found


def _interval(found: Comparison, sign: int, scale: float, alpha: float) -> Comparison:
    gains = [gain for _, gain in found.gains]
    mean = statistics.fmean(gains)
    found = replace(found, gain=mean, difference=sign * mean)
    if found.n < 2:
        return found
    deviation = statistics.stdev(gains)
    if deviation <= SAME * scale:  # rounding of a difference, not a spread
        same = abs(mean) <= SAME * scale
        return replace(
            found,
            standard_deviation=0.0,
            low=mean if same else None,
            high=mean if same else None,
            p=1.0 if same else None,
        )
    error = deviation / math.sqrt(found.n)
    half = _quantile(found.n - 1, alpha) * error
    p = 2 * _tail(found.n - 1, abs(mean) / error)
    return replace(found, standard_deviation=deviation, low=mean - half, high=mean + half, p=p)


def _holm(found: Sequence[Comparison], alpha: float) -> list[Comparison]:
    """Adjusted p values and each arm's step-down level; an arm without a p ranks last."""
    family = [each for each in found if each.n >= FEWEST]
    ranked = sorted(family, key=lambda each: math.inf if each.p is None else each.p)
    adjusted: dict[str, Comparison] = {}
    largest, level, open_ = 0.0, alpha, True
    for rank, each in enumerate(ranked):
        if each.p is None:
            continue
        remaining = len(family) - rank
        level = alpha / remaining if open_ else level
        open_ = open_ and each.p < level
        largest = max(largest, min(1.0, remaining * each.p))
        adjusted[each.arm] = _at_level(replace(each, p_holm=largest), level)
    return [adjusted.get(each.arm, each) for each in found]


def _at_level(found: Comparison, level: float) -> Comparison:
    assert found.gain is not None
    assert found.standard_deviation is not None
    half = 0.0
    if found.standard_deviation:
        error = found.standard_deviation / math.sqrt(found.n)
        half = _quantile(found.n - 1, level) * error
    return replace(found, level=level, holm_low=found.gain - half, holm_high=found.gain + half)


def _judged(found: Comparison) -> Comparison:
    if found.diverged:
        return replace(found, verdict=f"diverged in {found.diverged} of {found.seeds} seeds")
    if found.n < FEWEST:
        return found
    if found.standard_deviation == 0:
        return replace(found, verdict=IDENTICAL if found.p == 1.0 else SPREADLESS)
    assert found.holm_low is not None
    assert found.holm_high is not None
    helps, hurts = found.holm_low > 0, found.holm_high < 0
    return replace(found, verdict=HELPS if helps else HURTS if hurts else NONE)


def _absent(rows: Mapping[int, Row]) -> str:
    """The verdict where no test can be made: what all seeds came to, or too few of them."""
    states = {row["status"] for row in rows.values()}
    if len(states) == 1 and not states & {"done", "diverged"}:
        (state,) = states
        return "failed in every seed" if state == "failed" else str(state)
    return TOO_FEW


def _unusable(row: Row | None, where: tuple[str, str], prefix: str = "") -> str | None:
    prefix = f"{prefix} " if prefix else ""
    if row is None:
        return f"{prefix}not run yet"
    if row["status"] != "done":
        return f"{prefix}{row['status']}"
    value = _value(row, where)
    return None if math.isfinite(value) else f"{prefix}without a finite {where[1]}"


def _value(row: Row, where: tuple[str, str]) -> float:
    part, metric = where
    value = (row.get("metrics") or {}).get(part, {}).get(metric)
    return math.nan if value is None else float(value)


def _cost(rows: Mapping[int, Row], reference: Mapping[int, Row]) -> float | None:
    """The median over seeds of the time per update, relative to the baseline's."""
    times = [
        (rows[seed].get("seconds_per_update"), reference[seed].get("seconds_per_update"))
        for seed in rows
        if seed in reference and rows[seed]["status"] == "done"
    ]
    ratios = [ours / theirs for ours, theirs in times if ours and theirs and ours * theirs > 0]
    return statistics.median(ratios) if ratios else None


def _quantile(freedom: int, alpha: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - alpha / 2))


def _tail(freedom: int, t: float) -> float:
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))
