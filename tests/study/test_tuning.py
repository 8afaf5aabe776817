"""A baseline's learning rate: looked for by the select part, on seeds of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.study import fakes
from tests.study.inline import study
from whet import optim, sources
from whet.errors import InputError
from whet.study import conditions, tuning
from whet.study.plan import BASELINE, Node, Row
from whet.study.tuning import Values


def peak(at: float, width: float = 1.0, asked: list[float] | None = None) -> Any:
    """Values that are best at a rate."""

    def measure(rates: Sequence[float]) -> list[Values]:
        if asked is not None:
            asked.extend(rates)
        return [[1 - width * abs(math.log10(rate / at))] * 3 for rate in rates]

    return measure


def test_the_grid_is_around_the_tasks_own() -> None:
    assert tuning.grid(0.003, 5) == [0.0003, 0.000949, 0.003, 0.00949, 0.03]
    assert tuning.grid(0.003, 6)[0] == pytest.approx(0.003 / tuning.STEP**3, rel=0.01)
    assert len(tuning.grid(0.003, 6)) == 6


@pytest.mark.parametrize(
    ("at", "best", "tried", "edge"),
    [
        (0.001, 0.001, 5, False),
        (0.00316, 0.00316, 5, False),
        (0.01, 0.01, 6, False),  # at the edge, and a step beyond was no better
        (0.0316, 0.0316, 7, False),
        (1.0, 0.1, 7, True),  # twice at most
        (0.000001, 0.00001, 7, True),
    ],
)
def test_it_grows_towards_the_best(at: float, best: float, tried: int, edge: bool) -> None:
    asked: list[float] = []
    found = tuning.search(0.001, 5, True, peak(at, asked=asked))
    assert found.rate == pytest.approx(best, rel=0.01)
    assert found.at_edge is edge
    assert len(found.table) == len(asked) == tried
    assert [each["rate"] for each in found.table] == sorted(asked)


def test_lower_may_be_better() -> None:
    assert tuning.search(0.001, 5, False, peak(0.001, width=-1.0)).rate == 0.001


def test_of_equal_rates_the_tasks_own() -> None:
    assert tuning.search(0.001, 5, True, lambda rates: [[0.5] * 3 for _ in rates]).rate == 0.001


def test_a_rate_that_diverged_under_one_seed_is_out() -> None:
    def measure(rates: Sequence[float]) -> list[Values]:
        return [[0.9, None, 0.9] if rate > 0.001 else [0.5, 0.5, 0.5] for rate in rates]

    found = tuning.search(0.001, 5, True, measure)
    assert found.rate == 0.001
    assert [each["mean"] for each in found.table][-1] is None
    assert "failed or diverged" in "\n".join(tuning.lines(found))


def test_no_rate_at_all() -> None:
    with pytest.raises(InputError, match=r"at no learning rate.*--fast"):
        tuning.search(0.001, 5, True, lambda rates: [[None] * 3 for _ in rates])


@pytest.mark.parametrize(
    ("count", "stage", "said"),
    [
        (4, {"rate": 0.1}, "at least 5 rates"),
        (5, {"rate": None, "optimizer": {"function": "mine"}}, r"made by mine.*Name the optimizer"),
    ],
)
def test_what_cannot_be_tuned_is_refused(count: int, stage: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        tuning.check(count, stage)


def test_a_function_has_no_rate_to_set() -> None:
    made = lambda parameters: None  # noqa: E731
    assert optim.rate(made) is None
    with pytest.raises(InputError, match="Name it"):
        optim.with_rate(made, 0.1)


def test_every_run_has_the_rate() -> None:
    found = sources.load("digits")
    told = conditions.under(found, {"lr": 0.02}).about
    assert told.optimizer == {"name": "adamw", "lr": 0.02, "weight_decay": 0.01}
    assert conditions.under(found, {}) is found
    assert optim.with_rate("sgd", 0.5) == {"name": "sgd", "lr": 0.5}


def test_where_something_is_chosen_the_judge_part_is_not_looked_at() -> None:
    made = conditions.under(sources.load("digits"), {"judge_on": "select"}).task(0)
    assert made.judge is made.select


def train(node: Node, folder: Path) -> Row:
    """Best at 0.00316; at the task's own rate `good` makes up for it."""
    rate = node.options.get("lr", 0.001)
    value = 0.9 - 0.1 * abs(math.log10(rate / 0.00316)) + 0.02 * fakes.noise(node.seed)
    gain = 0.05 if rate == 0.001 and node.methods else 0.0
    row = fakes.result(node, value + gain + 0.001 * fakes.noise(node.seed, node.arm), 1.0)
    if node.options.get("judge_on") == "select":
        row["metrics"] = {"select": row["metrics"]["select"], "judge": {"accuracy": rate}}
    return row


@pytest.mark.usefixtures("faked")
class TestStudy:
    def test_a_method_that_makes_up_for_a_bad_rate(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: dict[str, Any] = {"methods": "good", "seeds": 5, "out": tmp_path / "s"}
        plain, said = study(monkeypatch, train, **asked)
        assert plain.comparisons[0].verdict == "helps"
        assert plain.study["tuning"] is None
        assert "Baseline untuned: its learning rate of 0.001 is the task's own" in said

        tuned, said = study(monkeypatch, train, tune_baseline=5, **asked)
        assert tuned.comparisons[0].verdict != "helps"
        assert tuned.study["tuning"]["rate"] == 0.00316  # by the select part: judge says 0.01
        assert {node["options"]["lr"] for node in tuned.study["nodes"]} == {0.00316}
        assert {node["seed"] for node in tuned.study["nodes"]} == set(range(5))
        assert "0.00316         0.9" in said
        assert "Baseline tuned: of 5 rates the learning rate 0.00316 was best" in said

        again, said = study(monkeypatch, never, tune_baseline=5, **asked)  # nothing is repeated
        assert again.study["tuning"] == tuned.study["tuning"]

    def test_seeds_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[tuple[str, int]] = []

        def noted(node: Node, folder: Path) -> Row:
            if folder.parents[1].name == "tuning":
                seen.append((node.arm, node.seed))
            return train(node, folder)

        study(monkeypatch, noted, methods="good", seeds=3, out=tmp_path / "s", tune_baseline=5)
        assert {arm for arm, _ in seen} == {BASELINE}
        assert {seed for _, seed in seen} == {1000, 1001, 1002}
        assert len(seen) == 15


def never(node: Node, folder: Path) -> Row:
    raise AssertionError(f"{node.arm} was trained again")
