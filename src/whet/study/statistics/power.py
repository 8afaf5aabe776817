"""How small an effect a study can find, before it and after it."""

from __future__ import annotations

import math

POWER = 0.8


def detectable(n: int, deviation: float, level: float, power: float = POWER) -> float:
    r"""The effect that the paired t test finds, with the right sign, in four of five studies.

    $P(T_{n-1,\,\delta} > t_{n-1,\,1-\alpha/2}) = 0.8$ with $\delta = \Delta\sqrt n / s$ solved
    for $\Delta$, the noncentral t distribution on the left.

    Args:
        n: pairs, at least 2.
        deviation: s, of the paired differences.
        level: the two-sided level; Holm's first step for m arms is alpha / m.
        power: how often.

    >>> round(detectable(5, 1.0, 0.05), 2)
    1.68
    """
    from scipy.optimize import brentq
    from scipy.special import stdtrit
    from scipy.stats import nct

    edge = float(stdtrit(n - 1, 1 - level / 2))

    def lacking(shift: float) -> float:
        return float(nct.sf(edge, n - 1, shift)) - power

    # one degree of freedom spreads the estimate of s most: five edges are enough even there
    return deviation * float(brentq(lacking, 0.0, 5 * edge + 10)) / math.sqrt(n)
