"""Numbers and findings in words, the same in the terminal and in the report."""

from __future__ import annotations

import math
import re
import statistics
import unicodedata
from collections.abc import Iterable, Sequence

from whet.study import redact
from whet.study.statistics import (
    EQUIVALENT,
    FEWEST,
    HELPS,
    HURTS,
    IDENTICAL,
    NONE,
    SCREENING,
    TOO_FEW,
    Comparison,
    Costs,
    Ratio,
)

MINUS, TIMES, NOTHING = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
OPEN, CLOSE = "\x02", "\x03"
WITHOUT = {
    "inapplicable": "did not apply",
    "refused": "could not be composed",
    "failed in every seed": "failed in every seed",
    TOO_FEW: "came to too few results for a verdict",
}
# What the verdicts mean where an arm is everything but one method.
LEAVING = {
    HELPS: "better without it",
    HURTS: "missed",
    IDENTICAL: "identical to all",
}
SEQUENCE = re.compile(  # what a terminal acts on: CSI, OSC and its kin, then any two characters
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"
    "|(?:\x1b[\\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)?"
    "|\x1b[ -/]*[0-~]?"
)
JOINERS = "\u200c\u200d"  # invisible, and needed to write Persian or emoji


def plain(text: str, lines: bool = False) -> str:
    """Text that may be shown: no secrets, nothing that a terminal or a reader's eye obeys.

    Without `lines` it is one line. Rich still takes `[bold]` for markup: escape it, or print it
    with `markup=False`.
    """
    text = SEQUENCE.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    text = "".join(letter for letter in text if _shown(letter))
    text = redact.text(text.encode("utf-8", "replace").decode("utf-8"))
    return text if lines else re.sub(r"[\n\t]", " ", text)


def _shown(letter: str) -> bool:
    if letter in "\n\t" or letter in JOINERS:
        return True
    return unicodedata.category(letter) not in ("Cc", "Cf", "Zl", "Zp")


def decimals(comparisons: Iterable[Comparison]) -> int:
    """How many decimals show two digits of a typical interval's half width."""
    halves = [
        (each.high - each.low) / 2
        for each in comparisons
        if each.high is not None and each.low is not None and each.high > each.low
    ]
    typical = statistics.median(halves) if halves else 1e-3
    return min(6, max(1, 1 - math.floor(math.log10(typical))))


def signed(value: float | None, places: int) -> str:
    """A number with its sign, a dash where there is none."""
    if value is None:
        return NOTHING
    text = f"{value:+.{places}f}"
    return text.replace("-", MINUS) if float(text) else f"{0:.{places}f}"


def interval(comparison: Comparison, places: int) -> str:
    """The interval of the gain."""
    return span(comparison.low, comparison.high, places)


def span(low: float | None, high: float | None, places: int) -> str:
    """From one number to another, a dash where one of them is not there."""
    if low is None or high is None:
        return NOTHING
    return f"{signed(low, places)} to {signed(high, places)}"


def unsigned(value: float | None, places: int) -> str:
    """A size in the metric's units."""
    return NOTHING if value is None else f"{value:.{places}f}"


def probability(p: float | None) -> str:
    """A p value in three decimals."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def share(value: float | None) -> str:
    """A number between 0 and 1 in three decimals."""
    return NOTHING if value is None else f"{value:.3f}"


def times(cost: float | None) -> str:
    """The time per update relative to the baseline's."""
    return NOTHING if cost is None else f"{cost:.2f}{TIMES}"


def ratio(found: Ratio | None) -> str:
    """A ratio with its interval."""
    if found is None:
        return NOTHING
    if found.low is None or found.high is None:
        return times(found.value)
    return f"{times(found.value)} ({found.low:.2f} to {found.high:.2f})"


def reached(cost: Costs) -> str:
    """Seconds of updates until the baseline's final metric, and in how many seeds it came."""
    if not cost.of:
        return NOTHING
    often = f"reached in {cost.reached} of {counted(cost.of, 'seed')}"
    return often if cost.until is None else f"{duration(cost.until)} ({often})"


def megabytes(size: float) -> str:
    """An amount of memory."""
    amount = size / 1e6
    return f"{amount:.1f} MB" if amount < 99.5 else f"{amount:,.0f} MB"


def duration(seconds: float) -> str:
    """A span of time as people say it."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def part(during: Sequence[float] | None) -> str:
    """The part of training between two fractions of it; nothing for all of it.

    >>> part([0.25, 1.0]), part([0.0, 0.5]), part([0.25, 0.75]), part(None)
    ('from 25 % on', 'up to 50 %', 'from 25 % to 75 %', '')
    """
    begin, end = during or (0.0, 1.0)
    if end >= 1:
        return f"from {100 * begin:.3g} % on" if begin > 0 else ""
    until = f"{100 * end:.3g} %"
    return f"from {100 * begin:.3g} % to {until}" if begin > 0 else f"up to {until}"


def listed(names: Sequence[str]) -> str:
    """Names as a list within a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def counted(n: int, thing: str) -> str:
    """A number and its noun."""
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def named(comparison: Comparison) -> str:
    """An arm's name between marks, so that a page can set it apart after escaping."""
    return f"{OPEN}{plain(comparison.arm)}{CLOSE}"


