"""The learning rate in the course of training: what a study writes of it, and what is drawn."""

import html
import json
from typing import Any

import pytest
import torch

from tests.engine.tiny import linear, rows
from tests.study import designs
from tests.study.designs import arm
from tests.study.test_page import said
from whet import composition, methods, optim
from whet.method import Method, Resource
from whet.run import Run
from whet.sources import Source
from whet.stage import Stage
from whet.study import courses, shapes
from whet.study.plan import BASELINE, Arm
from whet.study.prepare import Planner
from whet.study.report import facts, plots
from whet.study.request import Request
from whet.task import Task
from whet.tasks import About

HEADING = "Learning rate in the course of training"
WARM = {"name": "cyclic", "cycles": 2, "warmup": 0.1, "floor": 0.05}


def told(schedule: Any, *arms: Arm, updates: int = 100, rate: float | None = 0.1) -> dict[str, Any]:
    about = About(schedule=schedule)
    return courses.of(about, [Arm(BASELINE), *arms], updates, 0.25, rate)


def line(found: dict[str, Any], name: str) -> list[float]:
    [course] = [each for each in found["courses"] if name in each["arms"]]
    assert [at for at, _ in course["points"]] == list(range(len(course["points"])))
    return [share for _, share in course["points"]]


def trained(schedule: Any, *given: Any, updates: int = 24) -> list[float]:
    """The rates under which a real training updates, as shares of the optimizer's."""
    seen: list[float] = []

    class Spy(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            seen.append(self.param_groups[0]["lr"] / 0.1)
            super().step(closure)

    stage = Stage(updates=updates, batch_size=8, schedule=schedule, methods=given,
                  optimizer=lambda model: Spy(model, lr=0.1))  # fmt: skip
    Run(Task(linear(), rows(16)), stage, device="cpu", log=None).fit()
    return seen


class TestCourses:
    @pytest.mark.parametrize(
        "schedule",
        [None, "cosine", WARM, "one_cycle", {"name": "steps"},
         {"name": "OneCycleLR", "max_lr": 0.3, "total_steps": 100},
         {"name": "CosineAnnealingLR", "T_max": 100, "eta_min": 0.01}],
    )  # fmt: skip
    def test_they_are_those_of_the_schedule(self, schedule: Any) -> None:
        found = line(told(schedule), BASELINE)
        assert found == pytest.approx(optim.shares(schedule, 100, 0.1), rel=1e-5)

    @pytest.mark.parametrize("schedule", ["cosine", {"name": "StepLR", "step_size": 5}])
    @pytest.mark.parametrize(
        "given",
        [{"name": "swa", "every": 2, "lr": [0.5, 0.1]}, {"name": "swa"},
         {"name": "swa", "during": [0.25, 0.75]}, {"name": "swa", "lr": None}],
    )  # fmt: skip
    def test_a_method_over_the_schedule_is_drawn_as_it_trains(
        self, schedule: Any, given: dict[str, Any]
    ) -> None:
        found = line(told(schedule, Arm("it", (given,)), updates=24), "it")
        assert found == pytest.approx(trained(schedule, given), rel=1e-5)

    def test_a_method_that_brings_its_own_is_drawn_as_it_trains(self) -> None:
        given = {"name": "snapshot", "cycles": 5}
        found = line(told("cosine", Arm("it", (given,)), updates=24), "it")
        assert found == pytest.approx(trained(None, given), rel=1e-5)

    def test_every_method_that_owns_the_rate_says_which(self) -> None:
        owners = [kind for kind in methods.registry().values()
                  if Resource.LEARNING_RATE in kind().owns]  # fmt: skip
        assert {kind.name for kind in owners} >= {"swa", "snapshot"}
        assert all(kind.rate_share is not Method.rate_share for kind in owners)

    def test_a_stage_that_follows_and_longer_training(self) -> None:
        after, longer = Arm("baseline@after", after=()), Arm("baseline@x2", times=2.0)
        found = told(WARM, after, longer)
        fine = {**WARM, "warmup": 0.0, "peak": 0.1}
        expected = [*optim.shares(WARM, 100), *optim.shares(fine, 25)]
        assert line(found, "baseline@after") == pytest.approx(expected, rel=1e-5)
        assert line(found, "baseline@x2") == pytest.approx(optim.shares(WARM, 200), rel=1e-5)
        assert [each["ends"] for each in found["courses"]] == [[100], [100, 125], [200]]

    def test_arms_of_one_course_stand_together(self) -> None:
        found = told("cosine", arm("ema", "ema"), Arm("swa", ({"name": "swa", "lr": None},)),
                     Arm("baseline@data=0.1", data=0.1))  # fmt: skip
        assert [each["arms"] for each in found["courses"]] == [
            [BASELINE, "ema", "swa", "baseline@data=0.1"]
        ]

    def test_functions_are_asked(self) -> None:
        def falling(optimizer: Any, updates: int) -> Any:
            return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, updates)

        assert line(told(falling), BASELINE) == pytest.approx(optim.shares(falling, 100), rel=1e-5)

    @pytest.mark.parametrize(
        ("schedule", "rate", "why"),
        [
            ("plateau", 0.1, "the schedule is plateau: it goes by evaluations"),
            (lambda optimizer, updates: optim.schedule("plateau", optimizer, updates), 0.1,
             "it goes by evaluations"),
            (lambda optimizer, updates: optimizer.param_groups[7], 0.1, "IndexError"),
            (lambda optimizer, updates: None, None, "an optimizer that is a function"),
            ({"name": "StepLR", "step_size": 3}, None, "an optimizer that is a function"),
        ],
    )  # fmt: skip
    def test_what_training_alone_knows_is_said(self, schedule: Any, rate: Any, why: str) -> None:
        own = Arm("snapshot", ({"name": "snapshot"},))
        found = told(schedule, own, rate=rate)
        [one] = found["untold"]
        assert one["arms"] == [BASELINE]
        assert why in one["why"]
        assert [each["arms"] for each in found["courses"]] == [["snapshot"]]
        assert (
            f"Of baseline no course is drawn: {one['why']}."
            in facts.rates({"rates": found})["said"]
        )  # type: ignore[index]

    def test_a_long_one_keeps_its_heights_and_ends(self) -> None:
        shares = optim.shares({"name": "cyclic", "cycles": 37, "floor": 0.02}, 10_007)
        points = courses.thinned(shares)
        assert len(points) <= courses.MOST
        assert all(share == pytest.approx(shares[at], rel=1e-5) for at, share in points)
        assert [points[0][0], points[-1][0]] == [0, 10_006]
        every = [0, *(at for at in range(1, 10_007) if shares[at] == 1.0 > shares[at - 1])]
        assert {at for at, share in points if share == 1.0} >= set(every)


