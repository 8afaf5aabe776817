r"""Two further intervals: one by bootstrap, one that allows for other data.

**Other data.** Seeds draw their splits from one set of data, so that their differences are alike
in what that data has by chance; $s^2 / n$ misses it and shrinks without end. Nadeau and Bengio
add the share of judge rows to training rows:

$$\mathrm{SE}^2 = \Bigl(\frac 1 n + \frac{n_\text{judge}}{n_\text{train}}\Bigr) s^2 .$$

Nadeau and Bengio, "Inference for the Generalization Error", Machine Learning 52 (2003).
Efron, "Better Bootstrap Confidence Intervals", JASA 82 (1987).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from whet.errors import InputError

ENOUGH = 10  # pairs that a bootstrap takes: below, its intervals are far too narrow


def widening(n: int, judged: int, trained: int) -> float:
    """By how much the standard error grows where a claim is about new data.

    >>> widening(5, 100, 500)
    1.4142135623730951
    """
    return math.sqrt(1 + n * judged / trained)


def bootstrap(gains: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The bias-corrected and accelerated (BCa) bootstrap interval of the mean.

    Args:
        gains: one for each seed, at least ten.
        confidence: of the interval.

    Raises:
        InputError: with fewer than ten, or where all are equal.

    >>> low, high = bootstrap([0.1, 0.2, 0.2, 0.3, 0.1, 0.4, 0.2, 0.3, 0.2, 0.3])
    >>> 0.15 < low < 0.23 < high < 0.31
    True
    """
    if len(gains) < ENOUGH:
        raise InputError(
            f"a bootstrap of {len(gains)} seeds would give intervals far too narrow: it takes "
            f"{ENOUGH}. Use the t interval, or train more seeds."
        )
    if min(gains) == max(gains):
        raise InputError("all gains are equal: there is nothing to resample.")
    import numpy as np
    from scipy import stats

    found = stats.bootstrap(
        (np.asarray(gains, float),), np.mean, confidence_level=confidence, method="BCa",
        random_state=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
