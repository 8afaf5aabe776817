"""Paired comparisons, recomputed by independent code, and every edge that has no spread."""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from scipy import stats

from whet import study
from whet.errors import InputError, UnknownName
from whet.study import statistics
from whet.study.plan import Row
from whet.study.statistics import Comparison, bootstrap, paired, placement

HOLM = 0.05


def row(arm: str, seed: int, value: float | None, status: str = "done", cost: float = 1.0) -> Row:
    metrics = {} if value is None else {"judge": {"m": value}}
    return {"arm": arm, "seed": seed, "status": status, "metrics": metrics,
            "seconds_per_update": cost}  # fmt: skip


def rows(**arms: list[float]) -> list[Row]:
    return [row(arm, seed, value) for arm, values in arms.items()
            for seed, value in enumerate(values)]  # fmt: skip


def compare(results: list[Row], higher: bool = True) -> dict[str, Comparison]:
    return {each.arm: each for each in paired(results, "m", higher)}


def holm(p_values: list[float]) -> list[float]:
    """Holm's adjusted p values, written down from the paper's definition."""
    m, order = len(p_values), np.argsort(p_values)
    return [
        max(min(1, (m - j) * p_values[order[j]]) for j in range(rank + 1))
        for rank in [int(np.flatnonzero(order == i)[0]) for i in range(m)]
    ]


def test_table_is_recomputed_from_the_raw_results(folder: Path) -> None:
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for line in (folder / "results.jsonl").read_text().splitlines():
        raw = json.loads(line)
        if raw["status"] == "done":
            values[raw["arm"]][raw["seed"]] = raw["metrics"]["judge"]["accuracy"]
    table = json.loads((folder / "verdicts.json").read_text())["comparisons"]
    tested = [each for each in table if each["p"] is not None and each["standard_deviation"]]
    assert {each["arm"] for each in tested} == {
        "good", "bad", "noise", "<script>", "diverges", "killed"
    }  # fmt: skip
    gains = {
        each["arm"]: [values[each["arm"]][s] - values["baseline"][s]
                      for s in sorted(set(values[each["arm"]]) & set(values["baseline"]))]
        for each in tested
    }  # fmt: skip
    # the floor: all arms of the study act in the whole of training; one that diverged tells nothing
    own = {arm: (len(d) - 1, np.var(d, ddof=1)) for arm, d in gains.items() if arm != "diverges"}
    assert max(v for _, v in own.values()) < 10 * np.median([v for _, v in own.values()])
    floor = sum(df * v for df, v in own.values()) / sum(df for df, _ in own.values())
    for each in tested:
        d = gains[each["arm"]]
        error = math.sqrt(max(np.var(d, ddof=1), floor) / len(d))
        interval = stats.t.interval(0.95, len(d) - 1, np.mean(d), error)
        assert each["n"] == len(d)
        assert each["p"] == pytest.approx(2 * stats.t.sf(abs(np.mean(d)) / error, len(d) - 1))
        assert (each["low"], each["high"]) == pytest.approx(tuple(interval), rel=1e-9)
    everyone = [each for each in table if each["p"] is not None]
    assert [each["p_holm"] for each in everyone] == pytest.approx(
        holm([each["p"] for each in everyone])
    )


def test_verdicts_of_the_toy_study(folder: Path) -> None:
    table = json.loads((folder / "verdicts.json").read_text())["comparisons"]
    assert {each["arm"]: each["verdict"] for each in table} == {
        "good": "helps", "bad": "hurts", "noise": "not shown", "<script>": "helps",
        "same": "identical to the baseline", "raises": "failed in every seed",
        "mistake": "failed in every seed", "killed": "not shown",
        "exits": "failed in every seed", "diverges": "diverged in 1 of 5 seeds",
        "inapplicable": "inapplicable",
    }  # fmt: skip


def test_interval_at_the_arms_level_agrees_with_holms_p() -> None:
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(60):
        base = rng.normal(size=6)
        shifts = rng.choice([0, 0.5, 1, -1], size=5)
        arms = {f"a{i}": list(base + s + rng.normal(size=6) * 0.6) for i, s in enumerate(shifts)}
        each_alone = {arm: arm for arm in arms}
        results = rows(baseline=list(base), **arms)
        found = list(paired(results, "m", True, placements=each_alone))
        raw = [stats.ttest_rel(values, base).pvalue for values in arms.values()]
        assert [each.p_holm for each in found] == pytest.approx(holm(raw))
        for each in found:
            assert each.gain is not None and each.p_holm is not None  # noqa: PT018
            sign = "helps" if each.gain > 0 else "hurts"
            assert each.verdict == (sign if each.p_holm < HOLM else "not shown")
            verdicts.append(each.verdict)
    assert set(verdicts) == {"helps", "hurts", "not shown"}


