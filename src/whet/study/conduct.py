"""A study from its settings to its report; the same settings again continue it."""

from __future__ import annotations

import functools
import html
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from whet.errors import InputError
from whet.study import (
    confirm,
    controls,
    display,
    families,
    figures,
    files,
    foresight,
    fractions,
    pick,
    redact,
    report,
    statistics,
    trie,
    wording,
)
from whet.study.confirm import Confirmation
from whet.study.controls import Controlled
from whet.study.executors.choice import TRAIN
from whet.study.families import Family
from whet.study.fractions import AtFraction
from whet.study.pick import Pick
from whet.study.plan import BASELINE, Node, Row
from whet.study.planned import Plan
from whet.study.prepare import CONFIDENCE, Planner, Prepared
from whet.study.rehearsal import Rehearsal, Run
from whet.study.request import Request
from whet.study.schedule import Watch, schedule
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


def conduct(request: Request, console: Console, train: str = TRAIN) -> Evidence | Rehearsal | Plan:
    """Run what is not there yet, then write results, verdicts and report."""
    _check_alone()
    foresight.check(request)
    store = Store(request.folder)
    request = confirm.settled(request, None if request.fresh else store.study())
    planner = Planner(request)
    with store.locked() as dead:
        store.claim(request.task)
        if request.fresh and not request.plan:
            store.clear()
        notes = [] if dead is None else [f"took over from process {dead}, which is gone"]
        for note in [*notes, *store.mend()]:
            _say(console, f"note: {note}")
        say = functools.partial(_say, console)
        rehearse = functools.partial(_rehearse, planner=planner, console=console, train=train)
        beside = functools.partial(rehearse, jobs=planner.jobs)
        try:
            if request.plan:
                return foresight.foresee(planner, store, rehearse, compare, say)
            ready = planner.prepare(rehearse, store.study(), say, beside)
            if request.fast and ready.rehearsal is not None:
                return ready.rehearsal
            store.write_study(ready.study)
            _run(ready, store, console, planner, train)
            if request.confirm is not None:
                _confirm(planner, store, beside, say)
        except KeyboardInterrupt:
            _say(console, f"Stopped. {_kept(store)}")
            _say(console, f"Continue with: {replace(request, fresh=False).command}")
            raise
        return conclude(store)


def _check_alone() -> None:
    if os.environ.get("TORCHELASTIC_RUN_ID") and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "a study starts its own processes: run it without torchrun, with --jobs for as many "
            "runs at a time as you want."
        )


def _kept(store: Store) -> str:
    study = store.study()
    nodes = trie.judged(map(Node.from_json, study["nodes"])) if study else []
    done = sum(row["status"] != "failed" for row in store.rebuild(nodes)) if study else 0
    return f"{done} of {wording.counted(len(nodes), 'run')} are kept."


def _rehearse(
    nodes: Sequence[Node], store: Store, *, planner: Planner, console: Console, train: str,
    jobs: int | None = None,
) -> None:  # fmt: skip
    with display.progress(console, len(nodes), "", store) as watch:
        at_a_time = planner.request.jobs or jobs
        executor = planner.where.open(store, train, planner.device, at_a_time)
        schedule(nodes, store, watch, executor)


def _confirm(planner: Planner, store: Store, train: Run, say: Callable[[str], None]) -> None:
    """Find again what helped, or what is picked."""
    found = conclude(store)
    picked = found.pick().arm if planner.request.pick else BASELINE
    only = None if picked == BASELINE else picked
    for line in confirm.conduct(
        planner, found.study, [*found.comparisons, *found.leaving], store.folder, train, only
    ):
        say(line)


def _run(ready: Prepared, store: Store, console: Console, planner: Planner, train: str) -> None:
    nodes, study = trie.judged(ready.nodes), ready.study
    rows = {node.key: row for node in ready.nodes if (row := store.done(node)) is not None}
    waiting = trie.needed(ready.nodes, lambda node: node.key in rows, store.held)
    references = trie.References(ready.nodes, waiting)
    for trunk in references.unused():
        store.release(trunk)
    store.retry(waiting)
    store.rebuild(nodes)
    jobs = max(1, min(study["jobs"], len(waiting)))
    arms, seeds = (wording.counted(len(study[of]), of[:-1]) for of in ("arms", "seeds"))
    left = len(trie.judged(waiting))
    runs = f"{len(nodes) - left} of {wording.counted(len(nodes), 'run')} done"
    side_by_side = f", {jobs} at a time" if jobs > 1 else ""
    title = study["task"]["title"]
    _say(console, f"{title}: {arms}, {seeds}, {runs}{side_by_side}, in {store.folder}")
    for note in study["notes"]:
        _say(console, note)
    for name, reason in study["left_out"].items():
        _say(console, f"not tried: {name}: {wording.last_line(reason)}")
    others = store.others(nodes)
    if others:
        _say(console, f"{wording.counted(others, 'run')} of other settings or code: kept, unused")
    with display.progress(console, len(waiting), study["task"]["metric"], store) as watch:
        if waiting:
            tended = _Tended(watch, store, references)
            executor = planner.where.open(store, train, planner.device, jobs)
            schedule(waiting, store, tended, executor, rows=rows, until=ready.until)
    late = sum(store.done(node) is None for node in trie.judged(waiting))
    if late and ready.until != float("inf"):
        _say(console, f"The budget is spent; {wording.counted(late, 'run')} did not end. The same "
             "command goes on.")  # fmt: skip


class _Tended:
    """A watch that removes a trunk's checkpoint once nothing begins from it any more."""

    def __init__(self, watch: Watch, store: Store, references: trie.References) -> None:
        self.watch, self.store, self.references = watch, store, references

    def started(self, node: Node) -> None:
        self.watch.started(node)

    def again(self, node: Node, row: Row) -> None:
        self.watch.again(node, row)

    def ended(self, node: Node, row: Row) -> None:
        self.watch.ended(node, row)
        trunk = self.references.ended(node) if row["status"] != "failed" else None
        if trunk is not None:
            self.store.release(trunk)


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
    """Write results, verdicts and report from the study's files."""
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
    page = report.build(study, rows, comparisons, rule, leaving, further, controlled, again)
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


def _say(console: Console, text: str) -> None:
    console.print(wording.plain(text), markup=False, highlight=False, soft_wrap=True)
