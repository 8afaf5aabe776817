"""What a report opens with: a line for each arm, best first, and what must be known with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.study import sentences, wording
from whet.study.confirm import CONFIRMED, REVERSED, Confirmation, Confirmed
from whet.study.controls import Controlled
from whet.study.families import Family
from whet.study.plan import BASELINE, Row
from whet.study.sentences import Line
from whet.study.statistics import FEWEST, HELPS, HURTS, NONE, SCREENING, Comparison, ranked

KINDS = {HELPS: "better", HURTS: "worse"}
MANY = 12  # arms: with more, those that are not shown to do anything are folded
SCREENED = f"This is screening: {SCREENING} seeds are a reason to train more."
AGAINST = {"effects": "the runs without it", "ladder": "the rung below it"}


@dataclass(frozen=True)
class Verdict:
    """An arm's line, how it looks, and the remarks that belong to it."""

    kind: str
    line: Line
    remarks: list[str]


@dataclass(frozen=True)
class Headline:
    """The lines to be seen, those to be folded, and what stands in for them where there are none.

    Args:
        about: what the lines are of, where it is not methods against the baseline.
        shown: lines, best first.
        folded: lines of arms that nothing is shown of, where there are many.
        instead: why there is no verdict yet; empty where there is one.
        points: whether gains are in points.
        timed: whether times are known.
        screening: a sentence where there are few seeds.
    """

    about: str
    shown: list[Verdict]
    folded: list[Verdict]
    instead: str
    points: bool
    timed: bool
    screening: str


def headline(
    study: Mapping[str, Any], rows: Sequence[Row], comparisons: Sequence[Comparison],
    further: Sequence[Family], controlled: Sequence[Controlled], again: Confirmation | None,
    provisional: bool,
) -> Headline:  # fmt: skip
    """The lines of a study's own arms; where it has none, those of the first question it asks.

    Args:
        study: the manifest.
        rows: what its runs came to.
        comparisons: arms against the baseline.
        further: what else the design asks.
        controlled: arms against the baseline trained as long.
        again: what was found again.
        provisional: whether runs are missing.
    """
    metric = study["task"]["metric"]
    families = _families(comparisons, further)
    every = [each for _, _, those in families for each in those]
    points = shares(rows, metric) and all(sentences.is_share(each, metric) for each in every)
    remarks = _Remarks(study, controlled, again, provisional, metric, points)
    lines = [
        Verdict(KINDS.get(each.verdict, "unclear"),
                sentences.line(each, metric, points, against), remarks.of(each))
        for against, each in _best([(key, each) for key, _, those in families for each in those])
    ]  # fmt: skip
    fold = len(lines) > MANY
    instead = "" if any(each.n >= FEWEST for each in every) else wording.answer([], metric)
    return Headline(
        families[0][1] if families else "",
        [each for each in lines if not fold or each.kind != "unclear"],
        [each for each in lines if fold and each.kind == "unclear"], instead, points,
        any(each.slowdown is not None for each in every),
        SCREENED if any(each.screening for each in every) else "",
    )  # fmt: skip


def _families(
    comparisons: Sequence[Comparison], further: Sequence[Family]
) -> list[tuple[str, str, Sequence[Comparison]]]:
    """What each family is held against, what it is about, and its arms."""
    own = [("the baseline", "", comparisons)] if comparisons else []
    after = [(each.key, "", each.comparisons) for each in further if is_control(each)]
    if own or after:
        return [*own, *after]
    return [(AGAINST.get(each.key.partition("@")[0], each.key), each.title, each.comparisons)
            for each in further[:1]]  # fmt: skip


def is_control(family: Family) -> bool:
    """Whether a family's arms are held against a baseline of their own, on all of the data."""
    return family.key.partition("@")[0] == BASELINE and "@data=" not in family.key


def _best(found: Sequence[tuple[str, Comparison]]) -> list[tuple[str, Comparison]]:
    """What helps first and what hurts last, each by its gain; then what has none."""
    places = {HELPS: 0, HURTS: 2}
    order = ranked([each for _, each in found])
    return sorted(found, key=lambda one: (one[1].gain is None, places.get(one[1].verdict, 1),
                                          order.index(one[1])))  # fmt: skip


def shares(rows: Sequence[Row], metric: str) -> bool:
    """Whether every value that was measured lies between 0 and 1."""
    values = (
        ((row.get("metrics") or {}).get("judge") or {}).get(metric)
        for row in rows
        if row["status"] == "done"
    )
    return all(0.0 <= value <= 1.0 for value in values if value is not None)


class _Remarks:
    """What belongs to a verdict: which baselines it holds against, and how far to trust it."""

    def __init__(
        self, study: Mapping[str, Any], controlled: Sequence[Controlled],
        again: Confirmation | None, provisional: bool, metric: str, points: bool,
    ) -> None:  # fmt: skip
        self.longer = {each.arm: each for each in controlled}
        self.again = {each.arm: each for each in (again.arms if again else [])}
        self.untuned = not study.get("tuning")
        self.provisional, self.metric, self.points = provisional, metric, points

    def of(self, each: Comparison) -> list[str]:
        sure = each.verdict in KINDS
        said = [_beaten(each, self.longer.get(each.arm))]
        said += [self._found(self.again[each.arm])] if each.arm in self.again else []
        said += ["baseline untuned"] if sure and self.untuned else []
        said += ["provisional"] if self.provisional and each.gain is not None else []
        return [text for text in said if text]

    def _found(self, each: Confirmed) -> str:
        word = {CONFIRMED: "confirmed", REVERSED: "hurts when tried again"}.get(each.verdict)
        gain = sentences.gain(each.found, self.metric, self.points)
        return f"{word or 'not confirmed'}{f': {gain}' if gain else ''}"


def _beaten(each: Comparison, longer: Controlled | None) -> str:
    """Which baselines an arm was shown to be better than."""
    if longer is None:
        return "beats the plain baseline" if each.verdict == HELPS else ""
    trained = f"trained {'twice' if longer.times == 2.0 else f'{longer.times:g} times'} as long"
    found = longer.equal_time.verdict
    if found == HURTS:
        return f"the baseline {trained} is better"
    if each.verdict == HELPS:
        if found == HELPS:
            return f"beats the plain baseline and the one {trained}"
        return f"beats the plain baseline; not shown against the one {trained}"
    if found == HELPS:
        return f"beats the baseline {trained}"
    return f"not shown against the baseline {trained}, either" if each.verdict == NONE else ""
