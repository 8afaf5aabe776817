"""A study from its settings to its report; the same settings again continue it."""

from __future__ import annotations

import functools
import html
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from whet.errors import InputError
from whet.study import display, figures, files, redact, report, statistics, wording
from whet.study.executors.choice import TRAIN
from whet.study.plan import BASELINE, Node, Row
from whet.study.prepare import Planner, Prepared, Request
from whet.study.rehearsal import Rehearsal
from whet.study.schedule import schedule
from whet.study.statistics import Comparison
from whet.study.store import Store

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Evidence:
    """What a study's files say so far.

    Args:
        study: what the study is.
        rows: one for each run that ended.
        comparisons: arms against the baseline.
        leaving: arms that lack one method of `all`, against it.
        report: the report's file.
    """

    study: dict[str, Any]
    rows: list[Row]
    comparisons: list[Comparison]
    leaving: list[Comparison]
    report: Path

    def _repr_html_(self) -> str:
        """The report, for a notebook: in a frame of its own that runs nothing."""
        page = html.escape(self.report.read_text(encoding="utf-8"), quote=True)
        style = "width: 100%; height: 40rem; border: 1px solid #8886"
        return f'<iframe title="report" sandbox="" style="{style}" srcdoc="{page}"></iframe>'


def conduct(request: Request, console: Console, train: str = TRAIN) -> Evidence | Rehearsal:
    """Run what is not there yet, then write results, verdicts and report."""
    _check_alone()
    planner = Planner(request)
    store = Store(request.folder)
    with store.locked() as dead:
        store.claim(request.task)
        if request.fresh:
            store.clear()
        notes = [] if dead is None else [f"took over from process {dead}, which is gone"]
        for note in [*notes, *store.mend()]:
            _say(console, f"note: {note}")
        say = functools.partial(_say, console)
        rehearse = functools.partial(_rehearse, planner=planner, console=console, train=train)
        try:
            ready = planner.prepare(rehearse, store.study(), say)
            if request.fast and ready.rehearsal is not None:
                return ready.rehearsal
            store.write_study(ready.study)
            _run(ready, store, console, planner, train)
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
    nodes = [Node.from_json(values) for values in study["nodes"]] if study else []
    done = sum(row["status"] != "failed" for row in store.rebuild(nodes)) if study else 0
    return f"{done} of {wording.counted(len(nodes), 'run')} are kept."


def _rehearse(
    nodes: Sequence[Node], store: Store, *, planner: Planner, console: Console, train: str
) -> None:
    with display.progress(console, len(nodes), "") as watch:
        executor = planner.where.open(store, train, planner.device, planner.request.jobs)
        schedule(nodes, store, watch, executor)


def _run(ready: Prepared, store: Store, console: Console, planner: Planner, train: str) -> None:
    nodes, study = ready.nodes, ready.study
    rows = {node.key: row for node in nodes if (row := store.done(node)) is not None}
    waiting = [node for node in nodes if node.key not in rows]
    store.retry(waiting)
    store.rebuild(nodes)
    jobs = max(1, min(study["jobs"], len(waiting)))
    arms, seeds = (wording.counted(len(study[of]), of[:-1]) for of in ("arms", "seeds"))
    runs = f"{len(nodes) - len(waiting)} of {wording.counted(len(nodes), 'run')} done"
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
    with display.progress(console, len(waiting), study["task"]["metric"]) as watch:
        if waiting:
            executor = planner.where.open(store, train, planner.device, jobs)
            schedule(waiting, store, watch, executor, rows=rows, until=ready.until)
    late = sum(store.done(node) is None for node in waiting)
    if late and ready.until != float("inf"):
        _say(console, f"The budget is spent; {wording.counted(late, 'run')} did not end. The same "
             "command goes on.")  # fmt: skip


def compare(
    study: dict[str, Any], rows: Sequence[Row]
) -> tuple[list[Comparison], list[Comparison]]:
    """Arms against the baseline; and arms that lack one method, each against what it lacks it of.

    These are two questions, and each is a family of its own for Holm's levels.
    """
    metric, higher = study["task"]["metric"], study["task"]["higher_is_better"]
    reference = {arm["name"]: arm.get("reference", BASELINE) for arm in study["arms"]}
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(reference[row["arm"]], []).append(row)
    found = {}
    for name, theirs in families.items():
        held = [row for row in rows if row["arm"] == name and name != BASELINE]
        found[name] = statistics.paired([*held, *theirs], metric, higher, name, CONFIDENCE)
    return found.pop(BASELINE, []), [each for those in found.values() for each in those]


def conclude(store: Store, rebuild: bool = True) -> Evidence:
    """Write results, verdicts and report from the study's files."""
    study = store.study()
    if study is None:
        raise InputError(f"{store.folder} holds no study: there is no study.json in it.")
    nodes = [Node.from_json(values) for values in study["nodes"]]
    rows = store.rebuild(nodes) if rebuild else store.rows(nodes)
    comparisons, leaving = compare(study, rows)
    rule = statistics.rule(CONFIDENCE)
    verdicts = {
        "metric": study["task"]["metric"],
        "higher_is_better": study["task"]["higher_is_better"],
        "part": "judge",
        "confidence": CONFIDENCE,
        "rule": rule,
        "comparisons": [asdict(each) for each in comparisons],
        "leaving": [asdict(each) for each in leaving],
    }
    files.write(store.folder / "verdicts.json", files.to_json(redact.values(verdicts), 2))
    files.write(store.report, report.build(study, rows, comparisons, rule, leaving))
    if any(each.gain is not None for each in comparisons):
        picture = figures.picture(comparisons, study["task"]["metric"])
        files.write(store.folder / "gains.svg", picture)
    return Evidence(study, rows, comparisons, leaving, store.report)


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
