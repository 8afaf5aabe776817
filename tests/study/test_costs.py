"""What arms cost, with intervals; what is missing stays missing."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from whet.study import wording
from whet.study.plan import Row
from whet.study.statistics import Costs, Ratio, paired
from whet.study.statistics.costs import ratio


def row(arm: str, seed: int, step: float | None = 1.0, *points: float, **given: Any) -> Row:
    """A run whose curve has these values at updates 10, 20 and so on."""
    curve = [{"update": 10 * (i + 1), "metrics": {"m": v}} for i, v in enumerate(points)]
    return {
        "arm": arm, "seed": seed, "status": "done", "metrics": {"judge": {"m": 0.5}},
        "seconds_per_update": step, "updates": 100, "curve": curve, "seconds": 999.0,
    } | given  # fmt: skip


def cost(*rows: Row, higher: bool = True, **given: Any) -> Costs:
    (found,) = paired(rows, "m", higher, **given)
    assert found.cost is not None
    return found.cost


def test_interval_of_the_ratio_is_that_of_paired_logs() -> None:
    ours, theirs = [2.0, 2.2, 9.0], [1.0, 1.1, 1.2]
    found = cost(*(row("baseline", s, t) for s, t in enumerate(theirs)),
                 *(row("a", s, t) for s, t in enumerate(ours)))  # fmt: skip
    test = stats.ttest_rel(np.log(ours), np.log(theirs)).confidence_interval(0.95)
    assert found.step is not None
    assert found.step.value == pytest.approx(math.prod([2.0, 2.0, 7.5]) ** (1 / 3))
    assert (found.step.low, found.step.high) == pytest.approx(tuple(np.exp(tuple(test))))
    assert found.step.n == 3


def test_time_to_the_end_is_of_updates_alone() -> None:
    found = cost(row("baseline", 0, 1.0), row("a", 0, 1.5, updates=200))
    assert found.seconds == 300.0  # not the 999 that the run took with its evaluations
    assert found.whole == Ratio(pytest.approx(3.0), None, None, 1)


class TestTarget:
    def rows(self, *curves: tuple[float, ...]) -> list[Row]:
        base = [row("baseline", s, 1.0, 0.3, 0.5, last) for s, last in enumerate((0.7, 0.6, 0.8))]
        return [*base, *(row("a", s, 2.0, *each) for s, each in enumerate(curves))]

    def test_first_update_at_the_baselines_median_final_value(self) -> None:
        found = cost(*self.rows((0.7, 0.9), (0.1, 0.8), (0.2, 0.3, 0.71)))
        assert found.target == 0.7
        assert (found.reached, found.of, found.until) == (3, 3, 40.0)  # of 20, 40 and 60 s
        assert found.baseline_until == 30.0
        assert wording.reached(found) == "40 s (reached in 3 of 3 seeds)"

    def test_not_reached_is_counted(self) -> None:
        found = cost(*self.rows((0.7,), (0.6,), (0.2, 0.3)))
        assert (found.reached, found.of, found.until) == (1, 3, None)
        assert wording.reached(found) == "reached in 1 of 3 seeds"

    def test_half_of_the_baselines_seeds_are_there(self) -> None:
        rows = [row("baseline", s, 1.0, 0.1 * s) for s in range(4)] + [row("a", 0, 1.0, 0.9)]
        assert cost(*rows).baseline_until == 10.0

    def test_lower_is_better(self) -> None:
        found = cost(*self.rows((0.9, 0.7), (0.9,), (0.69,)), higher=False)
        assert (found.reached, found.until) == (2, 40.0)

    def test_no_curve(self) -> None:
        found = cost(row("baseline", 0), row("a", 0))
        assert (found.target, found.of, wording.reached(found)) == (None, 0, wording.NOTHING)


def test_memory_and_passes() -> None:
    rows = [row("baseline", s, peak_memory=100) for s in range(2)]
    rows += [row("a", s, peak_memory=size) for s, size in enumerate((100, 400))]
    found = cost(*rows, passes={"a": "fgm: 2 passes"})
    assert found.memory is not None
    assert found.memory.value == pytest.approx(2.0)
    assert wording.ratio(found.memory).startswith("2.00× (0.00 to ")
    assert found.passes == "fgm: 2 passes"


def test_what_is_missing_stays_missing() -> None:
    found = cost(row("baseline", 0, None, peak_memory=0), row("a", 0, None, updates=0))
    assert (found.step, found.whole, found.memory, found.seconds) == (None,) * 4
    assert wording.ratio(None) == wording.NOTHING
    (absent,) = paired([row("a", 0, status="failed")], "m", True)
    assert (absent.cost, absent.slowdown) == (None, None)


def test_a_seed_that_only_one_of_them_has() -> None:
    found = cost(row("baseline", 0, 1.0), row("a", 0, 2.0), row("a", 1, 50.0))
    assert found.step == Ratio(pytest.approx(2.0), None, None, 1)


@pytest.mark.parametrize(
    "pairs", [[(1e-300, 1e99)], [(1e99, 1e-300)], [(1e99, 1e-300), (1.0, 1.0)]]
)
def test_ratios_beyond_what_a_float_holds(pairs: list[tuple[float, float]]) -> None:
    found = ratio([*pairs], 0.05)
    assert found is not None
    assert 0 < found.value < math.inf
