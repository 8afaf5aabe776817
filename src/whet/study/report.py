"""One HTML file that opens anywhere, offline: what helped, by how much, at what cost."""

from __future__ import annotations

import importlib.resources
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from whet.study import figures, wording
from whet.study.plan import BASELINE, Node, Row, canonical
from whet.study.statistics import HELPS, HURTS, Comparison, ranked

TEMPLATE = "report.html.jinja"
KINDS = {HELPS: "better", HURTS: "worse"}


def build(
    study: Mapping[str, Any], rows: Sequence[Row], comparisons: Sequence[Comparison], rule: str
) -> str:
    """The report as HTML; every name in it is escaped, nothing in it is loaded."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    metric = study["task"]["metric"]
    order = ranked(comparisons)
    curves = figures.mean_curves(rows, metric)
    said = metric.replace("_", " ")
    drawn = {
        "forest": [Markup(figures.forest(order, said, wide)) for wide in (True, False)],
        "learning": [Markup(figures.learning(curves, wide)) for wide in (True, False)],
    }
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True)  # fmt: skip
    page.globals.update(wording=wording, places=wording.decimals(comparisons))
    text = importlib.resources.files("whet.study").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return page.from_string(text).render(
        study=study,
        metric=said,
        answer=Markup(_emphasised(str(escape(wording.answer(order, said))))),
        comparisons=[(each, KINDS.get(each.verdict, "unclear")) for each in order],
        baseline=_baseline(rows, metric),
        counts=_counts(study, rows),
        metrics=_metrics(rows),
        arms=_arms(study, rows),
        incidents=_incidents(rows),
        left_out=_left_out(study),
        missing=_missing(study, rows),
        environment=_environment(study, rows),
        rule=rule,
        **drawn,
    )


def _emphasised(text: str) -> str:
    return text.replace(wording.OPEN, "<strong>").replace(wording.CLOSE, "</strong>")


def _baseline(rows: Sequence[Row], metric: str) -> str:
    values = [
        row["metrics"]["judge"].get(metric)
        for row in rows
        if row["arm"] == BASELINE and row["status"] == "done" and "judge" in row["metrics"]
    ]
    known = [value for value in values if value is not None]
    return f"{statistics.fmean(known):.4f}" if known else wording.NOTHING


def _counts(study: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "methods": len(study["arms"]) - 1,
        "seeds": len(study["seeds"]),
        "done": sum(row["status"] == "done" for row in rows),
        "runs": len(study["nodes"]),
        "time": wording.duration(sum(row.get("seconds") or 0.0 for row in rows)),
    }


def _metrics(rows: Sequence[Row]) -> dict[str, Any]:
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


def _arms(study: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, str]]:
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


def _incidents(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Runs without a result, seeds with one reason together."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        if row["status"] != "done":
            reason = row.get("reason") or "no reason was given"
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


def _left_out(study: Mapping[str, Any]) -> dict[str, str]:
    asked = {settings["name"] for arm in study["arms"] for settings in arm["methods"]}
    reasons = study["task"].get("left_out") or {}
    return {name: reason for name, reason in reasons.items() if name not in asked}


def _missing(study: Mapping[str, Any], rows: Sequence[Row]) -> int:
    there = {row["key"] for row in rows}
    return sum(Node.from_json(values).key not in there for values in study["nodes"])


def _environment(study: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, str]:
    """What was the same in all runs, and side by side what was not."""
    values: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in (row.get("environment") or {}).items():
            values.setdefault(name, {})[str(value)] = None
    same = {name: " / ".join(each) for name, each in values.items()}
    planned = {"threads": str(study["threads"]), "runs at a time": str(study["jobs"])}
    return {**study["versions"], **same, **planned}
