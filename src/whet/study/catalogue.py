"""The methods' cards in the terminal: all of them in a table, or one in full."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from whet.study import wording

FACTS = ("paper", "layer", "owns", "needs", "placements", "cost", "tier", "phase", "data",
         "avoid_when", "status")  # fmt: skip
COLUMNS = (
    (0, ("title", "layer", "cost")),
    (110, ("owns", "avoid_when")),
    (180, ("needs", "placements", "phase", "data", "tier", "status", "paper")),
)


def overview(cards: Sequence[Mapping[str, Any]], width: int) -> RenderableType:
    """One entry a method, with as many facts as the terminal is wide."""
    shown = [fact for least, facts in COLUMNS for fact in facts if width >= least]
    table = Table(box=None, pad_edge=False)
    table.add_column("method", style="bold", no_wrap=True)
    for fact in shown:
        table.add_column(fact.replace("_", " "), overflow="fold")
    for card in cards:
        table.add_row(*(Text(words(card[fact])) for fact in ("name", *shown)))
    footer = Text(f"{len(cards)} methods; whet methods NAME shows one in full", style="dim")
    return Group(table, Text(), footer)


def whole(card: Mapping[str, Any]) -> RenderableType:
    """The facts and settings of one method."""
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name in FACTS:
        facts.add_row(name.replace("_", " "), Text(words(card[name])))
    settings = Table(box=None, pad_edge=False)
    for column in ("setting", "default", "range"):
        settings.add_column(column, overflow="fold")
    for each in card["settings"]:
        settings.add_row(each["name"], Text(json.dumps(each["default"])), Text(each["range"] or ""))
    title = Text.assemble((card["name"], "bold"), f"  {card['title']}")
    parts: list[RenderableType] = [title, Text(), facts]
    parts += [Text(), settings] if card["settings"] else []
    return Group(*parts, Text())


def words(value: object) -> str:
    """A fact as people read it."""
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(str, value)) or wording.NOTHING
    return wording.NOTHING if value is None or value == "" else str(value)
