"""Tables of arms in two directions: by part of training, by share of the data, by partner."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from whet.study import fractions, wording
from whet.study.composing import suffix
from whet.study.families import Family
from whet.study.fractions import AtFraction
from whet.study.report.headline import KINDS
from whet.study.statistics import EQUIVALENT, IDENTICAL, Comparison, ranked

PARTS = {"start": "first quarter", "whole": "whole training", "end": "last quarter",
         "after": "fine-tuning after"}  # fmt: skip
UNLESS = ", unless noted"  # methods may have a part of their own where nobody gives them one
SHORT = {EQUIVALENT: "no difference", IDENTICAL: "identical"}
LEVELS, PALE = 5, 2  # shades of a heat map, and how many of them without a verdict


@dataclass(frozen=True)
class Cell:
    """What stands where a row and a column meet.

    Args:
        found: the arm's comparison.
        kind: how its verdict looks.
        verdict: in a word.
        shade: of a heat map; empty for none.
        instead: what is said where there is no comparison.
        part: of training in which the method acts, where it is not what the column says.
    """

    found: Comparison | None
    kind: str = "unclear"
    verdict: str = ""
    shade: str = ""
    instead: str = wording.NOTHING
    part: str = ""


@dataclass(frozen=True)
class Grid:
    """Rows of cells under named columns, the decimals of their gains, and where these are from."""

    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    places: int
    found: list[AtFraction] = field(default_factory=list)


def placements(
    study: Mapping[str, Any], comparisons: Sequence[Comparison], further: Sequence[Family]
) -> Grid | None:
    """Methods down, parts of training across; None where fewer than two parts were asked for."""
    bases = {family.key for family in further}
    found = {each.arm: each for each in comparisons}
    for family in further:
        found |= (
            {e.arm: e for e in family.comparisons} if family.key.startswith("baseline@") else {}
        )
    arms = {
        (arm["name"].removesuffix(suffix(part)), part): found[arm["name"]]
        for arm in study["arms"]
        for part in [arm.get("placement") or "whole"]
        if arm["name"] in found and arm.get("data", 1.0) == 1.0 and arm["name"] not in bases
    }
    parts = [part for part in PARTS if any(part == at for _, at in arms)]
    if len(parts) < 2:
        return None
    left_out = study.get("left_out") or {}
    order = {each.arm: place for place, each in enumerate(ranked(found.values()))}
    best = sorted(arms, key=lambda key: order[arms[key].arm])
    acts = {arm["name"]: _acts(arm) for arm in study["arms"]}

    def cell(name: str, part: str) -> Cell:
        one = arms.get((name, part))
        own = acts[one.arm] if one is not None and part == "whole" else ""
        return replace(_cell(one, _missing(name, part, left_out)), part=own)

    rows = [(name, [cell(name, part) for part in parts])
            for name in dict.fromkeys(name for name, _ in best)]  # fmt: skip
    own = any(cell.part for _, cells in rows for cell in cells)
    columns = [PARTS[part] + (UNLESS if own and part == "whole" else "") for part in parts]
    return Grid(columns, rows, wording.decimals(arms.values()))


def _acts(arm: Mapping[str, Any]) -> str:
    """The parts of training that an arm's methods act in, where one does not act in all of it."""
    spans = {each["name"]: wording.part(each.get("during")) for each in arm["methods"]}
    if not any(spans.values()):
        return ""
    if len(set(spans.values())) == 1:
        return next(iter(spans.values()))
    return ", ".join(f"{name} {said or 'throughout'}" for name, said in spans.items())


def _missing(name: str, part: str, left_out: Mapping[str, str]) -> str:
    return "not tried" if f"{name}{suffix(part)}" in left_out else wording.NOTHING


