"""The same statistics for anyone's own numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from whet.errors import InputError, UnknownName
from whet.study.plan import BASELINE, Row
from whet.study.statistics import pairing
from whet.study.statistics.comparison import Comparison
from whet.study.statistics.judging import paired

VALUE = "value"


def compare(
    rows: Iterable[tuple[str, int, float] | Mapping[str, Any]],
    *,
    baseline: str = BASELINE,
    higher_is_better: bool = True,
    margin: float | None = None,
    confidence: float = 0.95,
    placements: Mapping[str, str] | None = None,
) -> list[Comparison]:
    """Compare arms with a baseline over paired seeds: `whet compare` in Python.

    Args:
        rows: `(arm, seed, value)`, or mappings with these names; one for each arm and seed. Values
            of one seed must belong together: the same split, the same initial weights. A value
            that is not finite (NaN for a run that diverged) is left out and named.
        baseline: the arm that others are held against.
        higher_is_better: the direction of the value.
        margin: gains within it count as no difference, in the value's units.
        confidence: of the intervals; one minus it is the family-wise error.
        placements: groups of arms whose differences vary alike; without it by `@start`, `@end`
            and `@after` in their names.

    Raises:
        InputError: no such baseline, two values of one arm and seed, a value that is no number.

    >>> values = {"baseline": [0.80, 0.82, 0.81, 0.79], "ours": [0.84, 0.85, 0.85, 0.83]}
    >>> rows = [(arm, seed, v) for arm, all_ in values.items() for seed, v in enumerate(all_)]
    >>> [ours] = compare(rows, margin=0.005)
    >>> ours.verdict, round(ours.gain, 4), round(ours.low, 4)
    ('helps', 0.0375, 0.0295)
    """
    made = [_row(each) for each in rows]
    names = list(dict.fromkeys(row["arm"] for row in made))
    if baseline not in names:
        raise UnknownName("baseline", baseline, names)
    if placements is None:
        placements = {name: pairing.placement({"name": name}) for name in names}
    return paired(made, VALUE, higher_is_better, baseline, confidence,
                  placements=placements, margin=margin)  # fmt: skip


def _row(given: tuple[str, int, float] | Mapping[str, Any]) -> Row:
    if isinstance(given, Mapping):
        missing = [name for name in ("arm", "seed", VALUE) if name not in given]
        if missing:
            raise InputError(f"a row has no {missing[0]}: {dict(given)!r}.")
        given = (given["arm"], given["seed"], given[VALUE])
    arm, seed, value = given
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"the value of {arm!r}, seed {seed}, is no number: {value!r}.") from None
    return {"arm": arm, "seed": seed, "status": "done", "metrics": {"judge": {VALUE: number}}}
