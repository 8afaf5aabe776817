"""One HTML file that opens anywhere, offline: what helped, by how much, at what cost."""

from __future__ import annotations

import importlib.resources
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from whet.study import figures, perclass, sections, wording
from whet.study.plan import BASELINE, Node, Row, canonical
from whet.study.statistics import HELPS, HURTS, POPULATION, Comparison, ranked
from whet.study.tradeoff import tradeoff

if TYPE_CHECKING:
    from jinja2 import Template

    from whet.study.families import Family

TEMPLATE = "report.html.jinja"
KINDS = {HELPS: "better", HURTS: "worse"}


def build(
    study: Mapping[str, Any],
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
    rule: str,
    leaving: Sequence[Comparison] = (),
    further: Sequence[Family] = (),
) -> str:
    """The report as HTML; every name in it is redacted and escaped, nothing in it is loaded.

    Args:
        study: the study's manifest.
        rows: what its runs came to.
        comparisons: arms against the baseline.
        rule: how verdicts are reached.
        leaving: arms that lack one method, against the arm with every one.
        further: what else the design asks.
    """
    metric = study["task"]["metric"]
    said = metric.replace("_", " ")
    order, lacking = ranked(comparisons), ranked(leaving)
    memory = _memory(rows, (*comparisons, *leaving))
    whole = {arm["name"] for arm in study["arms"] if arm.get("data", 1.0) == 1.0}
    classes = perclass.sheets([row for row in rows if row["arm"] in whole])
    return _page().render(
        study=study,
        metric=said,
        design=_design(study),
        answer=_marked(sections.answer(order, further, said)),
        leaving_answer=_marked(wording.leaving(lacking, said)),
        families={"baseline": _family(order, memory), "leaving": _family(lacking, memory, True)},
        baseline=_baseline(rows, metric),
        baseline_memory=memory.get(BASELINE, ("", ""))[0],
        counts=_counts(study, rows),
        metrics=_metrics(rows),
        sheets=classes,
        small=bool(classes) and len(classes[0].classes) <= perclass.SMALL,
        arms=_arms(study, rows),
        incidents=_incidents(rows),
        left_out=_left_out(study),
        missing=_missing(study, rows),
        environment=_environment(study, rows),
        notes=study.get("notes") or [],
        rule=rule,
        further=[
            sections.section(each, said, _family(ranked(each.comparisons), {})) for each in further
        ],
        population=POPULATION,
        margin=study.get("margin"),
        **_figures(order, lacking, figures.mean_curves(rows, metric), said),
    )


def _page() -> Template:
    """The template, with the guards that nothing in it can go around."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = importlib.resources.files("whet.study")
    page = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_told, loader=FunctionLoader(lambda name: (folder / name).read_text("utf-8")),
    )  # fmt: skip
    page.globals.update(wording=wording)
    return page.get_template(TEMPLATE)


def _told(value: Any) -> Any:
    """What may stand in the page of a text from outside; escaping comes after it."""
    from markupsafe import Markup

    outside = isinstance(value, str) and not isinstance(value, Markup)
    return wording.plain(value, lines=True) if outside else value


def _figures(
    order: Sequence[Comparison], lacking: Sequence[Comparison], curves: figures.Curves, metric: str
) -> dict[str, list[str]]:
    """Every figure twice: for wide and for narrow windows."""
    from markupsafe import Markup

    plots: dict[str, Callable[[bool], str]] = {
        "forest": lambda wide: figures.forest(order, metric, wide),
        "tradeoff": lambda wide: tradeoff(order, metric, wide),
        "learning": lambda wide: figures.learning(curves, wide),
        "leaving": lambda wide: figures.forest(lacking, metric, wide, "leaving"),
    }
    # the figures are matplotlib's own SVG, which escapes every text
    return {name: [Markup(plot(wide)) for wide in (True, False)]  # noqa: S704
            for name, plot in plots.items()}  # fmt: skip


def _family(
    order: Sequence[Comparison], memory: Mapping[str, tuple[str, str]], leaving: bool = False
) -> dict[str, Any]:
    """The lines of one table of verdicts, and what is known of their memory; empty without any."""
    said = wording.LEAVING if leaving else {}
    lines = [
        (
            each,
            KINDS.get(each.verdict, "unclear"),
            said.get(each.verdict, each.verdict) + _screening(each),
        )
        for each in order
    ]
    known = {each.arm: memory[each.arm] for each in order if each.arm in memory}
    places = wording.decimals(order)
    return {"lines": lines, "memory": known, "places": places} if lines else {}


def _screening(each: Comparison) -> str:
    return " (screening)" if each.screening and each.verdict in KINDS else ""


def _memory(rows: Sequence[Row], comparisons: Iterable[Comparison]) -> dict[str, tuple[str, str]]:
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


def _design(study: Mapping[str, Any]) -> str:
    """Which arms there are, in a sentence's beginning."""
    about = {arm["name"]: [*arm["methods"], *(arm.get("after") or ())] for arm in study["arms"]}
    held = {arm["name"]: arm.get("reference") or BASELINE for arm in study["arms"]}
    # who is held against an arm with methods lacks one of them; who has none is a control
    sizes = [len(those) for name, those in about.items() if those and not about.get(held[name])]
    alone = sum(size == 1 for size in sizes)
    lacking = sum(bool(those and about.get(held[name])) for name, those in about.items())
    if study.get("contrasts"):
        return f"A study of the design `{study['design']}`, {len(study['arms'])} arms"
    if alone == len(sizes) and not lacking:
        return f"Baseline and {wording.counted(alone, 'method')}, each alone"
    parts = [
        "Baseline",
        f"{wording.counted(alone, 'arm')} of one method" if alone else "",
        wording.counted(len(sizes) - alone, "arm") + " of several" if len(sizes) > alone else "",
        f"{lacking} that lack{'s' if lacking == 1 else ''} one of them" if lacking else "",
    ]
    return wording.listed([part for part in parts if part])


def _marked(text: str) -> str:
    """Escaped, with the names in it set apart."""
    from markupsafe import Markup, escape

    return Markup(_emphasised(str(escape(text))))  # noqa: S704 - escaped right here


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
    """Methods that were not tried, and why; a study of old has its task's reasons alone."""
    asked = {settings["name"] for arm in study["arms"] for settings in arm["methods"]}
    if study.get("left_out") is not None:
        return dict(study["left_out"])
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
