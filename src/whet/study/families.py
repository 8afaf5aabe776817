"""Which questions a study's arms answer; each is a family of its own for Holm's levels.

Arms are held against the baseline, or against `all` where they lack one method of it. Beside these
there are arms with a control of their own (trained as much longer, on as little data), and
contrasts: the rungs of a ladder, interactions, main effects, what less data costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.study import contrasts
from whet.study.plan import BASELINE, Row
from whet.study.statistics import Comparison

By = Mapping[str, Sequence[Comparison]]
TITLES = {
    "ladder": "What each rung adds", "interactions": "Interactions of two methods",
    "effects": "Main effects", "data": "What less data costs",
}  # fmt: skip
MEANINGS = {
    "ladder": "Every rung has one method more than the one before it, and is held against that.",
    "interactions": "What one method adds beside the other, beyond what it adds alone. Positive: "
    "together they gain more than the sum of both; negative: less.",
    "effects": "The mean of the runs with a method minus the mean of the runs without it: its gain "
    "on the average over the others being there or not.",
    "data": "The baseline of each fraction of the data, held against the one on all of it.",
}
INSTEAD = ("ladder", "effects", "data")  # families whose arms are not held against the baseline


@dataclass(frozen=True)
class Family:
    """One question beside those of the methods against the baseline and against `all`.

    Args:
        key: of the question, as in `study.json`.
        title: what was asked.
        about: what a gain in it means.
        comparisons: the answers.
    """

    key: str
    title: str
    about: str
    comparisons: list[Comparison]


def apart(study: Mapping[str, Any]) -> set[str]:
    """Arms that are compared in contrasts, instead of with their reference."""
    bare = {arm["name"] for arm in study["arms"] if not _about(arm) and arm.get("data", 1.0) == 1.0}
    found = {
        name
        for family, several in (study.get("contrasts") or {}).items()
        if family.partition("@")[0] in INSTEAD
        for weights in several.values()
        for name in weights
    }
    return found - bare


def divided(
    study: Mapping[str, Any], rows: Sequence[Row], found: By, confidence: float
) -> tuple[list[Comparison], list[Comparison], list[Family]]:
    """Comparisons with the baseline, those with `all`, and every further family.

    Args:
        study: the manifest.
        rows: what its runs came to.
        found: comparisons by the name of what arms were held against.
        confidence: of the intervals.
    """
    bare = {arm["name"] for arm in study["arms"] if not _about(arm)}
    leaving = [each for name, those in found.items() if name not in bare for each in those]
    controls = [
        Family(name, f"Gain over {name}", "Judged as a family of its own.", list(those))
        for name, those in found.items()
        if name in bare - {BASELINE}
    ]
    return list(found.get(BASELINE, [])), leaving, [*controls, *_contrasts(study, rows, confidence)]


def _about(arm: Mapping[str, Any]) -> bool:
    """Whether there are methods that an arm is about."""
    return bool(arm["methods"] or arm.get("after"))


def _contrasts(study: Mapping[str, Any], rows: Sequence[Row], confidence: float) -> list[Family]:
    metric, higher = study["task"]["metric"], study["task"]["higher_is_better"]
    made = []
    for key, weights in (study.get("contrasts") or {}).items():
        kind, at, where = key.partition("@")
        title = TITLES.get(kind, kind) + (f", {where}" if at else "")
        compared = contrasts.compared(
            rows, weights, metric, higher, confidence, study.get("margin")
        )
        made.append(Family(key, title, MEANINGS.get(kind, ""), compared))
    return [each for each in made if each.comparisons]
