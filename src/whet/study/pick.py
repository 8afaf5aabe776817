"""The recipe that a study speaks for, as a file that trains it.

Candidates are arms that helped, each as it was measured: what two methods gain together is not the
sum of what each does alone. The one is taken whose assured gain, the lower end of its interval, is
largest for the time that its training takes:

    max over arms of  low / max(cost, 1)

so a method that doubles the time must gain twice as much, and an arm of all methods is taken where
it is worth what all of them cost. An arm that was held against the baseline trained as long and
not shown to beat that is none of them. Where nothing helped, the recipe is the baseline's, and the
file says so.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.study import files, wording
from whet.study.confirm import is_candidate
from whet.study.controls import Controlled
from whet.study.plan import BASELINE, Row
from whet.study.statistics import HELPS, Comparison

FILE = "recipe.py"
NOTHING = "Nothing was shown to help. This is the baseline."


@dataclass(frozen=True)
class Pick:
    """A recipe and why it is this one.

    Args:
        arm: the arm's name.
        shown: whether the study has shown that it helps.
        evidence: that in words, a line each.
        text: the file's.
        path: where it lies.
    """

    arm: str
    shown: bool
    evidence: list[str]
    text: str
    path: Path


def pick(
    study: Mapping[str, Any], rows: Sequence[Row], comparisons: Sequence[Comparison],
    controlled: Sequence[Controlled], folder: Path,
) -> Pick:  # fmt: skip
    """Choose, and write `recipe.py` into the study's folder.

    Raises:
        InputError: the study is of an older version, or its optimizer is a function.
    """
    stage = study["task"].get("stage")
    if stage is None:
        raise InputError("this study does not say how its task is trained: run it again.")
    name, evidence = choose(study, rows, comparisons, controlled)
    shown = name != BASELINE
    path = folder / FILE
    text = written(study, rows, name, evidence, path)
    files.write(path, text)
    return Pick(name, shown, evidence, text, path)


def choose(
    study: Mapping[str, Any], rows: Sequence[Row], comparisons: Sequence[Comparison],
    controlled: Sequence[Controlled] = (),
) -> tuple[str, list[str]]:  # fmt: skip
    """The arm, and two lines on why."""
    arms = {arm["name"] for arm in study["arms"] if is_candidate(arm)}
    there = [each for each in comparisons if each.arm in arms and each.low is not None]
    time = {each.arm: each for each in controlled}
    helped = [each for each in there if each.verdict == HELPS]
    worth = [e for e in helped if e.arm not in time or time[e.arm].equal_time.verdict == HELPS]
    metric = study["task"]["metric"].replace("_", " ")
    if worth:
        cost = {each.arm: _cost(rows, each.arm) for each in worth}
        best = max(worth, key=lambda each: assured(each) / max(1.0, cost[each.arm]))
        return best.arm, [_found(best, metric), _against(best, cost[best.arm], worth, time)]
    if helped:
        names = wording.listed([each.arm for each in helped])
        return BASELINE, [
            f"{names} helped, but not against training as long without. This is the baseline.",
            "Training longer may do as much: see the study's controls.",
        ]
    best_low = max(there, key=assured, default=None)
    second = (
        "No arm came to enough results for a verdict."
        if best_low is None
        else f"The interval whose lower end is highest is that of {_found(best_low, metric)}"
    )
    return BASELINE, [NOTHING, second]


def assured(found: Comparison) -> float:
    """The lower end of the gain's interval, of that which allows for the other arms."""
    low = found.low if found.holm_low is None else found.holm_low
    assert low is not None
    return low


def _cost(rows: Sequence[Row], arm: str) -> float:
    """The median over seeds of the training time, in multiples of the baseline's."""
    took = {(r["arm"], r["seed"]): r.get("seconds_per_update") for r in rows
            if r["status"] == "done"}  # fmt: skip
    ratios = [
        ours / theirs
        for (name, seed), ours in took.items()
        if name == arm and ours and (theirs := took.get((BASELINE, seed)))
    ]
    return statistics.median(ratios) if ratios else 1.0


def _found(each: Comparison, metric: str) -> str:
    places = wording.decimals([each])
    return (
        f"{each.arm}: gain in {metric} {wording.signed(each.gain, places)} over the baseline, "
        f"95 % interval {wording.interval(each, places)}, {wording.counted(each.n, 'seed')}."
    )


