"""The baseline trained as long as a dearer method takes: more training is no merit of a method.

A method whose update costs c times the baseline's is compared with the baseline at equal updates,
and then with `baseline@xT`, trained T times as long with its schedule stretched, where T is c
rounded to a quarter so that methods share controls. For a stage that follows (`after`) it is that
stage which is longer. T is fixed once for a study, since measured times vary from day to day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whet.study import statistics, wording
from whet.study.paces import mean
from whet.study.plan import BASELINE, Arm, Row
from whet.study.statistics import FEWEST, HELPS, HURTS, TOO_FEW, Comparison
from whet.study.timetable import Cost

DEARER = 1.15  # times the baseline's update; below, measuring is no better than that
STEP = 0.25


@dataclass(frozen=True)
class Control:
    """Which stretched baseline an arm is held against, and the cost that was measured."""

    arm: str
    control: str
    times: float
    measured: float


@dataclass(frozen=True)
class Controlled:
    """An arm against the baseline at equal updates, and against the one trained as long."""

    arm: str
    control: str
    times: float
    equal_time: Comparison
    verdict: str


def costs(rows: Mapping[str, Row], arms: Iterable[Arm]) -> dict[str, float]:
    """The training time of each arm, or of its stage after, in multiples of its reference's.

    Args:
        rows: the rehearsed row of each arm.
        arms: those of the study.
    """
    found = {}
    for arm in arms:
        if arm.reference != _plain(arm):  # it lacks a method of another arm: that is its question
            continue
        ours = _seconds(rows.get(arm.name), arm)
        theirs = _seconds(rows.get(_plain(arm)), arm) or _seconds(rows.get(BASELINE), None)
        if ours and theirs and (arm.methods or arm.after):
            found[arm.name] = ours / theirs
    return found


def _seconds(row: Row | None, arm: Arm | None) -> float:
    """Per update; where `arm` ends with a stage of its own, of that stage."""
    if row is None or row.get("status") != "done":
        return 0.0
    paces = row.get("paces") or []
    own = [pace for pace in paces if pace[0] >= 1.0] if arm and arm.after is not None else paces
    return mean(own) or float(row.get("seconds_per_update") or 0.0)


def _plain(arm: Arm) -> str:
    """The baseline that trains as the arm does, but without methods."""
    return BASELINE if arm.after is None else f"{BASELINE}@{arm.placement}"


def planned(
    arms: Sequence[Arm], measured: Mapping[str, float], earlier: Sequence[Mapping[str, Any]] = ()
) -> list[Control]:
    """The control of each arm that costs more; those that were fixed `earlier` stay as they are."""
    fixed = {each["arm"]: Control(**each) for each in earlier}
    found = []
    for arm in arms:
        kept, cost = fixed.get(arm.name), measured.get(arm.name, 0.0)
        if kept is None and cost > DEARER:
            times = max(1.0 + STEP, round(cost / STEP) * STEP)
            kept = Control(arm.name, f"{_plain(arm)}@x{times:g}", times, cost)
        found += [] if kept is None else [kept]
    return found


def stretched(arms: Sequence[Arm], controls: Iterable[Control]) -> list[Arm]:
    """The arms with their controls, each right behind the first arm that is held against it."""
    wanted = {each.arm: each for each in controls}
    made: list[Arm] = []
    for arm in arms:
        made.append(arm)
        one = wanted.get(arm.name)
        if one is not None and one.control not in {each.name for each in made}:
            after = None if arm.after is None else ()
            made.append(Arm(one.control, (), _plain(arm), arm.placement, after,
                            times=one.times))  # fmt: skip
    return made


def notes(controls: Iterable[Control]) -> list[str]:
    """What a reader should know of the controls."""
    shared: dict[str, list[Control]] = {}
    for each in controls:
        shared.setdefault(each.control, []).append(each)
    return [
        f"{name} trains without the method {those[0].times:g} times as long, for "
        + wording.listed([f"{each.arm} ({each.measured:.2f} times the time)" for each in those])
        + "."
        for name, those in shared.items()
    ]


def is_control(arm: Mapping[str, Any]) -> bool:
    """Whether an arm of `study.json` is a baseline that was trained longer."""
    return float(arm.get("times") or 1.0) != 1.0


def compare(
    study: Mapping[str, Any], rows: Sequence[Row], comparisons: Iterable[Comparison],
    confidence: float,
) -> list[Controlled]:  # fmt: skip
    """The arms that have a control, against it; one family for Holm's levels.

    Args:
        study: the manifest.
        rows: of all arms.
        comparisons: the arms at equal updates.
        confidence: of the intervals.
    """
    found = {each["arm"]: Control(**each) for each in study.get("equal_time") or []}
    names = {arm["name"] for arm in study["arms"]}
    found = {n: each for n, each in found.items() if {n, each.control} <= names}
    metric, higher = study["task"]["metric"], study["task"]["higher_is_better"]
    shifted = _shifted(rows, found, metric)
    against = {e.arm: e for e in statistics.paired(shifted, metric, higher, BASELINE, confidence)}
    first = {each.arm: each for each in comparisons}
    return [
        Controlled(name, each.control, each.times, against[name],
                   verdict(first[name].verdict, _word(against[name]), each.times))
        for name, each in found.items()
        if name in first and name in against
    ]  # fmt: skip


def _word(found: Comparison) -> str:
    return TOO_FEW if found.n < FEWEST else found.verdict


def _shifted(rows: Sequence[Row], found: Mapping[str, Control], metric: str) -> list[Row]:
    """Rows whose difference to the baseline is that of the arm to its control.

    So arms with several controls make one family, and are compared by the same code.
    """
    at = {(row["arm"], row["seed"]): row for row in rows}
    made = [row for row in rows if row["arm"] == BASELINE]
    for (name, seed), row in at.items():
        if name not in found:
            continue
        beside = [at.get((found[name].control, seed)), at.get((BASELINE, seed))]
        values = [_value(each, metric) for each in (row, *beside)]
        ours, control, plain = values
        if ours is None or control is None or plain is None:
            missing = [each for each in beside if each is None or each["status"] != "done"]
            status = row["status"] if row["status"] != "done" or not missing else "failed"
            made.append({**row, "status": status, "metrics": {}})
        else:
            made.append({**row, "metrics": {"judge": {metric: ours - control + plain}}})
    return made


def _value(row: Row | None, metric: str) -> float | None:
    if row is None or row["status"] != "done":
        return None
    value = ((row.get("metrics") or {}).get("judge") or {}).get(metric)
    return None if value is None else float(value)


def verdict(updates: str, time: str, times: float) -> str:
    """What an arm was shown to do, at equal updates and at equal time.

    >>> verdict("helps", "helps", 2.0)
    'helps, also against training twice as long'
    """
    longer = "twice" if times == 2.0 else f"{times:g} times"
    if updates == HELPS:
        if time == HELPS:
            return f"helps, also against training {longer} as long"
        if time == HURTS:
            return f"helps only per update: training {longer} as long without it is better"
        if time == TOO_FEW:
            return f"helps; {TOO_FEW} to say whether also against training {longer} as long"
        return f"helps only per update: not shown against training {longer} as long"
    if time == HURTS and updates != HURTS:
        return f"{updates}; training {longer} as long without it is better"
    return updates


def longer_costs(
    arms: Iterable[Arm], known: Mapping[str, Cost], after: float
) -> dict[str, Cost]:  # fmt: skip
    """What the controls cost, from what the plain baselines do; `after` is the stage's length."""
    found = dict(known)
    for arm in arms:
        plain = found.get(arm.reference) or found.get(BASELINE)
        if arm.times != 1.0 and plain is not None:
            longer = (1 + after * arm.times) / (1 + after)
            times = arm.times if arm.after is None else longer
            # of a training with a stage behind it, that stage alone is longer
            paces = tuple([a, b, (arm.times if arm.after is None or a >= 1.0 else 1.0) * pace]
                          for a, b, pace in plain.paces)  # fmt: skip
            found[arm.name] = replace(plain, update=times * plain.update, paces=paces)
    return found
