r"""Errors, p values and levels of a family of arms, on arrays: many families at once.

`d` holds paired differences, shape (..., arms, seeds), NaN where a seed is missing. With $n$
pairs of arm $a$, their mean $\bar d_a$ and variance $s_a^2$, and $\bar s_g^2$ the mean variance of
the arms of its placement $g$ (weighted by $n - 1$, outliers left out),

$$\mathrm{SE}_a^2 = \max(s_a^2, \bar s_g^2) / n,\qquad t_a = \bar d_a / \mathrm{SE}_a .$$

**Why the larger one.** With three seeds an arm's own variance is wrong by a factor of ten one time
in ten, and an arm whose differences happen to lie close together looks certain. What other arms of
the same placement vary by is a floor under it. Placements are kept apart because an arm that
leaves the baseline's path late differs from it less: at a tenth of the variance, a floor from
arms that act on all of training would hide what it does. Among three or more arms one whose
variance is over ten times the median is no measure for the others: with it in the mean, their
chance to be found would fall from 94 % to 1 % (five seeds, an effect of four deviations, one arm of
a hundred times the variance).

**Why n - 1 degrees of freedom.** $|t_a|$ is never larger than that of the arm alone, so with
$t_{n-1}$ no p value is smaller and no interval narrower than the ordinary paired t test's, whatever
the true variances. The $\sum (n - 1)$ degrees of a pooled variance would be right only if all arms
of a placement varied alike, and too many for an arm that varies more than the others, which stands
on its own variance. Where arms do vary alike this errs to the safe side: a family-wise error of
0.2 % at n = 5 where 5 % would be allowed. Power for one arm of ten hardly falls (94 % for 95 %).

**What this holds.** The t test is exact for normal differences. For skewed ones (centred
exponential) it is not: an arm alone in its placement has 88 % coverage at n = 3, and ten such arms
a family-wise error of 19 % at n = 3 and about 30 % at n = 5 to 10. With three arms or more in each
placement the floor brings both back within bounds: at most 2.4 %, and 95.7 % coverage or more.
`python -m evidence.nulls` and `tests/study/test_nulls.py` measure all of this.

Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Real = NDArray[np.float64]
    Whole = NDArray[np.int64]
    Truth = NDArray[np.bool_]

OUTLIER = 10.0  # times the median variance: such an arm is no measure of how others vary
SAME = 1e-12  # of a value's size: rounding of a difference, not a spread


@dataclass(frozen=True)
class Spread:
    """Pairs, mean, own variance and standard error of each arm, shape (..., arms)."""

    n: Whole
    mean: Real
    own: Real
    error: Real

    @property
    def t(self) -> Real:
        """|mean| / error; 0 where both are, infinite where only the error is."""
        import numpy as np

        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.mean == 0, 0.0, np.abs(self.mean) / self.error)


def spread(d: Real, groups: Whole, scale: Any = 0.0, shared: Any = True) -> Spread:
    """The arms' means and standard errors.

    Args:
        d: paired differences, (..., arms, seeds), NaN where there is no pair.
        groups: each arm's placement as a number, (arms,).
        scale: the largest value behind each arm's differences, so that rounding is no spread.
        shared: arms whose variance others may be held to; False for one that diverged.
    """
    import numpy as np

    there = ~np.isnan(d)
    n = there.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(there, d, 0.0).sum(-1) / n
        own = np.where(there, d - mean[..., None], 0.0)
        own = (own * own).sum(-1) / np.where(n > 1, n - 1, np.nan)
    rounding = SAME * np.asarray(scale)
    own = np.where(np.sqrt(own) <= rounding, 0.0, own)
    mean = np.where((own == 0) & (np.abs(mean) <= rounding), 0.0, mean)
    moved = (own > 0) | ((own == 0) & (mean != 0))  # an identical arm says nothing of the noise
    floor = _pooled(own, np.where(moved & shared, n - 1, 0), groups)
    error = np.sqrt(np.where(moved, np.maximum(own, floor), own) / np.maximum(n, 1))
    return Spread(n, mean, own, error)


def _pooled(own: Real, weight: Whole, groups: Whole) -> Real:
    """The mean variance within each arm's placement; 0 where nothing is known."""
    import numpy as np

    floor = np.zeros_like(own)
    for group in np.unique(groups):
        here = groups == group
        values, degrees = own[..., here], weight[..., here]
        degrees = np.where(_alike(values, degrees > 0), degrees, 0)
        total = np.where(degrees > 0, degrees * values, 0.0).sum(-1, keepdims=True)
        floor[..., here] = total / np.maximum(degrees.sum(-1, keepdims=True), 1)
    return floor


