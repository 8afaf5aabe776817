"""A rehearsal: two updates of every arm, to find mistakes, what does not apply, and what it costs.

Rehearsed runs are nodes like others, kept in the study's folder, so that the same command does not
rehearse twice. Every part of training that an arm has is rehearsed, also one that begins late.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from whet.errors import InputError
from whet.study.plan import BASELINE, Arm, Node, Row
from whet.study.store import Store
from whet.study.timetable import Cost

FEW, MEASURED = 2, 8  # updates to find mistakes in, and to measure a step by
FOLDER = "rehearsal"
Run = Callable[[Sequence[Node], Store], None]


@dataclass(frozen=True)
class Rehearsal:
    """What came out of the rehearsed arms, by name."""

    rows: Mapping[str, Row]

    def costs(self) -> dict[str, Cost]:
        """What each arm costs; of arms that came to nothing there is no entry."""
        return {name: _cost(row) for name, row in self.rows.items() if row["status"] == "done"}

    def joined(self, other: Rehearsal) -> Rehearsal:
        """The arms of both."""
        return Rehearsal({**self.rows, **other.rows})

    def mistakes(self) -> list[str]:
        """The arms that raised."""
        return [name for name, row in self.rows.items() if row["status"] == "failed"]

    def unfit(self) -> dict[str, str]:
        """Why arms cannot be trained on the task, by name.

        Raises:
            InputError: the baseline itself cannot be.
        """
        found = {
            name: _first(row["reason"])
            for name, row in self.rows.items()
            if row["status"] not in ("done", "diverged")
        }
        if BASELINE in found:
            raise InputError(f"the task cannot be trained, without any method:\n{found[BASELINE]}")
        return found


def rehearse(
    arms: Sequence[Arm], nodes: Callable[[Sequence[Arm], int], list[Node]], folder: Path,
    train: Run, count: int = FEW,
) -> Rehearsal:  # fmt: skip
    """Train a little of every arm that was not rehearsed yet, or for longer.

    Args:
        arms: with the baseline.
        nodes: from arms and a number of updates to their nodes.
        folder: the study's.
        train: trains nodes and keeps them in a store.
        count: how many updates of every part.
    """
    store = Store(folder / FOLDER)
    pairs = zip(nodes(arms, count), nodes(arms, MEASURED), strict=True)
    made = [few if store.done(longer) is None else longer for few, longer in pairs]
    waiting = [node for node in made if store.done(node) is None]
    store.retry(waiting)
    if waiting:
        train(waiting, store)
    rows = {row["arm"]: row for row in store.rebuild(made)}
    return Rehearsal({arm.name: rows[arm.name] for arm in arms if arm.name in rows})


def _cost(row: Row) -> Cost:
    update, judge = row["seconds_per_update"] or 0.0, row.get("judging") or 0.0
    paces = row.get("paces") or [[0.0, 1.0, update]]
    begin = row.get("beginning")
    if begin is None:  # every part was rehearsed as a run of its own, with as many updates
        spent = sum(row["updates"] / len(paces) * pace for *_, pace in paces)
        begin = max(0.0, row["seconds"] - spent - 2 * judge) / len(paces)
    return Cost(begin, update, judge, row.get("paces") or (), row.get("saving") or 0.0)


def _first(reason: str | None) -> str:
    """What was wrong, without the traceback that led to it."""
    lines = [line for line in (reason or "").splitlines() if line.strip()]
    text = lines[-1].strip() if lines and lines[0].startswith("Traceback") else (reason or "")
    return text.strip()
