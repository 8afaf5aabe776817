"""What the controls of a study came to, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from whet.study import wording
from whet.study.confirm import Confirmation
from whet.study.controls import Controlled


def shown(controlled: Sequence[Controlled], found: Confirmation | None, metric: str) -> list[Table]:
    """The tables that there is something for."""
    first = [equal_time(controlled, metric)] if controlled else []
    return first + ([] if found is None else [confirmation(found, metric)])


def equal_time(controlled: Sequence[Controlled], metric: str) -> Table:
    """Arms against the baseline trained as long as they took."""
    places = wording.decimals([each.equal_time for each in controlled])
    title = f"Gain in {metric.replace('_', ' ')} over the baseline trained as long"
    made = _table(title, ("arm", "against"), ("gain", "95 % interval"), "verdict")
    for each in controlled:
        found = each.equal_time
        made.add_row(
            _safe(each.arm), _safe(each.control), wording.signed(found.gain, places),
            wording.interval(found, places), _safe(each.verdict),
        )  # fmt: skip
    return made


def confirmation(found: Confirmation, metric: str) -> Table:
    """Predicted gains beside those that were found again."""
    every = [one for each in found.arms for one in (each.predicted, each.found)]
    places = wording.decimals(every)
    title = f"Gain in {metric.replace('_', ' ')}, predicted and found again: {found.kind}"
    made = _table(title, ("arm",), ("predicted", "interval", "found", "interval"), "verdict")
    for each in found.arms:
        made.add_row(
            _safe(each.arm), wording.signed(each.predicted.gain, places),
            wording.interval(each.predicted, places), wording.signed(each.found.gain, places),
            wording.interval(each.found, places), _safe(each.verdict),
        )  # fmt: skip
    return made


def _table(title: str, names: Sequence[str], numbers: Sequence[str], last: str) -> Table:
    made = Table(title=title, title_justify="left", title_style="bold", box=None,
                  padding=(0, 2, 0, 0), pad_edge=False)  # fmt: skip
    for name in names:
        made.add_column(name, overflow="fold", min_width=6)
    for name in numbers:
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column(last, overflow="fold")
    return made


def _safe(text: str) -> str:
    return escape(wording.plain(text))
