"""What a study's files say: comparisons, verdicts, report; whether it has ended or not."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.study import (
    confirm,
    controls,
    families,
    figures,
    files,
    fractions,
    live,
    pick,
    redact,
    report,
    statistics,
    trie,
)
from whet.study.confirm import Confirmation
from whet.study.controls import Controlled
from whet.study.families import Family
from whet.study.fractions import AtFraction
from whet.study.pick import Pick
from whet.study.plan import BASELINE, Node, Row
from whet.study.prepare import CONFIDENCE
from whet.study.statistics import Comparison
from whet.study.store import Store


@dataclass(frozen=True)
class Evidence:
    """What a study's files say so far.

    Args:
        study: what the study is.
        rows: one for each run that ended.
        comparisons: arms against the baseline.
        leaving: arms that lack one method of `all`, against it.
        report: the report's file.
        further: what else the design asks: main effects, interactions, rungs, other controls.
        controlled: arms against the baseline trained as long, too; where that was asked for.
        confirmation: gains that were found again, or not, where that was asked for.
    """

    study: dict[str, Any]
    rows: list[Row]
    comparisons: list[Comparison]
    leaving: list[Comparison]
    report: Path
    further: list[Family] = field(default_factory=list)
    controlled: list[Controlled] = field(default_factory=list)
    confirmation: Confirmation | None = None

    @property
    def by_data(self) -> list[AtFraction]:
        """What each arm gains on each fraction of the data, for tables and plots."""
        gained = (family.comparisons for family in self.further if family.key != "data")
        return fractions.by_data([*self.comparisons, *itertools.chain.from_iterable(gained)])

    def pick(self) -> Pick:
        """The recipe that this speaks for, written to `recipe.py` beside the report.

        Raises:
            InputError: the task's optimizer or schedule is a function.
        """
        given = (self.study, self.rows, [*self.comparisons, *self.leaving], self.controlled)
        return pick.pick(*given, self.report.parent)

    def export(
        self, formats: str | Iterable[str] = "all", out: str | Path | None = None
    ) -> list[Path]:
        """Write the report in other formats; says which files that made.

        Args:
            formats: some of `html`, `markdown`, `latex`, `csv`, `figures`, `bibtex`, or `all`.
            out: the folder; None for the study's own.

        Raises:
            InputError: an unknown format.
        """
        from whet.study.exports.formats import write

        return write(self, formats, None if out is None else Path(out))

    def _repr_html_(self) -> str:
        """The report, for a notebook: in a frame of its own that runs nothing."""
        page = html.escape(self.report.read_text(encoding="utf-8"), quote=True)
        style = "width: 100%; height: 40rem; border: 1px solid #8886"
        return f'<iframe title="report" sandbox="" style="{style}" srcdoc="{page}"></iframe>'


def compare(study: dict[str, Any], rows: Sequence[Row]) -> dict[str, list[Comparison]]:
    """Arms against what they are held against, by its name; each is a family for Holm's levels."""
    metric, higher = study["task"]["metric"], study["task"]["higher_is_better"]
    reference = {arm["name"]: arm.get("reference", BASELINE) for arm in study["arms"]}
    # a longer baseline is no method, and costs the methods no level
    longer = {arm["name"] for arm in study["arms"] if controls.is_control(arm)}
    elsewhere = families.apart(study) | longer
    held_against: dict[str, list[Row]] = {}
    for row in rows:
        if row["arm"] not in elsewhere:
            held_against.setdefault(reference[row["arm"]], []).append(row)
    found = {}
    for name, theirs in held_against.items():
        held = [row for row in rows if row["arm"] == name and name != BASELINE]
        found[name] = statistics.paired(
            [*held, *theirs], metric, higher, name, CONFIDENCE,
            placements={arm["name"]: statistics.placement(arm) for arm in study["arms"]},
            margin=study.get("margin"), sizes=study["task"].get("rows"),
            passes=study.get("passes"),
        )  # fmt: skip
    return found


def conclude(store: Store, rebuild: bool = True) -> Evidence:
    """Write results, verdicts and report from the study's files.

    `rebuild` is False while another process conducts the study.
    """
    study = store.study()
    if study is None:
        raise InputError(f"{store.folder} holds no study: there is no study.json in it.")
    nodes = trie.judged(map(Node.from_json, study["nodes"]))
    rows = store.rebuild(nodes) if rebuild else store.rows(nodes)
    comparisons, leaving, further = families.divided(study, rows, compare(study, rows), CONFIDENCE)
    every = [*comparisons, *leaving]
    controlled = controls.compare(study, rows, every, CONFIDENCE)
    again = confirm.found(store.folder, study, every, CONFIDENCE)
    rule = statistics.rule(CONFIDENCE, study.get("margin"))
    verdicts = {
        "metric": study["task"]["metric"],
        "higher_is_better": study["task"]["higher_is_better"],
        "part": "judge",
        "confidence": CONFIDENCE,
        "margin": study.get("margin"),
        "population": statistics.POPULATION,
        "rule": rule,
        "comparisons": [asdict(each) for each in comparisons],
        "leaving": [asdict(each) for each in leaving],
        "further": [asdict(each) for each in further],
        "equal_time": [asdict(each) for each in controlled],
        "confirmation": None if again is None else asdict(again),
        "tuning": study.get("tuning"),
    }
    files.write(store.folder / "verdicts.json", files.to_json(redact.values(verdicts), 2))
    running = None if rebuild else len(live.look(store.folder).running)
    page = report.build(
        study, rows, comparisons, rule, leaving, further, controlled, again, running
    )
    files.write(store.report, page)
    if any(each.gain is not None for each in comparisons):
        picture = figures.picture(comparisons, study["task"]["metric"])
        files.write(store.folder / "gains.svg", picture)
    return Evidence(study, rows, comparisons, leaving, store.report, further, controlled, again)


def again(folder: Path) -> Evidence:
    """Write a study's files anew; while the study runs, its results file is left to it."""
    store = Store(folder)
    if store.study() is None:
        return conclude(store)
    try:
        with store.locked():
            return conclude(store)
    except files.InUse:
        return conclude(store, rebuild=False)
