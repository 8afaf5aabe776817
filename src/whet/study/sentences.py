"""The verdict on an arm in a line: what it does, by how much, how surely, and at what cost."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from whet.study import wording
from whet.study.statistics import (
    EQUIVALENT,
    FEWEST,
    HELPS,
    HURTS,
    IDENTICAL,
    NONE,
    SPREADLESS,
    Comparison,
)

# Metrics whose values are shares of one: a hundredth of them is a point.
SHARES = frozenset({
    "accuracy", "exact_match", "balanced_accuracy", "macro_f1", "micro_f1", "auc", "ece",
    "average_precision", "acc", "f1", "weighted_f1", "auroc", "precision", "recall",
})  # fmt: skip
OF_TORCHMETRICS = re.compile(
    "(Binary|Multiclass|Multilabel)?"
    "(Accuracy|ExactMatch|F1Score|AUROC|AveragePrecision|Precision|Recall|Specificity)"
)
POINTS = "points"
SURE = (HELPS, HURTS, EQUIVALENT)  # verdicts that screening weakens
MANY = 3.0  # from here on a ratio of times is said as one
MOST = 6  # decimals


@dataclass(frozen=True)
class Line:
    """A verdict in three parts, so that a page can set them apart.

    Args:
        arm: its name.
        verdict: what may be said of it, as it follows the name.
        rest: gain, interval and cost.
    """

    arm: str
    verdict: str
    rest: str

    @property
    def said(self) -> str:
        """What follows the name: ` helps: +0.8 points [0.3, 1.3], +2 % time`."""
        sure = self.verdict.startswith((HELPS, HURTS))
        between = " " if self.rest.startswith("(") else ": " if sure else ", "
        return f"{'' if sure else ':'} {self.verdict}{between + self.rest if self.rest else ''}"

    @property
    def text(self) -> str:
        """All of it."""
        return self.arm + self.said


def sentence(comparison: Comparison, metric: str) -> str:
    """The verdict on an arm in a line.

    Gains in a metric that is a share of one are in points, hundredths of it; in any other metric
    they are in its own units, "better by" or "worse by" whichever direction is the better one. The
    interval is the single 95 % interval of the gain, time that of an update.

    Args:
        comparison: the arm with its numbers.
        metric: its name, as the task has it or in words.

    >>> found = Comparison("ema", 5, (), (), 0, 5, gain=0.008, low=0.003, high=0.013,
    ...                    verdict="helps")
    >>> sentence(found, "accuracy")
    'ema helps: +0.8 points [0.3, 1.3]'
    """
    return line(comparison, metric).text


def line(
    comparison: Comparison, metric: str, share: bool | None = None, against: str = "the baseline"
) -> Line:
    """The same in parts.

    Args:
        comparison: the arm with its numbers.
        metric: its name.
        share: whether the metric is a share of one; None to tell by its name and the gains.
        against: what the arm is held against.
    """
    name, verdict = wording.plain(comparison.arm), comparison.verdict
    unit = Unit(comparison, metric, is_share(comparison, metric) if share is None else share)
    gain, cost = unit.gain(), time(comparison)
    weak = " (screening)" if comparison.screening and verdict in SURE else ""
    if verdict in (HELPS, HURTS):
        return Line(name, verdict + weak, _joined(gain, cost))
    if verdict == NONE:
        said = _joined(gain + _despite(comparison), unit.unseen(), "; ")
        return Line(name, verdict, _joined(f"({said})", cost))
    if verdict == EQUIVALENT:
        said = f"{verdict} of {unit.size(comparison.margin or 0.0)}{weak}"
        return Line(name, said, _joined(f"({gain})", cost))
    if verdict == IDENTICAL:
        return Line(name, f"identical to {wording.plain(against)}", cost)
    return Line(name, *_without(comparison, gain if unit.known else ""))


def gain(comparison: Comparison, metric: str, share: bool | None = None) -> str:
    """The gain with its interval, empty where there is none."""
    share = is_share(comparison, metric) if share is None else share
    return "" if comparison.gain is None else Unit(comparison, metric, share).gain()


def _despite(comparison: Comparison) -> str:
    """Why an interval without zero in it is no verdict: it is one of several."""
    low, high = comparison.low, comparison.high
    beyond = low is not None and high is not None and (low > 0 or high < 0)
    return ", not enough among this many arms" if beyond else ""


def _without(comparison: Comparison, gain: str) -> tuple[str, str]:
    """Of an arm that came to no verdict: why, and the gain where there is one."""
    verdict = comparison.verdict
    if comparison.diverged or verdict == SPREADLESS:
        return verdict, f"({gain})" if gain else ""
    said = wording.WITHOUT.get(verdict, verdict)
    if 0 < comparison.n < FEWEST:
        said = f"no verdict from {wording.counted(comparison.n, 'seed')}"
    return said, f"({gain})" if gain else ""


class Unit:
    """A gain as it is said: in points or in the metric's own units."""

    def __init__(self, comparison: Comparison, metric: str, share: bool) -> None:
        self._found, self._metric = comparison, wording.plain(metric.replace("_", " "))
        self._share, self._times = share, 100.0 if share else 1.0
        self._places = self._decimals()

    @property
    def known(self) -> bool:
        """Whether there is a gain."""
        return self._found.gain is not None

    def gain(self) -> str:
        """The gain with its interval."""
        value = (self._found.gain or 0.0) * self._times
        if self._share:
            return f"{wording.signed(value, self._places)} {POINTS}{self._interval(1.0)}"
        if not round(value, self._places):
            return f"{self._metric} differs by {self._number(0.0)}{self._interval(1.0)}"
        way = "better" if value > 0 else "worse"
        said = f"{self._metric} {way} by {self._number(abs(value))}"
        return said + self._interval(math.copysign(1.0, value))

    def unseen(self) -> str:
        """The gain that such a study would have missed too often."""
        least = self._found.detectable
        return "" if least is None else f"a gain below {self.size(least)} could not have been seen"

    def size(self, value: float) -> str:
        """A size without a sign."""
        if not self._share:
            return f"{value:.3g}"
        return f"{self._number(100 * value)} {POINTS}"

    def _interval(self, sign: float) -> str:
        low, high = self._found.low, self._found.high
        if low is None or high is None:
            return ""
        ends = sorted(sign * self._times * each for each in (low, high))
        return f" [{self._number(ends[0])}, {self._number(ends[1])}]"

    def _number(self, value: float) -> str:
        text = f"{value:.{self._places}f}"
        return text.replace("-", wording.MINUS) if float(text) else f"{0:.{self._places}f}"

    def _decimals(self) -> int:
        """One digit of the interval's half width, more where an end would become zero."""
        bounds = (self._found.low, self._found.high)
        ends = [each * self._times for each in bounds if each is not None]
        half = (max(ends) - min(ends)) / 2 if ends else 0.0
        places = min(MOST, max(1, -math.floor(math.log10(half)))) if half > 0 else 1
        sure = self._found.verdict in (HELPS, HURTS)
        while sure and places < MOST and any(not round(each, places) for each in ends):
            places += 1
        return places


def is_share(comparison: Comparison, metric: str) -> bool:
    """Whether a metric is a share of one, by its name; gains beyond one are not of a share."""
    name = metric.replace(" ", "_")
    largest = max((abs(gain) for _, gain in comparison.gains), default=0.0)
    known = name in SHARES or OF_TORCHMETRICS.fullmatch(name) is not None
    return known and max(largest, abs(comparison.gain or 0.0)) <= 1.0


def time(comparison: Comparison) -> str:
    """What an update costs beyond the baseline's, empty where it was not measured."""
    ratio = comparison.slowdown
    if ratio is None:
        return ""
    if ratio >= MANY:
        return f"{ratio:.1f} times the time"
    return f"{wording.signed(100 * (ratio - 1), 0)} % time"


def _joined(*parts: str) -> str:
    *said, between = parts if parts[-1] == "; " else (*parts, ", ")
    return between.join(filter(None, said))
