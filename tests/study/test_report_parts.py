"""The parts of a report: tables in two directions, shared trainings, curves, small figures."""

import html
import re
from typing import Any

import pytest

from tests.study import designs, invented
from tests.study.designs import arm
from tests.study.test_page import said
from tests.study.test_report import Page
from whet.study import contrasts, curves, drawing, families, figures, statistics, trie, wording
from whet.study.conduct import compare
from whet.study.curves import Curve, Point
from whet.study.families import Family
from whet.study.fractions import AtFraction
from whet.study.plan import BASELINE, Arm, Node
from whet.study.report import checks, facts, grids, plots, sharing
from whet.study.statistics import HELPS, NONE, Comparison

LIMIT = 1_000_000  # bytes


def one(name: str, gain: float | None, verdict: str = NONE, **given: Any) -> Comparison:
    ends = {} if gain is None else {"low": gain - 0.01, "high": gain + 0.01}
    return Comparison(name, 3, (), (), 0, 3, gain=gain, verdict=verdict, **ends | given)


def found(made: dict[str, Any]) -> tuple[list[Comparison], list[Family]]:
    results = designs.rows(made)
    compared, _, further = families.divided(made, results, compare(made, results), 0.95)
    return compared, further


class TestPlacements:
    def test_methods_down_and_parts_across(self) -> None:
        grid = grids.placements(designs.designed(), *found(designs.designed()))
        assert grid is not None
        assert grid.columns == ["first quarter", "whole training", "last quarter"]
        there = {name: [cell.found is not None for cell in cells] for name, cells in grid.rows}
        assert there == {"sam": [True] * 3, "fgm": [False, False, True],
                         "ema": [False, True, False], "ema+sam": [False, True, False]}  # fmt: skip
        instead = dict(grid.rows)["fgm"]
        assert [cell.instead for cell in instead[:2]] == [wording.NOTHING, "not tried"]

    def test_a_stage_after_is_a_part(self) -> None:
        after = Arm("sam@after", (), "baseline@after", "after", ({"name": "sam"},))
        control = Arm("baseline@after", (), BASELINE, "after", ())
        made = designs.study([Arm(BASELINE), arm("sam", "sam"), control, after], 3)
        grid = grids.placements(made, *found(made))
        assert grid is not None
        assert grid.columns == ["whole training", "fine-tuning after"]
        assert [name for name, _ in grid.rows] == ["sam"]

    def test_one_part_needs_no_table(self) -> None:
        made = designs.study([Arm(BASELINE), arm("sam", "sam")], 3)
        assert grids.placements(made, *found(made)) is None

    def test_a_verdict_is_a_sign_and_a_word(self) -> None:
        page = designs.everything()
        section = page[page.index("<h2>Where in training") : page.index("<h2>At equal time")]
        assert re.search(r'class="verdict (better|unclear)">(helps|not shown)<', section)
        assert '.better.verdict::before { content: "\\25B2"; }' in page


class TestData:
    def test_gains_by_fraction(self) -> None:
        grid = grids.by_fraction(designs.designed(), *found(designs.designed()))
        assert grid is not None
        assert grid.columns == ["0.1 of the data", "all data"]
        rows = {name: [cell.found for cell in cells] for name, cells in grid.rows}
        assert [each.arm if each else None for each in rows["ema"]] == ["ema@data=0.1", "ema"]
        assert rows["sam"][0] is None
        assert "ema × sam" not in rows
        assert BASELINE not in rows

    def test_all_data_needs_no_table(self) -> None:
        made = designs.study([Arm(BASELINE), arm("sam", "sam")], 3)
        assert grids.by_fraction(made, *found(made)) is None

    def test_every_arm_has_a_figure_that_says_its_gains(self) -> None:
        several = [AtFraction(0.1, "ema", one("ema@data=0.1", 0.03, HELPS)),
                   AtFraction(1.0, "ema", one("ema", 0.005)),
                   AtFraction(1.0, "none", one("none", None))]  # fmt: skip
        [panel] = plots.gains_by_data(several, "accuracy")
        told = html.unescape(panel.svg)
        assert (
            "Gain in accuracy of ema by the share of the data: +0.030 (+0.020 to +0.040) on 0.1"
            in told
        )
        assert "helps; +0.005" in told
        assert plots.gains_by_data(several[2:], "accuracy") == []


