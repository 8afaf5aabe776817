"""What fits into a span of time."""

import numpy as np
import pytest
from scipy import stats

from whet.errors import InputError
from whet.study import budget, statistics
from whet.study.budget import Cost
from whet.study.plan import Arm

ARMS = [Arm("baseline"), Arm("a"), Arm("b"), Arm("c")]
COSTS = {arm.name: Cost(begin=1.0, update=0.09, judge=0.0) for arm in ARMS}  # 10 s at 100 updates


def choose(
    available: float, seeds: int | None = None, jobs: int = 1, arms: list[Arm] = ARMS
) -> budget.Choice:
    return budget.choose(arms, COSTS, 100, 6, jobs, available / budget.RESERVE, seeds, 5)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2D", 172800), (" 8 h ", 28800)],
)
def test_spans_of_time(text: str, seconds: float) -> None:
    assert budget.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "8", "h", "-1h", "0m", "1h30m", "1e3s", "8 hours"])
def test_what_is_no_span_of_time_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"no span of time\. Write it as 90s"):
        budget.seconds(text)


@pytest.mark.parametrize(
    ("available", "seeds", "share", "arms"),
    [
        (1000, 10, 1.0, 4),  # room: more seeds, up to ten
        (280, 7, 1.0, 4),
        (200, 5, 1.0, 4),
        (121, 3, 1.0, 4),  # seeds go first
        (66, 3, 0.5, 4),  # then the length: 5.5 s a run
        (40, 3, 0.25, 4),  # 3.25 s a run
        (30, 3, 0.25, 3),  # then arms, from the end
        (20, 3, 0.25, 2),
    ],
)
def test_seeds_then_length_then_arms(available: float, seeds: int, share: float, arms: int) -> None:
    made = choose(available)
    assert (made.seeds, made.share, len(made.arms)) == (seeds, share, arms)
    assert made.arms == ARMS[:arms]
    assert made.seconds <= available


def test_seeds_that_were_asked_for_stay() -> None:
    assert choose(1000, seeds=4).seeds == 4
    assert (choose(125, seeds=4).seeds, choose(125, seeds=4).share) == (4, 0.5)


def test_several_runs_at_a_time() -> None:
    assert choose(61, jobs=2).share == 1.0
    assert choose(59, jobs=2).share == 0.5


def test_too_little_says_what_it_would_take() -> None:
    with pytest.raises(InputError, match="is too little: the baseline and a with 3 seeds"):
        choose(10)


def test_what_it_gives_up_is_said() -> None:
    notes = choose(30).notes
    assert notes[0].startswith("The budget gives 3 arms with 3 seeds and 25 updates each, about")
    assert notes[1] == "It leaves no time for c."
    assert "0.25 of the task's 100 updates" in notes[2]
    assert "will not be able to show effects much below" in notes[3]
    assert "no verdict; it takes 3" in choose(1000, seeds=2).notes[-1]


def test_an_arm_goes_with_those_that_are_held_against_it() -> None:
    arms = [*ARMS[:2], Arm("all"), Arm("all without a", reference="all"),
            Arm("all without b", reference="all")]  # fmt: skip
    costs = {arm.name: COSTS["a"] for arm in arms}
    made = budget.choose(arms, costs, 100, 6, 1, 30 / budget.RESERVE, None, 5)
    assert [arm.name for arm in made.arms] == ["baseline", "a"]  # `all` alone was not asked for


def test_the_detectable_effect_is_found_in_four_of_five_studies() -> None:
    seeds, arms = 5, 8
    effect = statistics.detectable(seeds, 1.0, 0.05 / arms)
    assert f"below {effect:.1f} times" in budget._resolution(seeds, arms)
    draws = np.random.default_rng(0).normal(effect, 1.0, (20_000, seeds))
    p = stats.ttest_1samp(draws, 0.0, axis=1).pvalue
    assert (p < 0.05 / arms).mean() == pytest.approx(0.8, abs=0.01)
