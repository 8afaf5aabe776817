"""The parts of a report beside its verdicts: shared trainings, checks, facts, and its size."""

import html
import re

import pytest

from tests.study import designs, invented
from tests.study.designs import arm
from tests.study.test_page import said
from tests.study.test_report import Page
from whet.study import statistics, trie
from whet.study.plan import BASELINE, Arm, Node
from whet.study.report import checks, facts, plots, sharing

LIMIT = 1_000_000  # bytes


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
