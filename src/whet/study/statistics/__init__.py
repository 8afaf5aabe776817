r"""Paired differences to the baseline, their t intervals, and verdicts by one stated rule.

Arm and baseline of one seed share split, initial weights and order of the data, so the seed's
difference $d_s$ carries the method and little else. Over $n$ seeds

$$\bar d \pm t_{n-1,\,1-\alpha/2}\; \mathrm{SE},\qquad
p = 2\,P(T_{n-1} > |\bar d| / \mathrm{SE}),\qquad
\mathrm{SE}^2 = \max(s^2, \bar s_g^2) / n$$

with $s^2$ the arm's own variance of $d$ and $\bar s_g^2$ the mean variance over the arms of its
placement. Several arms are several chances to be lucky, so verdicts use Holm's step-down levels:
the arm with the smallest p at $\alpha/m$, the next at $\alpha/(m-1)$ and so on, until the first arm
whose interval holds zero; that arm and all after it keep that level. An interval at its arm's level
then leaves zero out exactly where Holm's adjusted p is below $\alpha$. Against a margin $\delta$
that the user gives, two one-sided tests with
$p = P(T_{n-1} > (\delta - |\bar d|) / \mathrm{SE})$, adjusted as a family of their own, show that
there is no difference that matters.

`docs/statistics.md` says each number in plain words; `family`, `flips`, `power`, `resampling` and
`costs` hold the formulas with their reasons.
"""

from __future__ import annotations

from whet.study.statistics.comparison import (
    EQUIVALENT,
    FEWEST,
    HELPS,
    HURTS,
    IDENTICAL,
    NONE,
    SCREENING,
    SPREADLESS,
    TOO_FEW,
    Comparison,
    ranked,
)
from whet.study.statistics.costs import Costs, Ratio
from whet.study.statistics.judging import check, paired
from whet.study.statistics.numbers import compare
from whet.study.statistics.pairing import placement
from whet.study.statistics.power import detectable
from whet.study.statistics.resampling import bootstrap
from whet.study.statistics.rule import POPULATION, rule

__all__ = [
    "EQUIVALENT", "FEWEST", "HELPS", "HURTS", "IDENTICAL", "NONE", "POPULATION", "SCREENING",
    "SPREADLESS", "TOO_FEW", "Comparison", "Costs", "Ratio", "bootstrap", "check", "compare",
    "detectable", "paired", "placement", "ranked", "rule",
]  # fmt: skip
