"""Arms of several methods: what goes together, what they are called, and a design's outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from whet.study.plan import BASELINE, Arm, Settings

AFTER = "after"
Contrasts = dict[str, dict[str, float]]


@dataclass
class Design:
    """The arms of a study, and what a reader should know of their choice.

    Args:
        arms: the baseline first.
        left_out: arms that there are not, and why.
        notes: sentences on the choice.
        contrasts: by family and name, what is compared beside arms and their references: sums of
            arms' results with these weights.
    """

    arms: list[Arm]
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    contrasts: dict[str, Contrasts] = field(default_factory=dict)

    def kept(self, arms: list[Arm]) -> Design:
        """The design with these of its arms, and the contrasts that can be had of them."""
        names = {each.name for each in arms}
        found = {
            family: {name: weights for name, weights in several.items() if names >= set(weights)}
            for family, several in self.contrasts.items()
        }
        return replace(self, arms=arms, contrasts=found)


def suffix(part: str) -> str:
    """What a name ends with, of a method that acts in a part of training."""
    return "" if part == "whole" else f"@{part}"


def control(part: str) -> str:
    """The arm without methods that those of a part of training are held against."""
    return BASELINE + suffix(part) if part == AFTER else BASELINE


def arm(name: str, methods: tuple[Settings, ...], part: str, reference: str | None = None) -> Arm:
    """An arm whose methods act in a part of training, or in a stage after it."""
    if part != AFTER:
        return Arm(name, methods, reference or BASELINE, part)
    return Arm(name, (), reference or control(part), part, methods)


def together(
    several: Sequence[Arm], part: str, name: str | None = None, reference: str | None = None
) -> Arm:
    """One arm with the methods of several; it is called `a+b` where nothing else is said."""
    methods = tuple(settings for each in several for settings in methods_of(each))
    return arm(name or "+".join(each.name for each in several), methods, part, reference)


def methods_of(arm: Arm) -> tuple[Settings, ...]:
    """The methods that an arm is about, wherever they act."""
    return (*arm.methods, *(arm.after or ()))


def clash(several: Sequence[Arm]) -> str | None:
    """Why the methods of these arms do not go together; None where they do."""
    from whet import methods, nesting
    from whet.errors import Clash, InputError

    try:
        nesting.arrange([methods.make(given) for each in several for given in methods_of(each)])
    except (Clash, InputError) as error:
        return str(error)
    return None


def compatible(singles: Sequence[Arm]) -> tuple[list[Arm], dict[str, str]]:
    """The first subset that composes, and for the others what each clashes with."""
    inside: list[Arm] = []
    outside: dict[str, str] = {}
    for each in singles:
        reason = clash([*inside, each])
        if reason is None:
            inside.append(each)
        else:
            outside[each.name] = reason
    return inside, outside


def alone(outside: dict[str, str], name: str) -> list[str]:
    """What is said of methods that stand outside of an arm."""
    return [f"{other} stands outside of {name} and has an arm of its own: {reason}"
            for other, reason in outside.items()]  # fmt: skip