class TestInteractions:
    WEIGHTS = {
        contrasts.crossed("a", "b"): contrasts.interaction("a+b", "a", "b", BASELINE),
        contrasts.crossed("a", "c"): contrasts.interaction("a+c", "a", "c", BASELINE),
    }

    def grid(self, ab: float, ac: float, verdict: str = NONE) -> list[list[grids.Cell]]:
        made = {"arms": [{"name": n} for n in (BASELINE, "a", "b", "c", "a+b", "a+c")],
                "contrasts": {"interactions": self.WEIGHTS},
                "left_out": {"b+c": "they clash"}}  # fmt: skip
        names = list(self.WEIGHTS)
        family = Family("interactions", "", "", [one(names[0], ab, verdict), one(names[1], ac)])
        alone = [one("a", 0.1), one("b", 0.2), one("c", 0.3)]
        [grid] = grids.interactions(made, alone, family)
        assert grid.columns == ["a", "b", "c"]
        return [cells for _, cells in grid.rows]

    def test_a_heat_map_with_gains_alone_on_its_diagonal(self) -> None:
        cells = self.grid(0.04, -0.02, HELPS)
        assert [cells[i][i].found.arm for i in range(3)] == ["a", "b", "c"]  # type: ignore[union-attr]
        assert cells[0][1].found == cells[1][0].found
        assert (cells[0][1].shade, cells[0][1].verdict) == ("hit5", "helps")
        assert cells[0][2].shade == "miss1"  # pale: there is no verdict on it
        assert cells[1][2].instead == "clash"
        assert [cells[i][i].shade for i in range(3)] == ["", "", ""]

    def test_rounding_has_no_colour(self) -> None:
        cells = self.grid(0.04, -1e-17)
        assert cells[0][2].shade == ""

    def test_it_is_in_the_page(self) -> None:
        page = said(designs.everything())
        assert "beside it the interaction of two: blue above zero, orange below" in page


def test_a_screening_shows_which_run_has_which_method() -> None:
    page = designs.screening()
    assert said(page).count("Main effects") == 2  # with the verdicts, and with its own figure
    assert "A study of the design `screening`" in page
    section = page[page.index("Which run has which method") :]
    row = section[section.index("a+b</th>") :].partition("</tr>")[0]
    assert re.findall(">(with|without)<", row) == ["with", "with", "without"]


class TestSharing:
    @pytest.mark.parametrize("methods", [["sam"], ["sam", "fgm"], list(invented.METHODS[:10])])
    def test_costs_are_those_of_the_trie(self, methods: list[str]) -> None:
        arms = [Arm(BASELINE), *(arm(name, name) for name in methods)]
        arms += [arm(f"{name}@{part}", name) for part in designs.DURING for name in methods]
        made = designs.study(arms, 2)
        found = sharing.sharing(made)
        nodes = [Node.from_json(values) for values in made["nodes"]]
        assert found is not None
        assert 2 * found.shared == pytest.approx(trie.cost(nodes))
        assert found.alone == found.arms == len(arms)
        assert found.shared < found.alone
        assert f"cost {found.shared:g} trainings a seed in place of {len(arms)}" in found.said

    def test_branches_begin_where_their_trunk_ends(self) -> None:
        made = designs.study([Arm(BASELINE), arm("sam@end", "sam"), arm("fgm@end", "fgm")], 1)
        [trunk] = sharing.sharing(made).branches  # type: ignore[union-attr]
        assert (trunk.trunk, trunk.begins, trunk.ends) == (True, 0.0, 0.75)
        assert {
            each.name: (each.begins, each.ends, each.cost) for each in trunk.children
        } == dict.fromkeys((BASELINE, "sam@end", "fgm@end"), (0.75, 1.0, 0.25))

    def test_who_rides_along_costs_nothing(self) -> None:
        arms = [Arm(BASELINE), arm("ema", "ema")]

        def node(each: Arm, seed: int) -> Node:
            return Node("pets", each.name, each.methods, seed)

        nodes = trie.grown(arms, [0], node, riding={"ema": BASELINE})
        made = designs.study(arms, 1) | {"nodes": [each.to_json() for each in nodes]}
        found = sharing.sharing(made)
        assert found is not None
        assert found.shared == trie.cost(nodes) == 1.0
        assert [each.rides for each in found.branches] == ["", BASELINE]

    def test_longer_training_and_a_stage_after_are_longer(self) -> None:
        after = Arm("sam@after", (), BASELINE, "after", ({"name": "sam"},))
        made = designs.study([Arm(BASELINE), Arm("baseline@x2", times=2.0), after], 1)
        for values in made["nodes"]:
            if values["arm"] == "sam@after":
                values["options"] = {"after": 0.25}
        found = sharing.sharing(made)
        assert found is not None
        assert found.longest == 2.0
        assert found.alone == 1.0 + 2.0 + 1.25

    def test_nothing_was_shared(self) -> None:
        made = designs.study([Arm(BASELINE), arm("sam", "sam")], 1)
        assert sharing.sharing(made).said == (  # type: ignore[union-attr]
            "2 arms, each trained by itself: 2 trainings a seed."
        )

    def test_many_are_folded(self) -> None:
        assert "<summary>41 arms cost " in designs.many()
        assert "<p>10 arms cost " in designs.everything()