def test_lower_is_better_turns_the_gain_and_keeps_the_difference() -> None:
    results = rows(baseline=[0.5, 0.6, 0.55, 0.7], a=[0.4, 0.48, 0.46, 0.59])
    higher, lower = compare(results)["a"], compare(results, higher=False)["a"]
    assert higher.difference == lower.difference == pytest.approx(-0.105)
    assert (higher.gain, lower.gain) == pytest.approx((-0.105, 0.105))
    assert (lower.low, lower.high) == pytest.approx((-higher.high, -higher.low))  # type: ignore[operator]
    assert (higher.verdict, lower.verdict) == ("hurts", "helps")


class TestWithoutSpread:
    def test_identical(self) -> None:
        found = compare(rows(baseline=[0.5, 0.6, 0.7], a=[0.5, 0.6, 0.7]))["a"]
        assert (found.gain, found.low, found.high, found.p) == (0, 0, 0, 1)
        assert found.verdict == "identical to the baseline"

    def test_equal_differences_claim_nothing(self) -> None:
        found = compare(rows(baseline=[0.1, 0.2, 0.3], a=[0.2, 0.3, 0.4]))["a"]
        assert found.gain == pytest.approx(0.1)
        assert (found.low, found.p, found.p_holm) == (None, None, None)
        assert found.verdict == "no verdict: all differences are equal"

    def test_they_still_count_among_the_arms(self) -> None:
        results = rows(baseline=[0.1, 0.2, 0.3], a=[0.2, 0.3, 0.4], b=[0.2, 0.31, 0.42])
        one, two = paired(results, "m", True, placements={"a": "end"})
        assert two.p is not None
        assert two.p_holm == pytest.approx(2 * two.p)
        assert one.verdict == "no verdict: all differences are equal"

    def test_the_spread_of_others_stands_in(self) -> None:
        results = rows(baseline=[0.1, 0.2, 0.3], a=[0.2, 0.3, 0.4], b=[0.2, 0.31, 0.42])
        found = compare(results)["a"]
        assert found.error == pytest.approx(math.sqrt(np.var([0.1, 0.11, 0.12], ddof=1) / 2 / 3))
        assert found.verdict == "helps"


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_seeds(n: int) -> None:
    found = compare(rows(baseline=[0.1, 0.2][:n], a=[0.2, 0.35][:n]))["a"]
    assert (found.n, found.verdict, found.p_holm) == (n, "too few seeds", None)
    assert (found.low is None) == (n == 1)


class TestLeftOut:
    def test_a_diverged_seed_is_never_silent(self) -> None:
        results = rows(baseline=[0.1] * 5, a=[0.2, 0.21, 0.22, 0.23])
        found = compare([*results, row("a", 4, None, "diverged")])["a"]
        assert (found.n, found.verdict) == (4, "diverged in 1 of 5 seeds")
        assert found.left_out == ((4, "diverged"),)

    def test_a_diverged_baseline(self) -> None:
        results = [*rows(a=[0.2, 0.21, 0.23]), *rows(baseline=[0.1, 0.1])]
        found = compare([*results, row("baseline", 2, None, "diverged")])["a"]
        assert found.left_out == ((2, "baseline diverged"),)

    def test_no_finite_value(self) -> None:
        results = rows(baseline=[0.1, 0.2, 0.3, 0.4], a=[1e300, math.nan, math.inf])
        found = compare([*results, row("a", 3, None)])["a"]
        assert [seed for seed, _ in found.left_out] == [0, 1, 2, 3]
        assert {reason for _, reason in found.left_out} == {"without a finite m"}

    def test_a_study_cut_short(self) -> None:
        found = compare(rows(baseline=[0.1, 0.2], a=[0.2]))["a"]
        assert (found.n, found.left_out) == (1, ((1, "not run yet"),))
        assert compare(rows(a=[0.2]))["a"].left_out == ((0, "baseline not run yet"),)

    def test_failed_in_every_seed(self) -> None:
        results = [*rows(baseline=[0.1, 0.2]), *(row("a", s, None, "failed") for s in range(2))]
        assert compare(results)["a"].verdict == "failed in every seed"


def test_mistakes() -> None:
    with pytest.raises(InputError, match="two results of arm 'a' and seed 0"):
        compare([row("a", 0, 1.0), row("a", 0, 1.0)])
    with pytest.raises(InputError, match="confidence"):
        paired([], "m", True, confidence=95)
    for margin in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="margin is"):
            paired([], "m", True, margin=margin)


