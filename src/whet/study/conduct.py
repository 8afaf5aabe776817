"""A study from its settings to its report; the same settings again continue it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.console import Console

from whet.study import confirm, display, foresight, trie, wording
from whet.study.evidence import Evidence, compare, conclude
from whet.study.executors.choice import TRAIN
from whet.study.executors.executor import check_alone
from whet.study.plan import BASELINE, Node, Row
from whet.study.planned import Plan
from whet.study.prepare import Planner, Prepared
from whet.study.rehearsal import Rehearsal, Run
from whet.study.request import Request
from whet.study.schedule import Watch, schedule
from whet.study.store import Store


def conduct(request: Request, console: Console, train: str = TRAIN) -> Evidence | Rehearsal | Plan:
    """Run what is not there yet, then write results, verdicts and report."""
    check_alone("a study")
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


def _say(console: Console, text: str) -> None:
    console.print(wording.plain(text), markup=False, highlight=False, soft_wrap=True)