class TestCurves:
    def row(self, seed: int, pace: float | None, *values: float, status: str = "done") -> Any:
        curve = [{"update": 10 * k, "metrics": {"m": v}} for k, v in enumerate(values, 1)]
        return {"arm": "a", "seed": seed, "status": status, "curve": curve,
                "seconds_per_update": pace}  # fmt: skip

    def test_mean_and_range_over_seeds_at_updates_and_seconds(self) -> None:
        rows = [self.row(0, 0.1, 0.2, 0.4), self.row(1, 0.3, 0.6, 0.8), self.row(2, 0.1, 0.4),
                self.row(3, 9.9, 9.0, status="diverged")]  # fmt: skip
        found = curves.curves(rows, "m")["a"]
        [point] = found.points  # the one update that all finished seeds reached
        assert found.seeds == 3
        assert point == Point(10, pytest.approx(10 * 0.5 / 3), pytest.approx(0.4), 0.2, 0.6)

    def test_a_time_that_is_not_known_is_none(self) -> None:
        rows = [self.row(0, 0.1, 0.2, 0.4), self.row(1, None, 0.6, 0.8)]
        found = curves.curves(rows, "m")
        assert [point.seconds for point in found["a"].points] == [None, None]
        [panel] = curves.panels(found, "m", [], {})
        assert "seconds of training" not in panel.svg

    def test_each_panel_says_what_is_to_be_seen(self) -> None:
        points = [Point(10, 1.0, 0.5, 0.4, 0.6), Point(20, 2.0, 0.9, 0.85, 0.95)]
        arm, own = Curve("ema", 3, points), Curve("baseline@after", 2, points[:1])
        [panel] = curves.panels({"ema": arm, own.arm: own}, "accuracy", ["ema"],
                                {"ema": own.arm})[:1]  # fmt: skip
        label = re.search('aria-label="([^"]*)"', panel.svg)
        assert label is not None
        assert label[1] == (
            "Learning curve of ema: accuracy on the select part ends at 0.9 after 20 updates and "
            "2.0 s of training, 0.85 to 0.95 over 3 seeds; baseline@after ends at 0.5 after 10 "
            "updates and 1.0 s of training, 0.4 to 0.6 over 2 seeds."
        )
        assert {"update", "seconds of training"} <= set(re.findall(">([^<>]+)</text>", panel.svg))

    def test_arms_are_seen_beside_their_own_baseline(self) -> None:
        held = facts.baselines(designs.designed())
        assert held["ema@data=0.1"] == "baseline@data=0.1"
        assert held["ema"] == held["baseline@x2"] == BASELINE
        lacking = invented.study({BASELINE: BASELINE, "all": BASELINE, "all without x": "all"})
        lacking["arms"][0]["methods"] = []
        assert facts.baselines(lacking) == {"all": BASELINE, "all without x": BASELINE}

    def test_the_range_is_that_of_the_second_half(self) -> None:
        points = [Point(1, None, 0.0, 0.0, 0.0), Point(9, None, 0.9, 0.8, 1.0)]
        low, high = curves.reach([Curve("a", 2, points)])
        assert (low, high) == (pytest.approx(0.78), pytest.approx(1.02))
        flat = [Point(1, None, 5e8, 5e8, 5e8)]
        low, high = curves.reach([Curve("a", 1, flat)])
        assert low < 5e8 < high

    def test_nothing_to_draw(self) -> None:
        assert curves.panels({}, "m", [], {}) == []


class TestChecks:
    def test_rates_are_shown_with_what_they_gave(self) -> None:
        page = said(designs.everything())
        assert "The baseline's learning rate" in page
        assert "0.003 0.9100 0.900 0.920 the task's own" in page
        assert "0.01 0.9500 0.940 0.960 chosen" in page
        assert "0.03 failed or diverged 0.800 failed or diverged" in page
        assert "It is the outermost" not in page
        label = "0.91 at 0.003, 0.95 at 0.01; 0.01 was chosen."
        assert label in plots.rates(designs.TUNING)

    def test_no_rate_gave_anything(self) -> None:
        table = [each | {"mean": None} for each in designs.TUNING["table"]]  # type: ignore[attr-defined]
        assert plots.rates(designs.TUNING | {"table": table}) == ""
        assert checks.tuning({"tuning": None}) is None

    def test_gains_stand_side_by_side(self) -> None:
        page = said(designs.everything())
        assert "Nothing was shown to help; the arm whose gain was largest was trained once" in page
        assert "rows that the study never used (20 of 100)" in page
        assert "arm equal updates 95 % interval equal time 95 % interval verdict sam" in page
        assert "against baseline@x2" in page
        assert "arm predicted 95 % interval found again 95 % interval verdict ema" in page


