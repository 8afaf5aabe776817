"""Designs that build methods up: a ladder, one method more on each rung; and every pair.

A pair tells more than its gain. The interaction of A and B is

$$(x_{AB} - x_A) - (x_B - x_0),$$

what A adds beside B beyond what it adds alone. Its four results are of one seed, so their common
part falls out, as in a paired difference; the variance is that of four results, not of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from whet.study import composing, contrasts, wording
from whet.study.composing import Design
from whet.study.plan import Arm


def ladder(singles: Sequence[Arm], part: str) -> Design:
    """A, A+B, A+B+C in the user's order, each rung held against the one before it."""
    inside, outside = composing.compatible(singles)
    below, made = composing.control(part), Design([])
    rungs: composing.Contrasts = {}
    for height in range(1, len(inside) + 1):
        rung = composing.together(inside[:height], part, reference=below)
        made.arms.append(rung)
        rungs[rung.name] = contrasts.difference(rung.name, below)
        below = rung.name
    made.arms += [each for each in singles if each.name in outside]
    made.contrasts = {"ladder": rungs}
    made.notes = composing.alone(outside, "the ladder")
    if len(inside) > 1:
        names = wording.listed([each.name for each in inside])
        made.notes.insert(0, f"The ladder adds {names}, in this order; each rung is held against "
                          "the one before it.")  # fmt: skip
    return made


def pairs(singles: Sequence[Arm], part: str) -> Design:
    """Each method alone, every pair that composes, and the interaction of its two methods."""
    made = Design([*singles])
    found: composing.Contrasts = {}
    for one, other in combinations(singles, 2):
        both = composing.together([one, other], part)
        reason = composing.clash([one, other])
        if reason is not None:
            made.left_out[both.name] = reason
            continue
        made.arms.append(both)
        found[contrasts.crossed(one.name, other.name)] = contrasts.interaction(
            both.name, one.name, other.name, composing.control(part)
        )
    made.contrasts = {"interactions": found}
    return made


BUILT = {"ladder": ladder, "pairs": pairs}
