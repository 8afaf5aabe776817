"""The recipe that a study speaks for, and the file that trains it."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import whet
from tests.study.test_cli import call
from whet import composition, methods, sources
from whet.errors import InputError
from whet.study import node, pick, statistics
from whet.study.controls import Controlled
from whet.study.evidence import Evidence
from whet.study.plan import BASELINE, Arm, Node, Row
from whet.study.statistics import HELPS, Comparison

METRIC = "accuracy"


def rows(gains: dict[str, float], cost: dict[str, float], spread: float = 0.001) -> list[Row]:
    made = []
    for arm, gain in {BASELINE: 0.0, **gains}.items():
        for seed in range(5):
            own = 0.0 if arm == BASELINE else spread * (-1) ** seed
            made.append({
                "arm": arm, "seed": seed, "status": "done", "settings": [],
                "metrics": {"judge": {METRIC: 0.9 + 0.01 * seed + gain + own}},
                "seconds_per_update": cost.get(arm, 1.0),
            })  # fmt: skip
    return made


def study(arms: Sequence[Arm], **given: Any) -> dict[str, Any]:
    stage = {"batch_size": 64, "accumulate": 1, "rate": 0.003, "schedule": "cosine",
             "optimizer": {"name": "adamw", "lr": 0.003, "weight_decay": 0.01}}  # fmt: skip
    task = {"name": "digits", "title": "Digits", "metric": METRIC, "higher_is_better": True,
            "updates": 20, "stage": stage}  # fmt: skip
    return {
        "task": task, "date": "2026-01-31", "command": "whet study digits --seeds 5",
        "arms": [vars(arm) for arm in arms],
        "nodes": [Node("digits", a.name, a.methods, 0, {"after": 0.25}, after=a.after).to_json()
                  for a in arms],
    } | given  # fmt: skip


def arm(name: str, *settings: dict[str, Any], **given: Any) -> Arm:
    return Arm(name, tuple(settings or [{"name": name}]), **given)


ARMS = [Arm(BASELINE), arm("ema"), arm("sam"), arm("r_drop"),
        arm("all", {"name": "ema"}, {"name": "sam"}, {"name": "r_drop"}),
        arm("all without sam", {"name": "ema"}, {"name": "r_drop"}, reference="all")]  # fmt: skip
COST = {"sam": 2.0, "r_drop": 1.7, "all": 3.0}


def chosen(gains: dict[str, float], held: Sequence[Controlled] = (), spread: float = 0.001
           ) -> tuple[str, list[str]]:  # fmt: skip
    made = rows(gains, COST, spread)
    return pick.choose(study(ARMS), made, statistics.paired(made, METRIC, True), held)


@pytest.mark.parametrize(
    ("gains", "best"),
    [
        ({"ema": 0.01, "sam": 0.015}, "ema"),  # half as much again for twice the time
        ({"ema": 0.01, "sam": 0.03}, "sam"),
        ({"ema": 0.004, "sam": 0.02, "all": 0.05}, "all"),
        ({"ema": 0.02, "sam": 0.02, "all": 0.04}, "ema"),
        ({"ema": -0.02, "sam": 0.01}, "sam"),
        ({"ema": 0.01, "all without sam": 0.5}, "ema"),  # which was held against `all`
    ],
)
def test_assured_gain_for_its_time(gains: dict[str, float], best: str) -> None:
    assert chosen(gains)[0] == best


def test_nothing_shown_is_the_baseline_and_says_so() -> None:
    name, evidence = chosen({"ema": 0.001, "sam": 0.002}, spread=0.02)
    assert name == BASELINE
    assert evidence[0] == "Nothing was shown to help. This is the baseline."
    assert evidence[1].startswith("The interval whose lower end is highest is that of sam: gain")


def held(name: str, verdict: str) -> Controlled:
    found = Comparison(name, 5, (), (), 0, 5, verdict=verdict)
    return Controlled(name, "baseline@x2", 2.0, found, f"{name} {verdict}")


def test_what_training_longer_does_as_well_is_no_candidate() -> None:
    gains = {"ema": 0.005, "sam": 0.05}
    assert chosen(gains)[0] == "sam"
    assert chosen(gains, [held("sam", HELPS)])[0] == "sam"
    assert chosen(gains, [held("sam", "not shown")])[0] == "ema"
    name, evidence = chosen({"sam": 0.05}, [held("sam", "not shown")])
    assert name == BASELINE
    assert evidence[0].startswith("sam helped, but not against training as long without.")


# the file -----------------------------------------------------------------------------------------
def written(name: str, arms: Sequence[Arm], tmp_path: Path, **given: Any) -> tuple[Any, str]:
    made = study(arms, **given)
    text = pick.written(made, [], name, ["First.", "Second."], tmp_path / "recipe.py")
    (tmp_path / "recipe.py").write_text(text)
    return runpy.run_path(str(tmp_path / "recipe.py"))["recipe"], text


SETTINGS = {"name": "sam", "rho": 0.02, "during": [0.5, 1.0]}


def test_the_file_is_the_arm(tmp_path: Path) -> None:
    own = arm("mine", {"name": "ema", "decay": 0.9}, SETTINGS)
    recipe, text = written("mine", [Arm(BASELINE), own], tmp_path)
    assert isinstance(recipe, whet.Stage)
    assert [*recipe.methods] == [*own.methods]
    assert [*map(repr, map(methods.make, recipe.methods))] == [
        *map(repr, map(methods.make, own.methods))
    ]
    assert (recipe.updates, recipe.batch_size, recipe.schedule) == (20, 64, "cosine")
    assert recipe.optimizer == {"name": "adamw", "lr": 0.003, "weight_decay": 0.01}
    said = ast.get_docstring(ast.parse(text)) or ""
    assert said.splitlines()[:4] == [
        "The recipe mine for digits, from the study of 2026-01-31.", "", "First.", "Second.",
    ]  # fmt: skip
    assert f"whet fit digits --recipe {tmp_path / 'recipe.py'}" in said


def test_the_tuned_rate_is_in_it(tmp_path: Path) -> None:
    recipe, _ = written("ema", ARMS, tmp_path, tuning={"rate": 0.01})
    assert recipe.optimizer == {"name": "adamw", "lr": 0.01, "weight_decay": 0.01}


def test_a_method_that_brings_a_schedule(tmp_path: Path) -> None:
    recipe, _ = written("snapshot", [Arm(BASELINE), arm("snapshot")], tmp_path)
    assert recipe.schedule is None


def test_a_stage_that_follows_is_trained_as_in_the_study(tmp_path: Path) -> None:
    own = Arm("sam@after", (), "baseline@after", "after", ({"name": "sam"},))
    recipe, _ = written(own.name, [Arm(BASELINE), own], tmp_path)
    assert isinstance(recipe, whet.Recipe)
    _, run = composition.compose(
        sources.load("digits"), [], 0, updates=20, after=[{"name": "sam"}], share=0.25,
        device="cpu", log=None,
    )  # fmt: skip
    wanted = run.recipe.stages[1]
    later = recipe.stages[1]
    assert (later.updates, later.schedule) == (wanted.updates, wanted.schedule)
    assert [*map(repr, map(methods.make, later.methods))] == [*map(repr, wanted.methods)]
    assert [*recipe.stages[0].methods] == []


@pytest.mark.parametrize("name", ['"""+1/0+"""', "a\\", 'x"', "new\nline", "\x1b[31mred"])
def test_a_name_cannot_end_the_docstring(name: str, tmp_path: Path) -> None:
    recipe, text = written(name, [Arm(BASELINE), arm(name, {"name": "ema"})], tmp_path)
    assert [*recipe.methods] == [{"name": "ema"}]
    assert len(ast.parse(text).body) == 3  # docstring, import, recipe
    assert "\x1b" not in text


def test_a_function_cannot_be_written(tmp_path: Path) -> None:
    made = study(ARMS)
    made["task"]["stage"]["schedule"] = {"function": "mine"}
    with pytest.raises(InputError, match=r"the task's schedule is the function mine\. Name it"):
        pick.written(made, [], "ema", [], tmp_path)


def test_what_was_trained_is_what_is_written(tmp_path: Path) -> None:
    """A study of the real task, its recipe trained by the engine: companions are in it."""
    study = whet.Study("digits", methods=["swa"], seeds=1, out=tmp_path / "s", budget=None,
                       jobs=1, console=Console(quiet=True))  # fmt: skip
    job = Node("digits", "swa", ({"name": "swa"},), 0, {"updates": 6, "device": "cpu"})
    (tmp_path / "n").mkdir()
    row = node.train(job, tmp_path / "n")
    assert [each["name"] for each in row["settings"]] == ["swa", "precise_bn"]
    made = study_of(study, tmp_path)
    text = pick.written(made, [row | {"arm": "swa"}], "swa", ["a", "b"], tmp_path / "recipe.py")
    (tmp_path / "recipe.py").write_text(text)
    recipe = runpy.run_path(str(tmp_path / "recipe.py"))["recipe"]
    assert [each["name"] for each in recipe.methods] == ["swa", "precise_bn"]
    run = whet.Run(sources.load("digits").task(0), recipe, seed=0, device="cpu", log=None).fit()
    assert run.evaluate("judge")[METRIC] == row["metrics"]["judge"][METRIC]


def study_of(made: whet.Study, folder: Path) -> dict[str, Any]:
    """The manifest, at the length of the one run above."""
    from whet.study.prepare import Planner

    planner = Planner(made.request)
    manifest = planner.prepare(lambda nodes, store: None).study
    return manifest | {"task": manifest["task"] | {"updates": 6}}


TASK = '''
"""Points on two sides of a line."""
import torch, whet
ABOUT = whet.About(updates=3, seeds=3, methods=("clip_grad_norm",))
def task(seed):
    x = torch.randn(150, 2, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(150, generator=torch.Generator().manual_seed(seed))
    parts = [(x[rows], (x[rows, 0] > 0).long()) for rows in order.tensor_split((90, 120))]
    return whet.Task(torch.nn.Linear(2, 2), *parts)
'''


@pytest.mark.slow
def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("task.py").write_text(TASK)
    words = ["study", "task.py", "--jobs", "1", "--confirm", "--pick", "--out", "out"]
    assert call(monkeypatch, *words) == 0
    said = capsys.readouterr().out
    assert "of 150 rows (20%) are set aside" in said
    assert "fresh seeds, rows that the study never used, 3 seeds" in said
    assert re.search(r"^recipe: (baseline|clip_grad_norm)$", said, re.MULTILINE)
    recipe = runpy.run_path("out/recipe.py")["recipe"]
    assert recipe.updates == 3

    assert call(monkeypatch, "study", "task.py", "--jobs", "1", "--pick", "--out", "out") == 0
    said = capsys.readouterr().out  # alone: of that study, and nothing is trained
    assert "6 of 6 runs done" in said


def test_evidence_writes_it(tmp_path: Path) -> None:
    made = rows({"ema": 0.01}, {})
    found = statistics.paired(made, METRIC, True)
    picked = Evidence(study(ARMS), made, found, [], tmp_path / "report.html").pick()
    assert (picked.arm, picked.shown, picked.path) == ("ema", True, tmp_path / "recipe.py")
    assert picked.path.read_text() == picked.text
    assert picked.evidence[0] in picked.text
