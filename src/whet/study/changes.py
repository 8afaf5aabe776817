"""What happened between two looks at a study: as lines for logs, and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from whet.study import phrases, pulse, wording
from whet.study.pulse import Now
from whet.study.statistics import TOO_FEW
from whet.study.view import FINISHED, View

WHOLE = 1 << 30  # cells: a line of any length
LONG = 60.0  # seconds from which a run's evaluations are told


def lines(before: View | None, after: View, width: int) -> Iterator[str]:
    """A line for whatever changed, nothing where nothing did.

    Args:
        before: the earlier look, None where there was none.
        after: the later one.
        width: cells that a line has.
    """
    state = list(_state(before, after, width))
    yield from state if before is None else ()
    yield from _begun(before, after, width)
    yield from _ended(before, after, width)
    yield from () if before is None else state
    yield from _found(before, after, width)


def _state(before: View | None, after: View, width: int) -> Iterator[str]:
    told, known = _told(after), None if before is None else _told(before)
    if told == known:
        return
    if after.title and (before is None or before.title != after.title):
        yield phrases.shortened(after.title, width)
    standing = phrases.standing(after) if after.of else ""
    for said in filter(None, [standing, phrases.state(after), after.note]):
        yield phrases.shortened_end(wording.plain(said), width)
    why, words = phrases.remedy(after)
    if words:  # whole, as it is there to be copied
        yield wording.plain(f"{why} {words}")


def _told(view: View) -> tuple[object, ...]:
    return view.title, view.of, view.state, view.note


def _begun(before: View | None, after: View, width: int) -> Iterator[str]:
    known = {} if before is None else {_key(now): now for now in before.running}
    for now in after.running:
        was = known.get(_key(now))
        if was is None or now.seconds < was.seconds - 1:
            yield phrases.named(now, "begun" if was is None else "begun again", width)
        elif now.silent > pulse.QUIET >= was.silent:
            said = f"no sign of life for {wording.duration(now.silent)}"
            yield phrases.named(now, said, width)
        elif (now.update, now.value) != (was.update, was.value) and _evaluated(was, now):
            value = f"{now.metric} {now.value:.4g}"
            yield phrases.named(now, f"update {now.update}/{now.of}, {value}", width)


def _evaluated(was: Now, now: Now) -> bool:
    long = now.seconds > LONG and now.phase == pulse.TRAINS
    return long and now.value is not None and now.value != was.value


def _key(now: Now) -> tuple[str, str, int]:
    return now.part, now.arm, now.seed


def _ended(before: View | None, after: View, width: int) -> Iterator[str]:
    """Runs that ended since; before the first look only what went wrong is told one by one."""
    known = set() if before is None else {*before.ended}
    new = [each for each in after.ended if each not in known]
    left = phrases.about(after.left)
    for number, each in enumerate(new, len(after.ended) - len(new) + 1):
        if before is not None or each in after.troubles:
            count = f"[{number}/{after.of}] "
            tail = f" ({left})" if left and each.status == "done" else ""
            said = phrases.outcome(each, after.metric)
            yield count + phrases.named(each, said, width - len(count) - len(tail)) + tail


def _found(before: View | None, after: View, width: int) -> Iterator[str]:
    """Verdicts that are new or other ones; all of them once the study has finished."""
    all_of_them = after.state == FINISHED and (before is None or before.state != FINISHED)
    known = {} if before is None else dict(_verdicts(before))
    for at, verdict in _verdicts(after):
        title, arm = at
        if all_of_them or (verdict != known.get(at, TOO_FEW)):
            each = next(c for t, those in after.verdicts if t == title for c in those
                        if c.arm == arm)  # fmt: skip
            so_far = "so far: " if after.missing else ""
            yield so_far + phrases.sentence(each, after.metric, width - len(so_far), title)


def _verdicts(view: View) -> Iterator[tuple[tuple[str, str], str]]:
    for title, comparisons in view.verdicts:
        for each in comparisons:
            yield (title, each.arm), each.verdict


def to_json(view: View) -> dict[str, Any]:
    """A view as plain values."""
    return {
        "folder": str(view.folder), "state": view.state, "title": view.title,
        "metric": view.metric, "command": view.command, "of": view.of, "done": view.done,
        "failed": view.failed, "missing": view.missing, "interrupted": view.interrupted,
        "left": view.left, "holder": None if view.holder is None else asdict(view.holder),
        "running": [asdict(now) for now in view.running],
        "troubles": [asdict(each) for each in view.troubles],
        "provisional": bool(view.missing),
        "verdicts": [
            {"about": title, "comparisons": [
                asdict(each) | {"sentence": phrases.sentence(each, view.metric, WHOLE, title)}
                for each in those]}
            for title, those in view.verdicts
        ],
        "note": view.note,
    }  # fmt: skip


def timeless(view: View) -> View:
    """A view without what passes by itself: two that are equal tell the same."""
    holder = None if view.holder is None else replace(view.holder, silent=0.0)
    running = tuple(
        replace(now, seconds=0.0, silent=float(now.silent > pulse.QUIET)) for now in view.running
    )
    return replace(view, left=None, holder=holder, running=running)