class TestReport:
    def test_the_figure_has_these_numbers(self) -> None:
        found = told(WARM, Arm("snapshot", ({"name": "snapshot"},)))["courses"]
        _, axes = plots._axes()
        plots._draw(axes, found[1], found[0])
        drawn = [list(map(list, each.get_xydata())) for each in axes.lines]
        assert drawn == [each["points"] for each in found]

    def test_a_course_is_drawn_over_that_of_its_own_baseline(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And over none where that is not known, as beside `plateau`."""
        over = []
        monkeypatch.setattr(plots, "_course", lambda each, other, at: over.append(other) or "")
        fast, slow = (Arm(f"cycles={n}", ({"name": "snapshot", "cycles": n},)) for n in (2, 5))
        held = dict.fromkeys((fast.name, slow.name), BASELINE) | {"a@after": "b@after"}
        plots.courses(told("plateau", fast, slow)["courses"], held)
        assert over == [None, None]
        after = told("cosine", Arm("b@after", after=()), Arm("a@after", after=fast.methods))
        over.clear()
        plots.courses(after["courses"], held)
        assert over == [None, None, after["courses"][1]]

    def test_a_built_in_task_has_it(self) -> None:
        planner = Planner(Request("churn", None, "snapshot,ema", 1, when="whole,after"))
        made, _ = planner.study(planner.designed(planner.found), None)
        assert shapes.wrong(shapes.Study, json.loads(json.dumps(made))) is None
        page = designs.page(made, [])
        section = page[page.index(f"<h2>{HEADING}") :].partition("</section>")[0]
        assert section.count("<svg") == 4  # baseline, snapshot, and both with a stage after
        label = html.unescape(section)
        assert (
            "of baseline, ema as a share of the optimizer's own, over 300 updates: 1 after 0"
            in label
        )
        assert "over 375 updates" in label
        assert "share of the optimizer's rate (0.003) at each update" in said(section)

    def test_studies_of_old_have_none(self) -> None:
        assert HEADING not in designs.everything()
        assert facts.rates({}) is None

    def test_one_rate_is_said_and_not_drawn(self) -> None:
        made = designs.designed(rates=told(None, rate=0.01))
        page = said(designs.page(made, designs.rows(made)))
        assert f"{HEADING} It is the same in every update: 0.01." in page
        assert facts.rates(made)["courses"] == []  # type: ignore[index]

    def test_an_end_that_is_zero_throughout_and_a_single_update(self) -> None:
        course = {"arms": ["a"], "ends": [1], "points": [[0, 0.0]]}
        [panel] = plots.courses([course], {})
        assert "over 1 updates: 0 after 0 updates." in html.unescape(panel.svg)

    @pytest.mark.parametrize(
        "wrong",
        [{"points": []}, {"points": [[0]]}, {"points": [[0, "x"]]}, {"points": [[0, -1.0]]},
         {"points": [[0, float("nan")]]}, {"points": [[0, 1e300]]}, {"ends": []}, {"arms": []}],
    )  # fmt: skip
    def test_files_that_are_wrong_are_refused(self, wrong: dict[str, Any]) -> None:
        made = designs.designed(rates=told("cosine"))
        assert shapes.wrong(shapes.Study, made) is None
        made["rates"]["courses"][0] |= wrong
        assert "rates.courses.0" in str(shapes.wrong(shapes.Study, made))


def test_a_method_that_brings_a_schedule_may_follow_a_training_without_one() -> None:
    """It was held against the tenth of the rate that others have in that stage."""

    def task(seed: int) -> Task:
        return Task(linear(), rows(16), rows(8), rows(8))

    source = Source("task", task, About(updates=8, schedule=None, batch_size=8))
    _, run = composition.compose(
        source, [], 0, after=[{"name": "snapshot", "cycles": 2}], device="cpu", log=None
    )
    assert run.recipe.stages[1].schedule is None
    _, run = composition.compose(source, [], 0, after=[{"name": "ema"}], device="cpu", log=None)
    assert run.recipe.stages[1].schedule == {"name": "constant", "warmup": 0.0, "peak": 0.1}
