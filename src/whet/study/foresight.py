"""What a study would do, from a rehearsal and nothing else: its plan, and what is left of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from whet.errors import InputError
from whet.study import confirm, families, trie, tuning
from whet.study.expected import Measures, Share
from whet.study.plan import Node, Row
from whet.study.planned import Plan, Remaining, Work
from whet.study.prepare import AFTER, CONFIDENCE, Planner, Prepared
from whet.study.rehearsal import Run
from whet.study.request import Request
from whet.study.statistics import FEWEST
from whet.study.store import Store

if TYPE_CHECKING:
    from whet.study.statistics import Comparison

Compare = Callable[[dict[str, Any], Sequence[Row]], dict[str, list["Comparison"]]]


def check(request: Request) -> None:
    """Refuse a plan that would be none.

    Raises:
        InputError: `--fast` was asked for as well.
    """
    if request.plan and request.fast:
        raise InputError(
            "--plan and --fast are two commands: --fast tries two updates of everything and stops, "
            "and --plan measures some more to say what the study takes. Leave out one of them; "
            "--plan names the arms that cannot be trained, too."
        )


def foresee(
    planner: Planner, store: Store, train: Run, compare: Compare,
    say: Callable[[str], None] = lambda text: None,
) -> Plan:  # fmt: skip
    """The plan of a study, and what of it the folder holds already; writes no study.

    Args:
        planner: of the study.
        store: its folder.
        train: trains nodes and keeps them in a store, for the rehearsal.
        compare: the comparisons of a study's rows, to know what a finished one would confirm.
        say: is told what happens.
    """
    request = planner.request
    earlier = None if request.fresh else store.study()
    untuned = _untuned(planner)
    ready = planner.prepare(train, earlier, say)
    assert ready.rehearsal is not None
    measures = Measures(planner, ready)
    study = measures.work(ready.made.arms, ready.nodes, store)
    again, more = _confirmation(planner, ready, measures, store, study, compare)
    tuned = measures.tuning(planner, untuned)
    parts = [each for each in (study, again, tuned) if each is not None]
    alone = [replace(node, parent=None, rides=None) for node in trie.judged(ready.nodes)]
    about = ready.study
    return Plan(
        about["task"]["name"], about["task"]["title"], measures.updates, tuple(about["seeds"]),
        planner.jobs, study.whole.runs, study.whole.nodes,
        trie.cost(alone, AFTER, measures.updates), study.whole.cost,
        sum(part.whole.seconds for part in parts), _peak([part.whole for part in parts]),
        Remaining(
            study.left.runs, study.left.nodes, study.left.cost,
            sum(part.left.seconds for part in parts), _peak([part.left for part in parts]),
            0 if tuned is None else tuned.left.runs, 0 if again is None else again.left.runs,
        ),
        measures.arms(ready.made.arms), dict(about["left_out"]),
        None if tuned is None else tuned.whole,
        None if again is None else replace(again.whole, at_most=more),
        about["budget"], tuple(about["notes"]),
    )  # fmt: skip


def _untuned(planner: Planner) -> int | None:
    """Runs that are left of the search for a rate; None where none was asked for.

    A search that is over gives the study its rate. Of one that is not, no more is known than the
    rates that are tried next.
    """
    left: list[Node] = []

    def none(nodes: Sequence[Node], store: Store) -> None:
        left.extend(nodes)
        raise _Untrained

    care, request = planner.care, planner.request
    if care.rates is None:
        return None
    if request.fresh:
        return care.rates * len(tuning.SEEDS)
    with suppress(_Untrained):
        care.tune(planner.task, request.folder, planner.nodes, none, lambda text: None)
    return len(left)


class _Untrained(Exception):
    """Something is still to be trained, which a plan does not do."""


def _confirmation(
    planner: Planner, ready: Prepared, measures: Measures, store: Store, study: Share,
    compare: Compare,
) -> tuple[Share | None, bool]:  # fmt: skip
    """What is trained once more, and whether it may be less: who helped is known at the end."""
    if planner.request.confirm is None:
        return None, False
    names = [arm["name"] for arm in ready.study["arms"] if confirm.is_candidate(arm)]
    open_ = bool(study.left.runs) or planner.request.pick or planner.request.fresh
    if not open_:
        rows = store.rows(trie.judged(ready.nodes))
        found = families.divided(ready.study, rows, compare(ready.study, rows), CONFIDENCE)
        names, _ = confirm.chosen(ready.study, [*found[0], *found[1]])
    if not names:
        return None, False
    count = planner.request.confirm or max(FEWEST, len(ready.study["seeds"]))
    made = confirm.plan(planner, ready.study, names, True, count)
    nodes = [Node.from_json(values) for values in made["nodes"]]
    arms = [confirm.arm_of(values) for values in made["arms"]]
    again = measures.work(arms, nodes, Store(store.folder / confirm.FOLDER))
    return again, open_


def _peak(parts: Sequence[Work]) -> int:
    """Of parts that follow one another."""
    return max(part.bytes for part in parts)
