"""Equal time: what a method gains because it trains longer is not its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.study import fakes
from tests.study.inline import study
from whet.study import controls
from whet.study.budget import Cost
from whet.study.controls import Control
from whet.study.plan import BASELINE, Arm, Node, Row
from whet.study.statistics import HELPS, HURTS, TOO_FEW

SAM, DROP, EMA = (Arm(name, ({"name": name},)) for name in ("sam", "r_drop", "ema"))
AFTER = [Arm("baseline@after", (), placement="after", after=()),
         Arm("sam@after", (), "baseline@after", "after", ({"name": "sam"},))]  # fmt: skip


def row(name: str, *paces: list[float]) -> Row:
    return {"arm": name, "status": "done", "paces": [*paces], "seconds_per_update": 9.0}


class TestPlan:
    def test_cost_is_the_whole_trainings(self) -> None:
        rows = {
            BASELINE: row(BASELINE, [0, 1, 0.1]),
            "sam": row("sam", [0, 0.75, 0.1], [0.75, 1, 0.3]),
            "ema": {"arm": "ema", "status": "done", "seconds_per_update": 0.11},
            "gone": {"arm": "gone", "status": "failed"},
        }
        found = controls.costs(rows, [Arm(BASELINE), SAM, EMA, Arm("gone", ({"name": "x"},))])
        assert found == pytest.approx({"sam": 1.5, "ema": 1.1})

    def test_after_costs_what_its_own_stage_does(self) -> None:
        rows = {
            BASELINE: row(BASELINE, [0, 1, 0.1]),
            "baseline@after": row("baseline@after", [0, 1, 0.1], [1, 2, 0.1]),
            "sam@after": row("sam@after", [0, 1, 0.1], [1, 2, 0.2]),
        }
        assert controls.costs(rows, AFTER) == pytest.approx({"sam@after": 2.0})

    def test_what_lacks_one_method_has_its_own_question(self) -> None:
        rows = {n: row(n, [0, 1, pace]) for n, pace in ((BASELINE, 0.1), ("all without x", 0.3))}
        assert controls.costs(rows, [Arm("all without x", SAM.methods, "all")]) == {}

    @pytest.mark.parametrize(
        ("cost", "times"),
        [(1.0, None), (1.15, None), (1.16, 1.25), (1.9, 2.0), (2.1, 2.0), (2.13, 2.25), (3.4, 3.5)],
    )
    def test_rounded_so_that_arms_share(self, cost: float, times: float | None) -> None:
        found = controls.planned([SAM], {"sam": cost})
        assert [each.times for each in found] == ([] if times is None else [times])
        assert [each.control for each in found] == (
            [] if times is None else [f"baseline@x{times:g}"]
        )

    def test_controls_stand_behind_the_first_that_needs_them(self) -> None:
        found = controls.planned([SAM, EMA, DROP, *AFTER],
                                 {"sam": 2.05, "r_drop": 1.93, "sam@after": 2.0})  # fmt: skip
        made = controls.stretched([Arm(BASELINE), SAM, EMA, DROP, *AFTER], found)
        assert [arm.name for arm in made] == [
            BASELINE, "sam", "baseline@x2", "ema", "r_drop", "baseline@after", "sam@after",
            "baseline@after@x2",
        ]  # fmt: skip
        assert (made[2].times, made[2].methods, made[2].after) == (2.0, (), None)
        assert (made[-1].times, made[-1].after, made[-1].placement) == (2.0, (), "after")
        assert made[-1].reference == "baseline@after"
        assert "sam (2.05 times the time) and r_drop (1.93" in controls.notes(found)[0]

    def test_what_was_fixed_stays(self) -> None:
        earlier = [asdict(each) for each in controls.planned([SAM], {"sam": 2.0})]
        found = controls.planned([SAM, DROP], {"sam": 3.0, "r_drop": 1.5}, earlier)
        assert found == [Control("sam", "baseline@x2", 2.0, 2.0),
                         Control("r_drop", "baseline@x1.5", 1.5, 1.5)]  # fmt: skip

    def test_a_budget_knows_what_they_cost(self) -> None:
        plain = Cost(1.0, 0.1, 0.2)
        arms = [Arm(BASELINE), Arm("baseline@x2", times=2.0),
                Arm("baseline@after@x2", (), "baseline@after", "after", (), times=2.0)]  # fmt: skip
        found = controls.longer_costs(arms, {BASELINE: plain, "baseline@after": plain}, 0.25)
        assert found["baseline@x2"] == replace(plain, update=0.2)
        assert found["baseline@after@x2"].update == pytest.approx(0.1 * 1.5 / 1.25)


@pytest.mark.parametrize(
    ("updates", "time", "said"),
    [
        (HELPS, HELPS, "helps, also against training twice as long"),
        (
            HELPS,
            "not shown",
            "helps only per update: not shown against training twice as long",
        ),
        (HELPS, HURTS, "helps only per update: training twice as long without it is better"),
        (HELPS, TOO_FEW, "helps; too few seeds to say whether also against training twice as long"),
        ("not shown", HURTS, "not shown; training twice as long without it is better"),
        (HURTS, HURTS, "hurts"),
        ("not shown", HELPS, "not shown"),
    ],
)
def test_the_verdict_says_which_baseline(updates: str, time: str, said: str) -> None:
    assert controls.verdict(updates, time, 2.0) == said


def test_other_factors() -> None:
    assert controls.verdict(HELPS, HELPS, 1.5).endswith("training 1.5 times as long")


def trainer(longer: float, slow: float = 2.0, lost: int | None = None
            ) -> Callable[[Node, Path], Row]:  # fmt: skip
    """`good` and `slow` gain 0.02, and training twice as long gains `longer`."""

    def train(node: Node, folder: Path) -> Row:
        name = node.methods[0]["name"] if node.methods else BASELINE
        value = 0.9 + 0.02 * fakes.noise(node.seed) + 0.002 * fakes.noise(node.seed, node.arm)
        value += 0.02 if name != BASELINE else 0.0
        value += longer if node.options.get("updates") == 80 else 0.0
        if node.arm == "baseline@x2" and node.seed == lost:
            return fakes.result(node, None, 1.0) | {"status": "diverged", "metrics": {}}
        return fakes.result(node, value, slow if name == "slow" else 1.0)

    return train


ASKED: dict[str, Any] = {"methods": "good,slow", "seeds": 5, "equal_time": True}


@pytest.mark.usefixtures("faked")
class TestStudy:
    @pytest.mark.parametrize(
        ("longer", "said"),
        [
            (0.0, "helps, also against training twice as long"),
            (0.02, "helps only per update: not shown against training twice as long"),
            (0.06, "helps only per update: training twice as long without it is better"),
        ],
    )
    def test_both_baselines(
        self, longer: float, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found, told = study(monkeypatch, trainer(longer), out=tmp_path / "s", **ASKED)
        assert [each.arm for each in found.comparisons] == ["good", "slow"]  # no control
        (only,) = found.controlled
        assert (only.arm, only.control, only.verdict) == ("slow", "baseline@x2", said)
        assert only.equal_time.gain == pytest.approx(0.02 - longer, abs=0.003)
        assert "baseline@x2 trains without the method 2 times as long, for slow (2.00" in told
        nodes = {node["arm"]: node for node in found.study["nodes"]}
        assert nodes["baseline@x2"]["options"]["updates"] == 80

    def test_a_seed_without_its_control_is_left_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found, _ = study(monkeypatch, trainer(0.0, lost=3), out=tmp_path / "s", **ASKED)
        (only,) = found.controlled
        assert only.equal_time.n == 4
        assert [seed for seed, _ in only.equal_time.left_out] == [3]

    def test_continuing_does_not_measure_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "s"
        study(monkeypatch, trainer(0.0), out=out, **ASKED)
        shutil.rmtree(out / "rehearsal")
        found, _ = study(monkeypatch, trainer(0.0, slow=3.0), out=out, **ASKED | {"seeds": 6})
        assert [each["times"] for each in found.study["equal_time"]] == [2.0]
        assert found.study["equal_time"][0]["measured"] == 2.0

    def test_a_stretched_baseline_shares_no_training_with_another(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its schedule is another one from the first update on."""
        asked = ASKED | {"when": "whole,end"}
        found, _ = study(monkeypatch, trainer(0.0), out=tmp_path / "s", **asked)
        nodes = [Node.from_json(each) for each in found.study["nodes"]]
        longer = [node for node in nodes if node.arm == "baseline@x2"]
        assert len(longer) == 5
        assert all(node.parent is None for node in longer)
        for node in nodes:  # and none is judged in the training of another length
            host = next((n for n in nodes if n.key == getattr(node, "rides", None)), node)
            assert host.options.get("updates") == node.options.get("updates")


@pytest.mark.slow
def test_the_real_node_trains_longer(tmp_path: Path) -> None:
    from whet.study import node

    told = {"threads": 1, "device": "cpu"}
    short, longer = (Node("digits", "b", (), 1, {**told, "updates": n}) for n in (6, 12))
    for job in (short, longer):
        (tmp_path / job.key).mkdir()
    made = [node.train(job, tmp_path / job.key) for job in (short, longer)]
    assert [each["updates"] for each in made] == [6, 12]
