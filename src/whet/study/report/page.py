"""The page itself: every part of it, and the guards that nothing in it can go around."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from whet.study import curves, figures, perclass, wording
from whet.study.plan import BASELINE, Row
from whet.study.report import checks, facts, grids, headline, plots, sections, sharing
from whet.study.statistics import POPULATION, Comparison, ranked
from whet.study.tradeoff import tradeoff

if TYPE_CHECKING:
    from jinja2 import Template

    from whet.study.confirm import Confirmation
    from whet.study.controls import Controlled
    from whet.study.families import Family

TEMPLATE, SCRIPT = "page.html.jinja", "page.js"
OPEN = 12  # panels of curves that are not folded
CLASSES = 12  # arms whose classes are shown


def build(
    study: Mapping[str, Any],
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
    rule: str,
    leaving: Sequence[Comparison] = (),
    further: Sequence[Family] = (),
    controlled: Sequence[Controlled] = (),
    again: Confirmation | None = None,
    running: int | None = None,
) -> str:
    """The report as HTML; every name in it is redacted and escaped, nothing in it is loaded.

    Args:
        study: the study's manifest.
        rows: what its runs came to.
        comparisons: arms against the baseline.
        rule: how verdicts are reached.
        leaving: arms that lack one method, against the arm with every one.
        further: what else the design asks.
        controlled: arms against the baseline trained as long.
        again: gains that were found again, or not.
        running: how many runs are in progress, where that is known.
    """
    metric = study["task"]["metric"]
    said = metric.replace("_", " ")
    order, lacking = ranked(comparisons), ranked(leaving)
    every = [*comparisons, *leaving]
    memory = facts.memory(rows, every)
    missing = facts.missing(study, rows)
    sheets, some = _sheets(study, rows, every)
    return _page().render(
        study=study,
        metric=said,
        design=facts.design(study),
        headline=headline.headline(
            study, rows, comparisons, further, controlled, again, bool(missing)
        ),
        leaving_answer=wording.plain(wording.leaving(lacking, said)),
        families={"baseline": sections.table(order, memory),
                  "leaving": sections.table(lacking, memory, leaving=True)},
        baseline=facts.baseline(rows, metric),
        baseline_memory=memory.get(BASELINE, ("", ""))[0],
        counts=facts.counts(study, rows),
        metrics=facts.metrics(rows),
        sheets=sheets,
        some=some,
        small=bool(sheets) and len(sheets[0].classes) <= perclass.SMALL,
        arms=facts.arms(study, rows),
        incidents=facts.incidents(rows),
        left_out=facts.left_out(study),
        missing=missing,
        running=running,
        environment=facts.environment(study, rows),
        notes=study.get("notes") or [],
        rule=rule,
        further=[sections.section(each, said, study, comparisons) for each in further],
        placements=grids.placements(study, comparisons, further),
        by_data=_by_data(study, comparisons, further, said),
        equal_time=checks.equal_time(controlled, every, said),
        confirmation=checks.confirmation(again, said),
        confirmed=checks.said_again(again) if again else "",
        tuning=checks.tuning(study),
        rates=_rates(study),
        sharing=sharing.sharing(study),
        many=sharing.MANY,
        panels=curves.panels(curves.curves(rows, metric), said, [each.arm for each in order],
                             facts.baselines(study)),
        open=OPEN,
        population=POPULATION,
        margin=study.get("margin"),
        **_figures(order, lacking, said),
    )  # fmt: skip


def _figures(
    order: Sequence[Comparison], lacking: Sequence[Comparison], metric: str
) -> dict[str, list[str]]:
    """Every figure twice: for wide and for narrow windows."""
    return {
        "forest": [figures.forest(order, metric, wide) for wide in (True, False)],
        "tradeoff": [tradeoff(order, metric, wide) for wide in (True, False)],
        "leaving": [figures.forest(lacking, metric, wide, "leaving") for wide in (True, False)],
    }


def _sheets(
    study: Mapping[str, Any], rows: Sequence[Row], every: Sequence[Comparison]
) -> tuple[list[perclass.Sheet], bool]:
    """Classes under the baseline and the arms on all data, or those of many that changed most."""
    whole = {arm["name"] for arm in study["arms"] if arm.get("data", 1.0) == 1.0}
    many = len(whole) > CLASSES + 1
    if many:
        sure = sorted(every, key=lambda e: (e.verdict not in headline.KINDS, -abs(e.gain or 0.0)))
        whole &= {BASELINE, *[each.arm for each in sure if each.arm in whole][:CLASSES]}
    return perclass.sheets([row for row in rows if row["arm"] in whole]), many


def _by_data(
    study: Mapping[str, Any], comparisons: Sequence[Comparison], further: Sequence[Family],
    metric: str,
) -> dict[str, Any] | None:  # fmt: skip
    grid = grids.by_fraction(study, comparisons, further)
    if grid is None:
        return None
    return {"grid": grid, "panels": plots.gains_by_data(grid.found, metric)}


def _rates(study: Mapping[str, Any]) -> dict[str, Any] | None:
    found = facts.rates(study)
    if found is None:
        return None
    return found | {"panels": plots.courses(found["courses"], facts.baselines(study))}


def _page() -> Template:
    """The template, with the guards that nothing in it can go around."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    folder = importlib.resources.files("whet.study.report")

    def load(name: str) -> str:
        return (folder / name).read_text("utf-8")

    page = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_told, loader=FunctionLoader(load),
    )  # fmt: skip
    script = load(SCRIPT)
    page.globals.update(wording=wording, digest=_digest(script), script=Markup(script))  # noqa: S704
    return page.get_template(TEMPLATE)


def _digest(script: str) -> str:
    """What the page's policy knows its only script by."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _told(value: Any) -> Any:
    """What may stand in the page of a text from outside; escaping comes after it."""
    from markupsafe import Markup

    outside = isinstance(value, str) and not isinstance(value, Markup)
    return wording.plain(value, lines=True) if outside else value
