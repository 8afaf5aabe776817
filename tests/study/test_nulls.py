"""Family-wise error and coverage of what a study says, where the truth is known.

`evidence/nulls.py` holds the longer version; these are the bounds that hold, and those that do not.
"""

import json

import numpy as np
import pytest

from evidence import nulls, real_nulls
from evidence.nulls import ALONE, END, KINDS, MIXED, TOGETHER, Truth
from whet.study.statistics import family, paired

STUDIES = 4000
NOISE = 3 * (0.05 * 0.95 / STUDIES) ** 0.5  # three standard errors of a share near 5 %


@pytest.fixture
def maker() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_bounds_hold_where_placements_have_three_arms(
    kind: str, n: int, correlation: float, maker: np.random.Generator
) -> None:
    truth = Truth(kind, n, correlation)
    d = truth.draw(STUDIES, maker)
    assert nulls.wrong(nulls.holm_p(d, MIXED)) <= 0.05 + NOISE
    assert nulls.coverage(d, truth, MIXED).min() >= 0.93


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("kind", ["normal", "heavy"])
def test_alone_they_hold_for_symmetric_differences(
    kind: str, n: int, maker: np.random.Generator
) -> None:
    truth = Truth(kind, n)
    d = truth.draw(STUDIES, maker)
    assert nulls.wrong(nulls.holm_p(d, ALONE)) <= 0.05 + NOISE
    assert nulls.coverage(d, truth, ALONE).min() >= 0.93


@pytest.mark.parametrize("n", [3, 5, 10])
def test_alone_they_fail_for_skewed_ones_and_by_how_much(
    n: int, maker: np.random.Generator
) -> None:
    """What docs/statistics.md says of a single arm in its placement."""
    truth = Truth("skewed", n)
    d = truth.draw(STUDIES, maker)
    assert 0.15 < nulls.wrong(nulls.holm_p(d, ALONE)) < 0.33
    assert 0.87 < nulls.coverage(d, truth, ALONE).mean() < 0.91


@pytest.mark.parametrize("kind", ["normal", "heavy"])
def test_flips_hold_whatever_the_distribution_while_it_is_symmetric(
    kind: str, maker: np.random.Generator
) -> None:
    d = Truth(kind, 7, 0.5).draw(1500, maker)
    assert nulls.wrong(nulls.max_t_p(d)) <= 0.05 + 3 * (0.05 * 0.95 / 1500) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_errors_stay_rare_beside_arms_that_do_much(kind: str, maker: np.random.Generator) -> None:
    null = np.arange(10) % 2 == 0
    d = Truth(kind, 6, 0.5, effect=np.where(null, 0.0, 20.0)).draw(STUDIES, maker)
    assert nulls.wrong(nulls.holm_p(d, MIXED), null) <= 0.05 + NOISE


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_an_effect_of_the_margin_is_rarely_called_none(
    kind: str, n: int, maker: np.random.Generator
) -> None:
    d = Truth(kind, n, effect=3.0, scale=(1.0,) * 10).draw(STUDIES, maker)
    assert nulls.false_equivalence(d, MIXED, 3.0) <= 0.05 + NOISE


def test_arms_at_the_end_keep_their_power(maker: np.random.Generator) -> None:
    """A floor across placements would destroy it."""
    effect = np.where(END, 4.0, 0.0)
    d = Truth("normal", 5, effect=effect).draw(STUDIES, maker)
    own, placed, across = (
        float((nulls.holm_p(d, groups)[:, END] < nulls.ALPHA).mean())
        for groups in (ALONE, MIXED, TOGETHER)
    )
    assert placed > own - 0.03
    assert placed > 0.9
    assert across < 0.05


