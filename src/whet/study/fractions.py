"""Studies of how much data a method is worth: the same arms on fractions of the training part.

Every fraction has a baseline of its own, on the same rows, and that is what its arms are held
against. Rows of a fraction are among those of a larger one. All train for as many updates as with
all data, so that what differs is the data and not the training.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from whet.errors import InputError
from whet.study import contrasts, wording
from whet.study.composing import Contrasts, Design
from whet.study.plan import BASELINE, Arm
from whet.study.statistics import Comparison

AT = re.compile(r"@data=([0-9.e-]+)$")


@dataclass(frozen=True)
class AtFraction:
    """What an arm gains over the baseline of its fraction; the arm is called as on all data."""

    fraction: float
    arm: str
    comparison: Comparison


def parse(text: str | None) -> list[float]:
    """Fractions such as `0.01,0.1,1`, the largest first; without any it is all of the data.

    Raises:
        InputError: one is no number above 0 and up to 1, or stands twice.

    >>> parse("0.01, 0.1, 1")
    [1.0, 0.1, 0.01]
    """
    if text is None:
        return [1.0]
    found = [_fraction(each.strip()) for each in text.split(",") if each.strip()]
    if not found:
        raise InputError("--data names no fraction. Write it as 0.01,0.1,1.")
    for each in found:
        if found.count(each) > 1:
            raise InputError(f"--data names {each:g} twice. Leave one of them out.")
    return sorted(found, reverse=True)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1.0:
        raise InputError(
            f"--data {text} is no fraction of the training part: above 0 and up to 1, as 0.1."
        )
    return value


def suffix(fraction: float) -> str:
    """What a name ends with, of an arm on a fraction of the data."""
    return "" if fraction == 1.0 else f"@data={fraction}"


def spread(made: Design, fractions: Sequence[float]) -> Design:
    """A design on every fraction; the baseline on all data is there in any case."""
    if list(fractions) == [1.0]:
        return made
    found = replace(made, arms=made.arms[:1], contrasts={}, notes=[*made.notes])
    less: Contrasts = {}
    for fraction in fractions:
        found.arms += [_at(arm, fraction) for arm in made.arms
                       if fraction < 1.0 or arm.name != BASELINE]  # fmt: skip
        end = suffix(fraction)
        for family, several in made.contrasts.items():
            found.contrasts[family + end] = {
                name + end: {arm + end: weight for arm, weight in weights.items()}
                for name, weights in several.items()
            }
        if fraction < 1.0:
            less[BASELINE + end] = contrasts.difference(BASELINE + end, BASELINE)
    found.contrasts["data"] = less
    found.notes.append(_said(fractions))
    return found


def _at(arm: Arm, fraction: float) -> Arm:
    end = suffix(fraction)
    reference = BASELINE if arm.name == BASELINE else arm.reference + end
    return replace(arm, name=arm.name + end, reference=reference, data=fraction)


def _said(fractions: Sequence[float]) -> str:
    shares = wording.listed([f"{each:g}" for each in sorted(fractions)])
    return (
        f"Arms train on {shares} of the training part, drawn by the seed, each class in its "
        "proportion where classes are known; rows of a fraction are among those of a larger one. "
        "Every fraction has a baseline of its own. All train for as many updates as with all "
        "data, so on less of it they see each row more often. Data without labels that a method "
        "reads is whole, and what the task's own code prepares has seen the whole training part."
    )


def by_data(comparisons: Iterable[Comparison]) -> list[AtFraction]:
    """What was gained, with the fraction of the data it was gained on; the smallest first."""
    found = []
    for each in comparisons:
        ends = AT.search(each.arm)
        name, fraction = (each.arm[: ends.start()], float(ends[1])) if ends else (each.arm, 1.0)
        found.append(AtFraction(fraction, name, each))
    return sorted(found, key=lambda each: each.fraction)
