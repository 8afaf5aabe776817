"""What is known of one arm, and the words for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from whet.study.statistics.costs import Costs

FEWEST = 3  # pairs that a verdict takes
SCREENING = 3  # pairs up to which a verdict is a reason to look again and no more
HELPS, HURTS, NONE = "helps", "hurts", "not shown"
EQUIVALENT = "no difference within the margin"
IDENTICAL, SPREADLESS = "identical to the baseline", "no verdict: all differences are equal"
TOO_FEW = "too few seeds"


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline. Intervals are of the gain, which is positive where better.

    Args:
        arm: its name.
        n: seeds that could be paired.
        gains: (seed, gain) of each pair.
        left_out: (seed, reason) of each seed that could not be paired.
        diverged: seeds in which the arm diverged.
        seeds: seeds that the arm was run with.
        placement: arms of one placement share what is known of the spread.
        difference: mean of arm minus baseline, in the metric's units.
        gain: the same with the sign that makes better positive.
        standard_deviation: of the arm's own paired differences.
        error: the standard error behind intervals and p; never below the arm's own.
        low, high: the single interval of the gain.
        p: two-sided, of this arm alone.
        p_holm: adjusted for the family of arms.
        level: Holm's level for this arm; `holm_low` and `holm_high` are its interval.
        p_max_t: family-wise p of all sign flips, from six pairs on.
        max_t_agrees: whether both say the same about this arm.
        detectable: the gain that a study like this one finds in four of five times.
        margin: gains within it count as no difference; in the metric's units.
        p_equivalence: of two one-sided tests against the margin, adjusted for the family.
        equivalent: whether the gain was shown to lie within the margin.
        new_low, new_high: the interval that allows for other data of the same kind.
        new_p: two-sided and adjusted for the family, with that wider error.
        boot_low, boot_high: bootstrap interval (BCa), from ten pairs on.
        screening: the verdict stands on three pairs only.
        cost: time and memory, relative to the baseline.
        verdict: what may be said.
    """

    arm: str
    n: int
    gains: tuple[tuple[int, float], ...]
    left_out: tuple[tuple[int, str], ...]
    diverged: int
    seeds: int
    placement: str = "whole"
    difference: float | None = None
    gain: float | None = None
    standard_deviation: float | None = None
    error: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    level: float | None = None
    holm_low: float | None = None
    holm_high: float | None = None
    p_max_t: float | None = None
    max_t_agrees: bool | None = None
    detectable: float | None = None
    margin: float | None = None
    p_equivalence: float | None = None
    equivalent: bool | None = None
    new_low: float | None = None
    new_high: float | None = None
    new_p: float | None = None
    boot_low: float | None = None
    boot_high: float | None = None
    screening: bool = False
    cost: Costs | None = None
    verdict: str = TOO_FEW

    @property
    def slowdown(self) -> float | None:
        """Time per update relative to the baseline's."""
        return None if self.cost is None or self.cost.step is None else self.cost.step.value


def ranked(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Largest gain first, arms without a gain last."""
    return sorted(comparisons, key=lambda each: (each.gain is None, -(each.gain or 0.0)))
