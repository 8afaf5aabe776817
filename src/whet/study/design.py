"""Which arms a study has: each method alone, several together; at which part of training.

`after` is no part of the training but a stage of fine-tuning that follows it, with the method. Its
control is the baseline trained as much longer without: what more training gives is no merit of it.

`all` is the first subset that composes, in the user's order: each method joins unless it clashes
with one that is in it already. What stays outside is named, and keeps an arm of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from whet.errors import InputError, UnknownName
from whet.study import combinations, composing, screening, wording
from whet.study.arms import split
from whet.study.composing import AFTER, Design, suffix
from whet.study.plan import BASELINE, Arm, Settings

WHEN = {"start": [0.0, 0.25], "whole": None, "end": [0.75, 1.0], "after": None}
DESIGNS = ("add-one", "leave-one-out", "both", *combinations.BUILT, *screening.KINDS)
ALL = "all"
OBSERVER, START = "observer", "from the start only"


def check(design: str, when: str) -> list[str]:
    """The parts of training that `when` names.

    Raises:
        UnknownName: of a design or a part there is none.
    """
    if design not in DESIGNS:
        raise UnknownName("design", design, DESIGNS)
    parts = [part.strip() for part in split(when, ",") if part.strip()]
    for part in parts:
        if part not in WHEN:
            raise UnknownName("part of training", part, WHEN)
    if not parts:
        raise InputError(f"--when names no part of training: {', '.join(WHEN)}, or several.")
    return list(dict.fromkeys(parts))


def placed(
    singles: Sequence[Arm],
    parts: Sequence[str],
    cards: Iterable[Mapping[str, Any]],
    written: Iterable[str] = (),
) -> tuple[dict[str, list[Arm]], dict[str, str]]:
    """Every single-method arm at every part of training, and why some have no place there.

    `written` are the arms whose `during` the user wrote.
    """
    placements = {card["name"]: card["placements"] for card in cards}
    found: dict[str, list[Arm]] = {part: [] for part in parts}
    left_out: dict[str, str] = {}
    for part in parts:
        for arm in singles:
            (settings,) = arm.methods
            name = f"{arm.name}{suffix(part)}"
            reason = _misplaced(part, placements[settings["name"]])
            if part != "whole" and arm.name in written:
                raise InputError(
                    f"{arm.name} says during=, and --when says {part}. Leave one of them out."
                )
            if reason:
                left_out[name] = reason
            else:
                found[part].append(composing.arm(name, (_at(settings, part),), part))
    return found, left_out


def _misplaced(part: str, placements: Sequence[str]) -> str | None:
    if part == "start" and OBSERVER in placements:
        return "it does not change training, and what ends at a quarter is not judged"
    if part == "end" and START in placements:  # a stage that follows begins anew, so it may there
        return "it changes model, optimizer or data from the start and cannot begin late"
    return None


def _at(settings: Settings, part: str) -> Settings:
    return dict(settings) if WHEN[part] is None else {**settings, "during": WHEN[part]}


def designed(design: str, found: Mapping[str, Sequence[Arm]]) -> Design:
    """The arms of a design over methods that apply.

    Raises:
        InputError: a screening of too many methods, or of methods that clash.
    """
    made = Design([Arm(BASELINE)])
    for part, singles in found.items():
        if part == AFTER and singles:
            made.arms.append(composing.arm(composing.control(part), (), part, BASELINE))
        here = _designed(design, singles, part)
        made.arms += here.arms
        made.notes += here.notes
        made.left_out |= here.left_out
        for family, contrasts in here.contrasts.items():
            made.contrasts.setdefault(family, {}).update(contrasts)
    return made


def _designed(design: str, singles: Sequence[Arm], part: str) -> Design:
    if design == "add-one":
        return Design([*singles])
    if design in screening.KINDS:
        return screening.screened(design, singles, part)
    if design in combinations.BUILT:
        return combinations.BUILT[design](singles, part)
    return _with_all(design, singles, part)


def _with_all(design: str, singles: Sequence[Arm], part: str) -> Design:
    """All that go together, all but each one, and what stands alone."""
    name = ALL + suffix(part)
    together, outside = composing.compatible(singles)
    made = Design([], notes=_said(name, together, outside))
    if len(together) > 1:
        made.arms.append(composing.together(together, part, name))
        for arm in together:
            kept = [each for each in together if each is not arm]
            made.arms.append(composing.together(kept, part, f"{name} without {arm.name}", name))
    made.arms += [arm for arm in singles if design == "both" or arm.name in outside]
    return made


def _said(name: str, together: Sequence[Arm], outside: dict[str, str]) -> list[str]:
    if len(together) < 2:
        return [f"There is no arm `{name}`: fewer than two methods go together."]
    names = wording.listed([arm.name for arm in together])
    return [f"`{name}` is {names}.", *composing.alone(outside, f"`{name}`")]
