r"""Max-T: family-wise p values from all sign flips, without a belief about the distribution.

If a method does nothing, arm and baseline of a seed could change places: the seed's difference
has either sign with equal chance. So every vector of signs, the same one for all arms because they
share the seed, gives a set of differences that was as likely as the one observed. With
$t_a(\sigma)$ the paired t statistic of arm $a$ under signs $\sigma$, and $a_1, a_2, \dots$ the
arms from the largest observed $t$ to the smallest,

$$p_{a_i} = \max_{j \le i}\; 2^{-n}\, \bigl|\{\sigma : \max_{k \ge j} t_{a_k}(\sigma) \ge
t_{a_j}\}\bigr|,$$

the step-down of Westfall and Young. It is exact under that symmetry, whatever the distribution,
and arms that vary together cost less than under Holm. It is no remedy for skewed differences,
which are not symmetric. The smallest p is $2^{1-n}$: below six pairs it cannot reach 0.05.

Each arm stands on its own variance here, without the floor of
`whet.study.statistics.family`. Under flips an arm with a large effect has a large variance; a floor
made of it would shrink the statistics of all others, and an arm that does nothing would look
significant beside one that does much.

Westfall and Young, "Resampling-Based Multiple Testing", Wiley (1993).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whet.study.statistics.family import spread

if TYPE_CHECKING:
    from whet.study.statistics.family import Real

FLIPS, MOST = 6, 14  # pairs from which and up to which all sign vectors are gone through
TIE = 1e-9  # relative: a sum in another order is no smaller statistic


def max_t(d: Real, scale: Any = 0.0) -> Real:
    """Adjusted p of each arm, (..., arms), from differences (..., arms, seeds).

    NaN for all below six and beyond 14 seeds; arms with fewer than six pairs are to be left out by
    the caller. Cost: 2^(n-1) times that of the statistic, about a second for 40 arms and 14 seeds.
    """
    import numpy as np

    if not FLIPS <= d.shape[-1] <= MOST:
        return np.full(d.shape[:-1], np.nan)
    alone = np.arange(d.shape[-2])
    observed: Real = spread(d, alone, scale).t
    flipped = spread(_signs(d.shape[-1])[:, None, :] * d[..., None, :, :], alone, scale).t
    order = np.argsort(observed, axis=-1, kind="stable")  # smallest first
    ranked = np.take_along_axis(observed, order, -1)
    flipped = np.take_along_axis(flipped, order[..., None, :], -1)
    largest = np.maximum.accumulate(flipped, -1)
    p: Real = (largest >= ranked[..., None, :] * (1 - TIE)).mean(-2)
    p = np.flip(np.maximum.accumulate(np.flip(p, -1), -1), -1)
    back = np.argsort(order, axis=-1, kind="stable")
    return np.take_along_axis(p, back, -1)


def _signs(n: int) -> Real:
    """Half of the sign vectors, (2^(n-1), n): a vector and its opposite give the same t."""
    import numpy as np

    bits = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1
    return np.where(bits == 1, -1.0, 1.0)