def test_ranked_by_gain_with_empty_arms_last() -> None:
    results = rows(baseline=[0.1, 0.2], a=[0.1, 0.2], b=[0.3, 0.4])
    results.append(row("c", 0, None, "failed"))
    assert [each.arm for each in statistics.ranked(compare(results).values())] == ["b", "a", "c"]


class TestMargin:
    BASE: ClassVar = [0.50, 0.52, 0.51, 0.53, 0.50, 0.52]

    def one(self, shift: float, spread: float, margin: float | None) -> Comparison:
        moves = np.array([-1.0, 1.0, -0.5, 0.5, 1.0, -1.0]) * spread + shift
        results = rows(baseline=self.BASE, a=list(np.array(self.BASE) + moves))
        (found,) = paired(results, "m", True, margin=margin)
        return found

    def test_p_is_that_of_two_one_sided_tests(self) -> None:
        found = self.one(0.002, 0.004, 0.01)
        gains = [gain for _, gain in found.gains]
        sides = [stats.ttest_1samp(gains, 0.01, alternative="less").pvalue,
                 stats.ttest_1samp(gains, -0.01, alternative="greater").pvalue]  # fmt: skip
        assert found.p_equivalence == pytest.approx(max(sides))

    @pytest.mark.parametrize(
        ("shift", "spread", "margin", "verdict", "equivalent"),
        [
            (0.0, 0.002, None, "not shown", None),  # without a margin nothing is equivalent
            (0.0, 0.002, 0.01, "no difference within the margin", True),
            (0.0, 0.02, 0.01, "not shown", False),
            (0.004, 0.001, 0.01, "helps", True),  # small, and yet it is there
            (0.05, 0.002, 0.01, "helps", False),
            (-0.05, 0.002, 0.01, "hurts", False),
        ],
    )
    def test_verdicts(
        self, shift: float, spread: float, margin: float | None, verdict: str,
        equivalent: bool | None,
    ) -> None:  # fmt: skip
        found = self.one(shift, spread, margin)
        assert (found.verdict, found.equivalent) == (verdict, equivalent)

    def test_equivalences_are_a_family_too(self) -> None:
        moves = np.array([-1.0, 1.0, -0.5, 0.5, 1.0, -1.0]) * 0.004
        arms = {f"a{i}": list(np.array(self.BASE) + moves * (1 + i / 10)) for i in range(4)}
        found = paired(rows(baseline=self.BASE, **arms), "m", True, margin=0.01)
        alone = [stats.t.sf((0.01 - abs(e.gain or 0)) / (e.error or 1), 5) for e in found]
        assert [e.p_equivalence for e in found] == pytest.approx(holm(alone))

    def test_an_identical_arm_is_called_that(self) -> None:
        (found,) = paired(rows(baseline=self.BASE, a=self.BASE), "m", True, margin=0.01)
        assert (found.verdict, found.equivalent) == ("identical to the baseline", True)


def test_three_seeds_are_screening() -> None:
    for n, screening in ((2, False), (3, True), (4, False)):
        base, arm = [0.5, 0.6, 0.55, 0.52][:n], [0.6, 0.71, 0.66, 0.61][:n]
        assert compare(rows(baseline=base, a=arm))["a"].screening is screening


class TestNewData:
    def test_the_error_grows_by_the_share_of_judge_rows(self) -> None:
        results = rows(baseline=[0.5, 0.6, 0.55, 0.52], a=[0.6, 0.71, 0.66, 0.61])
        (found,) = paired(results, "m", True, sizes={"train": 800, "judge": 200})
        assert found.gain is not None
        assert found.error is not None
        assert found.high is not None
        assert found.new_high is not None
        deviation = np.std([g for _, g in found.gains], ddof=1)
        error = deviation * math.sqrt(1 / 4 + 200 / 800)
        assert found.new_high - found.gain == pytest.approx(stats.t.ppf(0.975, 3) * error)
        assert found.new_p == pytest.approx(2 * stats.t.sf(found.gain / error, 3))

    @pytest.mark.parametrize("sizes", [None, {}, {"train": 10}, {"train": 0, "judge": 5}])
    def test_nothing_without_sizes(self, sizes: dict[str, int] | None) -> None:
        results = rows(baseline=[0.5, 0.6, 0.55], a=[0.6, 0.71, 0.66])
        (found,) = paired(results, "m", True, sizes=sizes)
        assert (found.new_low, found.new_p) == (None, None)


