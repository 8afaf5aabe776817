"""The tables of a written report, as rows of texts that no format has touched yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whet.study import wording
from whet.study.confirm import Confirmation
from whet.study.controls import Controlled
from whet.study.statistics import HELPS, HURTS, Comparison, ranked

NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class Table:
    """One table.

    Args:
        key: its name in labels; letters, digits and dashes.
        title: what it shows.
        head: the columns.
        lines: the cells, as many in each line as there are columns.
        words: the columns that hold words; the others hold numbers.
        notes: what goes below it, a sentence each.
    """

    key: str
    title: str
    head: tuple[str, ...]
    lines: Sequence[tuple[str, ...]]
    words: tuple[int, ...]
    notes: list[str] = field(default_factory=list)


def family(
    key: str, title: str, comparisons: Sequence[Comparison], said: Mapping[str, str] = NOTHING,
    head: str = "arm",
) -> list[Table]:  # fmt: skip
    """Verdicts of a family and, where it is known, what its arms cost; nothing without arms.

    Args:
        key: of the first table.
        title: likewise.
        comparisons: the family's.
        said: verdicts that read otherwise here.
        head: what a line is.
    """
    order, places = ranked(comparisons), wording.decimals(comparisons)
    lines = [
        (each.arm, wording.signed(each.gain, places), wording.interval(each, places),
         wording.probability(each.p_holm), wording.unsigned(each.detectable, places),
         str(each.n), said.get(each.verdict, each.verdict) + _screening(each))
        for each in order
    ]  # fmt: skip
    columns = (head, "gain", "95 % interval", "p (Holm)", "detects", "pairs", "verdict")
    notes = [*wording.notes(order), *_lost(order)]
    made = [Table(key, title, columns, lines, (0, 6), notes)] if lines else []
    return made + _costs(key, title, order, head)


def _screening(each: Comparison) -> str:
    return " (screening)" if each.screening and each.verdict in (HELPS, HURTS) else ""


def _lost(comparisons: Iterable[Comparison]) -> list[str]:
    return [
        f"{each.arm}: {wording.lost(each)}." for each in comparisons if each.n and each.left_out
    ]


def _costs(key: str, title: str, order: Sequence[Comparison], head: str) -> list[Table]:
    lines = [
        (each.arm, wording.ratio(each.cost.step), wording.ratio(each.cost.whole),
         wording.ratio(each.cost.memory), each.cost.passes or wording.NOTHING)
        for each in order if each.cost
    ]  # fmt: skip
    columns = (head, "time per update", "time to the end", "peak memory", "passes")
    note = ("Geometric means of paired ratios with 95 % intervals, relative to what an arm is "
            "held against; times are of updates alone, without evaluation.")  # fmt: skip
    title = f"{title}: what it costs"
    return [Table(f"{key}-costs", title, columns, lines, (0, 4), [note])] if lines else []


def equal_time(controlled: Sequence[Controlled], metric: str) -> list[Table]:
    """Arms against the baseline trained as long as they took."""
    places = wording.decimals([each.equal_time for each in controlled])
    lines = [
        (each.arm, each.control, wording.signed(each.equal_time.gain, places),
         wording.interval(each.equal_time, places), each.verdict)
        for each in controlled
    ]  # fmt: skip
    title = f"Gain in {metric} over the baseline trained as long"
    columns = ("arm", "against", "gain", "95 % interval", "verdict")
    return [Table("equal-time", title, columns, lines, (0, 1, 4))] if lines else []


def confirmation(found: Confirmation | None, metric: str) -> list[Table]:
    """Predicted gains beside those that were found again."""
    arms = [] if found is None else found.arms
    places = wording.decimals([one for each in arms for one in (each.predicted, each.found)])
    lines = [
        (each.arm, wording.signed(each.predicted.gain, places),
         wording.interval(each.predicted, places), wording.signed(each.found.gain, places),
         wording.interval(each.found, places), each.verdict)
        for each in arms
    ]  # fmt: skip
    columns = ("arm", "predicted", "95 % interval", "found", "95 % interval", "verdict")
    title = f"Gain in {metric}, predicted and found again"
    return [Table("confirmation", title, columns, lines, (0, 5))] if lines else []


def tuning(found: Mapping[str, Any] | None) -> list[Table]:
    """Every learning rate that was tried for the baseline."""
    if not found:
        return []
    lines = [
        (f"{each['rate']:g}", "failed or diverged" if each["mean"] is None
         else f"{each['mean']:.4f}",
         ", ".join(mark for mark, at in (("best", found["rate"]), ("the task's own", found["own"]))
                   if at == each["rate"]))
        for each in found["table"]
    ]  # fmt: skip
    edge = ["The best is the outermost that was tried."] if found.get("at_edge") else []
    title = f"Mean {found['metric'].replace('_', ' ')} of the baseline by its learning rate"
    return [Table("tuning", title, ("learning rate", "mean", ""), lines, (2,), edge)]
