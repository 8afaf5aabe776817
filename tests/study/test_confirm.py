"""The largest of many gains is part luck; fresh seeds and rows that were never used show it."""

from __future__ import annotations

import statistics
import sys
import types
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.study import fakes
from tests.study.inline import study
from whet import Study, Task, parsing
from whet.errors import InputError
from whet.study import confirm, control_tables, files, plan
from whet.study.evidence import again
from whet.study.plan import BASELINE, Node, Row
from whet.study.request import Request
from whet.study.statistics import HELPS

NULLS = ",".join(f"noise:weight={n}" for n in range(1, 11))


def luck(node: Node, folder: Path) -> Row:
    """Ten arms without any effect; `good` gains 0.02, and half of it on other rows."""
    name = node.methods[0]["name"] if node.methods else BASELINE
    gain = {"good": 0.02}.get(name, 0.0) * (0.5 if node.options.get("judge_on") else 1.0)
    value = 0.9 + 0.02 * fakes.noise(node.seed) + 0.02 * fakes.noise(node.seed, node.arm, "x")
    return fakes.result(node, value + gain, 1.0)


@pytest.fixture
def aside(faked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy task's rows, of which a share is set aside."""
    module = types.ModuleType("whet.study.conditions")

    def set_aside(name: str, file: str | None, share: float) -> dict[str, Any]:
        return {"rows": 100, "aside": round(100 * share), "share": share, "updates": 40}

    vars(module).update(set_aside=set_aside)
    monkeypatch.setitem(sys.modules, "whet.study.conditions", module)


@pytest.mark.usefixtures("aside")
class TestStudy:
    def test_the_best_of_ten_null_arms(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "s"
        found, said = study(monkeypatch, luck, methods=NULLS, seeds=5, out=out, confirm=20)
        best = max(found.comparisons, key=lambda each: each.gain or 0.0)
        assert not [each for each in found.comparisons if each.verdict == HELPS]
        assert found.confirmation is not None
        (only,) = found.confirmation.arms
        assert (only.arm, found.confirmation.helped) == (best.arm, False)
        assert only.predicted == best
        assert only.predicted.gain is not None
        assert only.found.gain is not None
        assert only.predicted.gain > 0.003
        assert only.found.gain < only.predicted.gain / 2
        assert only.verdict == "not confirmed"
        assert found.confirmation.kind == "fresh seeds, rows that the study never used"
        assert found.confirmation.seeds == list(range(2000, 2020))
        assert "whose gain is largest, though nothing was shown to help" in said
        assert "20 of 100 rows (20%) are set aside" in said

    def test_what_helped_is_found_again_smaller(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: dict[str, Any] = {"methods": "good,noise", "out": tmp_path / "s"}
        found, _ = study(monkeypatch, luck, seeds=8, confirm=0, **asked)
        assert found.confirmation is not None
        (only,) = found.confirmation.arms
        assert (only.arm, only.verdict, only.found.n) == ("good", "confirmed", 8)
        assert only.found.gain == pytest.approx(0.01, abs=0.006)
        nodes = Path(tmp_path / "s" / "confirmation" / "nodes")
        assert sum(1 for _ in nodes.iterdir()) == 16  # the arm and the baseline, 8 seeds
        table = control_tables.confirmation(found.confirmation, "accuracy")
        assert [*table.columns[0].cells] == ["good"]
        assert len(table.columns) == 6
        assert again(tmp_path / "s").confirmation == found.confirmation  # from files alone

    def test_every_run_of_the_study_is_without_the_rows(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[int, Any, Any]] = []

        def noted(node: Node, folder: Path) -> Row:
            seen.append((node.seed, node.options.get("hold_out"), node.options.get("judge_on")))
            return luck(node, folder)

        study(monkeypatch, noted, methods="good", seeds=3, out=tmp_path / "s", confirm=3)
        assert {each[1] for each in seen} == {0.2}
        assert {each for each in seen if each[0] < 2000} == {(n, 0.2, None) for n in range(3)}
        assert {each[2] for each in seen if each[0] >= 2000} == {"aside"}

    def test_an_earlier_study_has_fresh_seeds_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "s"
        study(monkeypatch, luck, methods="good", seeds=6, out=out)
        found, said = study(monkeypatch, luck, out=out, confirm=0)  # the plan is the study's
        assert [each.arm for each in found.comparisons] == ["good"]
        assert found.confirmation is not None
        assert found.confirmation.kind == "fresh seeds, same data"
        assert found.confirmation.aside is None
        assert "Confirmation (fresh seeds, same data, 6 seeds): good, which helped." in said

    def test_a_confirmation_of_other_settings_is_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "s"
        study(monkeypatch, luck, methods="good", seeds=6, out=out, confirm=3)
        found, _ = study(monkeypatch, luck, methods="good", seeds=6, out=out, hold_out=0.3)
        assert found.confirmation is None

    def test_a_damaged_plan_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        out = tmp_path / "s"
        study(monkeypatch, luck, methods="good", seeds=6, out=out, confirm=3)
        (out / "confirmation" / "plan.json").write_text('{"arms": 3}')
        with pytest.raises(InputError, match=r"plan\.json is damaged \(arms: .*--confirm again"):
            again(out)


class TestAsked:
    earlier: dict[str, Any] = {  # noqa: RUF012 - read only
        "task": {"name": "toy"}, "threads": 2, "hold_out": {"share": 0.3},
        "asked": {"task": "toy", "methods": "good", "seeds": 7, "when": "end", "design": "both",
                  "budget": None, "tune_baseline": 5, "hold_out": 0.3},
    }  # fmt: skip

    def test_from_the_start_a_fifth_is_set_aside(self) -> None:
        assert confirm.settled(Request("toy", confirm=0), None).hold_out == 0.2
        assert confirm.settled(Request("toy", confirm=0, hold_out=0.0), None).hold_out == 0.0
        assert confirm.settled(Request("toy"), None).hold_out is None

    @pytest.mark.parametrize("asked", [{"confirm": 4}, {"pick": True}])
    def test_alone_it_is_of_the_study_that_is_there(self, asked: dict[str, Any]) -> None:
        found = confirm.settled(Request("toy", **asked), self.earlier)
        assert (found.methods, found.seeds, found.when, found.design) == ("good", 7, "end", "both")
        assert (found.tune_baseline, found.hold_out, found.threads) == (5, 0.3, 2)

    def test_a_plan_that_is_said_is_that_plan(self) -> None:
        found = confirm.settled(Request("toy", methods="bad", confirm=4), self.earlier)
        assert (found.methods, found.seeds, found.when, found.hold_out) == (
            "bad",
            None,
            "whole",
            0.3,
        )

    def test_another_tasks_study_is_none(self) -> None:
        assert confirm.settled(Request("other", pick=True), self.earlier).methods is None

    def test_no_number_of_seeds(self) -> None:
        with pytest.raises(InputError, match=r"--confirm is -1"):
            confirm.settled(Request("toy", confirm=-1), None)


def test_over_many_studies_luck_is_what_a_confirmation_takes_away() -> None:
    """Ten null arms: the best one's gain is about 1.5 standard errors, and none of it is found."""
    random = np.random.default_rng(0)
    gains = random.normal(size=(2000, 10)) / np.sqrt(5)
    best = gains.argmax(1)
    predicted = gains.max(1)
    found = (random.normal(size=(2000, 10)) / np.sqrt(5))[np.arange(2000), best]
    assert statistics.fmean(predicted) == pytest.approx(1.54 / np.sqrt(5), rel=0.05)
    assert statistics.fmean(found) == pytest.approx(0.0, abs=0.03)


def test_real_runs_from_python(tmp_path: Path) -> None:
    """The judge part of a confirmation is the rows that were set aside, and no other."""
    from rich.console import Console

    from whet.sources import load
    from whet.study import conditions

    x = torch.randn(120, 3, generator=torch.Generator().manual_seed(3))

    def held(seed: int) -> Task:
        order = torch.randperm(120, generator=torch.Generator().manual_seed(seed))
        parts = [(x[rows], (x[rows, 0] > 0).long()) for rows in order.tensor_split((60, 90))]
        return Task(torch.nn.Linear(3, 2), *parts)

    held.about = {"updates": 4}  # type: ignore[attr-defined]
    made = Study(held, methods=["clip_grad_norm"], seeds=3, out=tmp_path / "s", hold_out=0.25,
                 console=Console(quiet=True))  # fmt: skip
    assert made.run().confirmation is None
    found = made.confirm(3).confirmation
    assert found is not None
    assert found.aside is not None
    (only,) = found.arms
    assert only.found.n == 3
    options = {"hold_out": 0.25, "judge_on": "aside"}
    judges = [conditions.under(load("held"), options).task(seed).judge for seed in (2000, 2001)]
    assert {judge.size for judge in judges} == {found.aside["aside"]}
    first, second = ({*judge.inputs[:, 0].tolist()} for judge in judges)
    assert first == second


def test_an_arm_is_confirmed_with_all_that_it_is() -> None:
    made = plan.Arm("sam@after", (), "baseline@after", "after", ({"name": "sam"},), times=1.5)
    assert confirm.arm_of(parsing.values(files.to_json(asdict(made)))) == made


def test_candidates_have_methods_all_data_and_a_baseline_to_beat() -> None:
    plain: dict[str, Any] = {"name": "x", "methods": [{"name": "ema"}], "reference": BASELINE}
    assert confirm.is_candidate(plain)
    for change in ({"methods": []}, {"reference": "all"}, {"data": 0.25}):
        assert not confirm.is_candidate(plain | change)
