"""Which arms a study has: each method alone, all of them, all but one; at which part of training.

`after` is no part of the training but a stage of fine-tuning that follows it, with the method. Its
control is the baseline trained as much longer without: what more training gives is no merit of it.

`all` is the first subset that composes, in the user's order: each method joins unless it clashes
with one that is in it already. What stays outside is named, and keeps an arm of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whet.errors import InputError, UnknownName
from whet.study import wording
from whet.study.arms import split
from whet.study.plan import BASELINE, Arm, Settings

WHEN = {"start": [0.0, 0.25], "whole": None, "end": [0.75, 1.0], "after": None}
DESIGNS = ("add-one", "leave-one-out", "both")
ALL, AFTER = "all", "after"
OBSERVER, START = "observer", "from the start only"


@dataclass
class Design:
    """The arms of a study, the methods without one, and what a reader should know of the choice."""

    arms: list[Arm]
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


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
            name = f"{arm.name}{_suffix(part)}"
            reason = _misplaced(part, placements[settings["name"]])
            if part != "whole" and arm.name in written:
                raise InputError(
                    f"{arm.name} says during=, and --when says {part}. Leave one of them out."
                )
            if reason:
                left_out[name] = reason
            else:
                found[part].append(_arm(name, (_at(settings, part),), part))
    return found, left_out


def _suffix(part: str) -> str:
    return "" if part == "whole" else f"@{part}"


def _arm(name: str, methods: tuple[Settings, ...], part: str, reference: str | None = None) -> Arm:
    """An arm whose methods act in a part of training, or in a stage after it."""
    if part != AFTER:
        return Arm(name, methods, reference or BASELINE, part)
    return Arm(name, (), reference or BASELINE + _suffix(AFTER), part, methods)


def methods_of(arm: Arm) -> tuple[Settings, ...]:
    """The methods that an arm is about, wherever they act."""
    return (*arm.methods, *(arm.after or ()))


def _misplaced(part: str, placements: Sequence[str]) -> str | None:
    if part == "start" and OBSERVER in placements:
        return "it does not change training, and what ends at a quarter is not judged"
    if part == "end" and START in placements:  # a stage that follows begins anew, so it may there
        return "it changes model, optimizer or data from the start and cannot begin late"
    return None


def _at(settings: Settings, part: str) -> Settings:
    return dict(settings) if WHEN[part] is None else {**settings, "during": WHEN[part]}


def designed(design: str, found: Mapping[str, Sequence[Arm]]) -> Design:
    """The arms of a design over methods that apply."""
    made = Design([Arm(BASELINE)])
    for part, singles in found.items():
        name = ALL + _suffix(part)
        alone = list(singles)
        if part == AFTER and singles:
            made.arms.append(_arm(BASELINE + _suffix(part), (), part, BASELINE))
        if design != "add-one":
            together, outside = compatible(singles)
            made.notes += _said(name, together, outside)
            alone = [arm for arm in singles if design == "both" or arm.name in outside]
            if len(together) > 1:
                made.arms += _without_each(name, together, part)
        made.arms += alone
    return made


def compatible(singles: Sequence[Arm]) -> tuple[list[Arm], dict[str, str]]:
    """The first subset that composes, and for the others what each clashes with."""
    from whet import methods, nesting
    from whet.errors import Clash

    together: list[Arm] = []
    outside: dict[str, str] = {}
    for arm in singles:
        try:
            nesting.arrange(
                [methods.make(s) for each in (*together, arm) for s in methods_of(each)]
            )
        except (Clash, InputError) as error:
            outside[arm.name] = str(error)
        else:
            together.append(arm)
    return together, outside


def _without_each(name: str, together: Sequence[Arm], part: str) -> list[Arm]:
    made = [_arm(name, tuple(s for arm in together for s in methods_of(arm)), part)]
    for arm in together:
        kept = tuple(s for each in together if each is not arm for s in methods_of(each))
        made.append(_arm(f"{name} without {arm.name}", kept, part, reference=name))
    return made


def _said(name: str, together: Sequence[Arm], outside: Mapping[str, str]) -> list[str]:
    if len(together) < 2:
        return [f"There is no arm `{name}`: fewer than two methods go together."]
    return [f"`{name}` is {wording.listed([arm.name for arm in together])}."] + [
        f"{other} stands outside of `{name}` and has an arm of its own: {reason}"
        for other, reason in outside.items()
    ]
