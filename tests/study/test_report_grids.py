"""Tables in two directions: by part of training, by share of the data, by partner; and runs."""

import html
import re
from typing import Any, ClassVar

from tests.study import designs
from tests.study.designs import arm
from tests.study.test_page import said
from whet.methods import catalogue
from whet.study import contrasts, families, wording
from whet.study.arms import parse
from whet.study.evidence import compare
from whet.study.families import Family
from whet.study.fractions import AtFraction
from whet.study.plan import BASELINE, Arm
from whet.study.report import grids, plots
from whet.study.statistics import HELPS, NONE, Comparison


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

    def test_who_begins_late_by_itself_is_not_said_to_act_throughout(self) -> None:
        """A planner writes a method's own span into its arm; `--when whole` keeps to it."""
        late = [one for one in parse("fgm,ema", catalogue()) if one.name == "fgm"]
        both = Arm("ema+fgm", ({"name": "ema"}, *late[0].methods))
        arms = [Arm(BASELINE), *late, both, arm("ema", "ema"), arm("fgm@end", "fgm")]
        made = designs.study(arms, 3)
        grid = grids.placements(made, *found(made))
        assert grid is not None
        assert grid.columns == ["whole training, unless noted", "last quarter"]
        parts = {name: [cell.part for cell in cells] for name, cells in grid.rows}
        assert parts == {"fgm": ["from 25 % on", ""], "ema": ["", ""],
                         "ema+fgm": ["ema throughout, fgm from 25 % on", ""]}  # fmt: skip
        section = said(designs.page(made, designs.rows(made)))
        assert "from 25 % on" in section[section.index("Where in training") :]

    def test_who_was_told_its_part_is_noted_too(self) -> None:
        told = Arm("ema:during=[0, 0.5]", ({"name": "ema", "during": [0, 0.5]},))
        made = designs.study([Arm(BASELINE), told, arm("sam@end", "sam")], 3)
        grid = grids.placements(made, *found(made))
        assert grid is not None
        assert [cell.part for cell in dict(grid.rows)[told.name]] == ["up to 50 %", ""]

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
    WEIGHTS: ClassVar = {
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
    assert "A study of the design screening" in page
    section = page[page.index("Which run has which method") :]
    row = section[section.index("a+b</th>") :].partition("</tr>")[0]
    assert re.findall(">(with|without)<", row) == ["with", "with", "without"]
