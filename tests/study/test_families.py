"""From a study's files to its questions: real studies of every design on a task of two clouds."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from whet import Study, Task
from whet.errors import InputError
from whet.study import contrasts, display, families, shapes
from whet.study.evidence import Evidence, again
from whet.study.statistics import Comparison


def clouds(seed: int) -> Task:
    """Two clouds."""
    y = torch.arange(90) % 2
    x = torch.randn(90, 2) + y[:, None]
    parts = [(x[a : a + 30], y[a : a + 30]) for a in (0, 30, 60)]
    return Task(torch.nn.Linear(2, 2), *parts, metrics=["log_loss"])


clouds.about = {"updates": 6, "batch_size": 10}  # type: ignore[attr-defined]


def run(out: Path, design: str, methods: str = "ema:decay=0.5,sam") -> Evidence:
    screen = Console(quiet=True)
    return Study(clouds, methods=methods, design=design, seeds=3, out=out, console=screen).run()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one study after another: what was trained for one design is there for the next."""
    return tmp_path_factory.mktemp("designs")


def values(found: Evidence) -> dict[tuple[str, int], float]:
    return {(row["arm"], row["seed"]): row["metrics"]["judge"]["log_loss"] for row in found.rows}


def test_pairs(folder: Path) -> None:
    found = run(folder, "pairs")
    assert [each.arm for each in found.comparisons] == [
        "ema:decay=0.5", "sam", "ema:decay=0.5+sam"
    ]  # fmt: skip
    [family] = found.further
    assert family.key == "interactions"
    of, [both] = values(found), family.comparisons
    assert both.arm == "ema:decay=0.5 × sam"
    by_hand = [
        of["ema:decay=0.5", s] + of["sam", s] - of["ema:decay=0.5+sam", s] - of["baseline", s]
        for s in range(3)
    ]
    assert [gain for _, gain in both.gains] == pytest.approx(by_hand)
    verdicts = json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))
    assert verdicts["further"][0]["comparisons"][0]["gain"] == pytest.approx(sum(by_hand) / 3)
    assert again(folder).further == found.further
    assert "Interactions of two methods" in found.report.read_text(encoding="utf-8")


def test_a_ladder(folder: Path) -> None:
    found = run(folder, "ladder")
    assert (found.comparisons, found.leaving) == ([], [])
    [family] = found.further
    assert [each.arm for each in family.comparisons] == ["ema:decay=0.5", "ema:decay=0.5+sam"]
    of, top = values(found), family.comparisons[-1]
    steps = [of["ema:decay=0.5", s] - of["ema:decay=0.5+sam", s] for s in range(3)]
    assert [gain for _, gain in top.gains] == pytest.approx(steps)
    assert top.cost is not None
    assert "A study of the design" in found.report.read_text(encoding="utf-8")


def test_a_screening(folder: Path) -> None:
    found = run(folder, "screening")
    assert len(found.study["arms"]) == 4
    assert (found.comparisons, found.leaving) == ([], [])
    [family] = found.further
    assert family.title == "Main effects"
    assert [each.arm for each in family.comparisons] == ["ema:decay=0.5", "sam"]
    of, sam = values(found), family.comparisons[1]
    by_hand = [
        (of["baseline", s] + of["ema:decay=0.5", s] - of["sam", s] - of["ema:decay=0.5+sam", s]) / 2
        for s in range(3)
    ]
    assert [gain for _, gain in sam.gains] == pytest.approx(by_hand)
    page = found.report.read_text(encoding="utf-8")
    assert "Nothing can be said yet" not in page
    assert "every combination of the methods is a run" in page


def test_a_clash_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mixup and cutmix"):
        run(tmp_path / "no", "screening", "ema,mixup,cutmix")
    assert not (tmp_path / "no").exists()


ARMS = [
    {"name": name, "methods": [{"name": each} for each in name.split("+") if each != "baseline"]}
    for name in ("baseline", "a", "a+b", "c")
]


def test_arms_of_contrasts_are_not_compared_twice() -> None:
    rungs = {"a": contrasts.difference("a", "baseline"), "a+b": contrasts.difference("a+b", "a")}
    assert families.apart({"arms": ARMS, "contrasts": {"ladder": rungs}}) == {"a", "a+b"}
    assert families.apart({"arms": ARMS, "contrasts": {"interactions": rungs}}) == set()
    assert families.apart({"arms": ARMS}) == set()


def test_an_arm_with_a_control_of_its_own_is_not_one_that_is_missed() -> None:
    arms = [
        {"name": "baseline", "methods": []},
        {"name": "baseline@after", "methods": [], "after": []},
        {"name": "ema@after", "methods": [], "after": [{"name": "ema"}]},
        {"name": "all", "methods": [{"name": "ema"}, {"name": "sam"}]},
        {"name": "all without ema", "methods": [{"name": "sam"}]},
    ]
    told = {
        "baseline": [Comparison("baseline@after", 0, (), (), 0, 3)],
        "baseline@after": [Comparison("ema@after", 0, (), (), 0, 3)],
        "all": [Comparison("all without ema", 0, (), (), 0, 3)],
    }
    study = {"arms": arms, "task": {"metric": "accuracy", "higher_is_better": True}}
    plain, leaving, further = families.divided(study, [], told, 0.95)
    assert [each.arm for each in plain] == ["baseline@after"]
    assert [each.arm for each in leaving] == ["all without ema"]
    assert [(each.title, each.comparisons[0].arm) for each in further] == [
        ("Gain over baseline@after", "ema@after")
    ]


@pytest.mark.parametrize(
    ("weights", "said"),
    [({}, "at least 1"), ({"a": 1e300}, "less than or equal to 1"),
     ({"a": float("nan")}, "less than"), ({"a": "1"}, "valid number")],
)  # fmt: skip
def test_weights_of_a_file_that_could_not_be_summed_are_refused(weights: Any, said: str) -> None:
    study: dict[str, Any] = {
        "task": {"name": "t", "title": "t", "metric": "m", "higher_is_better": True},
        "arms": ARMS, "seeds": [0], "nodes": [], "threads": 1, "jobs": 1, "command": "", "date": "",
        "versions": {}, "contrasts": {"effects": {"a": {"a": 1.0, "baseline": -1.0}}},
    }  # fmt: skip
    assert shapes.wrong(shapes.Study, study) is None
    assert shapes.astray(study) is None
    wrong = shapes.wrong(shapes.Study, {**study, "contrasts": {"effects": {"a": weights}}})
    assert wrong is not None
    assert said in wrong
    away = {**study, "contrasts": {"effects": {"a": {"gone": 1.0}}}}
    assert shapes.astray(away) == "contrast of arm 'gone': there is no such arm"


def test_a_title_is_no_markup() -> None:
    found = [Comparison("a", 0, (), (), 0, 3)]
    shown = display.table(found, "acc", title="Gain over x:during=[0,1]@[bold]data")
    screen = Console(file=io.StringIO(), width=200)
    screen.print(shown)
    assert "x:during=[0,1]@[bold]data, paired by seed" in screen.file.getvalue()
