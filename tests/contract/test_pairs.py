"""Every pair of methods trains, resumes and does not depend on order, or is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.contract.fixture import data, make_run
from tests.contract.found import case, changed_methods, names, pairs, refused, selected
from tests.contract.test_refusals import SHOWN
from tests.contract.test_singles import same, schedule, whole
from whet.batch import Batch
from whet.errors import Clash

MOST_REFUSED = 0.1


def given(a: str, b: str) -> tuple[list[Any], dict[str, Any]]:
    both = [case(a).method, case(b).method]
    rate = "cosine" if all(schedule(method) for method in both) else None
    return both, {"schedule": rate, "updates": 4}


@pytest.mark.parametrize(("a", "b"), selected(pairs(), *changed_methods()))
def test_pair(a: str, b: str, tmp_path: Any) -> None:
    both, changes = given(a, b)
    if refused(a, b):
        with pytest.raises(Clash, match=rf"{a} and {b}|{b} and {a}"):
            make_run(both, **changes)
        make_run([both[0].during(0, 0.5), both[1].during(0.5, 1)], **changes).fit()
        return
    through = make_run(both, **changes).fit()
    swapped = make_run(both[::-1], **changes).fit()
    state = whole(through)
    assert same(state["model"], whole(swapped)["model"]), "the result depends on the order"
    assert same(state["stack"]["states"], whole(swapped)["stack"]["states"])
    make_run(both, **changes, folder=tmp_path).fit(until=2)
    resumed = make_run(both, **changes, folder=tmp_path).fit()
    assert same(state, whole(resumed)), "a resumed run differs"
    batch = Batch.of(data(20, 2))
    assert torch.equal(through.predictor()(batch), resumed.predictor()(batch))
    assert torch.equal(through.predictor()(batch), swapped.predictor()(batch))
    assert torch.isfinite(through.predictor()(batch)).all()


def test_few_pairs_are_refused() -> None:
    every = pairs()
    assert sum(refused(a, b) for a, b in every) <= MOST_REFUSED * len(every)


def test_each_refusal_is_shown_to_be_wrong() -> None:
    declared = {frozenset(pair) for pair in pairs() if refused(*pair)}
    assert declared == set(SHOWN), "each refused pair needs a test in test_refusals.py"


def test_a_change_runs_what_it_touches_and_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WHET_TEST_ALL", raising=False)
    every = [(f"m{a}", f"m{b}") for a in range(40) for b in range(a)]
    some = selected(every, {"m3"}, "abc", limit=100)
    assert all(pair in some for pair in every if "m3" in pair)
    assert 0.15 < len(some) / len(every) < 0.45
    other = selected(every, {"m3"}, "abd", limit=100)
    assert some != other
    assert selected(every, {"*"}, "abc", limit=100) == every
    assert selected(every, {"m3"}, "abc", limit=10_000) == every


def matrix() -> str:
    """The matrix of pairs: + works, x refused."""
    rows = names()
    width = max(map(len, rows))
    lines = []
    for number, a in enumerate(rows):
        marks = ["x" if refused(a, b) else "+" for b in rows[:number]]
        lines.append(f"{a:<{width}} {' '.join(marks)} .")
    return "\n".join(lines)