def test_an_arm_that_varies_wildly_does_not_hide_the_others(maker: np.random.Generator) -> None:
    scale = (10.0, *nulls.SCALE[1:])
    effect = np.where(np.arange(10) == 1, 4.0, 0.0)
    d = Truth("normal", 5, effect=effect, scale=scale).draw(STUDIES, maker)
    assert (nulls.holm_p(d, MIXED)[:, 1] < nulls.ALPHA).mean() > 0.88
    plain = d.var(-1, ddof=1)[:, :4].mean(-1)  # the trap: a mean with the outlier in it
    t = np.abs(d[:, 1].mean(-1)) / np.sqrt(np.maximum(d[:, 1].var(-1, ddof=1), plain) / 5)
    assert (t > 5.6).mean() < 0.05  # the level of Holm's first step


class TestErrors:
    """The standard error against its definition, one arm after the other."""

    def test_definition(self, maker: np.random.Generator) -> None:
        for _ in range(200):
            arms, n = maker.integers(1, 9), maker.integers(3, 7)
            d = maker.normal(size=(arms, n))
            d[maker.random(arms) < 0.2] *= 8
            d[maker.random(arms) < 0.1] = 0.0
            groups = maker.integers(0, 2, arms)
            found = family.spread(d, groups)
            for arm in range(arms):
                assert found.error[arm] ** 2 * n == pytest.approx(self.by_hand(d, groups, arm))

    def by_hand(self, d: nulls.Real, groups: nulls.Real, arm: int) -> float:
        if not d[arm].any():
            return 0.0
        same = [np.var(each, ddof=1) for each, group in zip(d, groups, strict=True)
                if group == groups[arm] and each.any()]  # fmt: skip
        if len(same) > 2:
            same = [each for each in same if each <= 10 * np.median(same)]
        return max(float(np.var(d[arm], ddof=1)), float(np.mean(same)))

    def test_arms_with_fewer_seeds_weigh_less(self) -> None:
        d = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 4.0, np.nan, np.nan], [0.0, 1.0, 0.0, 1.0]])
        found = family.spread(d, np.zeros(3, int))
        own = [5 / 3, 4.5, 1 / 3]
        floor = (3 * own[0] + 1 * own[1] + 3 * own[2]) / 7
        assert found.error**2 * found.n == pytest.approx([max(each, floor) for each in own])

    def test_no_p_is_below_the_paired_t_tests(self, maker: np.random.Generator) -> None:
        from scipy import stats

        d = Truth("normal", 4).draw(200, maker)
        p = family.p_values(family.spread(d, MIXED))
        assert (p >= stats.ttest_1samp(d, 0.0, axis=-1).pvalue - 1e-12).all()

    def test_one_study_and_many_give_the_same(self, maker: np.random.Generator) -> None:
        """What simulations run is what a study runs."""
        d = Truth("skewed", 7).draw(5, maker)
        many, flipped = nulls.holm_p(d, MIXED), nulls.max_t_p(d)
        for one, p, p_flips in zip(d, many, flipped, strict=True):
            made = [
                {"arm": arm, "seed": seed, "status": "done", "metrics": {"judge": {"m": value}}}
                for arm, values in [("baseline", np.zeros(7)), *enumerate(one)]
                for seed, value in enumerate(values)
            ]
            places = dict(enumerate(np.array(["whole", "start", "end"])[MIXED]))
            found = paired(made, "m", True, placements=places)
            assert [each.p_holm for each in found] == pytest.approx(list(p))
            assert [each.p_max_t for each in found] == pytest.approx(list(p_flips))


def test_what_was_trained_for_real_is_what_the_file_says() -> None:
    held = json.loads(real_nulls.OUT.read_text(encoding="utf-8"))
    again = real_nulls.summary(np.array(held["differences"], float))
    assert {name: held[name] for name in again} == json.loads(json.dumps(again))
    for n in (3, 5, 6):
        assert held[f"{n} seeds"]["family-wise error"] <= 0.05
        assert held[f"{n} seeds"]["coverage"] >= 0.93
    assert held["6 seeds"]["family-wise error of max-T"] <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
