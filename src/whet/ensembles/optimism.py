"""Whether members are better out of fold than on rows that nobody was trained on: a leak."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
LEVEL = 0.01  # of a false alarm, of all members together


@dataclass(frozen=True)
class Optimism:
    """How much better a member looks out of fold than it is.

    Args:
        name: the member.
        difference: its mean squared error on held rows less that out of fold.
        low: the lower end of the difference's interval.
        high: the upper end.
    """

    name: str
    difference: float
    low: float
    high: float

    @property
    def leak(self) -> bool:
        """Whether that is more than chance makes of it."""
        return self.low > 0.0


def optimism(
    names: Sequence[str], out_of_fold_KN: Array, held_KM: Array, folds: int,
    groups: Array | None = None, held_groups: Array | None = None, level: float = LEVEL,
) -> tuple[Optimism, ...]:  # fmt: skip
    r"""Each member's squared error on held rows less that out of fold, with an interval.

    $$\Delta = \bar e^{\text{held}} - \bar e^{\text{oof}}, \qquad
    \Delta \pm z_{1 - \alpha / K} \sqrt{\frac{s^2_{\text{held}}}{M} + \left( 1 + \frac{F}{F - 1}
    \right) \frac{s^2_{\text{oof}}}{N}}$$

    The factor is there because a row by which one fold's model is judged has trained the others:
    errors out of fold go together, which their spread does not show. Where there are groups, their
    sums take the place of rows, for the rows of one are alike. A lower end above zero is a leak;
    where there is none, that happens with a chance of about $\alpha$, of all K members together.

    Args:
        names: of the members.
        out_of_fold_KN: their squared errors, by rows.
        held_KM: likewise, on rows that nobody was trained on.
        folds: how many there are.
        groups: of the N rows, whole numbers.
        held_groups: of the M rows.
        level: the chance of a false alarm.

    Paper: Nadeau & Bengio 2003, doi:10.1023/A:1024068626366, whose factor it is.

    >>> [found] = optimism(["a"], np.array([[0.1, 0.2] * 50]), np.array([[0.3, 0.4] * 50]), folds=5)
    >>> round(found.difference, 6), found.leak
    (0.2, True)
    """
    from scipy.stats import norm

    found, z, factor = [], float(norm.ppf(1.0 - level / len(names))), 1.0 + folds / (folds - 1)
    for name, ours, theirs in zip(names, out_of_fold_KN, held_KM, strict=True):
        difference = float(theirs.mean() - ours.mean())
        width = z * math.sqrt(factor * variance(ours, groups) + variance(theirs, held_groups))
        found.append(Optimism(name, difference, difference - width, difference + width))
    return tuple(found)


def variance(values: Array, groups: Array | None = None) -> float:
    """Of the mean of values that are independent, or are so from group to group."""
    off = values - values.mean()
    sums = off if groups is None else np.bincount(groups, off)
    sums = sums if groups is None else sums[np.bincount(groups) > 0]
    count = len(sums)
    if count < 2:
        return math.inf
    return float((sums**2).sum()) / len(values) ** 2 * count / (count - 1)


def squared_errors(p_N: Array, targets: Array, family: str) -> Array:
    """Of each row: of its probabilities (Brier's score, summed over classes), or of its reals.

    >>> squared_errors(np.array([[0.75, 0.25]]), np.array([1]), "categorical")
    array([1.125])
    """
    truth = np.eye(p_N.shape[1])[targets] if family == "categorical" else targets
    off = (p_N - truth).reshape(len(p_N), -1) ** 2
    return np.asarray(off.sum(1) if family == "categorical" else off.mean(1))
