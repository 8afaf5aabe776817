"""What fits into a span of time."""

import numpy as np
import pytest
from scipy import stats

from whet.errors import InputError
from whet.study import budget, design, statistics
from whet.study.plan import BASELINE, Arm
from whet.study.rehearsal import Rehearsal
from whet.study.timetable import Cost, Timetable, makespan

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
    with pytest.raises(InputError, match="which is too little: the baseline and a with 3 seeds"):
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


# arms that share what they train alike ----------------------------------------------------------
TEN = [Arm(f"m{n}", ({"name": f"m{n}"},)) for n in range(10)]
CARDS = [{"name": arm.name, "placements": ["anytime"]} for arm in TEN]


def both(part: str) -> list[Arm]:
    """Ten methods at a part of training: each alone, all of them, and all but each."""
    found, _ = design.placed(TEN, [part], CARDS)
    made = [Arm(BASELINE), *found[part]]
    together = tuple(arm.methods[0] for arm in found[part])
    made.append(Arm("all", together))
    return made + [
        Arm(f"without {arm.name}", tuple(s for s in together if s is not arm.methods[0]))
        for arm in found[part]
    ]


def costs_of(arms: list[Arm], cost: Cost) -> dict[str, Cost]:
    return {arm.name: cost for arm in arms}


@pytest.mark.parametrize(("part", "trainings"), [("end", 0.75 + 22 * 0.25), ("whole", 22.0)])
def test_ten_methods_at_the_end_are_budgeted_as_they_are_trained(
    part: str, trainings: float
) -> None:
    arms = both(part)
    costs = costs_of(arms, Cost(0.0, 0.01, 0.0, [[0.0, 0.75, 0.01], [0.75, 1.0, 0.01]]))
    assert Timetable(arms, costs, 8).takes(100, 1, jobs=1) == pytest.approx(trainings)
    assert Timetable(arms, costs, 8).takes(100, 3, jobs=1) == pytest.approx(3 * trainings)
    made = budget.choose(arms, costs, 100, 8, 1, 3 * trainings / budget.RESERVE + 0.01, None, 3)
    assert (made.seeds, made.share, len(made.arms)) == (3, 1.0, len(arms))
    assert made.seconds == pytest.approx(3 * trainings)


def test_a_part_of_training_has_the_pace_that_was_measured_there() -> None:
    sam = Arm("sam", ({"name": "sam", "during": [0.75, 1.0]},))
    costs = {
        BASELINE: Cost(1.0, 0.1, 0.5, [[0.0, 1.0, 0.1]]),
        "sam": Cost(2.0, 0.125, 0.5, [[0.0, 0.75, 0.1], [0.75, 1.0, 0.2]]),
    }
    table = Timetable([Arm(BASELINE), sam], costs, evaluations=8)
    assert [node.until for node in table.nodes] == [0.75, None, None]
    trunk, base, late = (table.seconds(n, 100) for n in range(3))
    assert trunk == pytest.approx(1.0 + 75 * 0.1 + 6 * 0.75 * 0.5)
    assert base == pytest.approx(1.0 + 25 * 0.1 + (6 * 0.25 + 2) * 0.5)
    assert late == pytest.approx(2.0 + 25 * 0.2 + (6 * 0.25 + 2) * 0.5)


def test_a_stage_that_follows_is_as_long_as_it_is() -> None:
    arms = [Arm(BASELINE), Arm("baseline@after", after=()),
            Arm("sam@after", reference="baseline@after", after=({"name": "sam"},))]  # fmt: skip
    paces = [[0.0, 1.0, 0.1], [1.0, 2.0, 0.2]]
    costs = costs_of(arms, Cost(0.0, 0.15, 0.0, paces)) | {BASELINE: Cost(0.0, 0.1, 0.0)}
    assert Timetable(arms, costs, 8, after=0.25).takes(100, 1, 1) == pytest.approx(
        10 + 2 * 25 * 0.2
    )


