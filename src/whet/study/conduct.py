"""A study from its settings to its report; the same settings again continue it."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from whet.errors import InputError
from whet.study import arms, display, files, identity, plan, report, statistics, wording
from whet.study.execute import TRAIN, cores, execute
from whet.study.plan import Arm, Node, Row
from whet.study.statistics import Comparison
from whet.study.store import Store

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Request:
    """What the user asked for; None stands for the task's own choice."""

    task: str
    methods: str | None = None
    seeds: int | None = None
    out: Path | None = None
    jobs: int | None = None
    threads: int = 1
    fresh: bool = False

    @property
    def folder(self) -> Path:
        """Where the study's files go."""
        return self.out or Path("whet-studies") / self.task

    @property
    def command(self) -> str:
        """The command line that asks for this; it continues rather than begins anew."""
        words = ["whet", "study", self.task]
        for flag, value in [("methods", self.methods), ("seeds", self.seeds), ("out", self.out),
                            ("jobs", self.jobs)]:  # fmt: skip
            words += [] if value is None else [f"--{flag}", str(value)]
        return shlex.join(words + ([] if self.threads == 1 else ["--threads", str(self.threads)]))


@dataclass(frozen=True)
class Evidence:
    """What a study's files say so far."""

    study: dict[str, Any]
    rows: list[Row]
    comparisons: list[Comparison]
    report: Path


def conduct(request: Request, console: Console, train: str = TRAIN) -> Evidence:
    """Run what is not there yet, then write results, verdicts and report."""
    study, nodes = prepare(request)
    store = Store(request.folder)
    with store.locked() as dead:
        store.claim(request.task)
        if request.fresh:
            store.clear()
        notes = [] if dead is None else [f"took over from process {dead}, which is gone"]
        for note in [*notes, *store.mend()]:
            console.print(f"note: {note}", markup=False)
        store.write_study(study)
        try:
            _run(nodes, store, console, study, train)
        except KeyboardInterrupt:
            done = sum(row["status"] != "failed" for row in store.rebuild(nodes))
            _say(console, f"Stopped. {done} of {wording.counted(len(nodes), 'run')} are kept.")
            _say(console, f"Continue with: {replace(request, fresh=False).command}")
            raise
        return conclude(store)


def prepare(request: Request) -> tuple[dict[str, Any], list[Node]]:
    """The study's manifest and its nodes; every mistake in the request is found here."""
    from whet.study.node import describe

    task = describe(request.task)
    every = plan.add_one(_chosen(request.methods, task))
    seeds = range(request.seeds if request.seeds is not None else task["seeds"])
    if not seeds:
        raise InputError("--seeds is 0; a study needs at least 1, and 3 for a verdict.")
    options = {"threads": request.threads}
    nodes = plan.nodes(
        request.task, every, seeds, options, lambda arm: identity.code_of(request.task, arm)
    )
    study = {
        "task": task,
        "arms": [asdict(arm) for arm in every],
        "seeds": list(seeds),
        "threads": request.threads,
        "jobs": request.jobs or max(1, cores() // request.threads),
        "command": request.command,
        "date": datetime.date.today().isoformat(),
        "versions": identity.versions(),
        "nodes": [node.to_json() for node in nodes],
    }
    return study, nodes


def _chosen(methods: str | None, task: Mapping[str, Any]) -> list[Arm]:
    """The task's own choice, or what was asked for, once each method has accepted its settings."""
    own = task.get("settings")
    if methods is None:
        return arms.default(task["methods"], own)
    from whet.methods import catalogue, make

    chosen = arms.parse(methods, catalogue(), own)
    for arm in chosen:
        for settings in arm.methods:
            make(settings)
    return chosen


def _run(
    nodes: Sequence[Node], store: Store, console: Console, study: dict[str, Any], train: str
) -> None:
    waiting = [node for node in nodes if store.done(node) is None]
    store.retry(waiting)
    store.rebuild(nodes)
    jobs = min(study["jobs"], len(waiting))
    arms, seeds = (wording.counted(len(study[of]), of[:-1]) for of in ("arms", "seeds"))
    runs = f"{len(nodes) - len(waiting)} of {wording.counted(len(nodes), 'run')} done"
    side_by_side = f", {jobs} at a time" if jobs > 1 else ""
    title = study["task"]["title"]
    _say(console, f"{title}: {arms}, {seeds}, {runs}{side_by_side}, in {store.folder}")
    others = store.others(nodes)
    if others:
        _say(console, f"{wording.counted(others, 'run')} of other settings or code: kept, unused")
    with display.progress(console, len(waiting), study["task"]["metric"]) as watch:
        execute(waiting, store, watch, jobs, study["threads"], train)


def conclude(store: Store, rebuild: bool = True) -> Evidence:
    """Write results, verdicts and report from the study's files."""
    study = store.study()
    if study is None:
        raise InputError(f"{store.folder} holds no study: there is no study.json in it.")
    nodes = [Node.from_json(values) for values in study["nodes"]]
    rows = store.rebuild(nodes) if rebuild else store.rows(nodes)
    metric, higher = study["task"]["metric"], study["task"]["higher_is_better"]
    comparisons = statistics.paired(rows, metric, higher, confidence=CONFIDENCE)
    verdicts = {
        "metric": metric,
        "higher_is_better": higher,
        "part": "judge",
        "confidence": CONFIDENCE,
        "rule": statistics.rule(CONFIDENCE),
        "comparisons": [asdict(each) for each in comparisons],
    }
    files.write(store.folder / "verdicts.json", files.to_json(verdicts, 2))
    files.write(store.report, report.build(study, rows, comparisons, statistics.rule(CONFIDENCE)))
    return Evidence(study, rows, comparisons, store.report)


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
    console.print(text, markup=False, highlight=False, soft_wrap=True)