def last_line(reason: str | None) -> str:
    """The line of a reason or traceback that says what was wrong."""
    lines = [line for line in (reason or "").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason was given"


def lost(comparison: Comparison) -> str:
    """The seeds left out of the pairs, those with one reason together."""
    reasons: dict[str, list[str]] = {}
    for seed, reason in comparison.left_out:
        reasons.setdefault(reason, []).append(str(seed))
    groups = [
        f"{'seed' if len(seeds) == 1 else 'seeds'} {listed(seeds)} ({reason})"
        for reason, seeds in reasons.items()
    ]
    return f"left out: {', '.join(groups)}" if groups else ""


def answer(comparisons: Sequence[Comparison], metric: str) -> str:
    """What the study found, in a paragraph; names stand between the marks of `named`."""
    compared = [each for each in comparisons if each.n >= FEWEST]
    if not compared:
        return (
            f"Nothing can be said yet: a verdict needs at least {FEWEST} seeds in which both the "
            "baseline and the method came to a result."
        )
    places = decimals(comparisons)
    parts = [_found(compared, verdict, metric, places) for verdict in (HELPS, HURTS)]
    same = [each for each in compared if each.verdict == EQUIVALENT]
    if same:
        parts.append(f"{listed([named(each) for each in same])} made no difference to {metric} "
                     f"beyond the margin of {same[0].margin:g}.")  # fmt: skip
    unclear = [each for each in compared if each.verdict == NONE]
    if unclear:
        parts.append(_unclear(unclear, metric, places))
    for said, whose in (
        ("made no difference at all", [each for each in compared if each.verdict == IDENTICAL]),
        ("diverged", [each for each in comparisons if each.diverged]),
        *(
            (said, [e for e in comparisons if e.n < FEWEST and e.verdict == verdict])
            for verdict, said in WITHOUT.items()
        ),
    ):
        parts.append(f"{listed([named(each) for each in whose])} {said}." if whose else "")
    if any(each.screening for each in compared):
        parts.append(f"This is screening: {SCREENING} seeds are a reason to train more.")
    return " ".join(filter(None, parts))


def notes(comparisons: Sequence[Comparison]) -> list[str]:
    """What goes with a table of verdicts, a sentence each."""
    judged = [each for each in comparisons if each.level is not None]
    said = []
    if any(each.detectable is not None for each in judged):
        said.append("detects: the gain found in 4 of 5 such studies; one below it could not have "
                    "been seen reliably.")  # fmt: skip
    if judged and judged[0].margin is not None:
        small = [named(e) for e in judged if e.equivalent and e.verdict in (HELPS, HURTS)]
        within = f"; shown to be within it all the same: {listed(small)}" if small else ""
        said.append(f"Margin: {judged[0].margin:g}{within}.")
    flipped = [each for each in judged if each.max_t_agrees is not None]
    apart = [f"{named(e)} (p {probability(e.p_max_t)})" for e in flipped if not e.max_t_agrees]
    if apart:
        said.append(f"All flips of signs (max-T) say otherwise of {listed(apart)}.")
    elif flipped:
        said.append("All flips of signs (max-T) agree.")
    if any(each.screening for each in judged):
        said.append(f"Screening: {SCREENING} seeds are a reason to train more.")
    return said


def leaving(comparisons: Sequence[Comparison], metric: str) -> str:
    """What leaving one method out of all of them showed, in a sentence; marked as in `answer`."""
    compared = [each for each in comparisons if each.n >= FEWEST]
    if not compared:
        return ""
    places = decimals(comparisons)
    parts = []
    for verdict, said in ((HURTS, "worsens"), (HELPS, "improves")):
        found = sorted(
            (each for each in compared if each.verdict == verdict),
            key=lambda each: -abs(each.gain or 0),
        )
        parts += [f"{named(e)} {said} {metric} by {abs(e.gain or 0):.{places}f}" for e in found]
    if not parts:
        return f"Against all methods together, no effect of leaving one out on {metric} is shown."
    rest = "; for the others no effect is shown" if len(parts) < len(compared) else ""
    return f"Against all methods together, {listed(parts)}{rest}."


def _found(compared: Sequence[Comparison], verdict: str, metric: str, places: int) -> str:
    found = [each for each in compared if each.verdict == verdict]
    if not found:
        return f"No method was found to improve {metric}." if verdict == HELPS else ""
    found.sort(key=lambda each: -abs(each.gain or 0))
    size = {each.arm: f"{abs(each.gain or 0):.{places}f}" for each in found}
    each_by = [f"{named(e)} by {size[e.arm]} (95 % interval {interval(e, places)})" for e in found]
    verb = ("improve" if verdict == HELPS else "worsen") + ("s" if len(found) == 1 else "")
    kind = "arm" if any(e.arm.partition("@")[0] == "all" for e in found) else "method"
    many = f"One {kind}" if len(found) == 1 else counted(len(found), kind)
    return f"{many} {verb} {metric}: {listed(each_by)}."


def _unclear(unclear: Sequence[Comparison], metric: str, places: int) -> str:
    widest = max(max(abs(each.low or 0), abs(each.high or 0)) for each in unclear)
    seeds = max(each.n for each in unclear)
    return (
        f"For {listed([named(each) for each in unclear])} no effect is shown with "
        f"{counted(seeds, 'seed')}; effects on {metric} as large as {widest:.{places}f} "
        "are not ruled out."
    )
