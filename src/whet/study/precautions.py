"""What a study does so that its claims hold: rows set aside, a tuned baseline, equal time.

Each was asked for or not; what was not is said as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.study import confirm, controls, tuning
from whet.study.composing import Design
from whet.study.rehearsal import Rehearsal, Run
from whet.study.store import Store
from whet.study.tuning import MakeNodes, Tuning

MOST_ASIDE = 0.5


class Precautions:
    """Those of one study, as they become known.

    Args:
        task: what is known of the task; its length is set where rows are set aside.
        name, file: where the task comes from.
        hold_out: share of the rows that no run may see.
        rates: to try for the baseline first.

    Raises:
        InputError: what cannot be tuned or recognised.
    """

    def __init__(
        self, task: dict[str, Any], name: str, file: str | None,
        hold_out: float | None, rates: int | None,
    ) -> None:  # fmt: skip
        stage = task.get("stage") or {}
        tuning.check(rates, stage)
        self.told: dict[str, Any] = {}  # to every run beside what it always is
        self.rate: float | None = stage.get("rate")
        self.rates = rates
        self.tuning: Tuning | None = None
        self.controls: list[controls.Control] = []
        self.aside: dict[str, Any] | None = None
        if hold_out:
            self._set_aside(task, name, file, hold_out)

    def _set_aside(self, task: dict[str, Any], name: str, file: str | None, share: float) -> None:
        if not 0.0 < share <= MOST_ASIDE:
            raise InputError(f"--hold-out is {share:g}; it is a share in (0, {MOST_ASIDE}], or 0.")
        from whet.study.conditions import set_aside

        self.aside = set_aside(name, file, share)
        task["updates"] = self.aside.pop("updates")
        self.told["hold_out"] = share

    def tune(
        self, task: Mapping[str, Any], folder: Path, nodes: MakeNodes, train: Run,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Give every run the rate that suits the baseline best."""
        if self.rates is None:
            return
        say(f"tuning: the baseline alone, from {self.rates} learning rates on")
        found = tuning.tune(task, self.rates, nodes, Store(folder / tuning.FOLDER), train)
        for line in tuning.lines(found):
            say(line)
        if found.rate != found.own:  # else they are the runs of a study that was not tuned
            self.told["lr"] = found.rate
        self.tuning = found

    def control(
        self, made: Design, rehearsal: Rehearsal, earlier: Mapping[str, Any] | None
    ) -> Design:
        """The arms with the baselines that train as long as the dearer ones."""
        measured = controls.costs(rehearsal.rows, made.arms)
        fixed = (earlier or {}).get("equal_time") or ()
        self.controls = controls.planned(made.arms, measured, fixed)
        said = [*made.notes, *controls.notes(self.controls)]
        return replace(made, arms=controls.stretched(made.arms, self.controls), notes=said)

    def notes(self) -> list[str]:
        """What a reader should know."""
        aside = [] if self.aside is None else [confirm.told_aside(self.aside)]
        if self.rates is not None and self.tuning is None:  # a plan's, before anything is tuned
            return [
                *aside,
                f"The baseline's learning rate is looked for first, from {self.rates} on.",
            ]
        return [*aside, tuning.note(self.tuning, self.rate)]

    def kept(self) -> dict[str, Any]:
        """The same as values, for the study's manifest."""
        return {
            "hold_out": self.aside, "tuning": None if self.tuning is None else asdict(self.tuning),
            "equal_time": [asdict(each) for each in self.controls],
        }  # fmt: skip