def _against(
    best: Comparison, cost: float, others: Sequence[Comparison], time: Mapping[str, Controlled]
) -> str:
    control = f"; {time[best.arm].verdict}" if best.arm in time else ""
    of = f" of {len(others)} arms that helped" if len(others) > 1 else ""
    return (
        f"Largest assured gain for its time{of}, {wording.times(cost)} the baseline's per update"
        f"{control}."
    )


# the file -----------------------------------------------------------------------------------------
def written(
    study: Mapping[str, Any], rows: Sequence[Row], name: str, evidence: Sequence[str], path: Path
) -> str:
    """The recipe as a Python file."""
    arm: Mapping[str, Any] = next(
        (each for each in study["arms"] if each["name"] == name), {"methods": []}
    )
    methods = _settings(arm, rows)
    first = _stage(study, methods if arm.get("after") is None else arm["methods"])
    if arm.get("after") is None:
        recipe = f"recipe = {_call('whet.Stage', first)}"
    else:
        stages = [first, _later(first, methods, study, name)]
        inner = "".join(f"    {_call('whet.Stage', each, '    ')},\n" for each in stages)
        recipe = f"recipe = whet.Recipe([\n{inner}])"
    task = study["task"]
    command = f"whet fit {_task(study)} --recipe {path}"
    lines = [
        f"The recipe {name} for {task['name']}, from the study of {study['date']}.", "", *evidence,
        "", "Train it:", "", f"    {command}",
    ]  # fmt: skip
    said = "\n".join(_told(line) for line in lines)
    return f'"""{said}\n"""\n\nimport whet\n\n{recipe}\n'


def _told(line: str) -> str:
    """A line of a docstring that cannot end it."""
    indent = line[: len(line) - len(line.lstrip())]
    return indent + wording.plain(line.strip()).replace("\\", "\\\\").replace('"', '\\"')


def _task(study: Mapping[str, Any]) -> str:
    """The task as the study's command names it."""
    import shlex

    words = shlex.split(study["command"])
    return shlex.quote(words[2]) if len(words) > 2 else str(study["task"]["name"])


def _settings(arm: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The arm's methods, with the companions that stood beside them in its runs."""
    for row in rows:
        if row["arm"] == arm.get("name") and row["status"] == "done" and row.get("settings"):
            return [dict(each) for each in row["settings"]]
    return [dict(each) for each in (arm.get("after") or arm["methods"])]


def _stage(study: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    from whet import optim

    told, task = study["task"]["stage"], study["task"]
    for name in ("optimizer", "schedule"):
        if isinstance(told[name], dict) and "function" in told[name]:
            raise InputError(
                f"a recipe cannot be written: the task's {name} is the function "
                f"{told[name]['function']}. Name it in ABOUT with its settings."
            )
    optimizer = told["optimizer"]
    if study.get("tuning"):
        optimizer = optim.with_rate(optimizer, study["tuning"]["rate"])
    given = {
        "updates": task["updates"], "batch_size": told["batch_size"],
        "accumulate": told["accumulate"], "optimizer": optimizer,
        "schedule": None if _brings(methods) else told["schedule"],
        "methods": [dict(m) for m in methods],
    }  # fmt: skip
    usual = {"accumulate": 1, "schedule": None}
    return {name: value for name, value in given.items() if value != usual.get(name, ...)}


def _brings(methods: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of these methods has a schedule of its own."""
    from whet import nesting
    from whet.methods import make

    return any(nesting.brings_schedule(make(dict(each))) for each in methods)


def _later(
    first: Mapping[str, Any],
    methods: Sequence[Mapping[str, Any]],
    study: Mapping[str, Any],
    arm: str,
) -> dict[str, Any]:
    """The stage of fine-tuning that follows, as in the study's runs."""
    from whet import composition

    share = next(node["options"]["after"] for node in study["nodes"] if node["arm"] == arm)
    stage = _stage(study, methods)
    stage["updates"] = composition.fine_length(first["updates"], share)
    if _brings(methods):
        return stage
    return {**stage, "schedule": composition.fine_schedule(stage.get("schedule"))}


def _call(name: str, given: Mapping[str, Any], indent: str = "") -> str:
    inner = "".join(f"{indent}    {key}={_python(value)},\n" for key, value in given.items())
    return f"{name}(\n{inner}{indent})"


def _python(value: Any) -> str:
    """A plain value as code, in the quotes that formatters write."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_python(k)}: {_python(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_python, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else repr(value)
