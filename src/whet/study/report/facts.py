"""What a report says of a study beside its verdicts: runs, arms, incidents, environment."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from whet.study import shapes, trie, wording
from whet.study.plan import BASELINE, Node, Row, canonical
from whet.study.statistics import Comparison


def memory(rows: Sequence[Row], comparisons: Iterable[Comparison]) -> dict[str, tuple[str, str]]:
    """Each arm's peak memory, its median over the seeds, and how many times its reference's."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["status"] == "done" and row.get("peak_memory") is not None:
            found.setdefault(row["arm"], []).append(row["peak_memory"])
    ratios = {
        each.arm: wording.times(each.cost.memory.value)
        for each in comparisons if each.cost and each.cost.memory
    }  # fmt: skip
    return {arm: (wording.megabytes(statistics.median(sizes)), ratios.get(arm, ""))
            for arm, sizes in found.items()}  # fmt: skip


def design(study: Mapping[str, Any]) -> str:
    """Which arms there are, in a sentence's beginning."""
    shares = {float(arm.get("data") or 1.0) for arm in study["arms"]}
    if len(shares) > 1:
        arms = [arm for arm in study["arms"] if float(arm.get("data") or 1.0) == max(shares)]
        rest = {n: v for n, v in (study.get("contrasts") or {}).items() if "data" not in n}
        said = design({**study, "arms": arms, "contrasts": rest})
        return f"{said}, on {len(shares)} amounts of data"
    about = {arm["name"]: [*arm["methods"], *(arm.get("after") or ())] for arm in study["arms"]}
    held = {arm["name"]: arm.get("reference") or BASELINE for arm in study["arms"]}
    # who is held against an arm with methods lacks one of them; who has none is a control
    sizes = [len(those) for name, those in about.items() if those and not about.get(held[name])]
    alone = sum(size == 1 for size in sizes)
    lacking = sum(bool(those and about.get(held[name])) for name, those in about.items())
    kinds = {family.partition("@")[0] for family in study.get("contrasts") or {}}
    if kinds - {"data"}:
        return f"A study of the design {study.get('design', 'unknown')}, {len(study['arms'])} arms"
    if alone == len(sizes) and not lacking:
        placed = {arm.get("placement") or "whole" for arm in study["arms"] if about[arm["name"]]}
        if len(placed) > 1:
            return f"Baseline and {wording.counted(alone, 'arm')} of one method"
        return f"Baseline and {wording.counted(alone, 'method')}, each alone"
    parts = [
        "Baseline",
        f"{wording.counted(alone, 'arm')} of one method" if alone else "",
        wording.counted(len(sizes) - alone, "arm") + " of several" if len(sizes) > alone else "",
        f"{lacking} that lack{'s' if lacking == 1 else ''} one of them" if lacking else "",
    ]
    return wording.listed([part for part in parts if part])


def baselines(study: Mapping[str, Any]) -> dict[str, str]:
    """The arm without methods that each arm is to be seen beside: its own, or the plain one."""
    bare = {arm["name"] for arm in study["arms"] if not arm["methods"] and not arm.get("after")}
    held = {arm["name"]: arm.get("reference") or BASELINE for arm in study["arms"]}
    return {name: other if other in bare else BASELINE
            for name, other in held.items() if name != BASELINE}  # fmt: skip


def baseline(rows: Sequence[Row], metric: str) -> str:
    """The mean over the baseline's seeds of the metric that decides."""
    values = [
        row["metrics"]["judge"].get(metric)
        for row in rows
        if row["arm"] == BASELINE and row["status"] == "done" and "judge" in row["metrics"]
    ]
    known = [value for value in values if value is not None]
    return f"{statistics.fmean(known):.4f}" if known else wording.NOTHING