def by_fraction(
    study: Mapping[str, Any], comparisons: Sequence[Comparison], further: Sequence[Family]
) -> Grid | None:
    """Arms down, shares of the data across; None where all trained on all of it."""
    shares_of = {arm["name"]: float(arm.get("data", 1.0)) for arm in study["arms"]}
    if all(share == 1.0 for share in shares_of.values()):
        return None
    gained = [each for family in further if family.key != "data" for each in family.comparisons]
    every = [
        AtFraction(share, each.arm.removesuffix(fractions.suffix(share)), each)
        for each in [*comparisons, *gained]
        for share in [shares_of.get(each.arm, 0.0)]
        if 0.0 < share <= 1.0
    ]
    every.sort(key=lambda each: each.fraction)
    found = {(each.arm, each.fraction): each.comparison for each in every}
    shares = sorted({share for _, share in found})
    rows = [(name, [_cell(found.get((name, share))) for share in shares])
            for name in dict.fromkeys(name for name, _ in found)]  # fmt: skip
    columns = ["all data" if share == 1.0 else f"{share:.3g} of the data" for share in shares]
    return Grid(columns, rows, wording.decimals(found.values()), every)


def interactions(
    study: Mapping[str, Any], comparisons: Sequence[Comparison], family: Family
) -> list[Grid]:
    """A heat map for each part of training: what two methods add to each other.

    Only pairs of two arms have a place in it; on the diagonal stands what each gains alone.
    """
    weights = (study.get("contrasts") or {}).get(family.key) or {}
    part = {arm["name"]: arm.get("placement") or "whole" for arm in study["arms"]}
    pairs = {}
    for each in family.comparisons:
        two = [name for name, weight in weights.get(each.arm, {}).items() if weight < 0]
        if len(two) == 2:
            pairs[frozenset(two)] = each
    alone = {each.arm: each for each in comparisons}
    made = []
    for at in dict.fromkeys(part.values()):
        names = [name for name in part if part[name] == at and any(name in two for two in pairs)]
        if len(names) > 1:
            made.append(_matrix(names, pairs, alone, study.get("left_out") or {}))
    return made


def _matrix(
    names: Sequence[str], pairs: Mapping[frozenset[str], Comparison],
    alone: Mapping[str, Comparison], left_out: Mapping[str, str],
) -> Grid:  # fmt: skip
    here = [each for two, each in pairs.items() if two <= set(names)]
    places = wording.decimals(here)
    largest = max((abs(round(each.gain or 0.0, places)) for each in here), default=0.0)

    def cell(one: str, other: str) -> Cell:
        if one == other:
            return _cell(alone.get(one))
        clash = {f"{one}+{other}", f"{other}+{one}"} & set(left_out)
        return _cell(pairs.get(frozenset((one, other))), "clash" if clash else wording.NOTHING,
                     largest, places)  # fmt: skip

    rows = [(one, [cell(one, other) for other in names]) for one in names]
    return Grid([*names], rows, places)


def _cell(
    found: Comparison | None, instead: str = wording.NOTHING, largest: float = 0.0,
    places: int = 0,
) -> Cell:  # fmt: skip
    if found is None or found.gain is None:
        said = instead if found is None else wording.WITHOUT.get(found.verdict, found.verdict)
        return Cell(None, instead=said)
    kind = KINDS.get(found.verdict, "unclear")
    part = abs(round(found.gain, places)) / largest if largest else 0.0
    level = math.ceil((LEVELS if found.verdict in KINDS else PALE) * min(part, 1.0))
    shade = f"{'hit' if found.gain > 0 else 'miss'}{level}" if level else ""
    return Cell(found, kind, SHORT.get(found.verdict, found.verdict), shade)


def factors(
    study: Mapping[str, Any], family: Family
) -> tuple[list[str], list[tuple[str, list[bool]]]]:
    """The runs of a screening design and which methods each has."""
    weights = (study.get("contrasts") or {}).get(family.key) or {}
    names = list(weights)
    runs = dict.fromkeys(run for each in weights.values() for run in each)
    return names, [(run, [weights[name].get(run, 0.0) > 0 for name in names]) for run in runs]
