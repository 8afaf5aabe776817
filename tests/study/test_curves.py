"""Curves and the other figures: what they show, what they say, and how few bytes they take."""

import html
import re
from typing import Any

import pytest

from tests.study import designs, invented
from tests.study.test_page import said
from tests.study.test_report import Page
from whet.study import curves, drawing, figures
from whet.study.curves import Curve, Point
from whet.study.plan import BASELINE
from whet.study.report import facts
from whet.study.statistics import NONE, Comparison


def one(name: str, gain: float | None, verdict: str = NONE, **given: Any) -> Comparison:
    ends = {} if gain is None else {"low": gain - 0.01, "high": gain + 0.01}
    return Comparison(name, 3, (), (), 0, 3, gain=gain, verdict=verdict, **ends | given)


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

    def test_a_sheet_has_every_arm_with_its_band_over_its_own_baseline(self) -> None:
        points = [Point(10, 1.0, 0.5, 0.4, 0.6), Point(20, 2.0, 0.9, 0.85, 0.95)]
        found = {name: Curve(name, 2, points) for name in (BASELINE, "ema", "baseline@after")}
        found["one"] = Curve("one", 1, points[:1])
        figure = curves.sheet(found, ["one", "ema"], {"ema": "baseline@after", "one": "gone"})
        one, ema, own, *_ = figure.axes
        assert [axes.get_title(loc="left") for axes in (one, ema, own)] == [
            "one", "ema", "baseline@after"
        ]  # fmt: skip
        assert [len(axes.lines) for axes in (one, ema)] == [1, 2]
        assert [len(axes.collections) for axes in (one, ema)] == [0, 2]
        [_, band] = ema.collections
        assert band.get_paths()[0].get_extents().y0 == pytest.approx(0.4)

    def test_long_names_that_end_differently_are_told_apart(self) -> None:
        names = [f"fixmatch:mu=2:control=true{at}" for at in ("", "@start", "@end")]
        found = {name: Curve(name, 1, [Point(10, 1.0, 0.5, 0.5, 0.5)]) for name in names}
        shown = [axes.get_title(loc="left") for axes in curves.sheet(found, names, {}).axes[:3]]
        assert len(set(shown)) == 3
        assert all(len(title) <= 22 for title in shown)

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


class TestLean:
    def test_text_is_kept_to_the_letter(self) -> None:
        shown = [one("a; b: c  1.23456789", 0.0123), one('"<x>" {1.5}', -0.02)]
        svg = figures.forest(shown, "accuracy", True)
        texts = [*map(html.unescape, re.findall(">([^<>]+)</text>", svg))]
        assert {"a; b: c  1.23456789", '"<x>" {1.5}'} <= set(texts)
        assert "+0.012  (+0.002 to +0.022)" in texts
        assert "\n" not in svg
        assert "font-family" not in svg
        assert not re.search(r"\d\.\d{3}", re.sub('aria-label="[^"]*"|>[^<]+<', "", svg))
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