class TestFacts:
    def test_one_reason_of_a_trunk_is_said_once(self) -> None:
        rows = [
            {"arm": "fgm", "seed": seed, "status": "inapplicable",
             "reason": f"not trained: it begins from trunk of fgm, seed {seed}, which is no good"}
            for seed in range(3)
        ]  # fmt: skip
        [one] = facts.incidents(rows)
        assert one["seeds"] == "seeds 0, 1 and 2"
        assert one["said"] == "not trained: it begins from trunk of fgm, which is no good"

    def test_trunks_are_no_runs(self) -> None:
        made = designs.designed()
        results = designs.rows(made)
        assert len(made["nodes"]) > len(results)
        assert facts.missing(made, results) == 0
        assert facts.missing(made, results[:-3]) == 3
        assert facts.counts(made, results)["runs"] == len(results)

    def test_arms_of_several_parts_are_no_methods(self) -> None:
        arms = [Arm(BASELINE), arm("sam", "sam"), arm("sam@end", "sam")]
        assert facts.design(designs.study(arms, 1)) == "Baseline and 2 arms of one method"
        less = [Arm(BASELINE), arm("sam", "sam"), Arm("baseline@data=0.1", data=0.1)]
        made = designs.study(less, 1, contrasts={"data": {}})
        assert facts.design(made) == "Baseline and 1 method, each alone, on 2 amounts of data"


class TestLean:
    def test_text_is_kept_to_the_letter(self) -> None:
        shown = [one("a; b: c  1.23456789", 0.0123), one('"<x>" {1.5}', -0.02)]
        svg = figures.forest(shown, "accuracy", True)
        texts = [*map(html.unescape, re.findall(">([^<>]+)</text>", svg))]
        assert {"a; b: c  1.23456789", '"<x>" {1.5}'} <= set(texts)
        assert "+0.012  (+0.002 to +0.022)" in texts
        assert "\n" not in svg
        assert "font-family" not in svg
        Page(svg)

    def test_names_are_those_that_are_used(self) -> None:
        svg = figures.forest([one("a", 0.01)], "accuracy", False, "equal-time")
        ids = re.findall(r' id="([^"]*)"', svg)
        assert ids
        assert all(f"#{each}" in svg for each in ids)
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', svg)) == set(ids)
        assert svg.startswith('<svg class="narrow"')

    def test_groups_that_say_nothing_are_gone(self) -> None:
        svg = '<svg><g><g clip-path="x"><g><a/></g></g><b/></g></svg>'
        assert drawing._ungrouped(svg) == '<svg><g clip-path="x"><a/></g><b/></svg>'


def test_the_margin_is_a_band() -> None:
    without = figures.forest([one("a", 0.01)], "accuracy", True)
    given = figures.forest([one("a", 0.01, margin=0.004)], "accuracy", True)
    assert given.count("<path") == without.count("<path") + 1
    assert "var(--line);opacity:0.55" in given
    page = said(designs.everything())
    assert "The shaded band is the margin: gains within 0.004 of zero do not matter." in page


def test_a_figure_of_many_names_the_first() -> None:
    told = figures.told([one(f"arm{i}", 0.01) for i in range(figures.TOLD + 3)])
    assert "arm11 +0.010 (0.000 to +0.020), not shown; 3 more are in the table" in told.replace(
        "  ", " "
    )
    assert "arm12" not in told


def test_forty_arms_of_ten_seeds_stay_below_a_megabyte() -> None:
    page = designs.many()
    Page(page)
    assert len(page.encode()) < LIMIT
    assert page.count('<figcaption class="name">') == 40
    assert "<summary>28 more</summary>" in page
    assert statistics.POPULATION in html.unescape(page)


def test_everything_nests_and_is_said() -> None:
    for made in (designs.everything(), designs.unfinished(), designs.screening()):
        page = Page(made)
        labels = [value for tag, name, value in page.attributes
                  if tag == "svg" and name == "aria-label"]  # fmt: skip
        assert len(labels) == page.tags.count("svg")
        assert all(len(label) > 40 and re.search(r"\d", label) for label in labels)
