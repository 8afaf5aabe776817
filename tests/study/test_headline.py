"""What a report opens with: which arms, in which order, and the remarks that go with each."""

from dataclasses import replace
from typing import Any

import pytest

from tests.study import designs, invented
from tests.study.test_page import said
from whet.study.confirm import (
    CONFIRMED,
    FRESH_ROWS,
    NOT_CONFIRMED,
    REVERSED,
    Confirmation,
    Confirmed,
)
from whet.study.controls import Controlled
from whet.study.families import Family
from whet.study.plan import BASELINE
from whet.study.report.headline import MANY, Headline, headline
from whet.study.statistics import HELPS, HURTS, IDENTICAL, NONE, TOO_FEW, Comparison

STUDY: dict[str, Any] = {"task": {"metric": "accuracy"}, "tuning": designs.TUNING}


def one(arm: str, verdict: str, gain: float | None = 0.01, n: int = 5, **given: Any) -> Comparison:
    ends = {} if gain is None else {"low": gain - 0.005, "high": gain + 0.005}
    return Comparison(arm, n, (), (), 0, n, gain=gain, verdict=verdict, **ends | given)


def made(*comparisons: Comparison, **given: Any) -> Headline:
    values = {"study": STUDY, "rows": [], "further": [], "controlled": [], "again": None,
              "provisional": False, "comparisons": comparisons} | given  # fmt: skip
    return headline(**values)


def lines(found: Headline) -> list[str]:
    return [each.line.text for each in found.shown]


def test_best_first() -> None:
    found = made(
        one("none", "inapplicable", None, 0), one("bad", HURTS, -0.03), one("small", HELPS, 0.01),
        one("unclear", NONE, 0.04), one("same", IDENTICAL, 0.0), one("good", HELPS, 0.02),
    )  # fmt: skip
    assert [each.line.arm for each in found.shown] == [
        "good", "small", "unclear", "same", "bad", "none",
    ]  # fmt: skip
    assert [each.kind for each in found.shown] == [
        "better", "better", "unclear", "unclear", "worse", "unclear",
    ]  # fmt: skip
    assert found.folded == []


@pytest.mark.parametrize("count", [MANY, MANY + 1])
def test_of_many_arms_those_without_a_verdict_are_folded(count: int) -> None:
    several = [one(f"a{i}", NONE, 0.001 * i) for i in range(count - 2)]
    found = made(one("good", HELPS), *several, one("bad", HURTS, -0.02))
    seen = [each.line.arm for each in found.shown]
    assert len(found.shown) + len(found.folded) == count
    assert (seen == ["good", "bad"]) is (count > MANY)
    assert all(each.kind == "unclear" for each in found.folded)


def against(verdict: str, time: str, times: float = 1.5) -> str:
    found = one("x", time, {HELPS: 0.01, HURTS: -0.01}.get(time, 0.0))
    control = Controlled("x", f"baseline@x{times:g}", times, found, "")
    [line] = made(one("x", verdict, -0.02 if verdict == HURTS else 0.02),
                  controlled=[control]).shown  # fmt: skip
    return "; ".join(line.remarks)


@pytest.mark.parametrize(
    ("verdict", "time", "said"),
    [
        (HELPS, HELPS, "beats the plain baseline and the one trained 1.5 times as long"),
        (HELPS, NONE,
         "beats the plain baseline; not shown against the one trained 1.5 times as long"),
        (HELPS, HURTS, "the baseline trained 1.5 times as long is better"),
        (NONE, HELPS, "beats the baseline trained 1.5 times as long"),
        (NONE, NONE, "not shown against the baseline trained 1.5 times as long, either"),
        (NONE, HURTS, "the baseline trained 1.5 times as long is better"),
        (HURTS, NONE, ""),
    ],
)  # fmt: skip
def test_which_baseline_was_beaten(verdict: str, time: str, said: str) -> None:
    assert against(verdict, time) == said


def test_twice_as_long() -> None:
    assert against(HELPS, HELPS, 2.0).endswith("trained twice as long")


