"""The families of arms: each a heading, a figure for wide and for narrow windows, and a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from whet.study import figures, wording
from whet.study.families import Family
from whet.study.report import grids
from whet.study.report.headline import KINDS
from whet.study.statistics import IDENTICAL, Comparison, ranked

Memory = Mapping[str, tuple[str, str]]


def table(order: Sequence[Comparison], memory: Memory, leaving: bool = False) -> dict[str, Any]:
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
    timed = any(each.slowdown is not None for each in order)
    return {"lines": lines, "memory": known, "places": places, "timed": timed} if lines else {}


def _screening(each: Comparison) -> str:
    return " (screening)" if each.screening and each.verdict in KINDS else ""


def section(
    family: Family, metric: str, study: Mapping[str, Any], comparisons: Sequence[Comparison]
) -> dict[str, Any]:
    """A family's heading, figures and tables, with what its kind of question has beside them."""
    name, order = re.sub(r"\W+", "-", family.key), ranked(family.comparisons)
    made = table(order, {})
    lines = [(each, kind, "identical" if verdict == IDENTICAL else verdict)
             for each, kind, verdict in made["lines"]]  # fmt: skip
    kind = family.key.partition("@")[0]
    maps = grids.interactions(study, comparisons, family) if kind == "interactions" else []
    return {
        "title": family.title, "about": family.about, "table": made | {"lines": lines},
        "plots": [figures.forest(order, metric, wide, name) for wide in (True, False)],
        "maps": maps, "runs": grids.factors(study, family) if kind == "effects" else None,
    }  # fmt: skip
