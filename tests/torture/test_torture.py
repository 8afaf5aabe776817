"""Twenty cases of torture; and that the drawing is fair and the comparison finds what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.contract.found import names, pairs, refused
from tests.torture import __main__ as torture
from tests.torture import drawing, trial
from tests.torture.drawing import DAMAGE, FAULTS, Drawn, deal
from whet import description, nesting, resume
from whet.errors import Clash
from whet.methods import Lookahead
from whet.run import Run

SEVERAL = 8
KEPT = Drawn(3, 0, ("lookahead", "ema"), ("exception in the model", "torn file"))


def test_twenty_cases_come_out_to_the_bit() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.torture", "20"], cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "20 of 20 cases came out to the bit" in ended.stdout
    lines = ended.stdout.splitlines()
    for name in (*names(), *FAULTS):
        [line] = [line for line in lines if line.startswith(f"{name} ")]
        assert int(line[len(name) :].split()[0]) > 0, name


class TestTheDrawing:
    @pytest.mark.parametrize("methods", [20, 80])
    @pytest.mark.parametrize("seed", range(5))
    def test_each_method_five_times_and_each_fault_ten_times(self, methods: int, seed: int) -> None:
        drawn = deal(torture.MOST, [f"m{number}" for number in range(methods)], seed)
        of = Counter(name for each in drawn for name in each.methods)
        faults = Counter(fault for each in drawn for fault in each.faults)
        assert len(of) == methods
        assert min(of.values()) >= torture.EACH_METHOD
        assert set(faults) == set(FAULTS)
        assert min(faults.values()) >= 2 * torture.EACH_FAULT  # a few come too late to strike
        assert all(len(set(each.methods)) == len(each.methods) for each in drawn)

    def test_the_registered_methods_meet_in_many_pairs(self) -> None:
        met = {
            frozenset((a, b)) for each in deal(10 * len(names()), names())
            for a in each.methods for b in each.methods if a != b
        }  # fmt: skip
        assert len(met) > 0.9 * sum(not refused(a, b) for a, b in pairs())

    def test_a_number_and_a_seed_are_a_case(self) -> None:
        one, two = deal(30, names(), 7), deal(30, names(), 7)
        assert one == two
        assert one != deal(30, names(), 8)
        told = [description.describe(drawing.recipe(each)) for each in (one[9], two[9])]
        assert told[0] == told[1] != description.describe(drawing.recipe(one[9], attempt=1))

    def test_recipes_compose_and_hold_every_method(self) -> None:
        seen: Counter[str] = Counter()
        for each in deal(100, names(), 3):
            recipe = drawing.recipe(each)
            for stage in recipe.stages:
                nesting.arrange(recipe.methods_of(stage))  # raises where two clash
            held = {m.name for stage in recipe.stages for m in recipe.methods_of(stage)}
            assert set(each.methods) <= held
            seen["stages"] += len(recipe.stages) > 1
            seen["through"] += bool(recipe.methods)
            for stage in recipe.stages:
                seen["frozen"] += bool(stage.freeze)
                seen["accumulated"] += stage.accumulate > 1
                seen["scheduled"] += stage.schedule is not None
                seen["handed over"] += stage.starts_from == "evaluation"
                seen["spans"] += any(m.span != (0.0, 1.0) for m in recipe.methods_of(stage))
        assert min(seen.values()) >= 10
        assert len(seen) == 7

    def test_what_is_to_be_damaged_is_there(self) -> None:
        for each in deal(100, names()):
            assert (drawing.engine(each)["checkpoint_every"] == 1) or not DAMAGE & {*each.faults}


class TestItFinds:
    """Each of these would be a wrong resume; a case must tell."""

    def found(self, folder: Path) -> bool:
        """Whether one of a few cases tells; not each is resumed from where it can be seen."""
        for number in range(SEVERAL):
            (folder / str(number)).mkdir()
            if trial.go(replace(KEPT, number=number), folder / str(number)).wrong:
                return True
        return False

    def test_nothing_where_nothing_is_wrong(self, tmp_path: Path) -> None:
        assert not self.found(tmp_path)

    def forgetful(self, monkeypatch: pytest.MonkeyPatch, forget: Callable[[Any], None]) -> None:
        true = resume.newest

        def newest(run: Run) -> Any:
            state = true(run)
            if state is not None:
                forget(state)
            return state

        monkeypatch.setattr(resume, "newest", newest)

    def test_a_forgotten_optimizer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forgetful(monkeypatch, lambda state: state["optimizer"]["state"].clear())
        assert self.found(tmp_path)

    def test_a_wrong_place_in_the_epoch(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.forgetful(monkeypatch, lambda state: state["stack"]["position"].update(window=0))
        assert self.found(tmp_path)

    def test_a_forgotten_method(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def forget(self: Lookahead, state: Mapping[str, Any]) -> None:
            """Begins anew instead."""

        monkeypatch.setattr(Lookahead, "load_state_dict", forget)
        assert self.found(tmp_path)

    def test_a_run_that_fails_is_told_with_its_recipe(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(self: Lookahead, run: Any) -> None:
            raise KeyError("norm.weight")

        monkeypatch.setattr(Lookahead, "after_update", fail)
        outcome = trial.go(KEPT, tmp_path)
        assert "KeyError: 'norm.weight'" in outcome.told()
        assert '"batch_size"' in outcome.told()

    def test_clashes_of_a_recipe_are_drawn_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trial, "_run", _clashing_once(trial._run))
        assert trial.go(KEPT, tmp_path).redrawn == 1


def _clashing_once(true: Callable[..., Run]) -> Callable[..., Run]:
    calls = iter(range(1000))

    def run(*given: Any) -> Run:
        if next(calls) == 0:
            raise Clash("planted")
        return true(*given)

    return run


def test_what_came_up_too_rarely_is_told(tmp_path: Path) -> None:
    outcome = trial.go(KEPT, tmp_path)
    rare = torture.lacking([outcome])
    assert "ema 1" in rare
    assert "SIGKILL 0" in rare
    assert "ema" not in " ".join(torture.lacking([outcome] * 10))