def _alike(own: Real, counted: Truth) -> Truth:
    """Arms that are no outliers of their placement; of two arms neither can be told for one."""
    import numpy as np

    count = counted.sum(-1, keepdims=True)
    ranked = np.sort(np.where(counted, own, np.inf), -1)
    most = own.shape[-1] - 1
    places = (np.clip((count - 1) // 2, 0, most), np.clip(count // 2, 0, most))
    lower, upper = (np.take_along_axis(ranked, place, -1) for place in places)
    median = (lower + upper) / 2
    loud = (count > 2) & (median > 0) & (own > OUTLIER * median)
    alike: Truth = counted & ~loud
    return alike


def p_values(found: Spread, factor: Any = 1.0) -> Real:
    """Two-sided p of each arm; 1 where it is identical, NaN where there is no error to hold it to.

    `factor` widens the error.
    """
    import numpy as np
    from scipy.special import stdtr

    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stdtr(found.n - 1, -found.t / factor)
    known = (found.n > 1) & ((found.error > 0) | (found.mean == 0))
    return np.where(known, p, np.nan)


def equivalence(found: Spread, margin: float) -> Real:
    """Two one-sided tests against plus and minus the margin: p; 0 where an arm is identical."""
    import numpy as np
    from scipy.special import stdtr

    with np.errstate(divide="ignore", invalid="ignore"):
        t = (margin - np.abs(found.mean)) / found.error
        p = stdtr(found.n - 1, -t)
    p = np.where((found.error == 0) & (found.mean == 0), 0.0, p)
    return np.where((found.n > 1) & ((found.error > 0) | (found.mean == 0)), p, np.nan)


def half_width(found: Spread, level: Any, factor: Any = 1.0) -> Real:
    """Half the t interval at a level."""
    from scipy.special import stdtrit

    width: Real = stdtrit(found.n - 1, 1 - level / 2) * found.error * factor
    return width


def holm(p: Real, counted: Truth, alpha: float) -> tuple[Real, Real]:
    """Adjusted p values and each arm's step-down level, along the last axis.

    Args:
        p: (..., arms); an arm without a p ranks last and counts all the same.
        counted: the arms that make up the family.
        alpha: the family-wise error.
    """
    import numpy as np

    known = counted & ~np.isnan(p)
    order = np.argsort(np.where(known, p, np.inf), axis=-1, kind="stable")
    ranked = np.take_along_axis(np.where(known, p, np.nan), order, -1)
    left = counted.sum(-1, keepdims=True) - np.arange(p.shape[-1])
    steps = alpha / np.maximum(left, 1)
    passed = np.cumprod(ranked < steps, -1).astype(bool)
    # the first that does not pass keeps its own level, and so do all after it
    first = np.minimum(passed.sum(-1, keepdims=True), p.shape[-1] - 1)
    levels = np.where(passed, steps, np.take_along_axis(steps, first, -1))
    adjusted = np.maximum.accumulate(np.minimum(1.0, left * ranked), -1)
    back = np.argsort(order, axis=-1, kind="stable")
    return tuple(  # type: ignore[return-value]
        np.where(known, np.take_along_axis(each, back, -1), np.nan) for each in (adjusted, levels)
    )
