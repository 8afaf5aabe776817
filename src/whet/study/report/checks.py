"""What gains were held up against: training as long, fresh seeds and rows, a tuned baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whet.study import figures, shapes, wording
from whet.study.confirm import CONFIRMED, REVERSED, Confirmation
from whet.study.controls import Controlled
from whet.study.report import plots
from whet.study.report.headline import KINDS
from whet.study.statistics import Comparison

AGAIN = {CONFIRMED: "better", REVERSED: "worse"}


@dataclass(frozen=True)
class Side:
    """Two gains of an arm side by side.

    Args:
        arm: its name.
        first, second: the gains.
        kind: how the verdict looks.
        verdict: what both come to.
        note: what the second one is held against.
    """

    arm: str
    first: Comparison
    second: Comparison
    kind: str
    verdict: str
    note: str


@dataclass(frozen=True)
class Sides:
    """A table of gains side by side, its figure for wide and narrow windows, its decimals."""

    lines: list[Side]
    plots: list[str]
    places: int


def equal_time(
    controlled: Sequence[Controlled], comparisons: Sequence[Comparison], metric: str
) -> Sides | None:
    """Gains at equal updates beside those over the baseline trained as long."""
    first = {each.arm: each for each in comparisons}
    lines = [
        Side(each.arm, first[each.arm], each.equal_time,
             KINDS.get(each.equal_time.verdict, "unclear"), each.verdict, each.control)
        for each in controlled if each.arm in first
    ]  # fmt: skip
    return _sides(lines, metric, "equal-time", "equal updates", "equal time")


def confirmation(found: Confirmation | None, metric: str) -> Sides | None:
    """Predicted gains beside those that were found again."""
    lines = [
        Side(each.arm, each.predicted, each.found, AGAIN.get(each.verdict, "unclear"),
             each.verdict, each.reference)
        for each in (found.arms if found else [])
    ]  # fmt: skip
    return _sides(lines, metric, "confirmation", "predicted", "found again")


def _sides(lines: list[Side], metric: str, name: str, *words: str) -> Sides | None:
    if not lines:
        return None
    beside = [
        replace(each, arm=f"{line.arm}, {word}")
        for line in lines
        for each, word in zip((line.first, line.second), words, strict=True)
    ]
    made = [figures.forest(beside, metric, wide, name) for wide in (True, False)]
    return Sides(lines, made, wording.decimals(beside))


def said_again(found: Confirmation) -> str:
    """What a confirmation was, in a sentence or two."""
    seeds = wording.counted(len(found.seeds), "seed")
    rows = ""
    if found.aside is not None:
        rows = f" ({found.aside['aside']} of {found.aside['rows']})"
    why = (
        "What had helped"
        if found.helped
        else "Nothing was shown to help; the arm whose gain was largest"
    )
    return (
        f"{why} was trained once more beside its baseline, with {seeds}: {found.kind}{rows}. The "
        "largest of many gains is part luck, so that a predicted gain tends to be too large."
    )


def tuning(study: Mapping[str, Any]) -> dict[str, Any] | None:
    """The rates that were tried for the baseline, their values, and which was chosen."""
    if not study.get("tuning"):
        return None
    found = shapes.bounded(study["tuning"])
    rows = [
        {
            "rate": wording.NOTHING if each["rate"] is None else f"{each['rate']:g}",
            "values": [wording.share(value) if value is not None else "failed or diverged"
                       for value in each["values"]],
            "mean": "failed or diverged" if each.get("mean") is None else f"{each['mean']:.4f}",
            "chosen": each["rate"] == found["rate"],
            "own": each["rate"] == found["own"],
        }
        for each in found["table"]
    ]  # fmt: skip
    return {"rows": rows, "seeds": found["seeds"], "at_edge": found.get("at_edge"),
            "metric": found["metric"].replace("_", " "),
            "plot": plots.rates(found)}  # fmt: skip
