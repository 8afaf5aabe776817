"""The report's sections on questions beside those of the methods: headings, figures, tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from whet.study import figures, wording
from whet.study.families import Family
from whet.study.statistics import IDENTICAL, Comparison, ranked


def answer(order: Sequence[Comparison], further: Sequence[Family], metric: str) -> str:
    """What was found; where no method was tried by itself, in the first of the other families."""
    return wording.answer(order or (further[0].comparisons if further else order), metric)


def section(family: Family, metric: str, table: dict[str, Any]) -> dict[str, Any]:
    """A family's heading, figure for wide and narrow windows, and table."""
    from markupsafe import Markup

    name = re.sub(r"\W+", "-", family.key)
    plots = [
        Markup(figures.forest(ranked(family.comparisons), metric, wide, name))  # noqa: S704 - its
        for wide in (True, False)  # own SVG, which escapes every text
    ]
    lines = [(each, kind, "identical" if verdict == IDENTICAL else verdict)
             for each, kind, verdict in table["lines"]]  # fmt: skip
    return {"title": family.title, "about": family.about, "plots": plots,
            "table": table | {"lines": lines}}  # fmt: skip
