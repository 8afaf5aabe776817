"""All sign flips: against brute force and scipy, and what a careless statistic gets wrong."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from evidence.nulls import Real
from tests.study.test_statistics import rows
from whet.study.statistics import family, flips, paired


def by_hand(d: Real) -> list[float]:
    """Step-down max-T from its definition: every sign vector, one arm after the other."""

    def t(values: Real) -> list[float]:
        return [abs(stats.ttest_1samp(each, 0.0).statistic) for each in values]

    observed = t(d)
    flipped = [t(np.array(s) * d) for s in itertools.product((1, -1), repeat=d.shape[-1])]
    order = sorted(range(len(d)), key=lambda arm: -observed[arm])
    found, largest = dict.fromkeys(order, 0.0), 0.0
    for at, arm in enumerate(order):
        rest = order[at:]
        share = [max(one[k] for k in rest) >= observed[arm] * (1 - 1e-9) for one in flipped]
        found[arm] = largest = max(largest, float(np.mean(share)))
    return [found[arm] for arm in range(len(d))]


@pytest.mark.parametrize("seed", range(4))
def test_brute_force(seed: int) -> None:
    maker = np.random.default_rng(seed)
    d = maker.normal(size=(4, 6)) + np.array([2.0, 0.8, 0.0, 0.4])[:, None]
    assert flips.max_t(d) == pytest.approx(by_hand(d))


@pytest.mark.parametrize("n", [6, 8])
def test_one_arm_is_scipys_permutation_test(n: int) -> None:
    d = np.random.default_rng(n).normal(0.5, 1.0, n)
    test = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert flips.max_t(d[None]) == pytest.approx([test.pvalue])


def test_arms_that_are_one_cost_nothing() -> None:
    """Holm would multiply by ten; flips see that it is the same arm ten times."""
    d = np.random.default_rng(0).normal(1.0, 1.0, 8)
    assert flips.max_t(np.stack([d] * 10)) == pytest.approx([flips.max_t(d[None])[0]] * 10)


def test_identical_and_equal_differences() -> None:
    noise = np.random.default_rng(0).normal(size=6)
    p = flips.max_t(np.stack([np.zeros(6), np.full(6, 0.1), noise]), scale=np.array([0.5] * 3))
    assert p[0] == 1.0
    assert p[1] == pytest.approx(2 / 2**6)
    assert p[2] == pytest.approx(flips.max_t(noise[None])[0])


@pytest.mark.parametrize(("n", "known"), [(5, False), (6, True), (14, True), (15, False)])
def test_from_six_to_fourteen_seeds(n: int, known: bool) -> None:
    p = flips.max_t(np.random.default_rng(0).normal(size=(2, n)))
    assert np.isnan(p).all() == (not known)


def test_a_spread_that_others_share_is_no_statistic_for_flips() -> None:
    """The trap: under flips a strong arm's variance is huge, and a floor of it hides the others."""
    maker = np.random.default_rng(0)
    signs = flips._signs(10)
    wrong = right = 0
    for _ in range(100):
        d = maker.normal(size=(2, 10)) + np.array([20.0, 0.0])[:, None]
        right += int(flips.max_t(d)[1] < 0.05)
        one = np.zeros(2, int)
        observed = family.spread(d, one).t[1]
        flipped = family.spread(signs[:, None, :] * d, one).t[:, 1]
        wrong += int((flipped >= observed).mean() < 0.05)
    assert wrong > 50
    assert right <= 12  # 5 expected; beyond 12 once in a thousand


class TestInAStudy:
    def numbers(self, n: int) -> dict[str, list[float]]:
        maker = np.random.default_rng(1)
        base = maker.normal(0.8, 0.02, n)
        return {
            "baseline": list(base), "good": list(base + maker.normal(0.05, 0.01, n)),
            "nothing": list(base + maker.normal(0.0, 0.01, n)),
        }  # fmt: skip

    def test_stands_beside_holm(self) -> None:
        good, nothing = paired(rows(**self.numbers(8)), "m", True)
        assert good.p_max_t == pytest.approx(2 / 2**8)
        assert good.max_t_agrees is True
        assert nothing.p_max_t is not None
        assert nothing.p_max_t > 0.05
        assert nothing.max_t_agrees is True

    def test_only_from_six_pairs_on(self) -> None:
        assert {e.p_max_t for e in paired(rows(**self.numbers(5)), "m", True)} == {None}
        numbers = self.numbers(7)
        numbers["nothing"] = [*numbers["nothing"][:5], math.nan, math.nan]
        good, nothing = paired(rows(**numbers), "m", True)
        assert good.p_max_t == pytest.approx(2 / 2**7)
        assert (nothing.n, nothing.p_max_t, nothing.max_t_agrees) == (5, None, None)

    def test_a_seed_that_only_one_arm_lacks(self) -> None:
        numbers = self.numbers(8)
        numbers["good"][2] = math.nan
        good, nothing = paired(rows(**numbers), "m", True)
        assert good.p_max_t == pytest.approx(2 / 2**7)  # of its own seven pairs
        assert nothing.p_max_t is not None
