"""Settings are dataclass fields with a stated range, checked before training begins."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import Any

from whet.errors import InputError


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """An interval of numbers, or a set of choices."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False
    choices: tuple[object, ...] = ()

    def __str__(self) -> str:
        if self.choices:
            return "one of " + ", ".join(map(repr, self.choices))
        left = "(" if self.open_low or self.low == -math.inf else "["
        right = ")" if self.open_high or self.high == math.inf else "]"
        kind = "a whole number in " if self.whole else ""
        return f"{kind}{left}{self.low:g}, {self.high:g}{right}"

    def holds(self, value: object) -> bool:
        """Whether the value lies in the range."""
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            return False
        if abs(value) > sys.float_info.max and not isinstance(value, float):
            return False  # a whole number that no float holds
        if self.whole and not float(value).is_integer():
            return False
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below


def number(
    default: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    whole: bool = False,
    several: bool = False,
    optional: bool = False,
) -> Any:
    """A numeric setting with its range; `several` allows a list of such numbers too.

    None is allowed where it is the default, or where `optional` says so.
    """
    span = Range(low, high, open_low, open_high, whole)
    given = {"range": span, "several": several, "optional": optional or default is None}
    return dataclasses.field(default=default, metadata=given)


def choice(default: Any, *choices: object) -> Any:
    """A setting that is one of a few values."""
    return dataclasses.field(default=default, metadata={"range": Range(choices=choices)})


def fields(kind: type) -> list[dataclasses.Field[Any]]:
    """The constructor's settings of a dataclass."""
    if not dataclasses.is_dataclass(kind):
        return []  # a method without settings need not be one
    return [field for field in dataclasses.fields(kind) if field.init]


def check(owner: object, name: str) -> None:
    """Raise where a setting lies outside its range, naming owner, setting, value and range."""
    for field in fields(type(owner)):
        allowed: Range | None = field.metadata.get("range")
        value = getattr(owner, field.name)
        if allowed is None:
            _check_kind(value, field.default, f"{name}: {field.name}")
        if allowed is None or (value is None and field.metadata.get("optional")):
            continue
        listed = field.metadata.get("several") and isinstance(value, Sequence)
        if not all(allowed.holds(one) for one in (value if listed else [value])):
            verb = "be" if allowed.choices or allowed.whole else "lie in"
            raise InputError(f"{name}: {field.name} is {value!r}; it must {verb} {allowed}.")


def _check_kind(value: object, default: object, name: str) -> None:
    """Without a range, a setting is of its default's kind: a text, several, or yes and no."""
    if isinstance(default, str):
        text(value, name)
    several = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
    for kind, fits, said in (
        (bool, isinstance(value, bool), "true or false"),
        (tuple, several, "a list of texts"),
    ):
        if isinstance(default, kind) and not fits:
            raise InputError(f"{name} is {value!r}; it must be {said}.")


def text(value: object, name: str) -> str:
    """The text that a value must be."""
    if not isinstance(value, str):
        quoted = (
            f', in quotes where it is written: "{value}"' if type(value) in (int, float) else ""
        )
        raise InputError(f"{name} is {value!r}; it must be a text{quoted}.")
    return value


def pair(value: object, name: str) -> tuple[float, float]:
    """The two numbers that a value must be."""
    held = list(value) if isinstance(value, list | tuple) else []
    if len(held) != 2 or not all(Range().holds(one) for one in held):
        raise InputError(f"{name} is {value!r}; it must be two numbers, such as [0.25, 1].")
    return held[0], held[1]


def positive(value: object, name: str) -> float:
    """The number above zero that a value must be."""
    if not Range(0.0, open_low=True, high=sys.float_info.max).holds(value):
        raise InputError(f"{name} is {value!r}; it must be a number above 0.")
    return float(value)  # type: ignore[arg-type]


def at_least_one(**counts: int | None) -> None:
    """Raise where a count is below 1; None stands for no count."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"{name} is {count}; it must be at least 1.")