class TestBootstrap:
    GAINS: ClassVar = [0.1, 0.2, 0.2, 0.3, 0.1, 0.4, 0.2, 0.3, 0.2, 0.3]

    def test_refused_with_few_seeds_or_no_spread(self) -> None:
        with pytest.raises(InputError, match="bootstrap of 9 seeds would give intervals far too"):
            bootstrap(self.GAINS[:9])
        with pytest.raises(InputError, match="all gains are equal"):
            bootstrap([0.1] * 10)

    @pytest.mark.parametrize(("n", "there"), [(9, False), (10, True)])
    def test_stands_beside_from_ten_seeds_on(self, n: int, there: bool) -> None:
        found = compare(rows(baseline=[0.0] * n, a=self.GAINS[:n]))["a"]
        assert (found.boot_low is not None) is there
        if there:
            assert (found.boot_low, found.boot_high) == bootstrap([g for _, g in found.gains])

    def test_nothing_for_an_identical_arm(self) -> None:
        assert compare(rows(baseline=[0.1] * 10, a=[0.1] * 10))["a"].boot_low is None


class TestPlacements:
    @pytest.mark.parametrize(
        ("arm", "place"),
        [
            ({"name": "fgm@end"}, "end"), ({"name": "fgm"}, "whole"),
            ({"name": "all@start without fgm@start"}, "start"), ({"name": "tta@after"}, "after"),
            ({"name": "fgm@end", "placement": "whole"}, "whole"), ({"name": "a@ending"}, "whole"),
            ({"name": "fgm", "placement": ""}, "whole"),
        ],
    )  # fmt: skip
    def test_by_field_else_by_name(self, arm: dict[str, str], place: str) -> None:
        assert placement(arm) == place

    def test_arms_of_another_placement_are_no_measure(self) -> None:
        base = [0.5, 0.6, 0.55, 0.52]
        quiet = [b + d for b, d in zip(base, [0.010, 0.011, 0.012, 0.011], strict=True)]
        loud = [b + d for b, d in zip(base, [0.10, -0.10, 0.05, -0.07], strict=True)]
        results = rows(baseline=base, quiet=quiet, loud=loud)
        apart, _ = paired(results, "m", True, placements={"quiet": "end"})
        together, _ = paired(results, "m", True)
        assert (apart.verdict, apart.placement) == ("helps", "end")
        assert (together.verdict, together.placement) == ("not shown", "whole")

    def test_an_arm_that_diverged_is_no_measure(self) -> None:
        base, a = [0.5, 0.6, 0.55, 0.52], [0.511, 0.61, 0.561, 0.53]
        results = [*rows(baseline=base, a=a, b=[0.9, 0.1, 0.6]), row("b", 3, None, "diverged")]
        found = compare(results)["a"]
        deviation = np.std([g for _, g in found.gains], ddof=1)
        assert found.error == pytest.approx(deviation / 2)


def test_the_rule_names_its_population_and_margin() -> None:
    said = statistics.rule(0.95, 0.005)
    assert "Seeds vary the split, the initial weights and the order of the data" in said
    assert "within 0.005 of zero" in said
    assert "No margin was given" in statistics.rule()


class TestCompare:
    VALUES: ClassVar = {"adam": [0.80, 0.82, 0.81, 0.79], "ours": [0.84, 0.85, 0.85, 0.83]}

    def rows(self) -> list[tuple[str, int, float]]:
        return [(arm, s, v) for arm, values in self.VALUES.items() for s, v in enumerate(values)]

    def test_tuples_and_mappings(self) -> None:
        (one,) = study.compare(self.rows(), baseline="adam", margin=0.01)
        named = [{"arm": a, "seed": s, "value": v} for a, s, v in self.rows()]
        (two,) = study.compare(named, baseline="adam", margin=0.01)
        assert one == two
        assert (one.verdict, one.slowdown) == ("helps", None)
        test = stats.ttest_rel(self.VALUES["ours"], self.VALUES["adam"])
        assert one.p == pytest.approx(test.pvalue)

    def test_lower_is_better(self) -> None:
        (found,) = study.compare(self.rows(), baseline="adam", higher_is_better=False)
        assert found.verdict == "hurts"

    def test_mistakes(self) -> None:
        with pytest.raises(UnknownName, match=r"unknown baseline 'baseline'.*adam, ours"):
            study.compare(self.rows())
        with pytest.raises(InputError, match="two results of arm 'adam' and seed 0"):
            study.compare([*self.rows(), ("adam", 0, 1.0)], baseline="adam")
        with pytest.raises(InputError, match="value of 'ours', seed 9, is no number: 'x'"):
            study.compare([*self.rows(), ("ours", 9, "x")], baseline="adam")  # type: ignore[list-item]
        with pytest.raises(InputError, match="a row has no seed"):
            study.compare([{"arm": "a", "value": 1}])
        with pytest.raises(AttributeError, match="no attribute 'absent'"):
            study.absent  # noqa: B018
