"""Paired comparisons, recomputed by independent code, and every edge that has no spread."""

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from whet.errors import InputError
from whet.study import statistics
from whet.study.plan import Row
from whet.study.statistics import Comparison, paired

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
    for each in tested:
        seeds = sorted(set(values[each["arm"]]) & set(values["baseline"]))
        arm = [values[each["arm"]][seed] for seed in seeds]
        test = stats.ttest_rel(arm, [values["baseline"][seed] for seed in seeds])
        interval = test.confidence_interval(0.95)
        assert each["n"] == len(seeds)
        assert each["p"] == pytest.approx(test.pvalue, rel=1e-9)
        assert (each["low"], each["high"]) == pytest.approx(tuple(interval), rel=1e-9)
    everyone = [each for each in table if each["p"] is not None]
    assert [each["p_holm"] for each in everyone] == pytest.approx(
        holm([each["p"] for each in everyone])
    )


def test_verdicts_of_the_toy_study(folder: Path) -> None:
    table = json.loads((folder / "verdicts.json").read_text())["comparisons"]
    assert {each["arm"]: each["verdict"] for each in table} == {
        "good": "helps", "bad": "hurts", "noise": "no effect found", "<script>": "helps",
        "same": "identical to the baseline", "raises": "failed in every seed",
        "mistake": "failed in every seed", "killed": "no effect found",
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
        found = list(compare(rows(baseline=list(base), **arms)).values())
        raw = [stats.ttest_rel(values, base).pvalue for values in arms.values()]
        assert [each.p_holm for each in found] == pytest.approx(holm(raw))
        for each in found:
            assert each.gain is not None and each.p_holm is not None  # noqa: PT018
            sign = "helps" if each.gain > 0 else "hurts"
            assert each.verdict == (sign if each.p_holm < HOLM else "no effect found")
            verdicts.append(each.verdict)
    assert set(verdicts) == {"helps", "hurts", "no effect found"}


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
        found = compare(results)["b"]
        assert found.p is not None
        assert found.p_holm == pytest.approx(2 * found.p)


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
        results = rows(baseline=[0.1, 0.2, 0.3, 0.4], a=[0.2, math.nan, math.inf])
        found = compare([*results, row("a", 3, None)])["a"]
        assert [seed for seed, _ in found.left_out] == [1, 2, 3]
        assert {reason for _, reason in found.left_out} == {"without a finite m"}

    def test_a_study_cut_short(self) -> None:
        found = compare(rows(baseline=[0.1, 0.2], a=[0.2]))["a"]
        assert (found.n, found.left_out) == (1, ((1, "not run yet"),))
        assert compare(rows(a=[0.2]))["a"].left_out == ((0, "baseline not run yet"),)

    def test_failed_in_every_seed(self) -> None:
        results = [*rows(baseline=[0.1, 0.2]), *(row("a", s, None, "failed") for s in range(2))]
        assert compare(results)["a"].verdict == "failed in every seed"


def test_cost_is_the_median_ratio() -> None:
    results = rows(baseline=[0.1, 0.2, 0.3])
    results += [row("a", seed, 0.2, cost=cost) for seed, cost in enumerate([2.0, 2.2, 9.0])]
    assert compare(results)["a"].cost == pytest.approx(2.2)


def test_mistakes() -> None:
    with pytest.raises(InputError, match="two results of arm 'a' and seed 0"):
        compare([row("a", 0, 1.0), row("a", 0, 1.0)])
    with pytest.raises(InputError, match="confidence"):
        paired([], "m", True, confidence=95)


def test_ranked_by_gain_with_empty_arms_last() -> None:
    results = rows(baseline=[0.1, 0.2], a=[0.1, 0.2], b=[0.3, 0.4])
    results.append(row("c", 0, None, "failed"))
    assert [each.arm for each in statistics.ranked(compare(results).values())] == ["b", "a", "c"]
