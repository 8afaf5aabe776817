"""What fits into a span of time: seeds first, then the length of training, then arms.

A rehearsal has measured every arm. If the study as asked does not fit, seeds go down to three,
the fewest that a verdict takes; then training is made shorter, to a half and a quarter; then arms
are dropped from the end of the list, unless the design needs all of them. What arms share is
counted once. Whatever is given up is said before training begins.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from whet.errors import InputError
from whet.study import statistics, wording
from whet.study.composing import methods_of
from whet.study.plan import BASELINE, Arm
from whet.study.statistics import FEWEST
from whet.study.timetable import Cost, Riding, Timetable

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
FIDELITIES = (1.0, 0.5, 0.25)
MOST_SEEDS = 10
ALPHA = 0.05  # of the whole family of arms
RESERVE = 0.9  # of the time is planned with: measured steps are never quite those of the study


@dataclass(frozen=True)
class Choice:
    """What a study makes of its time."""

    arms: list[Arm]
    seeds: int
    share: float
    seconds: float
    notes: list[str]


def seconds(text: str) -> float:
    """A span of time such as `90s`, `30m`, `1.5h` or `2d`.

    >>> seconds("1.5h")
    5400.0
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", text.lower())
    if found is None or not float(found[1]):
        raise InputError(f"--budget {text} is no span of time. Write it as 90s, 30m, 8h or 2d.")
    return float(found[1]) * UNITS[found[2]]


def choose(
    arms: Sequence[Arm],
    costs: Mapping[str, Cost],
    updates: int,
    evaluations: int,
    jobs: int,
    available: float,
    seeds: int | None,
    wished: int,
    *,
    ahead: Collection[str] = (),
    after: float = 1.0,
    riding: Riding | None = None,
    whole: bool = False,
) -> Choice:
    """Arms, seeds and length of training that fit.

    Args:
        arms: in the user's order, the baseline first.
        costs: of each arm.
        updates: the task's length of training.
        evaluations: how often a run is judged.
        jobs: runs at a time.
        available: seconds.
        seeds: what the user asked for; None leaves it to the budget, up to ten.
        wished: seeds where there is no reason to deviate.
        ahead: methods that depend on where their span ends.
        after: how long a stage that follows is, of the training's length.
        riding: arms that others' training takes along.
        whole: whether the arms are of no use but together, as the runs of a screening.

    Raises:
        InputError: not even the baseline and one arm fit, or not all where all are needed.
    """
    least = seeds if seeds is not None else FEWEST
    most = seeds if seeds is not None else max(MOST_SEEDS, wished)

    tables: dict[int, Timetable] = {}  # arms are dropped from the end: their number names them

    def time(kept: Sequence[Arm], count: int, share: float) -> float:
        if len(kept) not in tables:
            tables[len(kept)] = Timetable(kept, costs, evaluations, ahead, after, riding)
        return tables[len(kept)].takes(max(1, share * updates), count, jobs)

    room = RESERVE * available
    for share in FIDELITIES:
        if time(arms, least, share) <= room:
            count = least
            ceiling = most if share == 1.0 else min(most, max(least, wished))
            while count < ceiling and time(arms, count + 1, share) <= room:
                count += 1
            kept = list(arms)
            return _choice(kept, [], count, share, time(kept, count, share), wished, updates)
    share, kept = FIDELITIES[-1], list(arms)
    while not whole and len(kept) > 2 and time(kept, least, share) > room:
        kept = _fewer(kept)
    if time(kept, least, share) > room or len(kept) < 2:
        needed = time(kept, least, share) / RESERVE
        those = (f"the {len(kept)} runs of the design, of which none can be left out," if whole
                 else f"the baseline and {kept[-1].name}")  # fmt: skip
        raise InputError(
            f"--budget leaves {wording.duration(max(0.0, available))} for training, which is too "
            f"little: {those} with {wording.counted(least, 'seed')} at a quarter of the training "
            f"take about {wording.duration(needed)}."
        )
    dropped = [arm.name for arm in arms if arm not in kept]
    return _choice(kept, dropped, least, share, time(kept, least, share), wished, updates)


def _fewer(kept: Sequence[Arm]) -> list[Arm]:
    """Without the last arm, and without those that were held against it."""
    last = kept[-1]
    fewer = [arm for arm in kept if arm is not last and arm.reference != last.name]
    used = {arm.reference for arm in fewer} | {BASELINE}

    def idle(arm: Arm) -> bool:
        """`all` and a control say little once no arm is held against them; a rung does."""
        size = len(methods_of(arm))
        return arm.name == last.reference and (not size or size > len(methods_of(last)))

    return [arm for arm in fewer if arm.name in used or not idle(arm)]


def _choice(
    kept: list[Arm], dropped: list[str], seeds: int, share: float, takes: float, wished: int,
    updates: int,
) -> Choice:  # fmt: skip
    length = max(1, round(share * updates))
    size = (wording.counted(*each) for each in
            ((len(kept), "arm"), (seeds, "seed"), (length, "update")))  # fmt: skip
    given = "{} with {} and {} each".format(*size)
    notes = [f"The budget gives {given}, about {wording.duration(takes)}."]
    if dropped:
        notes.append(f"It leaves no time for {wording.listed(dropped)}.")
    if share < 1.0:
        notes.append(
            f"Training is {share:g} of the task's {updates} updates long: what helps a short "
            "training need not help a long one."
        )
    notes.append(_resolution(seeds, len(kept) - 1))
    return Choice(kept, seeds, share, takes, notes)


def _resolution(seeds: int, arms: int) -> str:
    """What such a study will not be able to show."""
    if seeds < FEWEST:
        return f"With {wording.counted(seeds, 'seed')} there will be no verdict; it takes {FEWEST}."
    size = statistics.detectable(seeds, 1.0, ALPHA / max(1, arms))
    return (
        f"It will not be able to show effects much below {size:.1f} times the spread of the paired "
        f"difference between seeds (found in 4 of 5 studies, {wording.counted(arms, 'arm')})."
    )
