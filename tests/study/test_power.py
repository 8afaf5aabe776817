"""What a study could have seen: against numerical integration and by simulation."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from evidence import nulls
from tests.study.test_statistics import rows
from whet.study.statistics import detectable, family, paired


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30])
@pytest.mark.parametrize("level", [0.05, 0.005, 0.0005])
def test_power_is_as_asked(n: int, level: float) -> None:
    """P(mean > edge * s), integrated over the distribution of s."""
    size = detectable(n, 2.0, level)
    edge, shift = stats.t.ppf(1 - level / 2, n - 1), size / 2.0 * math.sqrt(n)

    def beyond(s: float) -> float:
        density = stats.chi2.pdf(s * s * (n - 1), n - 1) * 2 * s * (n - 1)
        return float(stats.norm.sf(edge * s - shift) * density)

    power, _ = integrate.quad(beyond, 0, 8, points=[shift / edge], limit=500)
    assert power == pytest.approx(0.8, abs=1e-3)


def test_scales_with_the_spread_and_asks_more_of_more_arms() -> None:
    assert detectable(5, 3.0, 0.05) == pytest.approx(3 * detectable(5, 1.0, 0.05))
    assert detectable(5, 1.0, 0.005) > detectable(5, 1.0, 0.05) > detectable(8, 1.0, 0.05)


def test_of_an_arm_by_its_own_level_and_error() -> None:
    base = [0.5, 0.52, 0.51, 0.53]
    moves = np.array([[0.05, 0.06, 0.05, 0.055], [0.01, -0.01, 0.005, 0.0]])
    found = paired(rows(baseline=base, a=list(base + moves[0]), b=list(base + moves[1])), "m", True)
    assert [each.level for each in found] == pytest.approx([0.025, 0.05])
    for each in found:
        assert each.error is not None
        assert each.level is not None
        assert each.detectable == pytest.approx(detectable(4, each.error * 2, each.level))


def test_nothing_where_there_is_no_spread() -> None:
    (found,) = paired(rows(baseline=[0.1, 0.2, 0.3], a=[0.1, 0.2, 0.3]), "m", True)
    assert found.detectable is None


@pytest.mark.parametrize("n", [3, 5, 10])
def test_what_is_shown_is_found_in_four_of_five_studies(n: int) -> None:
    """The floor under the error costs power, and stands in what is shown; with three it is 77 %."""
    maker = np.random.default_rng(n)
    level = nulls.ALPHA / 10
    spread = family.spread(nulls.Truth("normal", n).draw(4000, maker), nulls.MIXED)
    shown = np.median(spread.error[:, 0]) * math.sqrt(n) * detectable(n, 1.0, level)
    truth = nulls.Truth("normal", n, effect=np.where(np.arange(10) == 0, shown, 0.0))
    p = nulls.holm_p(truth.draw(4000, maker), nulls.MIXED)
    assert 0.75 < (p[:, 0] < nulls.ALPHA).mean() < 0.95