def counts(study: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Seeds, runs, runs that came to a result, and the time that they took together."""
    return {
        "seeds": len(study["seeds"]),
        "done": sum(row["status"] == "done" for row in rows),
        "runs": len(_judged(study)),
        "time": wording.duration(sum(row.get("seconds") or 0.0 for row in rows)),
    }


def metrics(rows: Sequence[Row]) -> dict[str, Any]:
    """Every metric of the judge part, its mean over the seeds of each arm."""
    found: dict[str, dict[str, list[float]]] = {}
    names: dict[str, None] = {}
    for row in rows:
        for name, value in ((row.get("metrics") or {}).get("judge") or {}).items():
            if isinstance(value, int | float):
                names[name] = None
                found.setdefault(row["arm"], {}).setdefault(name, []).append(value)
    means = {
        arm: [
            f"{statistics.fmean(values[name]):.4f}" if name in values else wording.NOTHING
            for name in names
        ]
        for arm, values in found.items()
    }
    return {"names": list(names), "means": means}


def arms(study: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, str]]:
    """Each arm's nesting as it was printed by its first run that got so far."""
    first: dict[str, Row] = {}
    for row in rows:
        if row.get("explain"):
            first.setdefault(row["arm"], row)
    nothing = {"explain": "no run of this arm came so far"}
    return [
        {
            "name": arm["name"],
            "settings": ", ".join(map(canonical, row.get("settings") or arm["methods"])),
            "explain": row["explain"],
        }
        for arm in study["arms"]
        for row in [first.get(arm["name"], nothing)]
    ]


def incidents(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Runs without a result, seeds with one reason together."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        if row["status"] != "done":
            reason = row.get("reason") or "no reason was given"
            reason = reason.replace(f", seed {row['seed']},", ",")  # of a trunk: all seeds' alike
            found.setdefault((row["arm"], row["status"], reason), []).append(row["seed"])
    return [
        {
            "arm": arm,
            "status": status,
            "seeds": ("seed " if len(seeds) == 1 else "seeds ")
            + wording.listed([*map(str, seeds)]),
            "said": wording.last_line(reason),
            "reason": reason if "\n" in reason else "",
        }
        for (arm, status, reason), seeds in found.items()
    ]


def left_out(study: Mapping[str, Any]) -> dict[str, str]:
    """Methods that were not tried, and why; a study of old has its task's reasons alone."""
    asked = {settings["name"] for arm in study["arms"] for settings in arm["methods"]}
    if study.get("left_out") is not None:
        return dict(study["left_out"])
    reasons = study["task"].get("left_out") or {}
    return {name: reason for name, reason in reasons.items() if name not in asked}


def missing(study: Mapping[str, Any], rows: Sequence[Row]) -> int:
    """How many runs have no result yet; trunks, which are judged by nobody, are none."""
    there = {row["key"] for row in rows}
    return sum(node.key not in there for node in _judged(study))


def _judged(study: Mapping[str, Any]) -> list[Node]:
    return trie.judged(map(Node.from_json, study["nodes"]))


def rates(study: Mapping[str, Any]) -> dict[str, Any] | None:
    """The courses of the learning rate that are to be drawn, and what is said of the others.

    None where nothing is known of them, as in studies of old.
    """
    told = shapes.bounded(study.get("rates"))
    if not told or not (told["courses"] or told["untold"]):
        return None
    courses, own = told["courses"], told["rate"]
    said = [f"Of {wording.listed(each['arms'][:12])} no course is drawn: {each['why']}."
            for each in told["untold"]]  # fmt: skip
    levels = {share for each in courses for _, share in each["points"]}
    if len(levels) == 1 and levels == {1.0}:
        said.insert(0, "It is the same in every update" + (f": {own:g}." if own else "."))
        courses = []
    return {"courses": courses, "said": said, "own": f" ({own:g})" if own else ""}


def environment(study: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, str]:
    """What was the same in all runs, and side by side what was not."""
    values: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in (row.get("environment") or {}).items():
            values.setdefault(name, {})[str(value)] = None
    same = {name: " / ".join(each) for name, each in values.items()}
    planned = {"threads": str(study["threads"]), "runs at a time": str(study["jobs"])}
    return {**study["versions"], **same, **planned}
