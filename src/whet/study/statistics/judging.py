"""All that is said of a family of arms: rows in, one `Comparison` an arm out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from whet.errors import InputError
from whet.study.plan import BASELINE, Row
from whet.study.statistics import family, flips, pairing, power, resampling
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
)
from whet.study.statistics.costs import costs
from whet.study.statistics.pairing import Pairs

if TYPE_CHECKING:
    from whet.study.statistics.family import Real, Spread, Truth, Whole


def paired(
    results: Iterable[Row],
    metric: str,
    higher_is_better: bool,
    baseline: str = BASELINE,
    confidence: float = 0.95,
    part: str = "judge",
    *,
    placements: Mapping[str, str] | None = None,
    margin: float | None = None,
    sizes: Mapping[str, int] | None = None,
    passes: Mapping[str, str] | None = None,
) -> list[Comparison]:
    """Compare every arm with the baseline, seed by seed, in the order the arms appear.

    A seed that failed, diverged or has no finite metric in either arm is left out of the pairs
    and listed in `left_out` with its reason.

    Args:
        results: one row for each arm and seed.
        metric: the name of the number that decides.
        higher_is_better: its direction.
        baseline: the arm that others are held against.
        confidence: of the intervals; one minus it is the family-wise error.
        part: where the metric was measured.
        placements: the part of training that each arm acts in; arms of one share what is known of
            the spread. An arm that is not there acts in the whole.
        margin: gains within it count as no difference, in the metric's units; without one there
            is no verdict of equivalence.
        sizes: rows of `train` and `judge`, for intervals that allow for new data.
        passes: what each arm's passes are, to be shown.

    Raises:
        InputError: confidence or margin out of range; two rows of one arm and seed.
    """
    check(confidence, margin)
    arms = pairing.by_arm(results)
    sign = 1 if higher_is_better else -1
    found = [pairing.pairs(arms, arm, baseline, (part, metric)) for arm in arms if arm != baseline]
    places = [(placements or {}).get(each.arm, pairing.WHOLE) for each in found]
    if not found:
        return []
    compared = _Judge(found, places, sign, 1 - confidence, margin, sizes).comparisons()
    spent = {
        arm: costs(rows, arms.get(baseline, {}), metric, sign, confidence, (passes or {}).get(arm))
        for arm, rows in arms.items()
    }
    return [replace(each, cost=spent[each.arm]) for each in compared]


def check(confidence: float, margin: float | None) -> None:
    """Refuse what no interval can be made of.

    Raises:
        InputError: confidence or margin out of range.
    """
    if not 0.5 <= confidence < 1:
        raise InputError(f"confidence is {confidence}; it must be in [0.5, 1).")
    if margin is not None and not 0 < margin < math.inf:
        raise InputError(
            f"margin is {margin}; it is the largest difference that does not matter, above 0 and "
            "in the metric's own units: 0.005 for half a point of accuracy."
        )


class _Judge:
    """Arrays of one family, and what they say of each arm."""

    def __init__(
        self, found: Sequence[Pairs], places: Sequence[str], sign: int, alpha: float,
        margin: float | None, sizes: Mapping[str, int] | None,
    ) -> None:  # fmt: skip
        import numpy as np

        self.found, self.places, self.sign, self.alpha = found, places, sign, alpha
        self.margin, self.sizes = margin, sizes
        seeds = sorted({seed for each in found for seed in each.differences})
        gains = [[sign * each.differences.get(s, math.nan) for s in seeds] for each in found]
        self.gains: Real = np.array(gains, float).reshape(len(found), len(seeds))
        self.groups: Whole = np.array([sorted(set(places)).index(each) for each in places], int)
        self.scale: Real = np.array([each.scale for each in found])
        self.shared: Truth = np.array([not each.diverged for each in found], bool)
        self.spread: Spread = family.spread(self.gains, self.groups, self.scale, self.shared)
        self.counted: Truth = self.spread.n >= FEWEST

    def comparisons(self) -> list[Comparison]:
        """One for each arm, in order."""
        columns: dict[str, Any] = self._single() | self._adjusted()
        if self.margin is not None:
            columns |= self._equivalence(self.margin)
        return [
            _worded(replace(self._counts(i), **{n: _plain(v[i]) for n, v in columns.items()}))
            for i in range(len(self.found))
        ]

    def _counts(self, i: int) -> Comparison:
        each = self.found[i]
        n = len(each.differences)
        return Comparison(
            each.arm, n, tuple((s, self.sign * d) for s, d in each.differences.items()),
            each.left_out, each.diverged, each.seeds, self.places[i], margin=self.margin,
            screening=FEWEST <= n <= SCREENING, verdict=each.absent or TOO_FEW,
        )  # fmt: skip

    def _single(self) -> dict[str, Any]:
        import numpy as np

        s = self.spread
        p = family.p_values(s)
        half = np.where(np.isnan(p), np.nan, family.half_width(s, self.alpha))
        return {
            "gain": s.mean, "difference": self.sign * s.mean, "p": p, "low": s.mean - half,
            "high": s.mean + half, "standard_deviation": np.sqrt(s.own),
            "error": np.where(s.n > 1, s.error, np.nan),
        }  # fmt: skip

    def _adjusted(self) -> dict[str, Any]:
        import numpy as np

        s = self.spread
        p, level = family.holm(family.p_values(s), self.counted, self.alpha)
        half = family.half_width(s, level)
        max_t = self._max_t()
        agree = np.where(np.isnan(max_t) | np.isnan(p), np.nan,
                         (p < self.alpha) == (max_t < self.alpha))  # fmt: skip
        found = {
            "p_holm": p, "level": level, "holm_low": s.mean - half, "holm_high": s.mean + half,
            "p_max_t": max_t, "max_t_agrees": [None if np.isnan(a) else bool(a) for a in agree],
            "detectable": [self._detectable(i, each) for i, each in enumerate(level)],
        }  # fmt: skip
        boot = [self._bootstrap(i) for i in range(len(self.found))]
        found |= {"boot_low": [b[0] for b in boot], "boot_high": [b[1] for b in boot]}
        return found | self._on_new_data(level)

    def _max_t(self) -> Real:
        import numpy as np

        many = self.spread.n >= flips.FLIPS
        found = np.full(len(self.found), np.nan)
        if many.any():
            gains = self.gains[many]
            gains = gains[:, ~np.isnan(gains).all(0)]
            found[many] = flips.max_t(gains, self.scale[many])
        return found

    def _detectable(self, i: int, level: float) -> float:
        error, n = float(self.spread.error[i]), int(self.spread.n[i])
        known = error > 0 and not math.isnan(level)
        return power.detectable(n, error * math.sqrt(n), float(level)) if known else math.nan

    def _bootstrap(self, i: int) -> tuple[float, float]:
        gains = [self.sign * d for d in self.found[i].differences.values()]
        if len(gains) < resampling.ENOUGH or not self.spread.own[i] > 0:
            return math.nan, math.nan
        return resampling.bootstrap(gains, 1 - self.alpha)

    def _on_new_data(self, level: Real) -> dict[str, Any]:
        import numpy as np

        judged, trained = ((self.sizes or {}).get(name) for name in ("judge", "train"))
        if not judged or not trained:
            return {}
        s = self.spread
        factor = np.array([resampling.widening(int(n), judged, trained) for n in s.n])
        p = family.p_values(s, factor)
        half = np.where(np.isnan(p), np.nan, family.half_width(s, self.alpha, factor))
        adjusted, _ = family.holm(p, self.counted, self.alpha)
        return {"new_low": s.mean - half, "new_high": s.mean + half, "new_p": adjusted}

    def _equivalence(self, margin: float) -> dict[str, Any]:
        import numpy as np

        p, _ = family.holm(family.equivalence(self.spread, margin), self.counted, self.alpha)
        verdicts = [None if np.isnan(each) else bool(each < self.alpha) for each in p]
        return {"p_equivalence": p, "equivalent": verdicts}


def _worded(found: Comparison) -> Comparison:
    if found.diverged:
        return replace(found, verdict=f"diverged in {found.diverged} of {found.seeds} seeds")
    return found if found.n < FEWEST else replace(found, verdict=_verdict(found))


def _verdict(found: Comparison) -> str:
    if found.p is None or found.holm_low is None or found.holm_high is None:
        return SPREADLESS
    if found.error == 0:
        return IDENTICAL
    if found.holm_low > 0:
        return HELPS
    if found.holm_high < 0:
        return HURTS
    return EQUIVALENT if found.equivalent else NONE


def _plain(value: Any) -> Any:
    """A Python number or truth; None where there is none."""
    if value is None or isinstance(value, bool):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
