"""Ladders and pairs, and the contrasts that compare more than two arms."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy import stats

from whet.methods import catalogue
from whet.study import arms, contrasts, design
from whet.study.plan import Arm


def placed(text: str, *parts: str) -> dict[str, list[Arm]]:
    return design.placed(arms.parse(text, catalogue()), parts or ["whole"], catalogue())[0]


def rows(**values: list[float | None]) -> list[dict[str, Any]]:
    return [
        {"arm": arm.replace("_", "+"), "seed": seed, "status": "done" if value else "diverged",
         "metrics": {"judge": {"loss": value}}, "seconds_per_update": 2.0 if "_" in arm else 1.0}
        for arm, each in values.items() for seed, value in enumerate(each)
    ]  # fmt: skip


class TestLadder:
    def test_each_rung_is_held_against_the_one_before_it(self) -> None:
        made = design.designed("ladder", placed("ema,sam,mixup"))
        assert [(arm.name, arm.reference) for arm in made.arms] == [
            ("baseline", "baseline"), ("ema", "baseline"), ("ema+sam", "ema"),
            ("ema+sam+mixup", "ema+sam"),
        ]  # fmt: skip
        assert [s["name"] for s in made.arms[-1].methods] == ["ema", "sam", "mixup"]
        assert made.contrasts["ladder"]["ema+sam"] == {"ema+sam": 1.0, "ema": -1.0}
        assert list(made.contrasts["ladder"]) == ["ema", "ema+sam", "ema+sam+mixup"]
        assert made.notes[0].startswith("The ladder adds ema, sam and mixup, in this order")

    def test_the_order_is_the_users(self) -> None:
        made = design.designed("ladder", placed("mixup,ema"))
        assert [arm.name for arm in made.arms] == ["baseline", "mixup", "mixup+ema"]

    def test_what_clashes_stands_beside_it(self) -> None:
        made = design.designed("ladder", placed("fgm,freelb,ema"))
        assert [arm.name for arm in made.arms] == ["baseline", "fgm", "fgm+ema", "freelb"]
        assert made.arms[-1].reference == "baseline"
        assert made.notes[1].startswith("freelb stands outside of the ladder and has an arm")
        assert "freelb" not in made.contrasts["ladder"]

    def test_each_part_of_training_has_one(self) -> None:
        made = design.designed("ladder", placed("ema,sam", "end", "after"))
        assert [(arm.name, arm.reference) for arm in made.arms[1:]] == [
            ("ema@end", "baseline"), ("ema@end+sam@end", "ema@end"),
            ("baseline@after", "baseline"), ("ema@after", "baseline@after"),
            ("ema@after+sam@after", "ema@after"),
        ]  # fmt: skip
        assert made.arms[-1].after == ({"name": "ema"}, {"name": "sam"})
        assert len(made.contrasts["ladder"]) == 4


class TestPairs:
    def test_every_pair_that_composes(self) -> None:
        made = design.designed("pairs", placed("fgm,freelb,ema"))
        assert [arm.name for arm in made.arms] == [
            "baseline", "fgm", "freelb", "ema", "fgm+ema", "freelb+ema"
        ]  # fmt: skip
        assert {arm.reference for arm in made.arms} == {"baseline"}
        assert list(made.left_out) == ["fgm+freelb"]
        assert "second gradient" in made.left_out["fgm+freelb"]
        assert made.contrasts["interactions"] == {
            "fgm × ema": {"fgm+ema": 1.0, "fgm": -1.0, "ema": -1.0, "baseline": 1.0},
            "freelb × ema": {"freelb+ema": 1.0, "freelb": -1.0, "ema": -1.0, "baseline": 1.0},
        }

    def test_after_a_training(self) -> None:
        made = design.designed("pairs", placed("ema,sam", "after"))
        assert made.arms[-1].reference == "baseline@after"
        assert made.contrasts["interactions"]["ema@after × sam@after"]["baseline@after"] == 1.0


class TestContrasts:
    values = {  # noqa: RUF012
        "baseline": [0.50, 0.60, 0.55, 0.52], "a": [0.45, 0.52, 0.50, 0.48],
        "b": [0.47, 0.55, 0.53, 0.47], "a_b": [0.46, 0.50, 0.47, 0.46],
    }  # fmt: skip
    weights = {"a × b": contrasts.interaction("a+b", "a", "b", "baseline")}  # noqa: RUF012

    def compared(self, weights: dict[str, dict[str, float]], **values: Any) -> Any:
        return contrasts.compared(rows(**{**self.values, **values}), weights, "loss", False)

    def test_an_interaction_is_that_of_four_results_by_hand(self) -> None:
        [found] = self.compared(self.weights)
        base, a, b, both = map(np.array, self.values.values())
        by_hand = -(both - a - b + base)  # a lower loss is better
        test = stats.ttest_1samp(by_hand, 0.0)
        low, high = test.confidence_interval(0.95)
        assert found.arm == "a × b"
        assert [gain for _, gain in found.gains] == pytest.approx(by_hand.tolist())
        assert found.gain == pytest.approx(by_hand.mean())
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
        assert found.p == pytest.approx(test.pvalue)
        assert found.cost.step is None

    def test_the_wrong_sum_takes_the_pairs_gain_for_the_interaction(self) -> None:
        """What A+B gains over the baseline is not what the two add to one another."""
        [found] = self.compared(self.weights)
        [wrong] = self.compared({"a × b": contrasts.difference("a+b", "baseline")})
        assert wrong.gain > 0 > found.gain

    def test_effects_that_add_up_do_not_interact(self) -> None:
        base = [0.5, 0.7, 0.6, 0.9]
        values = {"baseline": base, "a": [v - 0.1 for v in base], "b": [v + 0.03 for v in base],
                  "a_b": [v - 0.07 for v in base]}  # fmt: skip
        [found] = self.compared(self.weights, **values)
        assert (found.gain, found.low, found.high) == (0.0, 0.0, 0.0)
        assert found.verdict.startswith("identical")

    def test_a_difference_is_the_paired_comparison(self) -> None:
        from whet.study import statistics

        [found] = self.compared({"a+b": contrasts.difference("a+b", "a")})
        pair = [row for row in rows(**self.values) if row["arm"] in ("a", "a+b")]
        [wanted] = statistics.paired(pair, "loss", False, "a")
        assert found.gain == pytest.approx(wanted.gain)
        assert (found.low, found.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))
        assert found.p_holm == pytest.approx(wanted.p_holm)
        assert found.cost == wanted.cost
        assert found.slowdown == 2.0

    def test_holm_is_over_the_family(self) -> None:
        both = {"one": contrasts.difference("a", "baseline"),
                "two": contrasts.difference("b", "a")}  # fmt: skip
        one, two = self.compared(both)
        assert one.p_holm == pytest.approx(2 * one.p)
        assert two.p_holm == pytest.approx(max(two.p, one.p_holm))

    def test_a_seed_without_all_results_is_left_out(self) -> None:
        [found] = self.compared(self.weights, a=[0.45, None, 0.50, 0.48], b=[0.47, 0.55, 0.53])
        assert [seed for seed, _ in found.gains] == [0, 2]
        assert dict(found.left_out)[1] == "diverged"
        assert found.diverged == 1

    def test_a_result_that_is_no_number_is_left_out(self) -> None:
        [found] = self.compared(self.weights, a=[0.45, math.inf, 0.50, 0.48])
        assert dict(found.left_out) == {1: "without a finite loss"}


def test_no_torch() -> None:
    code = ("import sys, whet.study.contrasts, whet.study.screening, whet.study.combinations;"
            "print('torch' in sys.modules)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