def test_methods_that_look_ahead_share_no_training_that_ends() -> None:
    arms = [Arm(BASELINE), Arm("half", ({"name": "swa", "during": [0.0, 0.5]},)),
            Arm("whole", ({"name": "swa"},))]  # fmt: skip
    costs = costs_of(arms, Cost(0.0, 0.01, 0.0))
    assert Timetable(arms, costs, 8).takes(100, 1, 1) == pytest.approx(2.5)
    assert Timetable(arms, costs, 8, ahead={"swa"}).takes(100, 1, 1) == pytest.approx(3.0)


def test_other_data_is_other_training() -> None:
    late = ({"name": "sam", "during": [0.75, 1.0]},)
    arms = [Arm(BASELINE), Arm("sam", late), Arm("b", data=0.1), Arm("s", late, data=0.1)]
    costs = costs_of(arms, Cost(0.0, 0.01, 0.0))
    assert Timetable(arms, costs, 8).takes(100, 1, 1) == pytest.approx(2 * 1.25)


@pytest.mark.parametrize(
    ("seconds", "parents", "jobs", "ends"),
    [
        ([3, 1, 1], [None, 0, 0], 1, 5), ([3, 1, 1], [None, 0, 0], 2, 4),
        ([3, 1, 2], [None, 0, None], 2, 4),  # the second worker does not wait for the trunk
        ([1, 1, 1, 1], [None, 0, 1, None], 2, 3), ([2, 2, 2], [None] * 3, 2, 4), ([], [], 2, 0),
    ],
)  # fmt: skip
def test_a_branch_waits_for_its_trunk(
    seconds: list[float], parents: list[int | None], jobs: int, ends: float
) -> None:
    assert makespan(seconds, parents, jobs) == ends


def test_a_rehearsed_row_gives_the_cost_of_a_run() -> None:
    """Four updates of each of two parts, of 1 s each to begin with."""
    row = {"status": "done", "seconds": 2 * 1.0 + 4 * 0.1 + 4 * 0.3 + 2 * 0.05, "updates": 8,
           "seconds_per_update": 0.15, "judging": 0.05,
           "paces": [[0.0, 0.75, 0.1], [0.75, 1.0, 0.3]]}  # fmt: skip
    cost = Rehearsal({"late": row}).costs()["late"]
    assert cost.begin == pytest.approx(1.0)
    assert cost.updating(0.0, 1.0) == pytest.approx(0.15)
    assert cost.updating(0.75, 1.0) == pytest.approx(0.25 * 0.3)


class TestDropping:
    def kept(self, arms: list[Arm], available: float, whole: bool = False) -> list[str]:
        costs = costs_of(arms, Cost(1.0, 0.09, 0.0))
        made = budget.choose(arms, costs, 100, 6, 1, available / budget.RESERVE, None, 3,
                             whole=whole)  # fmt: skip
        return [arm.name for arm in made.arms]

    def test_a_ladder_loses_its_last_rung(self) -> None:
        settings = tuple({"name": name} for name in "abc")
        rungs = [Arm("+".join("abc"[:n]), settings[:n], "+".join("abc"[: n - 1]) or BASELINE)
                 for n in (1, 2, 3)]  # fmt: skip
        assert self.kept([Arm(BASELINE), *rungs], 30) == ["baseline", "a", "a+b"]

    def test_a_control_goes_with_the_last_arm_that_it_is_for(self) -> None:
        less = [Arm("baseline@data=0.1", data=0.1),
                Arm("a@data=0.1", ({"name": "a"},), "baseline@data=0.1", data=0.1)]  # fmt: skip
        arms = [Arm(BASELINE), Arm("a", ({"name": "a"},)), *less]
        assert self.kept(arms, 39) == [arm.name for arm in arms]
        assert self.kept(arms, 30) == ["baseline", "a"]

    def test_a_screening_is_whole_or_not_at_all(self) -> None:
        with pytest.raises(InputError, match="the 4 runs of the design, of which none can be left"):
            self.kept(ARMS, 30, whole=True)
        assert len(self.kept(ARMS, 40, whole=True)) == 4
