"""Arms from what the command line says: `ema,fgm` or `ema:decay=0.99,fgm:during=[0.5,1]`.

A setting may have several values, as `ema:decay=0.9|0.99:warmup=true|false`: that is an arm for
each combination of a method's own settings. Within brackets or quotes `|` is part of a value.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from whet import parsing
from whet.errors import InputError, UnknownName
from whet.study.plan import Arm, Settings

ALWAYS = ("during", "label")
Own = Mapping[str, Mapping[str, Any]]
Cards = Mapping[str, Mapping[str, Any]]
EXAMPLE = "Write them as ema,fgm or with settings as ema:decay=0.99:label=slow."
MOST = 1000  # arms of one grid


class Grid:
    """Values of a setting in Python, one arm for each: `{"name": "ema", "decay": Grid(0.9, 0.99)}`.

    A list is one value, as for `during`.

    Raises:
        InputError: no value was given.

    >>> Grid(0.9, [1, 2])
    Grid(0.9, [1, 2])
    """

    def __init__(self, *values: Any) -> None:
        if not values:
            raise InputError("Grid() has no value. Give it those to try, as Grid(0.9, 0.99).")
        self.values = values

    def __repr__(self) -> str:
        return f"Grid({', '.join(map(repr, self.values))})"

    def written(self) -> str:
        """As the command line says it."""
        return "|".join(map(json.dumps, self.values))


def parse(text: str, catalogue: Iterable[Mapping[str, Any]], own: Own | None = None) -> list[Arm]:
    """One arm for each comma-separated method; names and settings are checked by the catalogue.

    `own` holds the settings that the task has for a method; what is written goes before them.
    A method that does not take all of training where nobody says so has its part written out.
    """
    cards = {card["name"]: card for card in catalogue}
    items = [item.strip() for item in split(text, ",") if item.strip()]
    if not items:
        raise InputError(f"--methods names no method. {EXAMPLE}")
    written = [one for item in items for one in expanded(item)]
    for item in written:
        if written.count(item) > 1:
            raise InputError(f"--methods names {item} twice. Leave one of them out.")
    return [Arm(item, (_with(_settings(item, cards), cards, own),)) for item in written]


def written(methods: Sequence[str | Mapping[str, Any]]) -> str:
    """A list of names and settings as the command line says it.

    >>> written(["ema", {"name": "fgm", "during": [0.5, 1]}])
    'ema,fgm:during=[0.5, 1]'
    """
    items = [{"name": each} if isinstance(each, str) else dict(each) for each in methods]
    return ",".join(
        ":".join([item.pop("name"), *(f"{name}={_said(v)}" for name, v in item.items())])
        for item in items
    )


def expanded(item: str) -> list[str]:
    """One method with each combination of its settings' values.

    >>> expanded("ema:decay=0.9|0.99")
    ['ema:decay=0.9', 'ema:decay=0.99']
    """
    name, *pairs = (part.strip() for part in split(item, ":"))
    choices = []
    for pair in pairs:
        key, equals, text = pair.partition("=")
        values = [value.strip() for value in split(text, "|")]
        if len(values) > 1 and not all(values):
            raise InputError(f"{item}: a value of {key} is empty. Write {key}=0.1|0.2.")
        choices.append([f"{key.strip()}{equals}{value}" for value in values])
    count = math.prod(map(len, choices))
    if count > MOST:
        raise InputError(f"{item[:60]}... is {count} arms; at most {MOST}. Take fewer values.")
    if count == 1:
        return [item]  # as it was written
    return [":".join((name, *chosen)) for chosen in itertools.product(*choices)]


def default(
    names: Sequence[str], catalogue: Iterable[Mapping[str, Any]], own: Own | None = None
) -> list[Arm]:
    """One arm for each method, at the settings the task has for it."""
    cards = {card["name"]: card for card in catalogue}
    return [Arm(name, (_with({"name": name}, cards, own),)) for name in names]


def split(text: str, separator: str) -> list[str]:
    """Split at separators that stand outside brackets and double quotes."""
    parts, depth, quoted = [""], 0, False
    for letter in text:
        quoted ^= letter == '"'
        if not quoted:
            depth += (letter in "[{") - (letter in "]}")
        if letter == separator and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def value(text: str) -> Any:
    """JSON where it is JSON, else the text itself; NaN and Infinity are not JSON."""
    try:
        return parsing.values(text, constants=False)
    except ValueError:
        return text


def _said(value: Any) -> str:
    return value.written() if isinstance(value, Grid) else json.dumps(value)


def _with(given: Settings, cards: Cards, own: Own | None) -> Settings:
    name, during = given["name"], cards[given["name"]]["during"]
    late = {} if during == [0.0, 1.0] else {"during": during}
    return {"name": name, **late, **(own or {}).get(name, {}), **given}


def _settings(item: str, cards: Cards) -> Settings:
    name, *pairs = (part.strip() for part in split(item, ":"))
    if name not in cards:
        raise UnknownName("method", name, cards)
    given: Settings = {"name": name}
    for pair in pairs:
        key, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not key:
            raise InputError(f"{item}: {pair!r} is not setting=value. {EXAMPLE}")
        if key in given:
            raise InputError(f"{item}: {key} is given twice. Leave one of them out.")
        _known(cards[name], key)
        given[key] = value(text)
    return given


def _known(card: Mapping[str, Any], key: str) -> None:
    name, settings, during = card["name"], card["settings"], json.dumps(card["during"])
    if key in {setting["name"] for setting in settings} or key in ALWAYS:
        return
    lines = [f"  {s['name']} = {json.dumps(s['default'])}  {s['range']}" for s in settings]
    always = [f"  during = {during}  part of the training", "  label = null"]
    listed = "\n".join([*lines, *always])
    raise InputError(f"{name} has no setting {key!r}. It has:\n{listed}")