def test_a_baseline_that_was_not_tuned_is_said_where_it_matters() -> None:
    untuned = STUDY | {"tuning": None}
    found = made(one("good", HELPS), one("so", NONE, 0.0), one("bad", HURTS, -0.1), study=untuned)
    assert [each.remarks for each in found.shown] == [
        ["beats the plain baseline", "baseline untuned"], [], ["baseline untuned"],
    ]  # fmt: skip
    assert made(one("good", HELPS)).shown[0].remarks == ["beats the plain baseline"]


@pytest.mark.parametrize(
    ("verdict", "word"),
    [(CONFIRMED, "confirmed"), (NOT_CONFIRMED, "not confirmed"),
     (REVERSED, "hurts when tried again"), (TOO_FEW, "not confirmed")],
)  # fmt: skip
def test_what_was_found_again(verdict: str, word: str) -> None:
    first, second = one("x", HELPS, 0.02), one("x", HELPS, 0.012)
    again = Confirmation(FRESH_ROWS, [2000], None, True,
                         [Confirmed("x", BASELINE, first, second, verdict)])  # fmt: skip
    [line] = made(first, again=again).shown
    assert line.remarks[1] == f"{word}: +1.2 points [0.7, 1.7]"
    empty = replace(again, arms=[replace(again.arms[0], found=one("x", TOO_FEW, None, 0))])
    assert made(first, again=empty).shown[0].remarks[1] == word


def test_verdicts_of_an_unfinished_study_are_provisional() -> None:
    found = made(one("x", NONE), one("none", TOO_FEW, None, 0), provisional=True)
    assert [each.remarks for each in found.shown] == [["provisional"], []]


def test_nothing_can_be_said_of_too_few_seeds() -> None:
    found = made(one("x", TOO_FEW, 0.01, n=2, low=None, high=None))
    assert "Nothing can be said yet" in found.instead
    assert lines(found) == ["x: no verdict from 2 seeds (+1.0 points)"]
    assert made(one("x", NONE)).instead == ""


def test_points_are_of_values_that_are_shares() -> None:
    def rows(times: float) -> list[dict[str, Any]]:
        return [invented.row("x", 0, metrics={"judge": {"accuracy": 0.9 * times}})]

    assert made(one("x", HELPS), rows=rows(1.0)).points
    percent = made(one("x", HELPS), rows=rows(100.0))
    assert not percent.points
    assert lines(percent) == ["x helps: accuracy better by 0.010 [0.005, 0.015]"]


def test_without_arms_of_one_method_the_first_question_is_answered() -> None:
    family = Family("effects", "Main effects", "", [one("a", IDENTICAL, 0.0)])
    found = made(further=[family, Family("other", "Other", "", [one("b", NONE)])])
    assert found.about == "Main effects"
    assert lines(found) == ["a: identical to the runs without it"]


def test_methods_after_training_stand_beside_the_others() -> None:
    after = Family("baseline@after", "", "", [one("sam@after", HELPS, 0.03)])
    less = Family("baseline@data=0.1", "", "", [one("sam@data=0.1", HELPS, 0.03)])
    found = made(one("ema", HELPS), further=[after, less])
    assert [each.line.arm for each in found.shown] == ["sam@after", "ema"]
    assert found.about == ""


def test_an_unfinished_study_says_so_before_anything_else() -> None:
    page = designs.unfinished()
    text = said(page)
    assert "25 of 40 runs are there, 2 in progress. What is said below is provisional." in text
    assert "The same command continues the study: whet study pets" in text
    assert page.index("Not complete:") < page.index('class="answer"')
    assert 'class="remark">provisional<' in page
    assert "They are provisional: runs are missing." in text


def test_a_finished_study_is_not_provisional() -> None:
    page = designs.everything()
    assert "provisional" not in page
    assert "Not complete" not in page  # though its trunks have no results
    assert '"until": ' not in page
    assert "runs done" in said(page)
    assert "40 of 40" in said(page)
